"""The loop, on a policy that is a table: no language model, and what is best can be worked out."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from counterpoint.train import iterations
from counterpoint.train.adaptive import Adaptive, kl_price
from counterpoint.train.iterations import TENSORS
from counterpoint.train.on_policy import Algorithm, Rollout, check, learn
from counterpoint.types import CounterpointError

ALGORITHMS: tuple[Algorithm, ...] = ("rebel", "ppo")
# Of a first token and the one after it; a first token 0 ends the response. To stop at once earns more than a second
# token drawn at random (0.4 against 0.067 and 0.333), but the best response is 2 and then 1.
REWARD_AA = torch.tensor([[0.4, 0.4, 0.4], [0.0, 0.0, 0.2], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class Config:
    algorithm: Algorithm = "rebel"
    iterations: int = 3
    samples: int = 4
    epochs: int = 2
    minibatch: int = 16
    at_once: int | None = None
    learning_rate: float = 0.05
    max_grad_norm: float = 1.0
    seed: int = 0
    eta: float = 1.0
    kl: float = 0.0
    clip: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_weight: float = 0.5


class Table:
    """A softmax over three tokens in each of three states: at the start, and after a first token 1 or 2."""

    def __init__(self) -> None:
        self.logits_SA = nn.Parameter(torch.zeros(3, 3))
        self.value_S = nn.Parameter(torch.full((3,), 0.1))
        self.seen: list[list[int]] = []

    def parameters(self) -> Sequence[nn.Parameter]:
        return [self.logits_SA, self.value_S]

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        noise = torch.Generator().manual_seed(iteration)
        first_N = torch.multinomial(self.logits_SA[0].softmax(-1), 64, replacement=True, generator=noise)
        second_N = torch.multinomial(self.logits_SA[first_N].softmax(-1), 1, generator=noise)[:, 0]
        self.state_NT = torch.stack([torch.zeros_like(first_N), first_N], dim=1)
        self.action_NT = torch.stack([first_N, second_N], dim=1)
        logp_NT = self.logits_SA.log_softmax(-1)[self.state_NT, self.action_NT]
        mask_NT = torch.stack([torch.ones(64), first_N], dim=1) > 0
        reference_NT = torch.full_like(logp_NT, -math.log(3))
        return Rollout(logp_NT, reference_NT, mask_NT, REWARD_AA[first_N, second_N]), {"noted": iteration + 0.5}

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        self.seen.append(rows.tolist())
        state_BT, action_BT = self.state_NT[rows], self.action_NT[rows]
        return self.logits_SA.log_softmax(-1)[state_BT, action_BT], self.value_S[state_BT]

    def responses(self) -> Tensor:
        """The probability of each of the seven responses: to stop, then 1 or 2 with each second token."""
        p_SA = self.logits_SA.detach().softmax(-1)
        return torch.cat([p_SA[0, :1], p_SA[0, 1] * p_SA[1], p_SA[0, 2] * p_SA[2]])


def bits(learner: Table) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()]).tolist()


def without_seconds(log: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: x for name, x in entry.items() if not name.startswith("seconds")} for entry in log]


# What it learns


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_bring_a_policy_to_the_best_response(tmp_path: Path, algorithm: Algorithm) -> None:
    table = Table()
    log = learn(table, Config(algorithm, iterations=40, epochs=4, minibatch=32), tmp_path)
    assert table.responses()[5] > 0.9  # 2, 1
    assert log[0]["reward"] < 0.4
    assert log[-1]["reward"] > 0.9
    assert log[-1]["length"] > 1.9


@pytest.mark.parametrize(("algorithm", "tolerance"), [("rebel", 1e-2), ("ppo", 0.1)])
def test_with_kl_both_end_at_the_reference_times_exp_of_reward_over_kl(
    tmp_path: Path, algorithm: Algorithm, tolerance: float
) -> None:
    # the tolerances differ since REBEL's error is 0 there for every pair, while PPO's whitening keeps its noise
    table = Table()
    log = learn(table, Config(algorithm, iterations=60, epochs=4, minibatch=32, kl=0.5), tmp_path)
    reference_X, reward_X = torch.tensor([1 / 3, *[1 / 9] * 6]), torch.tensor([0.4, 0, 0, 0.2, 0, 1, 0])
    expected_X = (reference_X.log() + reward_X / 0.5).softmax(0)
    torch.testing.assert_close(table.responses(), expected_X, atol=tolerance, rtol=0)
    divergence = (expected_X * (expected_X / reference_X).log()).sum().item()
    assert log[-1]["kl"] == pytest.approx(divergence, abs=0.25)  # the mean of 64 samples


# One step, against the formulas


def first_iteration(algorithm: Algorithm, work: Path, **options: Any) -> tuple[Table, Rollout, dict[str, float]]:
    """One iteration of one step over everything, what it rolled out and what it logged."""
    table = Table()
    (entry,) = learn(table, replace(Config(algorithm, 1, epochs=1, minibatch=64), **options), work)
    with torch.no_grad():
        return table, Table().roll_out(0)[0], entry


def test_the_first_loss_of_rebel_is_the_mean_square_of_what_the_pairs_earned_apart(tmp_path: Path) -> None:
    _, rollout, entry = first_iteration("rebel", tmp_path, kl=2.0)
    # the policy is still the one that sampled and the reference, so that log-ratios and KL are 0
    apart_P = rollout.reward_N[0::2] - rollout.reward_N[1::2]
    assert entry["loss"] == pytest.approx(apart_P.square().mean().item())
    assert entry["kl"] == pytest.approx(0, abs=1e-6)


def test_the_first_gradient_of_rebel_shrinks_as_eta_grows(tmp_path: Path) -> None:
    # at log-ratios of 0 the gradient is -2 / eta times the mean of (r_0 - r_1) d(log p_0 - log p_1)
    norms = [first_iteration("rebel", tmp_path / str(eta), eta=eta)[2]["grad_norm"] for eta in (1.0, 4.0)]
    assert norms[0] == pytest.approx(4 * norms[1])


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_the_first_loss_of_ppo_is_the_critics(tmp_path: Path, gamma: float) -> None:
    _, rollout, entry = first_iteration("ppo", tmp_path, gamma=gamma, gae_lambda=1.0)
    # whitened advantages have mean 0 and all ratios are 1; the critic says 0.1 of every token, which returns R, or
    # gamma R where a second token follows, as lambda is 1
    return_NT = rollout.reward_N[:, None].repeat(1, 2)
    return_NT[rollout.mask_NT[:, 1], 0] *= gamma
    error = (return_NT - 0.1).square()[rollout.mask_NT].mean().item()
    assert entry["loss"] == pytest.approx(0.5 * 0.5 * error, abs=1e-6)


def test_ppos_clip_takes_the_gradient_from_what_has_moved(tmp_path: Path) -> None:
    def norm(**options: Any) -> float:
        name = str(sorted(options.items()))
        return first_iteration("ppo", tmp_path / name, value_weight=0.0, **options)[2]["grad_norm"]

    first = norm()
    tight, wide = (2 * norm(epochs=2, clip=clip) - first for clip in (1e-6, 0.9))  # the second of two steps
    assert tight < first / 3  # what is left is of tokens that the first step moved the wrong way
    assert wide == pytest.approx(first, rel=0.2)


@pytest.mark.parametrize(("clip", "is_held"), [(1e-6, True), (0.9, False)])
def test_ppos_clip_holds_the_critic_too(tmp_path: Path, clip: float, is_held: bool) -> None:
    table = Table()
    table.value_S.data.fill_(-1)  # below all returns, so that the first step moves it the right way for every token
    learn(table, Config("ppo", 1, epochs=2, minibatch=64, clip=clip, gae_lambda=1.0), tmp_path)
    assert table.value_S.grad is not None
    assert (table.value_S.grad == 0).tolist() == [is_held] * 3


def test_the_log_says_what_was_sampled_and_what_the_learner_notes(tmp_path: Path) -> None:
    _, rollout, entry = first_iteration("rebel", tmp_path)
    assert entry["reward"] == pytest.approx(rollout.reward_N.mean().item())
    assert entry["length"] == pytest.approx(rollout.mask_NT.sum().item() / 64)
    assert entry["noted"] == 0.5
    assert min(entry["seconds_roll_out"], entry["seconds_epochs"]) > 0


def test_the_first_step_of_adamw_moves_by_the_learning_rate_and_decays_nothing(tmp_path: Path) -> None:
    table, _, entry = first_iteration("ppo", tmp_path, learning_rate=0.01, value_weight=0.0)
    torch.testing.assert_close(table.logits_SA.detach().abs(), torch.full((3, 3), 0.01), atol=1e-4, rtol=0)
    assert table.value_S.tolist() == torch.full((3,), 0.1).tolist()
    assert entry["grad_norm"] > 0


def test_the_gradient_is_clipped_and_its_norm_logged_as_it_was(tmp_path: Path) -> None:
    table, _, entry = first_iteration("rebel", tmp_path, max_grad_norm=1e-3)
    assert table.logits_SA.grad is not None
    assert table.logits_SA.grad.norm().item() == pytest.approx(1e-3, rel=1e-3)
    _, _, unclipped = first_iteration("rebel", tmp_path / "unclipped", max_grad_norm=math.inf)
    assert entry["grad_norm"] == pytest.approx(unclipped["grad_norm"])
    assert entry["grad_norm"] > 1e-2


class Off(Table):
    """Evaluates at another temperature than it samples at: all log-probabilities are off by a tenth."""

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        logp_BT, value_BT = super().evaluate(rows)
        return logp_BT - 0.1, value_BT


def test_a_learner_that_evaluates_otherwise_than_it_samples_is_seen_in_the_log(tmp_path: Path) -> None:
    for learner, expected in ((Table(), 0.0), (Off(), 0.1)):
        (entry,) = learn(learner, Config(iterations=1), tmp_path / str(expected))
        assert entry["mismatch"] == pytest.approx(expected, abs=1e-6)


# Minibatches


def seen_by(algorithm: Algorithm, work: Path, **options: Any) -> list[list[int]]:
    """Rows of the steps of two iterations of two epochs, each four steps of 16 rows."""
    table = Table()
    learn(table, replace(Config(algorithm, iterations=2), **options), work)
    asked = 4 if algorithm == "ppo" else 0  # the critic is asked for all rows before the first epoch
    return [rows for i, rows in enumerate(table.seen) if i % (asked + 8) >= asked]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_epoch_sees_every_response_once_in_an_order_of_its_own(tmp_path: Path, algorithm: Algorithm) -> None:
    steps = seen_by(algorithm, tmp_path / "a")
    epochs = [list(chain(*steps[start : start + 4])) for start in range(0, 16, 4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(64))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert seen_by(algorithm, tmp_path / "again") == steps
    assert seen_by(algorithm, tmp_path / "other", seed=1) != steps


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_in_parts_is_the_step(tmp_path: Path, algorithm: Algorithm) -> None:
    """Responses are of one token or of two, so that the parts of PPO's mean over tokens are not alike."""
    whole, parts = Table(), Table()
    config, adaptive = Config(algorithm, kl=0.1, minibatch=24), Adaptive(stop_kl=0.01)
    once = learn(whole, config, tmp_path / "whole", adaptive=adaptive)
    split = learn(parts, replace(config, at_once=10), tmp_path / "parts", adaptive=adaptive)
    assert bits(parts) == pytest.approx(bits(whole), abs=1e-6)
    assert {len(rows) for rows in parts.seen} > {10, 4}
    assert max(map(len, parts.seen)) == 10, "24 are 10, 10 and 4"
    for one, other in zip(without_seconds(once), without_seconds(split), strict=True):
        assert other == pytest.approx(one, abs=1e-5)


def test_rebel_keeps_the_two_of_a_pair_together(tmp_path: Path) -> None:
    for rows in seen_by("rebel", tmp_path):
        assert all(a % 2 == 0 and b == a + 1 for a, b in zip(rows[0::2], rows[1::2], strict=True))


# What is adapted from one iteration to the next


class Paid(Table):
    """Rewards in another unit."""

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        rollout, noted = super().roll_out(iteration)
        return replace(rollout, reward_N=40 * rollout.reward_N - 7), noted


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_normalised_rewards_have_no_unit(tmp_path: Path, algorithm: Algorithm) -> None:
    learners, config, adaptive = (Table(), Paid()), Config(algorithm, kl=0.1), Adaptive(normalise=True)
    one, other = (learn(x, config, tmp_path / str(i), adaptive=adaptive) for i, x in enumerate(learners))
    assert bits(learners[0]) == pytest.approx(bits(learners[1]), abs=1e-4)
    assert other[0]["reward"] == pytest.approx(40 * one[0]["reward"] - 7, rel=1e-5), "it is logged as it was earned"
    unlike = Table()
    learn(unlike, config, tmp_path / "raw")
    assert bits(unlike) != pytest.approx(bits(learners[0]), abs=1e-3)


def test_the_unit_of_rewards_is_of_all_iterations_so_far(tmp_path: Path) -> None:
    earned: list[Tensor] = []

    class Kept(Table):
        def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
            rollout, noted = super().roll_out(iteration)
            earned.append(rollout.reward_N * 3**iteration)
            return replace(rollout, reward_N=earned[-1]), noted

    log = learn(Kept(), Config(epochs=1, minibatch=64), tmp_path, adaptive=Adaptive(normalise=True))
    for i, entry in enumerate(log):
        unit = torch.cat(earned[: i + 1]).var(correction=0)
        apart_P = earned[i][0::2] - earned[i][1::2]
        assert entry["loss"] == pytest.approx((apart_P.square().mean() / unit).item(), rel=1e-4)


def test_rewards_that_are_all_alike_teach_nothing_when_normalised(tmp_path: Path) -> None:
    class Even(Table):
        def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
            rollout, noted = super().roll_out(iteration)
            return replace(rollout, reward_N=torch.full_like(rollout.reward_N, 3.0)), noted

    (entry,) = learn(Even(), Config("rebel", 1), tmp_path, adaptive=Adaptive(normalise=True))
    assert entry["grad_norm"] == 0


@pytest.mark.parametrize(("target", "rises"), [(0.01, True), (50.0, False)])
def test_the_price_of_kl_is_led_by_what_was_logged(tmp_path: Path, target: float, rises: bool) -> None:
    adaptive = Adaptive(kl_target=target, kl_horizon=320)
    log = learn(Table(), Config("ppo", iterations=8, kl=0.1), tmp_path, adaptive=adaptive)
    assert [e["kl_price"] for e in log] == [kl_price(log[:i], 0.1, target, 320) for i in range(8)]
    assert (log[-1]["kl_price"] > log[0]["kl_price"] == 0.1) == rises


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_iteration_ends_where_tokens_have_gone_too_far(tmp_path: Path, algorithm: Algorithm) -> None:
    def steps(name: str, stop_kl: float | None) -> list[float]:
        config = Config(algorithm, iterations=2, epochs=4)
        return [e["steps"] for e in learn(Table(), config, tmp_path / name, adaptive=Adaptive(stop_kl=stop_kl))]

    assert steps("never", None) == steps("far", 100.0) == [16, 16]
    assert steps("at once", 1e-9) == [1, 1]
    assert all(1 < n < 16 for n in steps("soon", 0.01))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_dear_kl_keeps_the_policy_where_it_is(tmp_path: Path, algorithm: Algorithm) -> None:
    cheap, dear = (
        learn(Table(), Config(algorithm, iterations=20, epochs=4, kl=kl), tmp_path / str(kl))[-1]["kl"]
        for kl in (0.0, 100.0)
    )
    assert cheap > 1
    assert abs(dear) < 0.05


class Cut(Table):
    """A second token 1 or 2 ends a response; 0 leaves it without an end."""

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        rollout, noted = super().roll_out(iteration)
        return replace(rollout, ended_N=~rollout.mask_NT[:, 1] | (self.action_NT[:, 1] > 0)), noted


@pytest.mark.parametrize("normalise", [True, False])
def test_a_missing_end_earns_exactly_what_is_said_and_moves_nobody_elses_reward(
    tmp_path: Path, normalise: bool
) -> None:
    adaptive = Adaptive(normalise=normalise, missing_end=-10.0)
    (entry,) = learn(Cut(), Config(iterations=1, epochs=1, minibatch=64), tmp_path, adaptive=adaptive)
    with torch.no_grad():
        rollout = Cut().roll_out(0)[0]
    score_N, ended_N = rollout.reward_N, rollout.ended_N
    assert ended_N is not None
    assert 5 < ended_N.sum() < 59
    unit_N = (score_N - score_N.mean()) / score_N.std(correction=0) if normalise else score_N
    earned_N = torch.tensor([r if ended else -10.0 for r, ended in zip(unit_N.tolist(), ended_N.tolist(), strict=True)])
    # the policy is still the one that sampled, so that REBEL's first loss is of the rewards alone
    assert entry["loss"] == pytest.approx((earned_N[0::2] - earned_N[1::2]).square().mean().item())
    assert entry["reward"] == pytest.approx(score_N.mean().item()), "it is logged as it was scored"


def test_without_ends_no_end_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say which responses ended"):
        learn(Table(), Config(), tmp_path, adaptive=Adaptive(missing_end=-1.0))


class Bandit:
    """Two responses of one token; the reference takes the first in one of five cases."""

    reference_A = torch.tensor([0.2, 0.8]).log()
    reward_A = torch.tensor([1.0, 0.0])

    def __init__(self) -> None:
        self.logits_A = nn.Parameter(self.reference_A.clone())
        self.value = nn.Parameter(torch.zeros(()))

    def parameters(self) -> Sequence[nn.Parameter]:
        return [self.logits_A, self.value]

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        noise = torch.Generator().manual_seed(iteration)
        self.action_N1 = torch.multinomial(self.logits_A.softmax(-1), 512, replacement=True, generator=noise)[:, None]
        logp_N1 = self.logits_A.log_softmax(-1)[self.action_N1]
        mask_N1 = torch.ones(512, 1, dtype=torch.bool)
        return Rollout(logp_N1, self.reference_A[self.action_N1], mask_N1, self.reward_A[self.action_N1[:, 0]]), {}

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        action_B1 = self.action_N1[rows]
        return self.logits_A.log_softmax(-1)[action_B1], self.value.expand(len(rows), 1)


@pytest.mark.parametrize("kl", [0.5, 1.0])
def test_on_a_bandit_of_two_tokens_ppo_ends_at_the_reference_times_exp_of_reward_over_kl(
    tmp_path: Path, kl: float
) -> None:
    """0.2 e^(1/kl) against 0.8: 0.649 at kl 1/2, 0.405 at 1. The reward is the share of the first."""
    log = learn(Bandit(), Config("ppo", iterations=60, minibatch=256, learning_rate=0.02, kl=kl), tmp_path)
    better, worse = 0.2 * math.exp(1 / kl), 0.8
    late = sum(entry["reward"] for entry in log[20:]) / 40  # a single iteration is a few hundredths off, either way
    assert late == pytest.approx(better / (better + worse), abs=0.03)


# Runs that stop


class Interruption(Exception):
    pass


class Stopping(Table):
    """Stops when it has evaluated `calls` minibatches and is asked for one more, or when asked for an iteration."""

    def __init__(self, calls: int = -1, iteration: int = -1) -> None:
        super().__init__()
        self.calls, self.iteration = calls, iteration

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        if iteration == self.iteration:
            raise Interruption
        return super().roll_out(iteration)

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        if len(self.seen) == self.calls:
            raise Interruption
        return super().evaluate(rows)


def goes_on_as_if_unbroken(algorithm: Algorithm, work: Path, after: int) -> None:
    """Go on in `work`: iterations from `after` on are run, and all ends with the bits of a run that never stopped."""
    config, resumed, unbroken = Config(algorithm), Table(), Table()
    done: list[int] = []
    log = learn(resumed, config, work, lambda iteration, _: done.append(iteration))
    expected = learn(unbroken, config, work.with_name("unbroken"))
    assert done == list(range(after + 1, 4))
    assert bits(resumed) == bits(unbroken)
    assert without_seconds(log) == without_seconds(expected)
    assert [path.name for path in work.iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("calls", "iteration", "after"), [(6, -1, 0), (14, -1, 1), (-1, 2, 2)])
def test_a_run_stopped_inside_an_iteration_goes_on_as_if_unbroken(
    tmp_path: Path, algorithm: Algorithm, calls: int, iteration: int, after: int
) -> None:
    with pytest.raises(Interruption):
        learn(Stopping(calls, iteration), Config(algorithm), tmp_path / "work")
    goes_on_as_if_unbroken(algorithm, tmp_path / "work", after)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_stopped_between_iterations_goes_on_as_if_unbroken(tmp_path: Path, algorithm: Algorithm) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 3
        if done == 2:
            raise Interruption

    with pytest.raises(Interruption):
        learn(Table(), Config(algorithm), tmp_path / "work", interrupt)
    goes_on_as_if_unbroken(algorithm, tmp_path / "work", after=2)


def test_a_run_that_adapts_goes_on_as_if_unbroken(tmp_path: Path) -> None:
    adaptive = Adaptive(normalise=True, kl_target=0.05, kl_horizon=100, stop_kl=0.01)
    config, resumed, unbroken = Config("ppo", iterations=4, kl=0.1), Table(), Table()
    with pytest.raises(Interruption):
        learn(Stopping(iteration=2), config, tmp_path / "work", adaptive=adaptive)
    log = learn(resumed, config, tmp_path / "work", adaptive=adaptive)
    assert without_seconds(log) == without_seconds(learn(unbroken, config, tmp_path / "whole", adaptive=adaptive))
    assert bits(resumed) == bits(unbroken)


def fail(*_: Any) -> None:
    raise Interruption


@pytest.mark.parametrize("what", ["save_file", "write_json"])
def test_a_run_stopped_while_it_writes_goes_on_from_what_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def stop_next(done: int, _: int) -> None:
        monkeypatch.setattr(iterations, what, fail)

    with pytest.raises(Interruption):
        learn(Table(), Config(), tmp_path / "work", stop_next)
    monkeypatch.undo()
    goes_on_as_if_unbroken("rebel", tmp_path / "work", after=1)


def test_of_two_checkpoints_the_newer_is_taken_and_the_older_removed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    learn(Table(), Config(iterations=1), work)
    shutil.copytree(work / "checkpoint-1", tmp_path / "old")
    learn(Table(), Config(iterations=2), work)
    shutil.move(tmp_path / "old", work / "checkpoint-1")  # as a kill leaves it that comes just before the removal
    goes_on_as_if_unbroken("rebel", work, after=2)


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "work" / ".checkpoint-1.new.abc"
    left.mkdir(parents=True)
    (left / TENSORS).write_bytes(b"half")
    goes_on_as_if_unbroken("rebel", tmp_path / "work", after=0)


def test_a_finished_run_samples_nothing_and_gives_the_same_again(tmp_path: Path) -> None:
    first, again = Table(), Stopping(iteration=0)
    log = learn(first, Config(), tmp_path)
    assert learn(again, Config(), tmp_path) == log
    assert again.seen == []
    assert bits(again) == bits(first)


def test_a_checkpoint_holds_parameters_and_moments_and_no_pickle(tmp_path: Path) -> None:
    table = Table()
    learn(table, Config("rebel"), tmp_path)
    tensors = load_file(tmp_path / "checkpoint-3" / TENSORS)
    # REBEL gives the critic p1 no gradient, and AdamW therefore no moments
    assert sorted(tensors) == ["p0", "p0.exp_avg", "p0.exp_avg_sq", "p0.step", "p1"]
    assert tensors["p0"].tolist() == table.logits_SA.tolist()
    assert tensors["p0.step"].item() == 3 * 2 * 4  # iterations, epochs, minibatches
    assert sorted(path.suffix for path in (tmp_path / "checkpoint-3").iterdir()) == [".json", ".safetensors"]


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "dpo"}, "algorithm is 'dpo'; it must be rebel or ppo"),
        ({"iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"minibatch": 0}, "minibatch is 0"),
        ({"at_once": 0}, "at_once is 0; it must be at least 1"),
        ({"at_once": 3}, "at_once is 3; rebel compares pairs, so it must be even, such as 4"),
        ({"samples": 3}, "samples is 3; rebel compares pairs, so it must be even, such as 4"),
        ({"minibatch": 1}, "minibatch is 1; rebel compares pairs, so it must be even, such as 2"),
        ({"learning_rate": math.inf}, "learning_rate is inf; it must be more than 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0; it must be more than 0"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"eta": 0.0}, "eta is 0.0; it must be more than 0"),
        ({"kl": -0.1}, "kl is -0.1; it must be at least 0"),
        ({"clip": 1.0}, "clip is 1.0; it must be between 0 and 1"),
        ({"gamma": 1.1}, "gamma is 1.1; it must be more than 0 and at most 1"),
        ({"gae_lambda": math.nan}, "gae_lambda is nan; it must be between 0 and 1"),
        ({"value_weight": -1.0}, "value_weight is -1.0; it must be at least 0"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CounterpointError, match=f"^{message}"):
        learn(Stopping(iteration=0), replace(Config(), **options), tmp_path)


def test_ppo_takes_odd_numbers_of_samples() -> None:
    check(Config("ppo", samples=1, minibatch=3, at_once=1))


class Broken(Table):
    """A table whose roll-out or whose second evaluation is spoilt."""

    def __init__(self, spoil: Callable[[Rollout], Rollout] | None = None, logp: float = 0.0) -> None:
        super().__init__()
        self.spoil, self.logp = spoil, logp

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        rollout, noted = super().roll_out(iteration)
        return self.spoil(rollout) if self.spoil else rollout, noted

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        logp_BT, _ = super().evaluate(rows)
        return logp_BT + (self.logp if len(self.seen) == 2 else 0.0), None


def with_one(name: str, value: float) -> Callable[[Rollout], Rollout]:
    """Spoil what a roll-out says of response 5."""

    def spoil(rollout: Rollout) -> Rollout:
        x = getattr(rollout, name).clone()
        x[5] = value
        return replace(rollout, **{name: x})

    return spoil


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward_N", math.nan, "iteration 1: the reward of response 5 is nan; mend the reward"),
        ("logp_NT", -math.inf, "iteration 1: the log-probability of response 5 is -inf; lower learning_rate"),
        ("reference_NT", -math.inf, "under the reference of response 5 is -inf; take a reference"),
    ],
)
def test_a_roll_out_that_is_not_finite_is_refused(tmp_path: Path, name: str, value: float, message: str) -> None:
    with pytest.raises(CounterpointError, match=message):
        learn(Broken(with_one(name, value)), Config(), tmp_path)


def test_a_loss_that_is_not_finite_moves_nothing_and_says_what_to_lower(tmp_path: Path) -> None:
    one_step, broken = Stopping(calls=1), Broken(logp=math.nan)
    with pytest.raises(Interruption):
        learn(one_step, Config(), tmp_path / "one step")
    with pytest.raises(CounterpointError, match="iteration 1: the loss is nan; lower learning_rate or epochs"):
        learn(broken, Config(), tmp_path / "nan")
    assert bits(broken) == bits(one_step) != bits(Table())


def test_ppo_without_a_critic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="needs a critic, and this policy has none; use 'rebel'"):
        learn(Broken(), Config("ppo"), tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    learn(Table(), Config(), tmp_path)
    other = Table()
    other.value_S = nn.Parameter(torch.zeros(4))
    with pytest.raises(CounterpointError, match="checkpoint-3: is of another model"):
        learn(other, Config(), tmp_path)


def test_a_roll_out_must_hold_together(tmp_path: Path) -> None:
    x_NT, mask_NT, reward_N = torch.zeros(4, 2), torch.ones(4, 2).bool(), torch.zeros(4)
    with pytest.raises(ValueError, match="a roll-out of shapes"):
        Rollout(x_NT, x_NT[:, :1], mask_NT, reward_N)
    with pytest.raises(ValueError, match="a roll-out of shapes"):
        Rollout(x_NT, x_NT, mask_NT, reward_N[:3])
    with pytest.raises(ValueError, match="mask must be bool"):
        Rollout(x_NT, x_NT, mask_NT.float(), reward_N)
    with pytest.raises(ValueError, match="true on one token at least"):
        Rollout(x_NT, x_NT, mask_NT & torch.tensor([[1], [1], [0], [1]]).bool(), reward_N)
    with pytest.raises(ValueError, match="64 responses, expected 6 to each prompt"):
        learn(Table(), Config(samples=6), tmp_path)
