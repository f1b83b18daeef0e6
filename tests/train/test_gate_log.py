import math

import pytest
import torch

from counterpoint.train.gate_log import means, tally

# One layer, two experts and what is left to the empty one: two tokens of one row, and one of another
SHARES = torch.tensor([[[[0.5, 0.25]], [[0.25, 0.25]]], [[[1.0, 0.0]], [[0.3, 0.3]]]])
MASK = torch.tensor([[1, 1], [1, 0]])


def test_a_table_by_hand() -> None:
    """Row 0 is on dimension 1: means 3/8 and 1/4, 3/8 to nobody. Row 1 is on 0: all to the first. None is on 2.

    Entropies of (1/2, 1/4, 1/4) and (1/4, 1/4, 1/2) are both 3/2 log 2; of (1, 0, 0) it is 0.
    """
    table = means(tally(SHARES, torch.tensor([1, 0]), MASK, 3), ("x", "y"))
    assert table == {
        "mass": [[[1.0, 0.0], [0.375, 0.25], [None, None]]],
        "empty": [[0.0, 0.375, None]],
        "entropy": [[0.0, pytest.approx(1.5 * math.log(2), abs=1e-6), None]],
    }


def test_experts_of_a_group_are_summed_in_the_order_in_which_groups_appear() -> None:
    shares = torch.tensor([[[[0.1, 0.2, 0.3, 0.15]]]])
    table = means(tally(shares, torch.tensor([0]), torch.ones(1, 1), 1), ("y", "x", "y", "x"))
    assert table["mass"] == [[[0.4, 0.35]]]
    assert table["empty"] == [[0.25]]


def test_sums_of_batches_are_those_of_one_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.softmax(torch.randn(6, 5, 3, 5, generator=generator), -1)[..., :-1]
    mask, dimension = torch.rand(6, 5, generator=generator) > 0.4, torch.tensor([0, 1, 1, 0, 1, 0])
    whole = tally(shares, dimension, mask, 2)
    parts = tally(shares[:4], dimension[:4], mask[:4], 2) + tally(shares[4:], dimension[4:], mask[4:], 2)
    groups = ("x", "x", "y", "y")
    for name, value in means(whole, groups).items():
        torch.testing.assert_close(torch.tensor(means(parts, groups)[name]), torch.tensor(value), atol=2e-6, rtol=0)
    mass = torch.tensor(means(whole, groups)["mass"])
    torch.testing.assert_close(mass.sum(-1) + torch.tensor(means(whole, groups)["empty"]), torch.ones(3, 2))
    (over_layers,) = means(whole.over_layers, groups)["mass"]
    torch.testing.assert_close(torch.tensor(over_layers), mass.mean(0), atol=2e-6, rtol=0)
