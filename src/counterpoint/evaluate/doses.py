"""What strength buys: one dimension's score over rising strengths of one method, and what may be claimed of it.

Axes: `S` strengths, `P` prompts. Rank, slope and drop are `adherence.py`'s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from counterpoint.evaluate.adherence import Adherence, adherence
from counterpoint.evaluate.bootstrap import DECIMALS, RESAMPLES, Interval, mean_intervals, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim

FALL = 0.1
"""A fall from one strength to the next, in standard deviations, that a claim lets pass: chance gives a small one."""


@dataclass(frozen=True)
class Curve:
    """The mean score at each strength, how it follows the strength, and what the strengths above 1 add.

    beyond: the score at the largest strength minus that at strength 1; `None` where no strength is above 1.
    """

    method: str
    dimension: str
    strengths: tuple[float, ...]
    means: tuple[Interval, ...]
    follows: Adherence
    beyond: Interval | None
    prompts: int


def dose_curve(
    method: str, dimension: str, strengths: Sequence[float], score_SP: ArrayLike, *, seed: int,
    resamples: int = RESAMPLES,
) -> Curve:  # fmt: skip
    """The curve of standardised scores, all intervals by prompt from the same resamples.

    `ValueError` unless the strengths rise, with a row of scores for each, and 1 is among them where one is above 1.
    """
    score = np.asarray(score_SP, dtype=np.float64)
    follows = adherence(strengths, score, seed=seed, resamples=resamples)
    beyond = None
    if strengths[-1] > 1:
        beyond = paired_difference(score[-1], score[list(strengths).index(1)], seed=seed, resamples=resamples)
    means = mean_intervals(score, seed=seed, resamples=resamples)
    return Curve(method, dimension, tuple(strengths), tuple(means), follows, beyond, score.shape[1])


def dose_claims(curve: Curve, *, seeds: Sequence[int], command: str, seconds: float) -> list[Claim]:
    """What a curve is asked: does it rise by rank, by slope and beyond strength 1, and does it fall nowhere?

    A flat curve has no rank correlation, and so no claim of one; its slope says that it is flat.
    """
    return [
        make_claim(
            claim, metric=metric, a=a, b=b, difference=difference, prompts=curve.prompts, seeds=seeds,
            command=command, seconds=seconds,
        )
        for claim, metric, a, b, difference in _questions(curve)
    ]  # fmt: skip


def _questions(curve: Curve) -> Iterator[tuple[str, str, str, str, Interval]]:
    """Claim, metric, `a`, `b` and the difference that must lie above 0."""
    method, name, follows = curve.method, curve.dimension, curve.follows
    unit = f"mean {name}, in standard deviations"
    more = f"more strength of {method} gives more {name}"
    if follows.correlation is not None:
        ranks = f"Spearman's correlation of strength and mean {name}"
        yield f"{more}, by rank", ranks, f"{method}, stronger", f"{method}, weaker", follows.correlation
    yield (
        f"{more}, on average",
        f"{unit}, per unit of strength",
        f"{method}, stronger",
        f"{method}, weaker",
        follows.slope,
    )
    drop = follows.largest_drop
    spared = Interval(*(round(FALL - fall, DECIMALS) for fall in (drop.value, drop.high, drop.low)))
    claim = f"no step up in strength of {method} costs {FALL:g} of {name} or more"
    yield claim, unit, f"a fall of {FALL:g}", f"{method}'s largest fall", spared
    if curve.beyond is not None:
        last = f"{method} at strength {curve.strengths[-1]:g}"
        yield f"{last} gives more {name} than at 1", unit, last, f"{method} at strength 1", curve.beyond
