"""How scores become shares, by hand; and what a gate says of each row of a forward."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from counterpoint.models.gates import RULES, Guide, Routed, Router, RowGates, Rule, log_weights, shares

LOG = torch.log


def logs(*numbers: float) -> Tensor:
    return LOG(torch.tensor(numbers))


# Shares


@pytest.mark.parametrize(
    ("rule", "score_E", "expected"),
    [
        (RULES["pmol"], logs(4, 2, 2, 2), (0.4, 0.2, 0.2)),  # of 10, and the empty expert has the last 2
        (RULES["loramoe"], logs(1, 3), (1 / 4, 3 / 4)),
        (RULES["x-lora"], logs(1, 1, 2), (1 / 4, 1 / 4, 1 / 2)),
        (RULES["arrow"], -logs(6, 1, 3), (6 / 10, 1 / 10, 3 / 10)),  # the sign does not matter
        (replace(RULES["arrow"], top_k=2), -logs(6, 1, 3), (6 / 9, 0, 3 / 9)),
        (RULES["phatgoose"], logs(4, 1, 3), (4 / 7, 0, 3 / 7)),
        (replace(RULES["loramoe"], temperature=2), logs(1, 9), (1 / 4, 3 / 4)),  # sqrt(9) to 1
        (Rule(sigmoid=True), logs(1, 3), (1 / 2, 3 / 4)),  # s / (1 + s)
    ],
)
def test_shares_of_each_rule_by_hand(rule: Rule, score_E: Tensor, expected: tuple[float, ...]) -> None:
    torch.testing.assert_close(shares(score_E, rule), torch.tensor(expected))


@pytest.mark.parametrize(
    ("rule", "score_E", "w_K", "expected"),
    [
        # r = (4, 2, 2) / 8 in the .8 that the empty expert leaves; r w = (4, 6, 0) / 8
        (RULES["pmol"], (4, 2, 2, 2), (1, 3, 0), (0.32, 0.48, 0)),
        (RULES["pmol"], (4, 2, 2, 2), (0, 0, 5), (0, 0, 0.8)),
        (RULES["loramoe"], (1, 3), (3, 1), (0.5, 0.5)),
        # the best two are those of r w = (0, 3, 3), not those of r
        (RULES["phatgoose"], (4, 3, 3), (0, 1, 1), (0, 0.5, 0.5)),
    ],
)
def test_shares_that_a_profile_weighs_by_hand(
    rule: Rule, score_E: tuple[float, ...], w_K: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    torch.testing.assert_close(shares(logs(*score_E), rule, logs(*w_K)), torch.tensor(expected))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_of_equal_scores_exactly_k_are_kept(top_k: int) -> None:
    share_K = shares(torch.zeros(4), replace(RULES["phatgoose"], top_k=top_k))
    assert sorted(share_K.tolist()) == pytest.approx([0.0] * (4 - top_k) + [1 / top_k] * top_k)


def test_more_than_there_are_is_all() -> None:
    torch.testing.assert_close(
        shares(logs(1, 3), replace(RULES["phatgoose"], top_k=5)), shares(logs(1, 3), RULES["loramoe"])
    )


def test_regression_the_best_k_beside_an_empty_expert_without_a_profile() -> None:
    """All had a share unless a profile was given, so that even weights changed the answer.

    The empty expert has 2 of 10; the best two share the .8 as 5 to 2.
    """
    rule = replace(RULES["pmol"], top_k=2)
    for log_w in (None, logs(1, 1, 1)):
        torch.testing.assert_close(shares(logs(5, 1, 2, 2), rule, log_w), torch.tensor([4 / 7, 0, 1.6 / 7]))


def test_shares_are_float32_from_half_precision_scores() -> None:
    """2^-8 is below what bfloat16 tells from 1 in a sum: the shares of 1 : 255 would be 0.00389 and 1."""
    share_K = shares(logs(1, 255).bfloat16(), RULES["loramoe"])
    assert share_K.dtype == torch.float32
    assert share_K.sum().item() == pytest.approx(1, abs=1e-6)


# A profile's weights


def test_weights_of_groups_by_hand() -> None:
    """Experts of one group have its weight, a group that is not named has none, and a row of no group is as routed."""
    gates = [{"gate:pmol": 1.0, "warm": 2.0, "brief": 0.5}, {"gate:pmol": 1.0}, {"brief": 3.0}]
    found = log_weights(gates, ("warm", "brief", "warm"))
    assert found is not None
    torch.testing.assert_close(found.exp()[:, 0, 0], torch.tensor([[2.0, 0.5, 2.0], [1.0, 1.0, 1.0], [0.0, 3.0, 0.0]]))


def test_no_weights_are_none() -> None:
    assert log_weights([{"gate:pmol": 1.0}, {}, {"another": 1.0}], ("warm", "brief")) is None


# Rows


def test_rows_are_taken_from_all_that_a_gate_holds() -> None:
    B111 = torch.arange(3.0)[:, None, None, None]
    part = Routed("pmol", B111[..., 0], B111 + 10, None, B111 + 20)
    taken = RowGates(B111[..., 0] + 30, (part,))[torch.tensor([2, 0])]
    assert taken.constant_BTK is not None
    assert taken.constant_BTK.flatten().tolist() == [32, 30]
    (routed,) = taken.routed
    assert routed.name == "pmol"
    found = [t.flatten().tolist() for t in (routed.strength_B11, routed.log_w_B11K, routed.score_BTLK) if t is not None]
    assert found == [[2, 0], [12, 10], [22, 20]]


def test_what_a_gate_does_not_hold_stays_none() -> None:
    taken = RowGates(None, (Routed("pmol", None),))[torch.tensor([1])]
    assert taken == RowGates(None, (Routed("pmol", None),))


def test_strength_by_hand() -> None:
    gate_BTC = torch.ones(2, 1, 3)
    assert Routed("pmol", torch.tensor([0.5, 0.0])[:, None, None]).strong(gate_BTC).sum().item() == 1.5
    assert Routed("pmol", None).strong(gate_BTC) is gate_BTC


@pytest.mark.parametrize(("kind", "width"), [("pmol", 3), ("loramoe", 2), ("arrow", 2)])
def test_a_router_has_a_score_for_each_expert_and_the_empty_one(kind: str, width: int) -> None:
    assert Router(RULES[kind], ("a", "b"), ("x", "y"), {}, ()).width == width  # type: ignore[index]


# X-LoRA's guide


@torch.no_grad()
def test_a_guide_of_depth_2_by_hand() -> None:
    """relu((1, -2)) = (1, 0); weights 0 to 5 and biases 10 give (10, 12, 14) and 3, 4, 5 are never met."""
    guide = Guide(hidden=2, experts=3, depth=2, width=2)
    guide.load_state_dict(
        {
            "layers.0.weight": torch.eye(2),
            "layers.0.bias": torch.zeros(2),
            "layers.2.weight": torch.tensor([[0.0, 3.0], [2.0, 4.0], [4.0, 5.0]]),
            "layers.2.bias": torch.full((3,), 10.0),
        }
    )
    assert guide(torch.tensor([[[1.0, -2.0]]])).tolist() == [[[[10.0, 12.0, 14.0]]]]


@pytest.mark.parametrize(("depth", "linear"), [(1, 1), (2, 2), (4, 4)])
def test_the_shape_of_what_a_guide_says(depth: int, linear: int) -> None:
    guide = Guide(hidden=8, experts=3, layers=5, depth=depth, width=6)
    assert guide(torch.zeros(2, 7, 8)).shape == (2, 7, 5, 3)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in guide.layers) == linear


@torch.no_grad()
def test_only_guided_parts_hear() -> None:
    guide, hidden_BTI = Guide(hidden=4, experts=2), torch.ones(1, 3, 4)
    plain, guided = Routed("pmol", None), Routed("x-lora", None, guide=guide)
    assert RowGates(None, (plain, guided)).guided
    assert not RowGates(None, (plain,)).guided
    first, second = RowGates(None, (plain, guided)).heard(hidden_BTI).routed
    assert first is plain
    assert second.score_BTLK is not None
    assert torch.equal(second.score_BTLK, guide(hidden_BTI))
