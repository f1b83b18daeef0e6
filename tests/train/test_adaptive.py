"""What a run adapts, by hand."""

import math

import numpy as np
import pytest
import torch

from counterpoint.train.adaptive import Adaptive, drift, kl_price, normal
from counterpoint.types import CounterpointError


def entry(rewards: list[float]) -> dict[str, float]:
    return {"responses": len(rewards), "reward": float(np.mean(rewards)), "reward_std": float(np.std(rewards))}


def test_the_unit_is_that_of_all_rewards_so_far() -> None:
    """0 2 | 3 4 5: mean 14 / 5, variance (2.8^2 + 0.8^2 + 0.2^2 + 1.2^2 + 2.2^2) / 5 = 14.8 / 5."""
    mean, std = normal([entry([0.0, 2.0]), entry([3.0, 4.0, 5.0])])
    assert mean == pytest.approx(2.8)
    assert std == pytest.approx(math.sqrt(2.96))


def test_the_price_of_kl_by_hand() -> None:
    """A KL of twice the target counts as 20 % off, one of nine tenths as -10 %, each for a tenth of the horizon."""
    log = [{"kl": 12.0, "responses": 100}, {"kl": 5.4, "responses": 100}, {"kl": -6.0, "responses": 50}]
    prices = [kl_price(log[:n], 0.2, 6.0, 1000) for n in range(4)]
    assert prices == pytest.approx([0.2, 0.2 * 1.02, 0.2 * 1.02 * 0.99, 0.2 * 1.02 * 0.99 * 0.99])


def test_the_drift_of_a_token_by_hand() -> None:
    """rho 2, 1/2 and 1: (1 - log 2 - 1/2 + log 2 + 0) / 3 = 1/6, though the plain mean of - log rho is 0."""
    now_NT = torch.tensor([[math.log(2), -math.log(2)], [0.0, math.nan]])
    mask_NT = torch.tensor([[True, True], [True, False]])
    assert drift(now_NT, torch.zeros(2, 2), mask_NT) == pytest.approx(1 / 6)


@pytest.mark.parametrize("options", [{"kl_target": 0.0}, {"kl_horizon": 0}, {"stop_kl": -0.1}])
def test_what_is_out_of_range_is_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(CounterpointError, match=f"^{next(iter(options))} is .*; it must be above 0"):
        Adaptive(**options)  # type: ignore[arg-type]
