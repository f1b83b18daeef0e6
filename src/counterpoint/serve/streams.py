"""Tokens as text that grows: never half a character, and nothing that may yet turn out to be a stop string."""

from collections.abc import Callable, Sequence


class Growing:
    """The text of one response; what was told is always the beginning of what the whole says."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = stops
        self._tokens: list[int] = []
        self._shown = self._read = 0
        self._held = self.told = ""

    def add(self, token: int) -> str:
        """What can be told after one more token.

        Decoded from a few tokens back: a token's text may depend on the one before, but not on the first.
        """
        self._tokens.append(token)
        before = self._decode(self._tokens[self._shown : self._read])
        after = self._decode(self._tokens[self._shown :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._shown, self._read = self._read, len(self._tokens)
        return self._tell(self._held + after[len(before) :])

    def _tell(self, text: str) -> str:
        held = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        told = text[: len(text) - held]
        self.told += told
        return told

    def rest(self, whole: str) -> str:
        """What is left to tell once the whole text is known."""
        return whole[len(self.told) :]


def overlap(text: str, stop: str) -> int:
    """How many of the last characters of a text may be the beginning of a stop string, or are it."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if stop.startswith(text[-n:])), 0)
