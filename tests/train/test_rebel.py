import pytest
import torch
from torch import Tensor

from counterpoint.train.rebel import rebel_loss


def ten_lines(logp_P2: Tensor, logp_old_P2: Tensor, reward_P2: Tensor, eta: float) -> float:
    total = 0.0
    for (new_0, new_1), (old_0, old_1), (reward_0, reward_1) in zip(
        logp_P2.tolist(), logp_old_P2.tolist(), reward_P2.tolist(), strict=True
    ):
        predicted = ((new_0 - old_0) - (new_1 - old_1)) / eta
        total += (predicted - (reward_0 - reward_1)) ** 2
    return total / len(logp_P2)


def random_pairs(seed: int, pairs: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities now and when sampled, and rewards."""
    generator = torch.Generator().manual_seed(seed)
    logp_P2, old_P2, reward_P2 = torch.randn(3, pairs, 2, generator=generator, dtype=torch.float64)
    return logp_P2, old_P2, reward_P2


def gradient(logp_P2: Tensor, old_P2: Tensor, reward_P2: Tensor, eta: float) -> Tensor:
    leaf_P2 = logp_P2.clone().requires_grad_()
    (to_logp_P2,) = torch.autograd.grad(rebel_loss(leaf_P2, old_P2, reward_P2, eta), leaf_P2)
    return to_logp_P2


def test_the_loss_by_hand() -> None:
    logp_P2 = torch.tensor([[-1.0, -3.0], [-4.0, -4.0]])
    old_P2 = torch.tensor([[-2.0, -2.5], [-4.0, -5.0]])
    reward_P2 = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    # pair 0: d = (1, -0.5), 1.5 / 0.5 = 3, less 2 - 1 = 1: 2^2 = 4
    # pair 1: d = (0, 1), -1 / 0.5 = -2, less 0 - 1 = -1: (-1)^2 = 1
    assert rebel_loss(logp_P2, old_P2, reward_P2, eta=0.5).item() == pytest.approx((4 + 1) / 2)


@pytest.mark.parametrize("eta", [0.3, 1.0, 20.0])
def test_the_loss_equals_a_ten_line_version(eta: float) -> None:
    logp_P2, old_P2, reward_P2 = random_pairs(0)
    assert rebel_loss(logp_P2, old_P2, reward_P2, eta).item() == pytest.approx(ten_lines(*random_pairs(0), eta))


def test_the_loss_is_zero_where_the_log_ratios_differ_by_eta_times_the_rewards_and_nowhere_else() -> None:
    logp_P2, old_P2, reward_P2 = random_pairs(1)
    eta, off = 0.7, 0.21
    log_ratio_P = logp_P2[:, 0] - old_P2[:, 0] - eta * (reward_P2[:, 0] - reward_P2[:, 1])
    logp_P2[:, 1] = old_P2[:, 1] + log_ratio_P
    assert rebel_loss(logp_P2, old_P2, reward_P2, eta).item() == pytest.approx(0, abs=1e-20)
    logp_P2[3, 0] += off
    # one pair of seven is off by 0.21 / 0.7 = 0.3
    assert rebel_loss(logp_P2, old_P2, reward_P2, eta).item() == pytest.approx(0.09 / 7)


def test_equal_rewards_do_not_move_the_policy_that_sampled() -> None:
    logp_P2, _, _ = random_pairs(2)
    assert gradient(logp_P2, logp_P2, torch.full((7, 2), 0.8), eta=0.5).tolist() == torch.zeros(7, 2).tolist()


def test_the_better_response_of_the_policy_that_sampled_grows_likelier() -> None:
    logp_P2, _, reward_P2 = random_pairs(3)
    to_logp_P2 = gradient(logp_P2, logp_P2, reward_P2, eta=0.5)
    is_better_P2 = reward_P2 > reward_P2.flip(1)
    assert (to_logp_P2 < 0).tolist() == is_better_P2.tolist()


def test_rewards_shifted_by_prompt_and_sides_swapped_change_nothing() -> None:
    logp_P2, old_P2, reward_P2 = random_pairs(4)
    expected_P2 = gradient(logp_P2, old_P2, reward_P2, eta=2.0)
    shift_P1 = torch.linspace(-5, 5, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(gradient(logp_P2, old_P2, reward_P2 + shift_P1, eta=2.0), expected_P2)
    swapped_P2 = gradient(logp_P2.flip(1), old_P2.flip(1), reward_P2.flip(1), eta=2.0)
    torch.testing.assert_close(swapped_P2.flip(1), expected_P2)


def test_the_policy_that_sampled_gets_no_gradient() -> None:
    logp_P2, old_P2, reward_P2 = random_pairs(5)
    rebel_loss(logp_P2.requires_grad_(), old_P2.requires_grad_(), reward_P2, eta=1.0).backward()  # type: ignore[no-untyped-call]
    assert old_P2.grad is None


@pytest.mark.parametrize("eta", [0.25, 1.5])
def test_on_full_coverage_the_minimum_is_the_old_policy_times_exp_of_eta_r(eta: float) -> None:
    old_A = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    reward_A = torch.tensor([0.0, 1.0, -0.5, 2.0], dtype=torch.float64)
    pair_P2 = torch.combinations(torch.arange(4))
    logits_A = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits_A], max_iter=200, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = rebel_loss(logits_A.log_softmax(0)[pair_P2], old_A[pair_P2], reward_A[pair_P2], eta)
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logits_A.softmax(0).detach(), (old_A + eta * reward_A).softmax(0), atol=1e-6, rtol=0)
