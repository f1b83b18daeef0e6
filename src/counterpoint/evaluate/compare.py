"""Everything that methods are compared by, from one array of scores.

Axes: `M` methods, `P` prompts, `R` profiles, `D` dimensions. The reward of an answer for a profile is the mean of
its scores on the dimensions that the profile selects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterpoint.evaluate.bootstrap import RESAMPLES, Interval, mean_intervals
from counterpoint.evaluate.wins import average_win_share, check_selected, verdict_table, win_matrix_of, win_share
from counterpoint.types import CounterpointError

Row = tuple[Interval, ...]


@dataclass(frozen=True)
class Standings:
    """Methods compared on the same prompts and profiles; every interval is by prompt, from `resamples` with `seed`.

    `win_MM[a][b]`: win rate of a over b, ties as half; `decided_MM` leaves ties out; `reward_difference_MM`: paired,
    a minus b. All three are `None` on the diagonal. `average_win_M` depends on who else takes part.
    """

    methods: tuple[str, ...]
    profiles: tuple[str, ...]
    dimensions: tuple[str, ...]
    selected_RD: tuple[tuple[bool, ...], ...]
    prompts: int
    seed: int
    resamples: int
    reward_M: Row
    reward_MR: tuple[Row, ...]
    average_win_M: Row
    average_win_MR: tuple[Row, ...]
    win_MM: tuple[tuple[Interval | None, ...], ...]
    decided_MM: tuple[tuple[float | None, ...], ...]
    reward_difference_MM: tuple[tuple[Interval | None, ...], ...]
    score_MRD: tuple[tuple[tuple[float, ...], ...], ...]
    correctness_M: Row | None
    correctness_MR: tuple[Row, ...] | None


def profile_rewards(scores_PRD: ArrayLike, selected_RD: ArrayLike) -> NDArray[np.float64]:
    """`reward_PR`, the mean score over the dimensions that each profile selects; leading axes are kept.

    reward_pr = sum_d selected_rd score_prd / sum_d selected_rd
    """
    selected = check_selected(selected_RD)
    weight_RD = selected / selected.sum(axis=1, keepdims=True)
    return np.asarray((np.asarray(scores_PRD, dtype=np.float64) * weight_RD).sum(axis=-1), dtype=np.float64)


def compare(
    scores_MPRD: ArrayLike,
    selected_RD: ArrayLike,
    tolerance_D: ArrayLike,
    *,
    methods: Sequence[str],
    profiles: Sequence[str],
    dimensions: Sequence[str],
    seed: int,
    correct_MPR: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> Standings:
    """Rewards, win rates and correctness of every method, with intervals by prompt.

    `CounterpointError` if names and axes differ in number, a name is there twice, or a score is not a finite number.
    """
    scores = np.asarray(scores_MPRD, dtype=np.float64)
    selected = check_selected(selected_RD)
    _check(scores, selected, methods, profiles, dimensions)
    reward_MPR = profile_rewards(scores, selected)
    verdict_MMPR = verdict_table(scores, selected, tolerance_D)
    reward_MP = reward_MPR.mean(axis=-1)

    def intervals(stat_P_last: NDArray[np.float64]) -> Row:
        return tuple(mean_intervals(stat_P_last, seed=seed, resamples=resamples))

    def by_method(stat_MPR: NDArray[np.float64]) -> tuple[Row, ...]:
        return tuple(intervals(stat_PR.T) for stat_PR in stat_MPR)

    average_win_MPR = np.stack([average_win_share(verdict_MMP1) for verdict_MMP1 in _profiles(verdict_MMPR)], axis=-1)
    correct = None if correct_MPR is None else _correct(correct_MPR, reward_MPR.shape)
    return Standings(
        methods=tuple(methods),
        profiles=tuple(profiles),
        dimensions=tuple(dimensions),
        selected_RD=tuple(tuple(bool(flag) for flag in row) for row in selected),
        prompts=scores.shape[1],
        seed=seed,
        resamples=resamples,
        reward_M=intervals(reward_MP),
        reward_MR=by_method(reward_MPR),
        average_win_M=intervals(average_win_share(verdict_MMPR)),
        average_win_MR=by_method(average_win_MPR),
        win_MM=_off_diagonal([intervals(share_MP) for share_MP in win_share(verdict_MMPR)]),
        decided_MM=tuple(map(tuple, win_matrix_of(verdict_MMPR, "drop"))),
        reward_difference_MM=_off_diagonal([intervals(own_P - reward_MP) for own_P in reward_MP]),
        score_MRD=tuple(tuple(tuple(map(float, row)) for row in table) for table in scores.mean(axis=1)),
        correctness_M=None if correct is None else intervals(correct.mean(axis=-1)),
        correctness_MR=None if correct is None else by_method(correct),
    )


def _profiles(verdict_MMPR: NDArray[np.int8]) -> list[NDArray[np.int8]]:
    return [verdict_MMPR[..., [r]] for r in range(verdict_MMPR.shape[-1])]


def _off_diagonal(rows: Sequence[Row]) -> tuple[tuple[Interval | None, ...], ...]:
    return tuple(tuple(None if a == b else cell for b, cell in enumerate(row)) for a, row in enumerate(rows))


def _correct(correct_MPR: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    correct = np.asarray(correct_MPR, dtype=np.float64)
    if correct.shape != shape:
        raise CounterpointError(f"correctness has the shape {correct.shape}, the scores need {shape}")
    return correct


def _check(
    scores: NDArray[np.float64],
    selected: NDArray[np.bool_],
    methods: Sequence[str],
    profiles: Sequence[str],
    dimensions: Sequence[str],
) -> None:
    named = {"methods": (0, methods), "profiles": (2, profiles), "dimensions": (3, dimensions)}
    if scores.ndim != 4:
        raise CounterpointError(f"scores need the axes methods, prompts, profiles, dimensions; got {scores.shape}")
    for what, (axis, names) in named.items():
        if scores.shape[axis] != len(names):
            raise CounterpointError(f"{len(names)} {what} are named, the scores hold {scores.shape[axis]}")
        if len(set(names)) != len(names):
            raise CounterpointError(f"{what} must have different names, got {', '.join(names)}")
    if selected.shape != scores.shape[2:]:
        raise CounterpointError(f"selected dimensions have the shape {selected.shape}, the scores {scores.shape[2:]}")
    if (bad := np.argwhere(~np.isfinite(scores))).size:
        m, p, r, d = bad[0]
        raise CounterpointError(
            f"{len(bad)} scores are not finite; the first is {methods[m]}, prompt {p}, {profiles[r]}, {dimensions[d]}"
        )
