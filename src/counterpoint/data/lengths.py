"""Leave out what is too long, and say so: no example is ever cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from counterpoint.types import CounterpointError


@dataclass(frozen=True)
class LeftOut:
    """An example that does not fit: its place, the tokens of its longest prompt and response, and why."""

    index: int
    length: int
    reason: str


@dataclass(frozen=True)
class Fit:
    """Which examples fit, by their place, and which do not."""

    kept: tuple[int, ...]
    dropped: tuple[LeftOut, ...]
    max_length: int

    def __str__(self) -> str:
        total = len(self.kept) + len(self.dropped)
        if not self.dropped:
            return f"all {total} examples fit {self.max_length} tokens"
        longest = max(left.length for left in self.dropped)
        return (
            f"{len(self.dropped)} of {total} examples left out (max_length {self.max_length}, the longest has "
            f"{longest} tokens), the first because {self.dropped[0].reason}"
        )


def fit_lengths(prompt_ids: Sequence[Sequence[int]], *response_ids: Sequence[Sequence[int]], max_length: int) -> Fit:
    """Split examples into those whose prompt and every response together have at most `max_length` tokens, and others.

    Pass one list of responses, or two for comparisons (chosen, rejected): an example stays or goes as a whole. An empty
    prompt or response is left out too, since there is nothing to predict from or to learn. Raises CounterpointError if
    nothing fits.
    """
    kept, dropped = [], []
    for index, (prompt, *responses) in enumerate(zip(prompt_ids, *response_ids, strict=True)):
        length = len(prompt) + max((len(response) for response in responses), default=0)
        reason = _reason(len(prompt), [len(response) for response in responses], max_length)
        if reason is None:
            kept.append(index)
        else:
            dropped.append(LeftOut(index, length, reason))
    fit = Fit(tuple(kept), tuple(dropped), max_length)
    if dropped and not kept:
        raise CounterpointError(f"{fit}; raise max_length or give shorter examples")
    return fit


def _reason(prompt: int, responses: Sequence[int], max_length: int) -> str | None:
    if prompt == 0:
        return "the prompt has no tokens"
    if 0 in responses:
        return "a response has no tokens"
    if prompt >= max_length:
        return f"the prompt alone has {prompt} tokens"
    longest = max(responses, default=0)
    return f"prompt and response have {prompt} + {longest} tokens" if prompt + longest > max_length else None
