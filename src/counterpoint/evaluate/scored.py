"""What rewards say of many responses: of each, and in a few numbers per dimension."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.data.responses import Response, prompt_column
from counterpoint.evaluate.accuracy import prompt_means
from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.rewards.scorer import Scorer
from counterpoint.types import Comparison, CounterpointError, RewardFn

Progress = Callable[[int, int], None]

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "dimension", "chosen_scores", "rejected_scores")
"""The columns of a scored pair, whatever its parts were called where it was read."""


@dataclass(frozen=True)
class Spread:
    """Scores of one dimension: `std` is over all N responses, not N - 1."""

    responses: int
    mean: float
    std: float
    lowest: float
    highest: float


def spreads(scores_ND: np.ndarray, dimensions: Sequence[str]) -> dict[str, Spread]:
    """The spread of each dimension's scores, of one response or more."""
    return {
        name: Spread(len(s_N), float(s_N.mean()), float(s_N.std()), float(s_N.min()), float(s_N.max()))
        for name, s_N in zip(dimensions, scores_ND.T, strict=True)
    }


@dataclass(frozen=True)
class PairAccuracy:
    """How often a dimension's own pairs are ordered as they were labelled, a tie counting half.

    The mean over prompts of each prompt's accuracy; `interval` is by prompt, and `None` for a single prompt.
    """

    pairs: int
    prompts: int
    ties: int
    accuracy: float
    interval: Interval | None


def pair_accuracies(
    comparisons: Sequence[Comparison],
    chosen_PD: np.ndarray,
    rejected_PD: np.ndarray,
    dimensions: Sequence[str],
    seed: int,
) -> dict[str, PairAccuracy]:
    """For each dimension that is scored and has pairs, how often the chosen response scores higher."""
    found = {}
    for d, name in enumerate(dimensions):
        rows = [p for p, comparison in enumerate(comparisons) if comparison.dimension == name]
        if rows:
            sign_P = np.sign(chosen_PD[rows, d] - rejected_PD[rows, d])
            found[name] = pair_accuracy(sign_P, [comparisons[p] for p in rows], seed)
    return found


def pair_accuracy(sign_P: np.ndarray, comparisons: Sequence[Comparison], seed: int) -> PairAccuracy:
    """From the sign of chosen minus rejected, per pair of one dimension."""
    means = prompt_means((sign_P + 1) / 2, comparisons)
    interval = mean_interval(means, seed=seed) if len(means) > 1 else None
    return PairAccuracy(len(sign_P), len(means), int((sign_P == 0).sum()), sum(means) / len(means), interval)


@dataclass(frozen=True)
class Scored:
    """Rows with their scores added, the spread of scores per dimension, and accuracies where the rows are pairs."""

    rows: list[dict[str, Any]]
    spreads: dict[str, Spread]
    accuracies: dict[str, PairAccuracy]


def check_columns(rows: Iterable[Mapping[str, Any]], new: Sequence[str]) -> None:
    """Refuse rows that hold a column of the name of a new one, which would be lost."""
    for row in rows:
        for name in new:
            if name in row:
                raise CounterpointError(f"there is a column {name!r} already, which would be lost; rename it")


def score_responses(responses: Sequence[Response], reward: RewardFn, progress: Progress) -> Scored:
    """Score responses; a row keeps its columns and gets `scores`, in place of a column of that name."""
    scorer = Scorer(reward, progress, len(responses))
    scores_ND = scorer([r.prompt for r in responses], [r.response for r in responses])
    named = _by_name(scores_ND, reward.dimensions)
    rows = [{**r.row, "scores": scores} for r, scores in zip(responses, named, strict=True)]
    return Scored(rows, spreads(scores_ND, reward.dimensions), {})


def score_pairs(
    comparisons: Sequence[Comparison], rest: Sequence[Mapping[str, Any]], reward: RewardFn, seed: int,
    progress: Progress,
) -> Scored:  # fmt: skip
    """Score both responses of every pair; a row gets `PAIR_COLUMNS` beside the other columns that `rest` holds."""
    names, prompts = reward.dimensions, [c.prompt for c in comparisons]
    scorer = Scorer(reward, progress, 2 * len(comparisons))
    chosen_PD = scorer(prompts, [c.chosen for c in comparisons])
    rejected_PD = scorer(prompts, [c.rejected for c in comparisons])
    named = zip(comparisons, _by_name(chosen_PD, names), _by_name(rejected_PD, names), strict=True)
    rows = [
        {
            **other, "prompt": prompt_column(c.prompt), "chosen": c.chosen, "rejected": c.rejected,
            "dimension": c.dimension, "chosen_scores": chosen, "rejected_scores": rejected,
        }
        for other, (c, chosen, rejected) in zip(rest, named, strict=True)
    ]  # fmt: skip
    accuracies = pair_accuracies(comparisons, chosen_PD, rejected_PD, names, seed)
    return Scored(rows, spreads(np.vstack([chosen_PD, rejected_PD]), names), accuracies)


def _by_name(scores_ND: np.ndarray, names: Sequence[str]) -> list[dict[str, float]]:
    return [dict(zip(names, row, strict=True)) for row in scores_ND.tolist()]
