"""Scores of responses become comparisons: of two responses to a prompt, the one with the higher score is better."""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from counterpoint.data.places import brief
from counterpoint.types import Comparison, CounterpointError, Prompt

MOST = 1000
"""Responses to one prompt beyond which the prompts are taken for a mistake: they would make half a million pairs."""

ROUNDING = 1e-9


@dataclass(frozen=True)
class ScoreColumn:
    """A dimension, the column of its scores, and 1, or -1 where less is better."""

    dimension: str
    column: str
    sign: int = 1


@dataclass(frozen=True)
class Scoring:
    """How scores become comparisons: a pair's scores differ by `margin` or more, and never are equal.

    With `pairs_per_prompt` each prompt keeps that many pairs per dimension: those of the largest differences, since
    small ones are mostly the rater's noise; `seed` decides among equal differences.
    """

    columns: tuple[ScoreColumn, ...]
    margin: float = 0.0
    pairs_per_prompt: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise CounterpointError(f"margin {self.margin}: expected a finite number that is 0 or more")
        if self.pairs_per_prompt is not None and self.pairs_per_prompt < 1:
            raise CounterpointError(
                f"pairs_per_prompt {self.pairs_per_prompt}: expected 1 or more, or none for all pairs"
            )

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(column.dimension for column in self.columns)


@dataclass(frozen=True)
class Scored:
    """A response and its scores by dimension, higher is better; a dimension without a score is left out."""

    prompt: Prompt
    response: str
    scores: Mapping[str, float]


def parse_scores(text: str) -> tuple[ScoreColumn, ...]:
    """Read `"helpfulness, concise=-verbosity"`: columns, with the dimension in front where it has another name.

    A minus means that less is better. Raises CounterpointError for a missing name and for a dimension given twice.
    """
    columns = []
    for entry in text.split(","):
        dimension, _, column = (part.strip() for part in entry.rpartition("="))
        name = column.removeprefix("-")
        if not name or ("=" in entry and not dimension) or (name != column and not dimension):
            raise CounterpointError(
                f"scores {text!r}: found {entry.strip()!r}; expected COLUMN, NAME=COLUMN or NAME=-COLUMN"
            )
        columns.append(ScoreColumn(dimension or name, name, 1 if name == column else -1))
    names = [column.dimension for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CounterpointError(f"scores {text!r}: the dimension {twice!r} is given twice; name it once")
    return tuple(columns)


def by_prompt(scored: Iterable[Scored]) -> dict[Prompt, list[Scored]]:
    """Responses by the prompt that they answer, both in the order given."""
    groups: dict[Prompt, list[Scored]] = {}
    for response in scored:
        groups.setdefault(response.prompt, []).append(response)
    return groups


def pairs_of(responses: Sequence[Scored], scoring: Scoring) -> Iterator[Comparison]:
    """Comparisons between the responses to one prompt, dimension by dimension.

    Raises CounterpointError for more than `MOST` responses.
    """
    if len(responses) > MOST:
        raise CounterpointError(
            f"the prompt {brief(responses[0].prompt)} has {len(responses)} responses, expected at most {MOST}; is its "
            "column the right one?"
        )
    for dimension in scoring.dimensions:
        for _, better, worse in _kept(responses, dimension, scoring):
            yield Comparison(better.prompt, better.response, worse.response, dimension)


Pair = tuple[float, Scored, Scored]


def _kept(responses: Sequence[Scored], dimension: str, scoring: Scoring) -> Iterable[Pair]:
    pairs = _pairs(responses, dimension, scoring.margin)
    if scoring.pairs_per_prompt is None:
        return pairs
    random = Random(f"{scoring.seed} {dimension} {responses[0].prompt!r}")  # what a prompt keeps depends on no other
    return heapq.nlargest(scoring.pairs_per_prompt, pairs, key=lambda pair: (pair[0], random.random()))


def _pairs(responses: Sequence[Scored], dimension: str, margin: float) -> Iterator[Pair]:
    """Difference, better and worse response of every pair that the margin allows and whose texts differ."""
    rated = [response for response in responses if dimension in response.scores]
    for first, second in combinations(rated, 2):
        difference = first.scores[dimension] - second.scores[dimension]
        if difference == 0 or abs(difference) < margin - ROUNDING or first.response == second.response:
            continue
        yield (difference, first, second) if difference > 0 else (-difference, second, first)
