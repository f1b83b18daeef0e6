"""What comparisons look like before anything is learned from them: length, repeats, contradictions, agreement.

The share of pairs whose better response is the longer one is what a judge that only counts words would get right: an
expert or a reward model that does no better has learned length.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median

from counterpoint.types import Comparison, Prompt


@dataclass(frozen=True)
class Words:
    """Lengths of responses in words, which are what white space separates."""

    mean: float
    median: float
    most: int


@dataclass(frozen=True)
class DimensionSummary:
    """The comparisons on one dimension; shares are of `comparisons`.

    `longer` and `equal`: the better response has more words, or as many. `duplicates` repeat a comparison that was
    there before, and `contradictions` are pairs that are there in both orders.
    """

    comparisons: int
    chosen: Words
    rejected: Words
    longer: float
    equal: float
    duplicates: int
    contradictions: int


@dataclass(frozen=True)
class Agreement:
    """Of the pairs that two dimensions both compare, the share in which they prefer the same response."""

    first: str
    second: str
    pairs: int
    share: float


def summarise(comparisons: Iterable[Comparison]) -> dict[str, DimensionSummary]:
    """A summary of each dimension, in the order of their first comparison."""
    by_dimension: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_dimension.setdefault(comparison.dimension, []).append(comparison)
    return {name: _summary(found) for name, found in by_dimension.items()}


def _summary(found: Sequence[Comparison]) -> DimensionSummary:
    chosen = [len(c.chosen.split()) for c in found]
    rejected = [len(c.rejected.split()) for c in found]
    distinct = set(found)
    reversed_too = sum(Comparison(c.prompt, c.rejected, c.chosen, c.dimension) in distinct for c in distinct)
    return DimensionSummary(
        comparisons=len(found),
        chosen=_words(chosen),
        rejected=_words(rejected),
        longer=fmean(a > b for a, b in zip(chosen, rejected, strict=True)),
        equal=fmean(a == b for a, b in zip(chosen, rejected, strict=True)),
        duplicates=len(found) - len(distinct),
        contradictions=reversed_too // 2,
    )


def _words(lengths: Sequence[int]) -> Words:
    return Words(fmean(lengths), median(lengths), max(lengths))


def agreements(comparisons: Iterable[Comparison]) -> list[Agreement]:
    """How far dimensions agree on the pairs that they share; those that share none are left out.

    A pair that a dimension has in both orders counts as neither.
    """
    counts: dict[tuple[str, str], list[bool]] = {}
    for verdicts in _verdicts(comparisons):
        for first, second in combinations(sorted(verdicts), 2):
            if verdicts[first] and verdicts[second]:
                same = (verdicts[first] > 0) == (verdicts[second] > 0)
                counts.setdefault((first, second), []).append(same)
    return [Agreement(*names, len(same), fmean(same)) for names, same in sorted(counts.items())]


def _verdicts(comparisons: Iterable[Comparison]) -> Iterable[dict[str, int]]:
    """For each pair of responses to a prompt and each dimension, how often more the first was better, by the text."""
    pairs: dict[tuple[Prompt, str, str], dict[str, int]] = {}
    for c in comparisons:
        first, second = sorted((c.chosen, c.rejected))
        verdicts = pairs.setdefault((c.prompt, first, second), {})
        verdicts[c.dimension] = verdicts.get(c.dimension, 0) + (1 if c.chosen == first else -1)
    return pairs.values()
