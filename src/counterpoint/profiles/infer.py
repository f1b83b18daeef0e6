"""A person's profile from a few of their choices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.types import CounterpointError, Profile


@dataclass(frozen=True)
class InferredProfile:
    """The most probable profile, and a standard error for each of its weights."""

    profile: Profile
    standard_errors: Mapping[str, float]
    choices: int


def infer_profile(
    chosen_ND: np.ndarray, rejected_ND: np.ndarray, dimensions: Sequence[str], prior_sd: float = 1.0
) -> InferredProfile:
    """Fit the weights that best explain which of two responses a person chose, N times.

        P(choice n) = sigmoid(w . d_n),   d_n = chosen_n - rejected_n
        w = argmax_{w >= 0}  sum_n log sigmoid(w . d_n) - |w|^2 / (2 prior_sd^2)
        H = sum_n p_n (1 - p_n) d_n d_n^T + I / prior_sd^2,   standard errors = sqrt(diag(H^-1))

    Bradley and Terry (1952) with a half-Gaussian prior and a Laplace approximation. The weights refer to rewards on a
    unit scale (`counterpoint.rewards.calibrate.fit_zscore`): on other scales a dimension in small units gets a large
    weight. Their ratios are the profile; their size says how decisive the person is. Raises CounterpointError for
    arrays of other shapes, values that are not finite, and choices that speak against every dimension.

    A weight of 0 sits on the boundary, where the posterior is cut off: read its standard error as "less than about".
    """
    # scipy takes longer to import than all of `counterpoint.profiles`
    from scipy.optimize import minimize
    from scipy.special import expit

    differences_ND = _differences(chosen_ND, rejected_ND, dimensions, prior_sd)

    def loss(w_D: np.ndarray) -> tuple[float, np.ndarray]:
        margin_N = differences_ND @ w_D
        value = np.logaddexp(0, -margin_N).sum() + (w_D @ w_D) / (2 * prior_sd**2)
        return float(value), -expit(-margin_N) @ differences_ND + w_D / prior_sd**2

    size = len(dimensions)
    start = np.full(size, min(prior_sd, 1.0))
    fit = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * size, options={"ftol": 1e-14})
    w_D = fit.x
    if w_D.max() <= 1e-6 * prior_sd:
        raise CounterpointError(
            f"the {len(differences_ND)} choices speak for none of {', '.join(dimensions)} (no positive weight fits); "
            "ask for more choices, or for dimensions that describe them"
        )
    p_N = expit(differences_ND @ w_D)
    hessian_DD = (differences_ND.T * (p_N * (1 - p_N))) @ differences_ND + np.eye(size) / prior_sd**2
    errors_D = np.sqrt(np.diag(np.linalg.inv(hessian_DD)))
    return InferredProfile(
        Profile(dict(zip(dimensions, w_D.tolist(), strict=True))),
        dict(zip(dimensions, errors_D.tolist(), strict=True)),
        len(differences_ND),
    )


def _differences(
    chosen_ND: np.ndarray, rejected_ND: np.ndarray, dimensions: Sequence[str], prior_sd: float
) -> np.ndarray:
    chosen_ND, rejected_ND = np.asarray(chosen_ND, dtype=float), np.asarray(rejected_ND, dtype=float)
    expected = (len(chosen_ND) if chosen_ND.ndim else 0, len(dimensions))
    if chosen_ND.shape != expected or rejected_ND.shape != expected or 0 in expected:
        raise CounterpointError(
            f"expected two arrays of choices by {len(dimensions)} dimensions ({', '.join(dimensions)}), "
            f"found shapes {chosen_ND.shape} and {rejected_ND.shape}"
        )
    if not (np.isfinite(chosen_ND).all() and np.isfinite(rejected_ND).all()):
        raise CounterpointError("a reward of a choice is not finite; leave that choice out")
    if not 0 < prior_sd < float("inf"):
        raise CounterpointError(f"found prior_sd={prior_sd}, expected a positive number")
    return np.asarray(chosen_ND - rejected_ND)
