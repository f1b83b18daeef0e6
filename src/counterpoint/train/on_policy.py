"""The loop of REBEL and PPO: a policy samples, its samples are rewarded, and a few epochs over them move it.

An iteration is a roll-out and `epochs` passes over it in shuffled minibatches, by AdamW at a constant learning rate and
without weight decay. The loop knows no language model: a `Learner` samples and says how likely its samples are now.

KL to a reference is part of the reward: kl (log p - log p_ref), per token in PPO and of the whole response in REBEL.
The surprising part: a roll-out is not kept. A killed run samples it again, which gives the same one, since it depends
on the parameters and the number of the iteration alone. What is adapted from one iteration to the next
(`train/adaptive.py`) depends on the log alone.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from counterpoint.train.adaptive import LEEWAY, Adaptive, drift, kl_price, normal
from counterpoint.train.iterations import Log, restore, save
from counterpoint.train.ppo import advantages, clipped_surrogate, clipped_value_loss, token_rewards, whiten
from counterpoint.train.rebel import rebel_loss
from counterpoint.types import CounterpointError

TINY = 1e-8
"""A standard deviation below this is none: rewards that are all alike become 0."""

Algorithm = Literal["rebel", "ppo"]
_Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Of (rows `[B]`, logp_BT, value_BT) of a minibatch: a scalar with gradient."""


@dataclass(frozen=True)
class Rollout:
    """N responses as they were sampled, and what they earned; the samples of one prompt are neighbours.

    `logp_NT` is of each sampled token in nats under the policy that sampled it, `reference_NT` under the reference that
    KL is counted against, both float32. `mask_NT` is true on the tokens of a response, its end token included: one at
    least, side by side. What stands elsewhere is never read. `ended_N` is true for a response that ended by itself.
    Raises ValueError where the shapes disagree.
    """

    logp_NT: Tensor
    reference_NT: Tensor
    mask_NT: Tensor
    reward_N: Tensor
    ended_N: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = [tuple(x.shape) for x in (self.logp_NT, self.reference_NT, self.mask_NT)]
        if len(set(shapes)) > 1 or self.mask_NT.dim() != 2 or self.reward_N.shape != self.mask_NT.shape[:1]:
            raise ValueError(f"a roll-out of shapes {shapes} [N, T] and {tuple(self.reward_N.shape)} [N]")
        if self.mask_NT.dtype != torch.bool or not self.mask_NT.any(dim=1).all():
            raise ValueError("a roll-out's mask must be bool and true on one token at least of every response")

    def __len__(self) -> int:
        return len(self.reward_N)


class Learner(Protocol):
    """A policy that can be sampled and trained. Its noise comes from the iteration's number alone: no dropout."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """All that is trained, in an order that never changes."""
        ...

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        """Sample and reward responses, and say what else to log. Called without gradient."""
        ...

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """`logp_BT` and `value_BT` (None without a critic) of rows `[B]` of the last roll-out, with gradient.

        T is the roll-out's, and the log-probabilities are at the temperature at which it was sampled.
        """
        ...


class LoopConfig(Protocol):
    """The fields that all configurations of on-policy training share. REBEL reads `eta`, PPO those after `kl`.

    `samples` counts the responses to a prompt, `minibatch` those of a step, `at_once` those of a forward (None: all of
    a step), which saves memory and changes nothing else; REBEL pairs neighbours, so all three are even.
    """

    @property
    def algorithm(self) -> Algorithm: ...
    @property
    def iterations(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def minibatch(self) -> int: ...
    @property
    def at_once(self) -> int | None: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def eta(self) -> float: ...
    @property
    def kl(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def gamma(self) -> float: ...
    @property
    def gae_lambda(self) -> float: ...
    @property
    def value_weight(self) -> float: ...


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "iterations": (lambda n: n >= 1, "at least 1"),
    "samples": (lambda n: n >= 1, "at least 1"),
    "epochs": (lambda n: n >= 1, "at least 1"),
    "minibatch": (lambda n: n >= 1, "at least 1"),
    "at_once": (lambda n: n is None or n >= 1, "at least 1"),
    "learning_rate": (lambda x: 0 < x < math.inf, "more than 0, such as 0.0001"),
    "max_grad_norm": (lambda x: x > 0, "more than 0, such as 1"),
    "seed": (lambda n: n >= 0, "at least 0"),
    "eta": (lambda x: 0 < x < math.inf, "more than 0, such as 1"),
    "kl": (lambda x: 0 <= x < math.inf, "at least 0"),
    "clip": (lambda x: 0 < x < 1, "between 0 and 1, such as 0.2"),
    "gamma": (lambda x: 0 < x <= 1, "more than 0 and at most 1"),
    "gae_lambda": (lambda x: 0 <= x <= 1, "between 0 and 1"),
    "value_weight": (lambda x: 0 <= x < math.inf, "at least 0"),
}


def check(config: LoopConfig) -> None:
    """Refuse what is out of range, by the name of its field."""
    if config.algorithm not in get_args(Algorithm):
        raise CounterpointError(f"algorithm is {config.algorithm!r}; it must be {' or '.join(get_args(Algorithm))}")
    for name, (is_good, expected) in _EXPECTED.items():
        if not is_good(value := getattr(config, name)):
            raise CounterpointError(f"{name} is {value}; it must be {expected}")
    for name in ("samples", "minibatch", "at_once"):
        if config.algorithm == "rebel" and (value := getattr(config, name) or 0) % 2:
            raise CounterpointError(f"{name} is {value}; rebel compares pairs, so it must be even, such as {value + 1}")


FIXED = Adaptive()


def learn(
    learner: Learner,
    config: LoopConfig,
    work: Path,
    progress: Callable[[int, int], None] | None = None,
    adaptive: Adaptive = FIXED,
) -> tuple[dict[str, float], ...]:
    """Train the learner's parameters in place and return what each iteration logged.

    After every iteration `work` holds all that the next one needs, so that a run killed anywhere and started again,
    with the same configuration and a learner that starts alike, ends with the bits of an unbroken one. `progress` is
    called with (iterations done, iterations in all).

    The log has the means over `responses` of `reward` (as scored, without KL; with its `reward_std`), `kl` (log p -
    log p_ref of a response) and `length`, the price of KL, the `steps` with the means over them of `loss` and
    `grad_norm` (before clipping), `mismatch`, and seconds. `mismatch` is the mean over tokens of |log p now - log p
    when sampled| before the first step: more than rounding is a fault of the learner.

    Raises CounterpointError for a configuration that is out of range, for PPO without a critic, and for a reward,
    log-probability, loss or gradient that is not finite.
    """
    check(config)
    parameters = learner.parameters()
    optimizer = AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    log = restore(work, parameters, optimizer)
    while len(log) < config.iterations:
        log.append(_iterate(learner, config, optimizer, log, adaptive))
        save(work, parameters, optimizer, log)
        if progress is not None:
            progress(len(log), config.iterations)
    return tuple(log)


def _iterate(
    learner: Learner, config: LoopConfig, optimizer: Optimizer, log: Log, adaptive: Adaptive
) -> dict[str, float]:
    started, iteration = time.perf_counter(), len(log)
    with torch.no_grad():
        rollout, noted = learner.roll_out(iteration)
    _check_rollout(rollout, config.samples, iteration)
    sampled = time.perf_counter()
    figures = {**_figures(rollout), "kl_price": _price(config.kl, log, adaptive)}
    rollout = replace(rollout, reward_N=_earned(rollout, [*log, figures], adaptive))
    loss_of = _loss_of(learner, rollout, config, figures["kl_price"])
    steps = _epochs(learner, rollout, config, optimizer, iteration, loss_of, adaptive.stop_kl)
    seconds = {"seconds_roll_out": sampled - started, "seconds_epochs": time.perf_counter() - sampled}
    return {**figures, **steps, **seconds, **noted}


def _price(kl: float, log: Log, adaptive: Adaptive) -> float:
    target = adaptive.kl_target
    return kl if target is None else kl_price(log, kl, target, adaptive.kl_horizon)


def _earned(rollout: Rollout, log: Log, adaptive: Adaptive) -> Tensor:
    """What is learned from, `[N]`; standard deviations are those of all in the log, to which the roll-out belongs."""
    reward_N = rollout.reward_N
    if adaptive.normalise:
        mean, std = normal(log)
        reward_N = (reward_N - mean) / max(std, TINY)
    if adaptive.missing_end is None:
        return reward_N
    if rollout.ended_N is None:
        raise ValueError("missing_end: the roll-out does not say which responses ended")
    return reward_N.where(rollout.ended_N, adaptive.missing_end)


def _check_rollout(rollout: Rollout, samples: int, iteration: int) -> None:
    if len(rollout) == 0 or len(rollout) % samples:
        raise ValueError(f"a roll-out of {len(rollout)} responses, expected {samples} to each prompt")
    found = {
        "reward": (rollout.reward_N, "mend the reward"),
        "log-probability": (_of_responses(rollout.logp_NT, rollout.mask_NT), "lower learning_rate"),
        "log-probability under the reference": (
            _of_responses(rollout.reference_NT, rollout.mask_NT),
            "take a reference that gives every token some probability",
        ),
    }
    for name, (x_N, advice) in found.items():
        for n in (~x_N.isfinite()).nonzero()[:1, 0].tolist():
            raise CounterpointError(
                f"iteration {iteration + 1}: the {name} of response {n} is {x_N[n].item()}; {advice}"
            )


def _of_responses(logp_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Sums over the tokens of each response."""
    return logp_NT.where(mask_NT, 0.0).sum(dim=1)


def _figures(rollout: Rollout) -> dict[str, float]:
    kl_N = _of_responses(rollout.logp_NT - rollout.reference_NT, rollout.mask_NT)
    length_N = rollout.mask_NT.sum(dim=1).float()
    means = {
        name: x_N.mean().item() for name, x_N in (("reward", rollout.reward_N), ("kl", kl_N), ("length", length_N))
    }
    return {**means, "reward_std": rollout.reward_N.std(correction=0).item(), "responses": len(rollout)}


def _loss_of(learner: Learner, rollout: Rollout, config: LoopConfig, kl: float) -> _Loss:
    return _rebel(rollout, config, kl) if config.algorithm == "rebel" else _ppo(rollout, config, kl, learner)


def _epochs(
    learner: Learner,
    rollout: Rollout,
    config: LoopConfig,
    optimizer: Optimizer,
    iteration: int,
    loss_of: _Loss,
    stop_kl: float | None,
) -> dict[str, float]:
    losses: list[float] = []
    norms: list[float] = []
    gaps: list[float] = []
    for rows in _minibatches(len(rollout), config, iteration):
        optimizer.zero_grad()
        loss, gap, moved = _backward(learner, rollout, config, rows, loss_of)
        if losses and stop_kl is not None and moved > LEEWAY * stop_kl:
            break
        norms.append(_step(optimizer, loss, config.max_grad_norm, iteration))
        losses.append(loss)
        gaps.append(gap)
    means = {"loss": float(np.mean(losses)), "grad_norm": float(np.mean(norms))}
    return {"steps": len(losses), **means, "mismatch": gaps[0]}


def _minibatches(responses: int, config: LoopConfig, iteration: int) -> Iterator[Tensor]:
    """Rows `[B]` of each step of an iteration. For REBEL what is shuffled are pairs, and a pair stays together."""
    unit = 2 if config.algorithm == "rebel" else 1
    seed = np.random.SeedSequence((config.seed, iteration)).generate_state(1, np.uint64).item()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        order_U = torch.randperm(responses // unit, generator=generator)
        for units in torch.split(order_U, config.minibatch // unit):
            yield (units[:, None] * unit + torch.arange(unit)).flatten()


def _backward(
    learner: Learner, rollout: Rollout, config: LoopConfig, rows: Tensor, loss_of: _Loss
) -> tuple[float, float, float]:
    """Add the gradient of a step, `at_once` responses at a time; its loss, and per token the mismatch and the drift.

    A mean is the sum of its parts' means, each times its share: of the pairs for REBEL's loss, else of the tokens.
    """
    loss = gap = moved = 0.0
    tokens = rollout.mask_NT[rows].sum().item()
    for part in torch.split(rows, config.at_once or len(rows)):
        logp_BT, value_BT = learner.evaluate(part)
        old_BT, mask_BT = rollout.logp_NT[part], rollout.mask_NT[part]
        of_tokens = mask_BT.sum().item() / tokens
        share = len(part) / len(rows) if config.algorithm == "rebel" else of_tokens
        loss_of_part = share * loss_of(part, logp_BT, value_BT)
        loss_of_part.backward()  # type: ignore[no-untyped-call]
        loss += loss_of_part.item()
        gap += of_tokens * (logp_BT.detach() - old_BT).abs()[mask_BT].mean().item()
        moved += of_tokens * drift(logp_BT, old_BT, mask_BT)
    return loss, gap, moved


def _step(optimizer: Optimizer, loss: float, max_grad_norm: float, iteration: int) -> float:
    """One step down the gradient that is there, whose norm it returns; nothing has moved where it raises."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm).item()
    for name, value in (("loss", loss), ("norm of the gradient", norm)):
        if not math.isfinite(value):
            raise CounterpointError(f"iteration {iteration + 1}: the {name} is {value}; lower learning_rate or epochs")
    optimizer.step()
    return norm


def _rebel(rollout: Rollout, config: LoopConfig, kl: float) -> _Loss:
    old_N = _of_responses(rollout.logp_NT, rollout.mask_NT)
    reference_N = _of_responses(rollout.reference_NT, rollout.mask_NT)
    reward_N = rollout.reward_N - kl * (old_N - reference_N)

    def loss(rows: Tensor, logp_BT: Tensor, value_BT: Tensor | None) -> Tensor:
        logp_B = _of_responses(logp_BT, rollout.mask_NT[rows])
        logp_P2, old_P2, reward_P2 = (x_B.view(-1, 2) for x_B in (logp_B, old_N[rows], reward_N[rows]))
        return rebel_loss(logp_P2, old_P2, reward_P2, config.eta)

    return loss


def _ppo(rollout: Rollout, config: LoopConfig, kl: float, learner: Learner) -> _Loss:
    old_NT, mask_NT = rollout.logp_NT, rollout.mask_NT
    value_old_NT = _values(learner, len(rollout), config.at_once or config.minibatch)
    reward_NT = token_rewards(rollout.reward_N, old_NT, rollout.reference_NT, mask_NT, kl)
    advantage_NT = advantages(reward_NT, value_old_NT, mask_NT, config.gamma, config.gae_lambda)
    return_NT = advantage_NT + value_old_NT
    white_NT = whiten(advantage_NT, mask_NT)

    def loss(rows: Tensor, logp_BT: Tensor, value_BT: Tensor | None) -> Tensor:
        mask_BT = mask_NT[rows]
        surrogate = clipped_surrogate(logp_BT, old_NT[rows], white_NT[rows], mask_BT, config.clip)
        error = clipped_value_loss(_critics(value_BT), value_old_NT[rows], return_NT[rows], mask_BT, config.clip)
        return surrogate + config.value_weight * error

    return loss


@torch.no_grad()
def _values(learner: Learner, responses: int, at_once: int) -> Tensor:
    """What the critic says `[N, T]` before the first epoch."""
    return torch.cat([_critics(learner.evaluate(rows)[1]) for rows in torch.split(torch.arange(responses), at_once)])


def _critics(value_BT: Tensor | None) -> Tensor:
    if value_BT is None:
        raise CounterpointError("algorithm is 'ppo', which needs a critic, and this policy has none; use 'rebel'")
    return value_BT
