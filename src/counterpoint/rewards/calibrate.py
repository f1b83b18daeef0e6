"""Make dimensions comparable, and turn them into one number per person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from counterpoint.profiles import unknown_name
from counterpoint.types import CounterpointError, Profile


@dataclass(frozen=True)
class ZScore:
    """A unit scale per dimension, `z = (r - mean) / std`; made by `fit_zscore`, written as plain numbers."""

    dimensions: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, scores_ND: np.ndarray) -> np.ndarray:
        _check_last_axis(scores_ND, self.dimensions)
        return np.asarray((np.asarray(scores_ND, dtype=float) - self.mean) / np.array(self.std))


def _check_last_axis(scores_ND: np.ndarray, dimensions: Sequence[str]) -> None:
    if np.shape(scores_ND)[-1:] != (len(dimensions),):
        raise CounterpointError(
            f"expected scores for {', '.join(dimensions)} in the last axis, found shape {np.shape(scores_ND)}"
        )


def fit_zscore(scores_ND: np.ndarray, dimensions: Sequence[str]) -> ZScore:
    """Mean and standard deviation (over N, not N - 1) of reference responses, usually those of the base model.

    Raises CounterpointError for a dimension on which all responses score alike, which has no scale.
    """
    scores_ND = np.asarray(scores_ND, dtype=float)
    if scores_ND.ndim != 2 or scores_ND.shape[1] != len(dimensions) or not len(scores_ND):
        raise CounterpointError(
            f"expected scores of responses by {len(dimensions)} dimensions, found shape {scores_ND.shape}"
        )
    for name, scores_N in zip(dimensions, scores_ND.T, strict=True):
        if not np.isfinite(scores_N).all():
            raise CounterpointError(f"dimension {name!r}: a reference score is not finite")
        if np.ptp(scores_N) == 0:
            raise CounterpointError(
                f"dimension {name!r}: all {len(scores_N)} reference responses score {scores_N[0]:g}, so there is no "
                "scale; use more varied responses, or a reward that tells them apart"
            )
    return ZScore(tuple(dimensions), tuple(scores_ND.mean(axis=0).tolist()), tuple(scores_ND.std(axis=0).tolist()))


@dataclass(frozen=True)
class Temperature:
    """A scale per dimension, `s r`: a unit of it is a logit of preference; made by `fit_temperature`."""

    dimensions: tuple[str, ...]
    scale: tuple[float, ...]

    def __call__(self, scores_ND: np.ndarray) -> np.ndarray:
        _check_last_axis(scores_ND, self.dimensions)
        return np.asarray(scores_ND, dtype=float) * self.scale


def fit_temperature(margins: Mapping[str, np.ndarray]) -> Temperature:
    """Per dimension the `scale_of` its margins on pairs that its reward was not trained on.

    After it, `sigmoid(s_d (r_d(y) - r_d(y')))` is about how often y is preferred to y', on every dimension.
    """
    return Temperature(tuple(margins), tuple(scale_of(margin_P, name) for name, margin_P in margins.items()))


def scale_of(margin_P: np.ndarray, dimension: str = "") -> float:
    """The scale that makes margins `r(x, y+) - r(x, y-)` of held-out pairs most likely.

        s = argmin over s >= 0 of mean_P of - t log sigmoid(s m) - (1 - t) log sigmoid(- s m),   t = (P + 1) / (P + 2)

    One over the temperature of Guo et al. (2017, arXiv 1706.04599, section 4.2), on the Bradley-Terry likelihood. The
    target t is Platt's (1999): with t = 1 margins that are all positive would have no finite scale; P = 400 pairs move
    it hardly otherwise. A reward that prefers the rejected responses gets 0: it says nothing, and every pair is 1/2.
    Raises CounterpointError where no margin differs from 0, or one is not finite.
    """
    margin_P = np.asarray(margin_P, dtype=float)
    if not np.isfinite(margin_P).all() or not np.any(margin_P):
        raise CounterpointError(
            f"dimension {dimension!r}: a scale needs finite margins that are not all 0, found {len(margin_P)} "
            f"of which {int(np.isfinite(margin_P).sum())} are finite"
        )
    unit = float(np.abs(margin_P).max())
    u_P, t = margin_P / unit, (len(margin_P) + 1) / (len(margin_P) + 2)

    def loss(s: float) -> float:
        return float((np.logaddexp(0, -s * u_P) + (1 - t) * s * u_P).mean())

    return max(0.0, float(minimize_scalar(loss).x)) / unit


def bt_reward(r_ND: np.ndarray, r_ref_ND: np.ndarray) -> np.ndarray:
    """The probability that a response beats a reference response to the same prompt.

        R_i(x, y) = sigmoid(r_i(x, y) - r_i(x, y_ref))

    MoPE (arXiv 2407.04181; its reviewers quote it as equation 2). As `(1 + tanh(x / 2)) / 2`, which does not overflow.
    """
    return np.asarray((1 + np.tanh((np.asarray(r_ND, dtype=float) - r_ref_ND) / 2)) / 2)


def scalarise(scores_ND: np.ndarray, w_ND: np.ndarray) -> np.ndarray:
    """The mean over the dimensions that a person selected, `[N]`.

        R(x, y, w) = sum_i w_i R_i(x, y) / sum_i w_i

    Weights of 0 and 1 give the plain mean over the selected dimensions. `w_ND` may be `[D]`, the same for every row.
    Raises CounterpointError for weights that are negative, not finite or all 0 in a row.
    """
    scores_ND = np.asarray(scores_ND, dtype=float)
    w_ND = np.broadcast_to(np.asarray(w_ND, dtype=float), scores_ND.shape)
    bad_N = ~np.isfinite(w_ND).all(axis=-1) | (w_ND < 0).any(axis=-1) | (w_ND.sum(axis=-1) == 0)
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise CounterpointError(
            f"row {row}: found weights {w_ND[row].tolist()}, expected finite ones, 0 or more and not all 0"
        )
    return np.asarray((w_ND * scores_ND).sum(axis=-1) / w_ND.sum(axis=-1))


def profile_weights(profiles: Sequence[Profile], dimensions: Sequence[str]) -> np.ndarray:
    """`w_ND`: the weights of each profile in the order of `dimensions`, 0 where a profile names none."""
    for name in (name for profile in profiles for name in profile.weights if name not in dimensions):
        raise CounterpointError(f"profile: {unknown_name('dimension', name, dimensions)}")
    rows = [[profile.weights.get(name, 0.0) for name in dimensions] for profile in profiles]
    return np.array(rows, dtype=float).reshape(len(profiles), len(dimensions))
