"""What a person wants, learned from their choices between two responses, and which two to show them next."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from counterpoint.types import CounterpointError, Profile

NOISE = 0.05
"""Share of choices that a person makes against their own wishes, unless it is known: a slip, another reason."""
TOLERANCE = 0.5
"""Regret in logits that does not matter: a person takes the best over what they have with probability 0.62."""
DELTA = 0.1
DRAWS = 512
POINTS = 1024
"""Draws that carry a belief, and the weighted points that they are taken from."""
PAIRS = {"information": 32, "thompson": 2}
"""How many draws name candidates for the next pair, by what this is called; see `next_pair`."""
WIDER = 1.4
"""How much wider than the Laplace approximation the points lie, so that its tails are reached."""
NEWTON, NEAR = 100, 1e-4
"""Steps at most, and the step that ends them: points are drawn around what is found, and weighed."""
SURELY = 1e-8
"""Share of the prior's covariance that always remains: that of the few points that carry a sure belief is singular."""


@dataclass(frozen=True)
class Belief:
    """The posterior of a person's weights `w`: mean, covariance and equally likely draws, after so many `choices`.

    `w_d` is the logit by which a response with one unit more of dimension d is preferred. It may be negative.
    """

    dimensions: tuple[str, ...]
    mean_D: np.ndarray
    covariance_DD: np.ndarray
    draws_SD: np.ndarray
    choices: int = 0
    noise: float = NOISE


@dataclass(frozen=True)
class Sureness:
    """How good candidate `chosen` is: the probabilities that it is the best and that it is good enough, and the regret
    to expect, in logits."""

    chosen: int
    best: float
    good: float
    regret: float


@dataclass(frozen=True)
class Evidence:
    """Choices, and the Gaussian `N(m, S)` that was believed before them."""

    d_ND: np.ndarray
    share_N: np.ndarray
    count_N: np.ndarray
    m_D: np.ndarray
    S_DD: np.ndarray
    noise: float

    @cached_property
    def precision_DD(self) -> np.ndarray:
        return np.asarray(np.linalg.inv(self.S_DD))

    def log_posterior(self, w_SD: np.ndarray) -> np.ndarray:
        """`log p(choices | w) + log N(w; m, S)` up to a constant, `[S]`."""
        margin_SN, from_SD = w_SD @ self.d_ND.T, w_SD - self.m_D
        first_SN, second_SN = (np.log(_chance(side_SN, self.noise)) for side_SN in (margin_SN, -margin_SN))
        said_SN = self.share_N * first_SN + (1 - self.share_N) * second_SN
        return np.asarray(said_SN @ self.count_N - ((from_SD @ self.precision_DD) * from_SD).sum(axis=1) / 2)


def _chance(margin: np.ndarray, noise: float) -> np.ndarray:
    """`P(first)`, kept above 0, where its logarithm would end."""
    from scipy.special import expit

    return np.asarray(np.maximum(noise + (1 - 2 * noise) * expit(margin), np.finfo(float).tiny))


def unsure(
    dimensions: Sequence[str], mean_D: np.ndarray | None = None, sd: float = 1.0, noise: float = NOISE
) -> Belief:
    """What is believed of a person who has not chosen yet: `w ~ N(mean, sd^2 I)`, mean 0 unless given."""
    if not 0 < sd < float("inf"):
        raise CounterpointError(f"found sd={sd}, expected a positive number")
    _check_noise(noise)
    mean_D = np.zeros(len(dimensions)) if mean_D is None else np.asarray(mean_D, dtype=float)
    covariance_DD = sd**2 * np.eye(len(dimensions))
    draws_SD = _gaussian(mean_D, covariance_DD, DRAWS)
    return Belief(tuple(dimensions), mean_D, covariance_DD, draws_SD, 0, noise)


def believe(
    differences_ND: np.ndarray,
    before: Belief,
    *,
    shares_N: np.ndarray | None = None,
    counts_N: np.ndarray | None = None,
) -> Belief:
    """The belief after all of a person's choices.

        P(first of pair n) = e + (1 - 2 e) sigmoid(w . d_n),   d_n = z_first - z_second,   w ~ N(m0, S0)

    Bradley and Terry (1952) with a share `e` of choices that say the opposite (`before.noise`). `shares_N` is 1 where
    the first was chosen (everywhere, unless given), 0 where the second was, and 1/2 for a tie: half a choice each way,
    which pulls `w . d_n` towards 0. `counts_N` is how many choices a row counts as, 1 unless given.

    A Laplace approximation at the mode is where points are drawn; they are weighed by the posterior itself, half of
    them from the prior (a defensive mixture; Hesterberg 1995, Technometrics 37). It matters with noise, under which
    the likelihood is not log-concave and the posterior has a second hump where a choice was a slip.

    The same choices give the same belief, in any order. Pass all choices with the first belief rather than the latest
    one to yesterday's: of `before`, mean and covariance alone are used. Raises CounterpointError for other shapes and
    for values that are not finite.
    """
    evidence = _evidence(differences_ND, before, shares_N, counts_N)
    if not len(evidence.d_ND):
        return before
    mode_D, covariance_DD = laplace(evidence)
    points_SD, log_q_S = _points(evidence, mode_D, WIDER**2 * covariance_DD)
    log_S = evidence.log_posterior(points_SD) - log_q_S
    share_S = np.exp(log_S - log_S.max())
    share_S /= share_S.sum()
    mean_D = share_S @ points_SD
    from_mean_SD = points_SD - mean_D
    return Belief(
        before.dimensions,
        mean_D,
        (from_mean_SD.T * share_S) @ from_mean_SD + SURELY * before.covariance_DD,
        points_SD[_systematic(share_S, DRAWS)],
        round(evidence.count_N.sum()),
        before.noise,
    )


def laplace(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """The mode of the posterior, and the inverse of its curvature there.

        F = S0^-1 + sum_n c_n g_n^2 / (p_n (1 - p_n)) d_n d_n^T
        g_n = (1 - 2 e) s_n (1 - s_n),   s_n = sigmoid(w . d_n)

    Newton's method with the expected curvature F, which is positive definite even where noise makes the observed one
    not (without noise they are equal), and with steps that are halved until the posterior rises.
    """
    e, w_D = evidence.noise, evidence.m_D
    value = evidence.log_posterior(w_D[None])[0]
    for _ in range(NEWTON):
        s_N = _chance(evidence.d_ND @ w_D, 0.0)
        p_N, g_N = e + (1 - 2 * e) * s_N, (1 - 2 * e) * s_N * (1 - s_N)
        per_N = evidence.count_N * g_N / np.maximum(p_N * (1 - p_N), np.finfo(float).tiny)
        slope_D = evidence.d_ND.T @ (per_N * (evidence.share_N - p_N)) - evidence.precision_DD @ (w_D - evidence.m_D)
        curvature_DD = (evidence.d_ND.T * (per_N * g_N)) @ evidence.d_ND + evidence.precision_DD
        step_D, before = np.linalg.solve(curvature_DD, slope_D), value
        while (value := evidence.log_posterior((w_D + step_D)[None])[0]) < before and np.abs(step_D).max() > NEAR:
            step_D = step_D / 2
        if np.abs(step_D).max() <= NEAR:
            break
        w_D = w_D + step_D
    return w_D, np.asarray(np.linalg.inv(curvature_DD))


def draw(belief: Belief, n: int, generator: np.random.Generator) -> np.ndarray:
    """`n` independent draws of what the person's weights may be, `[n, D]`."""
    return np.asarray(belief.draws_SD[generator.integers(len(belief.draws_SD), size=n)])


def next_pair(
    belief: Belief, candidates_ND: np.ndarray, generator: np.random.Generator, draws: int = PAIRS["information"]
) -> tuple[int, int]:
    """The two candidates to show next.

    Thompson sampling says who may be shown: each of `draws` draws of the weights names its best candidate. Of the pairs
    of those that were named, the one is shown whose answer tells most about the weights,

        I(choice; w) = H(E_w p) - E_w H(p),   p = P(first | w),   H the entropy of a coin

    (Houlsby et al. 2011, arXiv 1112.5745). With two draws this is plain Thompson sampling of a pair (`PAIRS`). Where
    all draws agree, more are taken, and at last the best and the second best by the mean are shown.
    """
    for _ in range(10):
        w_SD = draw(belief, draws, generator)
        named = np.unique((w_SD @ candidates_ND.T).argmax(axis=1))
        if len(named) > 1:
            first_P, second_P = (named[side] for side in np.triu_indices(len(named), 1))
            told_P = _information(w_SD @ (candidates_ND[first_P] - candidates_ND[second_P]).T, belief.noise)
            best = int(told_P.argmax())
            return int(first_P[best]), int(second_P[best])
    first, second = np.argsort(-(candidates_ND @ belief.mean_D), kind="stable")[:2]
    return int(first), int(second)


def best_of(belief: Belief, candidates_ND: np.ndarray) -> int:
    """The candidate of the highest expected utility, `argmax_j E[w] . z_j`."""
    return int((candidates_ND @ belief.mean_D).argmax())


def how_sure(
    belief: Belief, candidates_ND: np.ndarray, chosen: int | None = None, tolerance: float = TOLERANCE
) -> Sureness:
    """How good a candidate is, the best by the mean unless another is `chosen`.

        regret(w) = max_j w . z_j - w . z_chosen

    Among hundreds of candidates some are nearly as good as the best: that one is the best by a hair is never sure, and
    does not matter. What matters is `good`, the probability that its regret is at most `tolerance`.
    """
    chosen = best_of(belief, candidates_ND) if chosen is None else chosen
    utility_SN = belief.draws_SD @ candidates_ND.T
    regret_S = utility_SN.max(axis=1) - utility_SN[:, chosen]
    return Sureness(
        chosen, float((regret_S <= 1e-12).mean()), float((regret_S <= tolerance).mean()), float(regret_S.mean())
    )


def settled(sureness: Sureness, delta: float = DELTA) -> bool:
    """Whether to stop asking: what is chosen is good enough with probability `1 - delta`."""
    return sureness.good >= 1 - delta


def profile_of(belief: Belief) -> Profile | None:
    """The profile that a belief speaks for, None where it speaks for no dimension.

        w = argmin_{w >= 0} (w - mean)^T covariance^-1 (w - mean)

    A profile cannot want less of something. The likeliest non-negative weights are no cut of the mean: where two
    dimensions are opposites, choices tell their difference alone, and all of it goes to the one that is wanted.
    """
    from scipy.optimize import nnls

    root_DD = np.linalg.cholesky(np.linalg.inv(belief.covariance_DD)).T
    w_D, _ = nnls(root_DD, root_DD @ belief.mean_D)
    if w_D.max() <= 1e-6 * np.sqrt(np.diag(belief.covariance_DD)).max():
        return None
    return Profile(dict(zip(belief.dimensions, w_D.tolist(), strict=True)))


def compared(features_ND: np.ndarray, ratings_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratings of single responses as choices between them: differences, shares and counts for `believe`.

    The better rated of two was chosen, equal ratings are a tie. Ratings are taken for an order only. N ratings make
    N (N - 1) / 2 pairs that lean on each other: each counts as 2 / N of a choice, N - 1 choices in all.
    """
    first_P, second_P = np.triu_indices(len(ratings_N), 1)
    better_P = np.sign(np.asarray(ratings_N)[first_P] - np.asarray(ratings_N)[second_P])
    counts_P = np.full(len(first_P), 2 / max(len(ratings_N), 1))
    return features_ND[first_P] - features_ND[second_P], (1 + better_P) / 2, counts_P


def _information(margin_SP: np.ndarray, noise: float) -> np.ndarray:
    p_SP = _chance(margin_SP, noise)
    return np.asarray(_entropy(p_SP.mean(axis=0)) - _entropy(p_SP).mean(axis=0))


def _entropy(p: np.ndarray) -> np.ndarray:
    from scipy.special import entr

    return np.asarray(entr(p) + entr(1 - p))


def _points(evidence: Evidence, mode_D: np.ndarray, wide_DD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points half from the prior and half around the mode, and the logarithm of their density up to a constant."""
    half = POINTS // 2
    near_SD = _gaussian(mode_D, wide_DD, half, seed=1)
    points_SD = np.concatenate([_gaussian(evidence.m_D, evidence.S_DD, half), near_SD])
    from_prior_S = _log_normal(points_SD, evidence.m_D, evidence.S_DD)
    return points_SD, np.logaddexp(from_prior_S, _log_normal(points_SD, mode_D, wide_DD))


def _gaussian(mean_D: np.ndarray, covariance_DD: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """The same `n` standard normal points every time, moved and stretched."""
    points_SD = np.random.default_rng(seed).standard_normal((n, len(mean_D)))
    return np.asarray(mean_D + points_SD @ np.linalg.cholesky(covariance_DD).T)


def _log_normal(w_SD: np.ndarray, mean_D: np.ndarray, covariance_DD: np.ndarray) -> np.ndarray:
    root_DD = np.linalg.cholesky(covariance_DD)
    unit_DS = np.linalg.solve(root_DD, (w_SD - mean_D).T)
    return np.asarray(-(unit_DS**2).sum(axis=0) / 2 - np.log(np.diag(root_DD)).sum())


def _systematic(share_S: np.ndarray, n: int) -> np.ndarray:
    """Indices in proportion to shares, `n` of them, with the least scatter and no chance (Kitagawa 1996)."""
    edges_S = np.cumsum(share_S)
    return np.minimum(np.searchsorted(edges_S, (np.arange(n) + 0.5) / n), len(share_S) - 1)


def _evidence(
    differences_ND: np.ndarray, before: Belief, shares_N: np.ndarray | None, counts_N: np.ndarray | None
) -> Evidence:
    d_ND = np.asarray(differences_ND, dtype=float)
    size = len(before.dimensions)
    if d_ND.ndim != 2 or d_ND.shape[1] != size:
        raise CounterpointError(
            f"expected differences of choices by {size} dimensions ({', '.join(before.dimensions)}), "
            f"found shape {d_ND.shape}"
        )
    share_N = np.ones(len(d_ND)) if shares_N is None else np.asarray(shares_N, dtype=float)
    count_N = np.ones(len(d_ND)) if counts_N is None else np.asarray(counts_N, dtype=float)
    for name, found_N in (("shares", share_N), ("counts", count_N)):
        if found_N.shape != (len(d_ND),):
            raise CounterpointError(f"expected {len(d_ND)} {name}, one for each choice, found shape {found_N.shape}")
    if not np.isfinite(d_ND).all():
        raise CounterpointError("a difference of a choice is not finite; leave that choice out")
    if not ((share_N >= 0) & (share_N <= 1)).all() or not ((count_N >= 0) & (count_N < np.inf)).all():
        raise CounterpointError("expected shares from 0 to 1, and counts of 0 or more")
    _check_noise(before.noise)
    return Evidence(d_ND, share_N, count_N, before.mean_D, before.covariance_DD, before.noise)


def _check_noise(noise: float) -> None:
    if not 0 <= noise < 0.5:
        raise CounterpointError(f"found noise={noise}, expected 0 or more and below 0.5, where choices tell nothing")
