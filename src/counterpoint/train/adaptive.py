"""What a run on its own samples adapts as it goes: the unit of its rewards, the price of KL, the end of an iteration.

Each is a function of what was logged, so that a killed run needs no more than its log to go on as it was.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.types import CounterpointError

LEEWAY = 1.5
"""An iteration ends beyond so many times `stop_kl`."""

Entry = Mapping[str, float]


@dataclass(frozen=True)
class Adaptive:
    """What is adapted; nothing, as it stands.

    `normalise` puts rewards into standard deviations of all that were earned so far. `missing_end` is what a response
    without an end earns in that unit, whatever it scored: it has no part in the standard deviation, in which ten of its
    own would leave nothing of what tells the other responses apart. `kl_target` is the KL of a response to the
    reference, in nats, that the price of KL is led to, a factor e in about `kl_horizon` / 0.2 responses at most.
    `stop_kl` is a KL of a token, in nats, to the policy that sampled: an iteration ends beyond 1.5 times that.
    """

    normalise: bool = False
    kl_target: float | None = None
    kl_horizon: int = 10000
    stop_kl: float | None = None
    missing_end: float | None = None

    def __post_init__(self) -> None:
        for name in ("kl_target", "kl_horizon", "stop_kl"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise CounterpointError(f"{name} is {value:g}; it must be above 0")
        if self.missing_end is not None and not math.isfinite(self.missing_end):
            raise CounterpointError(f"missing_end is {self.missing_end}; it must be a number")


def normal(log: Sequence[Entry]) -> tuple[float, float]:
    """Mean and standard deviation (over N, not N - 1) of all rewards in a log, from its entries' own.

    mean = sum_i n_i m_i / n,    variance = sum_i n_i (s_i^2 + (m_i - mean)^2) / n
    """
    n = sum(entry["responses"] for entry in log)
    mean = sum(entry["responses"] * entry["reward"] for entry in log) / n
    variance = sum(e["responses"] * (e["reward_std"] ** 2 + (e["reward"] - mean) ** 2) for e in log) / n
    return mean, variance**0.5


def kl_price(log: Sequence[Entry], kl: float, target: float, horizon: int) -> float:
    """The price of a nat after what is logged, from `kl` before the first iteration.

        e = clip(KL / target - 1, -0.2, 0.2),    price <- price (1 + e n / horizon)

    for every iteration of n responses, KL the mean of theirs (Ziegler et al. 2019, arXiv 1909.08593, section 2.2, whose
    K is n / horizon). It moves slowly: with a tenth of the horizon in an iteration by 2 % at most.
    """
    for entry in log:
        error = min(max(entry["kl"] / target - 1, -0.2), 0.2)
        kl *= 1 + error * entry["responses"] / horizon
    return kl


def drift(logp_NT: Tensor, logp_old_NT: Tensor, mask_NT: Tensor) -> float:
    """KL of a token to the policy that sampled it, mean over the mask of rho - 1 - log rho, with rho = p / p_old.

    Schulman's estimator k3 of KL(p_old || p): unbiased over samples of p_old, and never below 0, as the plain mean of
    - log rho can be on the few tokens of a minibatch.
    """
    gap_X = (logp_NT - logp_old_NT)[mask_NT].detach()
    return float((torch.expm1(gap_X) - gap_X).mean())
