"""Distribution space: each expert is a row of the batch, and their next-token distributions are mixed.

probability  p = sum_k w_k p_k                                        (MoPE, arXiv 2407.04181 Eq. 1)
log          p ~ p_0 * prod_k (p_k / p_0)^(strength * w_k)            (MOD, arXiv 2406.18853; proxy-tuning)

A convex mixture never makes a token likelier than its most confident expert; the log mixture can, and its coefficients
need not sum to one. Both are computed from float32 log-probabilities.
"""

import torch
from torch import Tensor

from counterpoint.compose.plan import Plan, Row
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
