"""Tokens as text that grows: never half a character, and nothing that may yet turn out to be a stop string."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

HALF = "\ufffd"
"""What bytes are decoded to that are no whole character, or not yet; a text that ends so waits for another token."""


class Growing:
    """The text of one answer, of which `told` characters were told; they are always how the whole text begins.

    `starts` is where in the text each token begins; one that ends no character begins where the next one does.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = stops
        self._tokens: list[int] = []
        self._shown = self._read = 0
        self.text = ""
        self.told = 0
        self.starts: list[int] = []

    def add(self, token: int) -> str:
        """What can be told after one more token.

        Decoded from a few tokens back: a token's text may depend on the one before, but not on the first.
        """
        self.starts.append(len(self.text))
        self._tokens.append(token)
        before = self._decode(self._tokens[self._shown : self._read])
        after = self._decode(self._tokens[self._shown :])
        if len(after) <= len(before) or after.endswith(HALF):
            return ""
        self._shown, self._read = self._read, len(self._tokens)
        self.text += after[len(before) :]
        held = max((overlap(self.text, stop) for stop in self._stops), default=0)
        return self._tell(self.text, len(self.text) - held)

    def end(self, whole: str, token: int | None = None) -> str:
        """What is left to tell once the whole text is known, and with it the last token, if there was one more."""
        if token is not None:
            self.starts.append(len(self.text))
        self.text = whole
        return self._tell(whole, len(whole))

    def _tell(self, text: str, end: int) -> str:
        new = text[self.told : end]
        self.told = max(self.told, end)
        return new


def runs(starts: Sequence[int], begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Which tokens wrote the characters from `begin` to `end` of a text: (token, from, to), in order."""
    for token, (first, after) in enumerate(pairwise([*starts, end])):
        if max(first, begin) < min(after, end):
            yield token, max(first, begin), min(after, end)


def overlap(text: str, stop: str) -> int:
    """How many of the last characters of a text may be the beginning of a stop string, or are it."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if stop.startswith(text[-n:])), 0)
