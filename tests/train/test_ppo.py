import math

import pytest
import torch
from torch import Tensor

from counterpoint.train.ppo import advantages, clipped_surrogate, clipped_value_loss, token_rewards, whiten

PADDED_LEFT, PADDED_RIGHT, ONE_TOKEN, FULL = [0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]
MASK_NT = torch.tensor([PADDED_LEFT, PADDED_RIGHT, ONE_TOKEN, FULL]).bool()


def random_tensors(count: int, seed: int = 0) -> list[Tensor]:
    """`[4, 5]` each, with NaN wherever no token is."""
    x_XNT = torch.randn(count, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list(x_XNT.masked_fill(~MASK_NT, math.nan))


def tokens(x_NT: Tensor) -> list[list[float]]:
    """What the mask keeps of each response."""
    return [x_T[mask_T].tolist() for x_T, mask_T in zip(x_NT, MASK_NT, strict=True)]


def flat(rows: list[list[float]]) -> list[float]:
    return [x for row in rows for x in row]


def row(*x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float32)


# Rewards of tokens


def test_token_rewards_by_hand() -> None:
    logp_NT, reference_NT = torch.tensor([[-1.0, -2.0, -1.0], [-3.0, -9.0, -9.0]]), torch.full((2, 3), -2.0)
    mask_NT = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    got_NT = token_rewards(torch.tensor([5.0, -1.0]), logp_NT, reference_NT, mask_NT, kl=0.5)
    # log-ratios 1, 0, 1 and -1, of which each token pays the half; the last of each response earns 5 and -1
    assert got_NT.tolist() == [[-0.5, 0.0, 4.5], [-0.5, 0.0, 0.0]]


def test_token_rewards_sum_to_the_reward_less_kl() -> None:
    logp_NT, reference_NT = random_tensors(2)
    reward_N = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    got_NT = token_rewards(reward_N, logp_NT, reference_NT, MASK_NT, kl=0.3)
    paid = [0.3 * (sum(p) - sum(q)) for p, q in zip(tokens(logp_NT), tokens(reference_NT), strict=True)]
    assert got_NT.sum(1).tolist() == pytest.approx([r - k for r, k in zip(reward_N.tolist(), paid, strict=True)])


def test_without_kl_the_last_token_alone_is_rewarded() -> None:
    logp_NT, reference_NT = random_tensors(2)
    got_NT = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), logp_NT, reference_NT, MASK_NT, kl=0.0)
    assert got_NT.nonzero().tolist() == [[0, 4], [1, 2], [2, 0], [3, 4]]


# Advantages


def ten_line_advantages(reward: list[float], value: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Eq. 16 as it stands: the sum over what is to come, for each token."""
    after = [*value[1:], 0.0]
    delta = [r + gamma * v_next - v for r, v, v_next in zip(reward, value, after, strict=True)]
    return [
        sum((gamma * gae_lambda) ** (later - t) * delta[later] for later in range(t, len(delta)))
        for t in range(len(delta))
    ]


def test_advantages_by_hand() -> None:
    got_NT = advantages(row(0, 0, 1), row(0.5, 0.5, 0.5), row(1, 1, 1).bool(), gamma=0.5, gae_lambda=0.5)
    # delta = 0.25 - 0.5, 0.25 - 0.5, 1 - 0.5; A_2 = 0.5, A_1 = -0.25 + 0.25 A_2, A_0 = -0.25 + 0.25 A_1
    assert got_NT.tolist() == [[-0.28125, -0.125, 0.5]]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (0.9, 1.0), (1.0, 0.0)])
def test_advantages_equal_a_ten_line_version(gamma: float, gae_lambda: float) -> None:
    reward_NT, value_NT = random_tensors(2)
    got_NT = advantages(reward_NT, value_NT, MASK_NT, gamma, gae_lambda)
    pairs = zip(tokens(reward_NT), tokens(value_NT), strict=True)
    assert flat(tokens(got_NT)) == pytest.approx(flat([ten_line_advantages(r, v, gamma, gae_lambda) for r, v in pairs]))
    assert (got_NT[~MASK_NT] == 0).all()


def test_with_lambda_1_the_returns_are_the_discounted_rewards_whatever_the_critic_says() -> None:
    reward_NT, value_NT = random_tensors(2)
    return_NT = advantages(reward_NT, value_NT, MASK_NT, 0.8, 1.0) + value_NT
    expected = [[sum(0.8**i * r for i, r in enumerate(row[t:])) for t in range(len(row))] for row in tokens(reward_NT)]
    assert flat(tokens(return_NT)) == pytest.approx(flat(expected))


def test_a_critic_that_knows_the_returns_leaves_no_advantage() -> None:
    (reward_NT,) = random_tensors(1)
    value_NT = advantages(reward_NT, torch.zeros_like(reward_NT), MASK_NT, 0.9, 1.0)
    torch.testing.assert_close(advantages(reward_NT, value_NT, MASK_NT, 0.9, 0.4), torch.zeros_like(value_NT))


# Whitening


def test_whitening_by_hand() -> None:
    got_NT = whiten(row(1, 3, 100), row(1, 1, 0).bool())
    assert got_NT.tolist() == [pytest.approx([-1, 1, 0], abs=1e-6)]  # mean 2, deviation 1


def test_whitened_tokens_have_mean_0_and_variance_1_and_keep_their_order() -> None:
    (x_NT,) = random_tensors(1)
    white_X = whiten(7 * x_NT - 3, MASK_NT)[MASK_NT]
    assert white_X.mean().item() == pytest.approx(0, abs=1e-9)
    assert white_X.square().mean().item() == pytest.approx(1)
    assert white_X.argsort().tolist() == x_NT[MASK_NT].argsort().tolist()


def test_what_does_not_vary_is_whitened_to_zero() -> None:
    assert whiten(torch.full((4, 5), 2.0), MASK_NT).tolist() == torch.zeros(4, 5).tolist()


# Losses


def ten_line_surrogate(logp: list[float], old: list[float], advantage: list[float], clip: float) -> float:
    total = 0.0
    for new_t, old_t, advantage_t in zip(logp, old, advantage, strict=True):
        ratio = math.exp(new_t - old_t)
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        total += min(ratio * advantage_t, bounded * advantage_t)
    return -total / len(logp)


def ten_line_value_loss(value: list[float], old: list[float], target: list[float], clip: float) -> float:
    total = 0.0
    for value_t, old_t, target_t in zip(value, old, target, strict=True):
        bounded = min(max(value_t, old_t - clip), old_t + clip)
        total += max((value_t - target_t) ** 2, (bounded - target_t) ** 2)
    return total / (2 * len(value))


def test_the_surrogate_by_hand() -> None:
    logp_NT = torch.tensor([[1.5, 0.5, 1.5, 0.5, 7.0]]).log().requires_grad_()
    advantage_NT = row(1, 1, -1, -1, 1)
    loss = clipped_surrogate(logp_NT, torch.zeros(1, 5), advantage_NT, row(1, 1, 1, 1, 0).bool(), clip=0.2)
    # min(1.5, 1.2), min(0.5, 0.8), min(-1.5, -1.2), min(-0.5, -0.8) = 1.2, 0.5, -1.5, -0.8: a mean of -0.15
    assert loss.item() == pytest.approx(0.15)
    (to_logp_NT,) = torch.autograd.grad(loss, logp_NT)
    assert to_logp_NT.tolist() == [pytest.approx([0, -0.5 / 4, 1.5 / 4, 0, 0])]  # the clipped two have none


def test_the_value_loss_by_hand() -> None:
    value_NT, old_NT, return_NT = row(2, 1.2), row(1, 1), row(3, 1)
    # clipped to 1.5: max((2 - 3)^2, (1.5 - 3)^2) = 2.25; within the clip: (1.2 - 1)^2 = 0.04; half of the mean 1.145
    loss = clipped_value_loss(value_NT, old_NT, return_NT, row(1, 1).bool(), clip=0.5)
    assert loss.item() == pytest.approx(0.5725)


@pytest.mark.parametrize("clip", [0.1, 0.9])
def test_the_losses_equal_ten_line_versions(clip: float) -> None:
    new_NT, old_NT, target_NT = random_tensors(3)
    new, old, target = (flat(tokens(x_NT)) for x_NT in (new_NT, old_NT, target_NT))
    surrogate = clipped_surrogate(new_NT, old_NT, target_NT, MASK_NT, clip)
    assert surrogate.item() == pytest.approx(ten_line_surrogate(new, old, target, clip))
    error = clipped_value_loss(new_NT, old_NT, target_NT, MASK_NT, clip)
    assert error.item() == pytest.approx(ten_line_value_loss(new, old, target, clip))


def test_the_policy_that_sampled_has_ratio_1_and_the_plain_policy_gradient() -> None:
    logp_NT, advantage_NT = random_tensors(2)
    leaf_NT = logp_NT.clone().requires_grad_()
    loss = clipped_surrogate(leaf_NT, logp_NT, advantage_NT, MASK_NT, clip=0.2)
    assert loss.item() == pytest.approx(-advantage_NT[MASK_NT].mean().item())
    (to_logp_NT,) = torch.autograd.grad(loss, leaf_NT)
    expected_NT = -advantage_NT.where(MASK_NT, 0.0) / MASK_NT.sum()
    torch.testing.assert_close(to_logp_NT, expected_NT)


def whole_loss(leaf_NT: Tensor, x: list[Tensor], reward_N: Tensor, mask_NT: Tensor) -> Tensor:
    """Everything, from rewards to the two losses, as the loop puts it together."""
    old_NT, reference_NT, value_NT, value_old_NT = x
    token_NT = token_rewards(reward_N, old_NT, reference_NT, mask_NT, kl=0.2)
    advantage_NT = advantages(token_NT, value_old_NT, mask_NT, gamma=0.9, gae_lambda=0.8)
    surrogate = clipped_surrogate(leaf_NT, old_NT, whiten(advantage_NT, mask_NT), mask_NT, clip=0.2)
    return surrogate + clipped_value_loss(value_NT, value_old_NT, advantage_NT + value_old_NT, mask_NT, clip=0.2)


@pytest.mark.parametrize("left", [0, 2])
def test_padding_changes_nothing(left: int) -> None:
    logp_NT, *x = random_tensors(5)
    reward_N = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    narrow_NT = logp_NT.clone().requires_grad_()
    narrow = whole_loss(narrow_NT, x, reward_N, MASK_NT)
    (to_narrow_NT,) = torch.autograd.grad(narrow, narrow_NT)

    def pad(x_NT: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(x_NT, (left, 3 - left), value=value)

    wide_NT = pad(logp_NT, math.inf).requires_grad_()
    wide = whole_loss(wide_NT, [pad(x_NT, math.nan) for x_NT in x], reward_N, pad(MASK_NT, False))
    (to_wide_NT,) = torch.autograd.grad(wide, wide_NT)
    assert wide.item() == pytest.approx(narrow.item())
    torch.testing.assert_close(to_wide_NT, pad(to_narrow_NT, 0.0))
    assert to_narrow_NT[MASK_NT].abs().max() > 0.01
