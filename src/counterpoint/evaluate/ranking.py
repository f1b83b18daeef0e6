"""Does a policy rank the two responses of a pair as people do? Functions of summed log-probabilities, no model.

Chen et al. (2024, arXiv 2405.19534). Axis `P`: pairs (chosen w, rejected l). All log-probabilities are natural and
summed over the response; `ref_` is the reference policy of DPO. Everything stays in log space: e^-500 is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETAS = (0.01, 0.1, 1.0, 5.0, 10.0)
"""Where beta is unknown, the idealised accuracy is given as minimum, median and maximum over this grid."""

CERTAIN = 1e-3
"""A share of raters closer than this to 0 or 1 is moved there, since its logit is infinite."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def ranked_right(logp_chosen_P: ArrayLike, logp_rejected_P: ArrayLike) -> Flags:
    """`R = 1[ logp(y_w | x) >= logp(y_l | x) ]` per pair."""
    return _floats(logp_chosen_P) >= _floats(logp_rejected_P)


def ranked_right_per_token(
    logp_chosen_P: ArrayLike, logp_rejected_P: ArrayLike, length_chosen_P: ArrayLike, length_rejected_P: ArrayLike
) -> Flags:
    """The length-normalised variant: `logp / length` on both sides. `ValueError` for a response of no tokens."""
    chosen, rejected = _floats(length_chosen_P), _floats(length_rejected_P)
    if not ((chosen > 0).all() and (rejected > 0).all()):
        raise ValueError("a log-probability per token needs responses of at least one token")
    return ranked_right(_floats(logp_chosen_P) / chosen, _floats(logp_rejected_P) / rejected)


def rewarded_right(
    logp_chosen_P: ArrayLike, logp_rejected_P: ArrayLike, ref_chosen_P: ArrayLike, ref_rejected_P: ArrayLike
) -> Flags:
    """Accuracy of the implicit reward: `1[ d(y_w) > d(y_l) ]` with `d(y) = logp(y) - ref(y)`. Not the ranking."""
    return _reward_gap(logp_chosen_P, logp_rejected_P, ref_chosen_P, ref_rejected_P) > 0


def ideal_margin(ref_chosen_P: ArrayLike, ref_rejected_P: ArrayLike, alpha_P: ArrayLike, beta: float) -> Floats:
    """Log-ratio of the two responses under the perfectly trained policy; it ranks right where this is positive.

        log pi*(y_w) / pi*(y_l) = ref(y_w) - ref(y_l) + logit(alpha) / beta

    `alpha_P` is the share of raters who prefer the chosen one, clipped to [1e-3, 1 - 1e-3] (the paper replaces 1 by
    1 - 1e-3). A difference of logs, not a quotient of them: dividing -100 by -120 gives 0.83, where the true ratio is
    e^20. `ValueError` for beta <= 0 or a share outside [0, 1].
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    alpha = _floats(alpha_P)
    if not ((alpha >= 0) & (alpha <= 1)).all():
        raise ValueError("a share of raters lies between 0 and 1")
    alpha = np.clip(alpha, CERTAIN, 1 - CERTAIN)
    return _floats(ref_chosen_P) - _floats(ref_rejected_P) + np.log(alpha / (1 - alpha)) / beta


def ideal_accuracy(ref_chosen_P: ArrayLike, ref_rejected_P: ArrayLike, alpha_P: ArrayLike, beta: float) -> float:
    """Idealised ranking accuracy `R* = mean 1[ ideal_margin > 0 ]`: what perfect training would reach."""
    return _share(ideal_margin(ref_chosen_P, ref_rejected_P, alpha_P, beta) > 0)


def difficulty(ref_chosen_P: ArrayLike, ref_rejected_P: ArrayLike) -> Floats:
    """`c = ref(y_l) - ref(y_w)`, in nats: how far the reference is from ranking the pair right (> 0 if wrong)."""
    return _floats(ref_rejected_P) - _floats(ref_chosen_P)


def threshold_loss(difficulty_P: ArrayLike, beta: float) -> Floats:
    """The pair is ranked right if and only if its DPO loss is at most `-log sigmoid(beta c)` (theorem 4.1).

    With beta = 0.1 and c = 50 nats that is 0.0067: a hard pair must be learned almost perfectly before it flips.
    """
    return _minus_log_sigmoid(beta * _floats(difficulty_P))


def dpo_loss(
    logp_chosen_P: ArrayLike,
    logp_rejected_P: ArrayLike,
    ref_chosen_P: ArrayLike,
    ref_rejected_P: ArrayLike,
    beta: float,
) -> Floats:
    """`-log sigmoid(beta (d(y_w) - d(y_l)))` per pair (Rafailov et al., 2023, equation 7)."""
    return _minus_log_sigmoid(beta * _reward_gap(logp_chosen_P, logp_rejected_P, ref_chosen_P, ref_rejected_P))


@dataclass(frozen=True)
class Flips:
    """How many pairs training left right, made right, made wrong and left wrong."""

    stayed_right: int
    became_right: int
    became_wrong: int
    stayed_wrong: int


def flips(right_before_P: ArrayLike, right_after_P: ArrayLike) -> Flips:
    """Count pairs by their ranking before and after training."""
    before, after = np.asarray(right_before_P, dtype=np.bool_), np.asarray(right_after_P, dtype=np.bool_)
    if before.shape != after.shape:
        raise ValueError(f"flips need the same pairs before and after, got {before.shape} and {after.shape}")
    counts = [(before & after), (~before & after), (before & ~after), (~before & ~after)]
    return Flips(*(int(count.sum()) for count in counts))


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum over a grid of betas."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """One policy against its reference on a set of pairs.

    `per_token` is `None` without lengths. `gap = R* - R`: what training left on the table, per beta of the grid.
    """

    pairs: int
    accuracy: float
    per_token: float | None
    reference_accuracy: float
    reward_accuracy: float
    ideal: Spread
    gap: Spread
    flips: Flips


def ranking(
    logp_chosen_P: ArrayLike,
    logp_rejected_P: ArrayLike,
    ref_chosen_P: ArrayLike,
    ref_rejected_P: ArrayLike,
    *,
    alpha_P: ArrayLike | None = None,
    lengths_P2: ArrayLike | None = None,
    betas: Sequence[float] = BETAS,
) -> Ranking:
    """Everything above for one policy; `alpha_P` is 1 where there are no votes, `lengths_P2` are (chosen, rejected).

    `ValueError` for no pairs or for shapes that differ.
    """
    chosen, rejected, ref_chosen, ref_rejected = map(
        _floats, (logp_chosen_P, logp_rejected_P, ref_chosen_P, ref_rejected_P)
    )
    shapes = {array.shape for array in (chosen, rejected, ref_chosen, ref_rejected)}
    if len(shapes) != 1 or chosen.ndim != 1 or not chosen.size:
        raise ValueError(f"ranking needs four arrays of one length, at least one pair; got shapes {sorted(shapes)}")
    alpha = np.ones_like(chosen) if alpha_P is None else _floats(alpha_P)
    right, ref_right = ranked_right(chosen, rejected), ranked_right(ref_chosen, ref_rejected)
    accuracy = _share(right)
    ideals = [ideal_accuracy(ref_chosen, ref_rejected, alpha, beta) for beta in betas]
    per_token = None
    if lengths_P2 is not None:
        length_chosen, length_rejected = _floats(lengths_P2).T
        per_token = _share(ranked_right_per_token(chosen, rejected, length_chosen, length_rejected))
    return Ranking(
        pairs=chosen.size,
        accuracy=accuracy,
        per_token=per_token,
        reference_accuracy=_share(ref_right),
        reward_accuracy=_share(rewarded_right(chosen, rejected, ref_chosen, ref_rejected)),
        ideal=_spread(ideals),
        gap=_spread([ideal - accuracy for ideal in ideals]),
        flips=flips(ref_right, right),
    )


def _reward_gap(
    chosen_P: ArrayLike, rejected_P: ArrayLike, ref_chosen_P: ArrayLike, ref_rejected_P: ArrayLike
) -> Floats:
    return (_floats(chosen_P) - _floats(ref_chosen_P)) - (_floats(rejected_P) - _floats(ref_rejected_P))


def _minus_log_sigmoid(x_P: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, -x_P), dtype=np.float64)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(min(values), float(np.median(values)), max(values))


def _share(right_P: Flags) -> float:
    return float(right_P.mean())


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
