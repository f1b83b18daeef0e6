"""Who wins: verdicts per criterion, summed to one verdict per prompt and profile, averaged to win rates.

Axes: `M` methods, `P` prompts, `R` profiles, `D` dimensions. Jang et al. (2023, arXiv 2310.11564) judge each
criterion on its own. That the criteria are then summed and the sign taken is inferred: the paper does not print
its rule, nor whether its win rate counts a tie as half or leaves it out. Both rates are here.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Verdicts = NDArray[np.int8]
Ties = Literal["half", "drop"]


def criterion_verdicts(a: ArrayLike, b: ArrayLike, tolerance: ArrayLike) -> Verdicts:
    """+1 where a beats b by more than the tolerance, -1 where b beats a, 0 otherwise; shapes broadcast.

    `ValueError` for a negative tolerance, under which both could win.
    """
    tolerance = np.asarray(tolerance, dtype=np.float64)
    if not (tolerance >= 0).all():
        raise ValueError(f"a tolerance must not be negative, got {tolerance.tolist()}")
    gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return (np.sign(gap) * (np.abs(gap) > tolerance)).astype(np.int8)


def verdicts(
    scores_a_PRD: ArrayLike, scores_b_PRD: ArrayLike, selected_RD: ArrayLike, tolerance_D: ArrayLike
) -> Verdicts:
    """One verdict per prompt and profile, `verdict_PR`: the sign of the sum over the profile's dimensions.

        verdict_pr = sign( sum_d selected_rd * criterion_verdict_prd )

    Inferred from Jang et al. (see above). Two narrow wins outvote one wide loss: the size of a gap does not count.
    Leading axes of the scores broadcast. `ValueError` for a profile that selects nothing.
    """
    selected = check_selected(selected_RD)
    total_PR = (criterion_verdicts(scores_a_PRD, scores_b_PRD, tolerance_D) * selected).sum(axis=-1)
    return np.asarray(np.sign(total_PR), dtype=np.int8)


def check_selected(selected_RD: ArrayLike) -> NDArray[np.bool_]:
    """The selection as booleans `[R, D]`, or a `ValueError` that names the profile that selects nothing."""
    selected = np.asarray(selected_RD, dtype=np.bool_)
    if selected.ndim != 2:
        raise ValueError(f"selected dimensions need the shape [R, D], got {selected.shape}")
    if empty := np.flatnonzero(~selected.any(axis=1)).tolist():
        raise ValueError(f"profiles {empty} select no dimension, so nothing can be won for them")
    return selected


def verdict_table(scores_MPRD: ArrayLike, selected_RD: ArrayLike, tolerance_D: ArrayLike) -> Verdicts:
    """Each method against each: `verdict_MMPR[a, b]` is +1 where a wins; it is antisymmetric in a and b."""
    scores = np.asarray(scores_MPRD, dtype=np.float64)
    return np.stack([verdicts(scores_PRD, scores, selected_RD, tolerance_D) for scores_PRD in scores])


def win_rate(verdict: ArrayLike, ties: Ties = "half") -> float | None:
    """Share of wins among the verdicts; `None` if there is nothing to count.

    half:  (wins + ties / 2) / N          drop:  wins / (wins + losses)
    """
    verdict = np.asarray(verdict)
    wins, losses = int((verdict > 0).sum()), int((verdict < 0).sum())
    if ties == "drop":
        return wins / (wins + losses) if wins + losses else None
    return (wins + (verdict.size - wins - losses) / 2) / verdict.size if verdict.size else None


def win_share(verdict_MMPR: Verdicts) -> NDArray[np.float64]:
    """What each prompt adds to each win rate, ties as half: `share_MMP` in [0, 1], whose mean over P is the rate."""
    return np.asarray((verdict_MMPR.mean(axis=-1, dtype=np.float64) + 1) / 2, dtype=np.float64)


def average_win_share(verdict_MMPR: Verdicts) -> NDArray[np.float64]:
    """What each prompt adds to the average pairwise win rate: `share_MP`, the mean over the other methods.

    `ValueError` for a single method, which has no opponent.
    """
    methods = len(verdict_MMPR)
    if methods < 2:
        raise ValueError(f"a win rate needs at least 2 methods, got {methods}")
    share_MMP = win_share(verdict_MMPR)
    itself_MP = share_MMP[np.arange(methods), np.arange(methods)]
    return np.asarray((share_MMP.sum(axis=1) - itself_MP) / (methods - 1), dtype=np.float64)


def win_matrix(
    scores_MPRD: ArrayLike, selected_RD: ArrayLike, tolerance_D: ArrayLike, ties: Ties = "half"
) -> list[list[float | None]]:
    """Win rate of the row's method against the column's; `None` on the diagonal and where no pair is decided."""
    verdict_MMPR = verdict_table(scores_MPRD, selected_RD, tolerance_D)
    return win_matrix_of(verdict_MMPR, ties)


def win_matrix_of(verdict_MMPR: Verdicts, ties: Ties = "half") -> list[list[float | None]]:
    """`win_matrix` from verdicts that are already there."""
    return [
        [None if a == b else win_rate(verdict_PR, ties) for b, verdict_PR in enumerate(row)]
        for a, row in enumerate(verdict_MMPR)
    ]


def average_pairwise_win_rate(
    scores_MPRD: ArrayLike, selected_RD: ArrayLike, tolerance_D: ArrayLike
) -> NDArray[np.float64]:
    """`rate_M`: for each method, the mean of its win rates against all the others, ties as half.

    It depends on the set of opponents: add a weak method and every other one rises. Rates from different sets must
    not be compared, least of all those of two papers. Over one set they average to one half.
    """
    share_MP = average_win_share(verdict_table(scores_MPRD, selected_RD, tolerance_D))
    return np.asarray(share_MP.mean(axis=1), dtype=np.float64)
