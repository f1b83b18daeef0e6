import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from counterpoint.train.balance import Target, group_soft_loss, importance, localised_balance, targets
from counterpoint.types import CounterpointError

GROUPS = ("a", "a", "b", "b", "b")
SOFT = {"a": 0.5, "b": 0.25}


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Shares of random logits; the last is an empty expert's and left out."""
    return torch.softmax(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)[..., :-1]


def best(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The logits that steepest descent ends at: a logit whose gradient is 0 does not move."""
    z = start.clone().requires_grad_()
    for _ in range(600):
        (gradient,) = torch.autograd.grad(loss(z), z)
        z.data -= 2 * gradient
    return z.detach()


# PMoL


@pytest.mark.parametrize(
    ("target", "of_a", "of_b"),
    [
        # 1 and s_c:          sums 2 + 3/2 = 3.5            and 2/4 + 3 = 3.5
        ("ratio", [2 / 7, 2 / 7, 1 / 7, 1 / 7, 1 / 7], [1 / 14, 1 / 14, 2 / 7, 2 / 7, 2 / 7]),
        # s_c to the group, evenly:      0.5 / 2, 0.5 / 3   and 0.75 / 2, 0.25 / 3
        ("mass", [1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6], [3 / 8, 3 / 8, 1 / 12, 1 / 12, 1 / 12]),
        # 1 + s_c and 1 - s_c: sums 3 + 1.5 = 4.5           and 1.5 + 3.75 = 5.25
        ("loramoe", [1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 9], [1 / 7, 1 / 7, 5 / 21, 5 / 21, 5 / 21]),
    ],
)
def test_targets_by_hand(target: Target, of_a: list[float], of_b: list[float]) -> None:
    target_DK = targets(GROUPS, SOFT, target)
    torch.testing.assert_close(target_DK, torch.tensor([of_a, of_b]))
    torch.testing.assert_close(target_DK.sum(1), torch.ones(2))


def test_the_ends_of_the_soft_constraint() -> None:
    """Of a ratio 1 is even, whoever the data are on, and 0 is the group alone."""
    torch.testing.assert_close(targets(GROUPS, {"a": 1.0, "b": 1.0}, "ratio"), torch.full((2, 5), 0.2))
    assert targets(GROUPS, {"a": 0.0, "b": 1.0}, "ratio")[0].tolist() == [0.5, 0.5, 0, 0, 0]


def test_targets_follow_the_dimensions_and_not_the_order_of_the_experts() -> None:
    """Rows were once in the order in which experts name groups, with constraints in that of the dimensions."""
    swapped = targets(GROUPS, {"b": 0.25, "a": 0.5}, "ratio")
    assert torch.equal(swapped, targets(GROUPS, SOFT, "ratio").flip(0))


@pytest.mark.parametrize(
    ("soft", "target", "message"),
    [
        ({"a": 1.5, "b": 0.1}, "ratio", r"soft constraint of 'a' is 1.5; it must lie in \[0, 1\]"),
        ({"a": math.nan, "b": 0.1}, "ratio", "soft constraint of 'a' is nan"),
        ({"a": 0.1, "c": 0.1}, "ratio", "data on 'c' and no expert of it; experts are of a, a, b, b, b"),
        (SOFT, "soft", "target is 'soft'; it must be one of ratio, mass, loramoe"),
    ],
)
def test_targets_that_cannot_be(soft: dict[str, float], target: Target, message: str) -> None:
    with pytest.raises(CounterpointError, match=message):
        targets(GROUPS, soft, target)


def test_the_group_loss_by_hand() -> None:
    """Half is the empty expert's. D = (3/4, 1/4), w = (1/4, 1/4): 3/4 log 3 + 1/4 log 1, of w / (1/2) less log 2."""
    share_BTJK, target_BK, mask = torch.tensor([[[[0.25, 0.25]]]]), torch.tensor([[0.75, 0.25]]), torch.ones(1, 1)
    literal = group_soft_loss(share_BTJK, target_BK, mask, renormalise=False)
    assert literal.item() == pytest.approx(0.75 * math.log(3), abs=1e-6)
    free = group_soft_loss(share_BTJK, target_BK, mask, renormalise=True)
    assert free.item() == pytest.approx(0.75 * math.log(3) - math.log(2), abs=1e-6)


def test_the_group_loss_is_pytorchs_divergence() -> None:
    share_BTJK, mask_BT = draw(3, 7, 4, 6), torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    target_BK = targets(GROUPS, SOFT, "ratio")[[0, 1, 0]]
    wide = target_BK[:, None, None].expand(-1, 7, 4, -1)
    kl_BTJ = torch.nn.functional.kl_div(share_BTJK.log(), wide, reduction="none").sum(-1)
    expected = torch.stack([kl_BTJ[:, :, j][mask_BT].mean() for j in range(4)]).mean()
    torch.testing.assert_close(group_soft_loss(share_BTJK, target_BK, mask_BT, False), expected)


def test_what_the_literal_loss_adds_is_the_empty_experts_share() -> None:
    """KL(D || w) = KL(D || w / (1 - w_e)) - log(1 - w_e)."""
    share_BTJK, mask_BT, target_BK = draw(2, 5, 3, 6), torch.ones(2, 5), targets(GROUPS, SOFT, "mass")
    literal, free = (group_soft_loss(share_BTJK, target_BK, mask_BT, renormalise) for renormalise in (False, True))
    torch.testing.assert_close(literal - free, -share_BTJK.sum(-1).log().mean())


@pytest.mark.parametrize("renormalise", [False, True])
def test_the_literal_loss_drives_the_empty_expert_out(renormalise: bool) -> None:
    """Both bring the experts to D. As printed the loss leaves the empty one nothing; the other does not see it."""
    target_BK, mask = targets(GROUPS, SOFT, "ratio"), torch.ones(2, 1)
    start = torch.randn(2, 1, 1, 6, generator=torch.Generator().manual_seed(2))

    def loss(z: Tensor) -> Tensor:
        return group_soft_loss(torch.softmax(z, -1)[..., :-1], target_BK, mask, renormalise)

    z = best(loss, start)
    share_BE = torch.softmax(z, -1)[:, 0, 0]
    torch.testing.assert_close(share_BE[:, :-1] / share_BE[:, :-1].sum(1, keepdim=True), target_BK, atol=1e-3, rtol=0)
    if renormalise:
        torch.testing.assert_close(z[..., -1], start[..., -1], atol=1e-3, rtol=0)
    else:
        assert share_BE[:, -1].max() < 5e-3


# LoRAMoE


def test_the_balance_by_hand() -> None:
    """I = (1/2, 3/2), Q = (3/4, 1/4): both products are 3/8. Q = (1/4, 3/4): 1/8 and 9/8, of mean 5/8, var 1/4."""
    importance_BK = importance(("a", "b"), {"a": 0.5})
    assert importance_BK.tolist() == [[0.5, 1.5]]
    even = localised_balance(torch.tensor([[[[0.75, 0.25]]]]), importance_BK, torch.ones(1, 1))
    uneven = localised_balance(torch.tensor([[[[0.25, 0.75]]]]), importance_BK, torch.ones(1, 1))
    assert (even.item(), uneven.item()) == pytest.approx((0.0, 0.25 / (25 / 64)))


def balanced(importance_BK: Tensor) -> Tensor:
    """The shares `[B, K]` that are best by the balancing loss."""
    mask_BT = torch.ones(len(importance_BK), 1)
    start = torch.randn(*importance_BK.shape, generator=torch.Generator().manual_seed(3))
    z = best(lambda z: localised_balance(torch.softmax(z, -1)[:, None, None], importance_BK, mask_BT), start)
    return torch.softmax(z, -1)


@pytest.mark.parametrize(("delta", "share"), [(0.3, 0.65), (0.6, 0.8), (0.0, 0.5)])
def test_two_groups_share_as_delta_says(delta: float, share: float) -> None:
    """(1 + delta) / 2 for the own group; with delta 0 it is plain balance."""
    share_BK = balanced(importance(("a", "b"), {"a": delta, "b": delta}))
    torch.testing.assert_close(share_BK, torch.tensor([[share, 1 - share], [1 - share, share]]), atol=1e-3, rtol=0)


def test_the_published_code_gives_the_group_that_it_names_less() -> None:
    """There I is 1 + delta for the own group, which then gets (1 - delta) / 2: 0.35 where 0.65 is meant."""
    ours_BK = importance(("a", "b"), {"a": 0.3, "b": 0.3})
    published_BK = 2 - ours_BK
    assert balanced(published_BK).diagonal().tolist() == pytest.approx([0.35, 0.35], abs=1e-3)
    assert balanced(ours_BK).diagonal().tolist() == pytest.approx([0.65, 0.65], abs=1e-3)


# Both


@pytest.mark.parametrize("name", ["soft", "localised"])
def test_padding_does_not_count(name: str) -> None:
    """The tokens of a row that is padded weigh as much as those of a full one, whatever stands in the padding."""
    share_BTJK, mask_BT = draw(2, 5, 3, 6), torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]])

    def loss(share: Tensor, mask: Tensor) -> Tensor:
        if name == "soft":
            return group_soft_loss(share, targets(GROUPS, SOFT, "ratio"), mask, True)
        return localised_balance(share, importance(GROUPS, SOFT), mask)

    padded = torch.nn.functional.pad(mask_BT, (0, 4))
    other = torch.cat([torch.where(mask_BT[..., None, None] == 1, share_BTJK, 0.9), draw(2, 4, 3, 6, seed=9)], dim=1)
    torch.testing.assert_close(loss(other, padded), loss(share_BTJK, mask_BT))


def test_importance_refuses_what_targets_refuse() -> None:
    with pytest.raises(CounterpointError, match="data on 'c' and no expert of it"):
        importance(GROUPS, {"c": 0.1})
    with pytest.raises(CounterpointError, match="soft constraint of 'a' is -1"):
        importance(GROUPS, {"a": -1})
