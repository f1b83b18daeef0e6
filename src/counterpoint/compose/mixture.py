"""Distribution space: each expert is a row of the batch, and their next-token distributions are mixed.

probability  p = sum_k w_k p_k                                        (MoPE, arXiv 2407.04181 Eq. 1)
log          p ~ p_0 * prod_k (p_k / p_0)^(strength * w_k)            (MOD, arXiv 2406.18853; proxy-tuning)

A convex mixture never makes a token likelier than its most confident expert; the log mixture can, and its coefficients
need not sum to one. Both are computed from float32 log-probabilities.
"""

import math

import torch
from torch import Tensor

from counterpoint.compose.plan import Plan, Row, Space
from counterpoint.types import CounterpointError, Weighting


def mix_prob(logp_KV: Tensor, w_K: Tensor) -> Tensor:
    """log sum_k w_k p_k over `[..., K, V]` with `w` `[..., K]` on the simplex; `[..., V]`."""
    return torch.logsumexp(logp_KV + w_K.log()[..., None], dim=-2)


def mix_log(logp_KV: Tensor, c_K: Tensor) -> Tensor:
    """Normalised sum_k c_k log p_k over `[..., K, V]` with any real `c` `[..., K]`; `[..., V]`.

    A coefficient of zero drops its expert even where that expert rules a token out (0 * -inf is 0 here).
    """
    logp_KV = logp_KV.masked_fill((c_K == 0)[..., None], 0.0)
    return torch.log_softmax((c_K[..., None] * logp_KV).sum(-2), dim=-1)


def spread_tail(logp_KW: Tensor) -> Tensor:
    """Distributions of which the last of the `V + 1` columns is what was not reported, as `[..., K, V]` without it.

    The tail is spread evenly over the tokens that were not reported, a logarithm of 0 being nothing to mix, but none
    gets more than the least likely token that was.
    """
    logp_KV, tail_K1 = logp_KW[..., :-1], logp_KW[..., -1:]
    unreported_KV = logp_KV == -math.inf
    share_K1 = tail_K1 - unreported_KV.sum(-1, keepdim=True).clamp(min=1).log()
    least_K1 = logp_KV.masked_fill(unreported_KV, math.inf).amin(-1, keepdim=True)
    return torch.where(unreported_KV, torch.minimum(share_K1, least_K1), logp_KV)


def mix_partial_log(logp_KW: Tensor, c_K: Tensor) -> Tensor:
    """`mix_log` of distributions known in part; `[..., V + 1]`, the last column for what no expert reported."""
    mixed_V = mix_log(spread_tail(logp_KW), c_K)
    unknown_V = (logp_KW[..., :-1] == -math.inf).all(-2)
    lost_1 = mixed_V.masked_fill(~unknown_V, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([mixed_V.masked_fill(unknown_V, -math.inf), lost_1], dim=-1)


def without_silent(c_K: Tensor, silent_K: Tensor) -> Tensor:
    """Coefficients `[..., K]` when some experts have fallen silent: 0 for these.

    The other positive ones keep the sum of all that were positive, and negative ones stay: of `{a: 1, b: 1, base: -1}`
    without b is left `{a: 2, base: -1}`. Raises CounterpointError where no positive coefficient is left.
    """
    if has_nobody(c_K, silent_K).any():
        raise CounterpointError("every expert of a request has failed; see to their endpoints, and ask again")
    left_K = c_K.masked_fill(silent_K, 0.0)
    before_1, after_1 = (c.clamp(min=0).sum(-1, keepdim=True) for c in (c_K, left_K))
    lost_1 = (silent_K & (c_K != 0)).any(-1, keepdim=True)
    return torch.where(lost_1 & (left_K > 0), left_K * (before_1 / after_1), left_K)


def has_nobody(c_K: Tensor, silent_K: Tensor) -> Tensor:
    """Whether none is left, of coefficients `[..., K]`, that is positive, because some have fallen silent; `[...]`."""
    return (silent_K & (c_K != 0)).any(-1) & ~(c_K.masked_fill(silent_K, 0.0) > 0).any(-1)


def credit(logp_KV: Tensor, c_K: Tensor, logp_V: Tensor, token: Tensor, space: Space) -> Tensor:
    """Whose token it was, `[..., K]`, when a mixture `logp_V` of `[..., K, V]` said `token` `[...]`.

    In probability space the responsibility c_k p_k / sum_j c_j p_j, which sums to one. In log space the pull
    c_k (log p_k(token) - sum_v p(v) log p_k(v)), in nats: the derivative of the token's log-probability by log c_k.
    """
    said_K = logp_KV.gather(-1, token[..., None, None].expand(*logp_KV.shape[:-1], 1)).squeeze(-1)
    if space == "prob":
        return torch.softmax(c_K.log() + said_K, dim=-1)
    p_1V = logp_V.exp()[..., None, :]
    return c_K * (said_K - torch.where(p_1V > 0, p_1V * logp_KV, 0.0).sum(-1)).masked_fill(c_K == 0, 0.0)


def plan_prob(weighting: Weighting) -> Plan:
    """A row per expert with weight strength * w_k, and 1 - strength on the base."""
    if weighting.strength > 1:
        raise CounterpointError(
            f"mixture-prob cannot go beyond its experts: strength is {weighting.strength:g}, at most 1 is possible; "
            "soup, moe and mixture-log take more"
        )
    return _plan(weighting, 1 - weighting.strength, "prob")


def plan_log(weighting: Weighting) -> Plan:
    """A row per expert with coefficient strength * w_k, and 1 - strength on the base."""
    return _plan(weighting, 1 - weighting.strength, "log")


def _plan(weighting: Weighting, on_base: float, space: str) -> Plan:
    rows = [Row({name: 1.0}) for name in weighting.experts]
    coefficients = [weighting.strength * w for w in weighting.w]
    if on_base:
        rows.append(Row())
        coefficients.append(on_base)
    return Plan(tuple(rows), tuple(coefficients), "prob" if space == "prob" else "log")
