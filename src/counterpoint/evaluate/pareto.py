"""Trade-offs: which points are best in some direction, and how much of the space they cover (higher is better).

Axes: `N` points (a method, or one setting of it), `P` prompts, `K` objectives. moocore minimises by default; every
call here says `maximise`.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterpoint.evaluate.bootstrap import RESAMPLES, Interval, statistic_interval


def front(points_NK: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other one dominates: as good in every objective and better in one. Equal points all stay."""
    return np.asarray(moocore.is_nondominated(_points(points_NK), maximise=True, keep_weakly=True), dtype=np.bool_)


def hypervolume(points_NK: ArrayLike, reference_K: Sequence[float]) -> float:
    """Volume that the points dominate above the reference point (Zitzler and Thiele, 1998).

    The reference is given and never taken from the data: with another one, volumes do not compare. A point that is
    not above it in every objective adds nothing. `ValueError` if the objectives differ in number.
    """
    points = _points(points_NK)
    if points.shape[1] != len(reference_K):
        raise ValueError(f"points have {points.shape[1]} objectives, the reference point has {len(reference_K)}")
    return float(moocore.hypervolume(points, ref=np.asarray(reference_K, dtype=np.float64), maximise=True))


def hypervolume_interval(
    scores_NPK: ArrayLike, reference_K: Sequence[float], *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Hypervolume of the N mean points, with its interval by prompt.

    A maximum over noisy points is biased upwards, more so for more points and fewer prompts: compare methods that
    offer the same number of points.
    """
    scores = np.asarray(scores_NPK, dtype=np.float64)
    if scores.ndim != 3:
        raise ValueError(f"scores by point and prompt need the shape [N, P, K], got {scores.shape}")

    def volume(weight_P: NDArray[np.float64]) -> float:
        return hypervolume(np.einsum("npk,p->nk", scores, weight_P), reference_K)

    return statistic_interval(volume, scores.shape[1], seed=seed, resamples=resamples)


def _points(points_NK: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(points_NK, dtype=np.float64)
    if points.ndim != 2 or not points.size:
        raise ValueError(f"points need the shape [N, K] and at least one point, got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite numbers")
    return points
