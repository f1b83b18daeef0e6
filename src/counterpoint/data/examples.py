"""What trainers eat: token ids, made once from text by `data.chat`, so that training and decoding agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint.data.chat import prompt_ids, response_ids
from counterpoint.types import Comparison, CounterpointError, Prompt


@dataclass(frozen=True)
class Example:
    """A prompt and the response to imitate; the response carries its end-of-text token if it should end there."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Pair:
    """A prompt with a better and a worse response; both responses carry the end-of-text token."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def example(prompt: Prompt, response: str, tokenizer: Any) -> Example:
    """Token ids of a prompt and a whole response that ends."""
    return Example(tuple(prompt_ids(prompt, tokenizer)), tuple(response_ids(response, tokenizer)))


def pairs(comparisons: Sequence[Comparison], tokenizer: Any) -> list[Pair]:
    """Token ids of comparisons; a prompt that occurs often is rendered once."""
    prompts = {prompt: tuple(prompt_ids(prompt, tokenizer)) for prompt in dict.fromkeys(c.prompt for c in comparisons)}
    return [
        Pair(prompts[c.prompt], tuple(response_ids(c.chosen, tokenizer)), tuple(response_ids(c.rejected, tokenizer)))
        for c in comparisons
    ]


def of_dimension(comparisons: Sequence[Comparison], dimension: str) -> list[Comparison]:
    """The comparisons on one dimension; an unknown one is an error that lists those found."""
    found = [c for c in comparisons if c.dimension == dimension]
    if not found:
        names = ", ".join(sorted({c.dimension for c in comparisons})) or "none at all: there are no comparisons"
        raise CounterpointError(f"no comparison is on the dimension {dimension!r}; dimensions found: {names}")
    return found
