"""A policy from a user's own prompts and rewards, beside the base on prompts that it has not seen.

What it earns says what was learned, and not whether the rewards are right: for that, judge by others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.artifacts import write_json
from counterpoint.build.answer import Progress, usable_prompts
from counterpoint.build.best import PLAIN, split_prompts
from counterpoint.build.controller import InUnits, in_units
from counterpoint.build.expert import claim_expert
from counterpoint.build.pairs import METRICS
from counterpoint.compose.plan import Plan, Row
from counterpoint.data.chat import with_request
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.bootstrap import mean_interval
from counterpoint.profiles import format_profile
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.rewards.rules import Rewards
from counterpoint.stages import Bar, Stages
from counterpoint.train.controller import reward_of
from counterpoint.train.mope import Reward
from counterpoint.train.policy import POLICY, PolicyConfig, PolicyResult, train_policy, words_of
from counterpoint.types import Completion, Dimension, Profile, Prompt

BASE, POLICY_PLAN = (Plan((Row(gate), Row()), (1.0, 0.0), temper="experts") for gate in ({}, {POLICY: 1.0}))
"""Who answers, with the base beside it, whose part is 0: what either gives to each token is in the trace."""


@dataclass(frozen=True)
class Wanted:
    """For whom a policy is trained: profiles over dimensions, who say so in words if `asking`.

    `judged_by` tells one set of rewards from another (`fingerprint`). A share `holdout` of the prompts measures what
    was learned. Prompts that cannot be answered are an error unless `skip_bad`.
    """

    profiles: tuple[Profile, ...]
    dimensions: tuple[Dimension, ...]
    asking: bool = True
    judged_by: str = ""
    holdout: float = 0.2
    skip_bad: bool = False

    @property
    def words(self) -> list[str]:
        """What each profile asks for."""
        return [words_of(profile, self.dimensions) if self.asking else "" for profile in self.profiles]

    @property
    def earning(self) -> str:
        """The rewards, and who earns how much of each: the words say neither."""
        return "; ".join([self.judged_by, *map(format_profile, self.profiles)])


def learn_policy(
    config: PolicyConfig,
    wanted: Wanted,
    rewards: Rewards,
    prompts: Sequence[Prompt],
    out: Path,
    stages: Stages,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a policy into `out`, an adapter, and return what `out/metrics.json` says of it.

    A profile earns the mean of the rewards that it wants; of several rewards, rules count in standard deviations of the
    base's greedy answers. Raises CounterpointError where `out` holds anything but an expert, and for too few prompts.
    """
    claim_expert(out)
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    base = Band.assemble(config.model, {}, dtype, device)
    usable, wrong = answerable(base, wanted.words, prompts, wanted.skip_bad)
    for line in wrong:
        stages.console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    learned, held = split_prompts(usable, wanted.holdout, config.seed)
    why = f"{config.iterations} iterations of {config.algorithm} on its own answers to {len(learned)} prompts"
    with stages.stage("policy", why) as bar:
        as_they_are: InUnits = (rewards, {}, None)
        several = len(rewards.dimensions) > 1
        reward, units, _ = in_units(rewards, base, learned, config.max_tokens, bar) if several else as_they_are
        del base  # training loads its own, and two may not fit
        weights_RD = profile_weights(wanted.profiles, reward.dimensions)
        earned = reward_of(reward, learned, weights_RD, None)
        result = train_policy(
            config, learned, wanted.words, earned, out, progress=bar.task("iterations"), judged_by=wanted.earning
        )
        bar.note(outcome(result))
    with stages.stage("held-out prompts", f"see what answers to {len(held)} other prompts earn") as bar:
        band = Band.assemble(config.model, {POLICY: out}, dtype, device)
        measured = measure(band, config, wanted.words, reward_of(reward, held, weights_RD, None), held, bar)
    metrics = {
        "profiles": [format_profile(profile) for profile in wanted.profiles], "requests": wanted.words, "units": units,
        "learned": {"prompts": len(learned), "prompts_left_out": len(wrong)}, "held_out": {"prompts": len(held)},
        "holdout": wanted.holdout, "seed": config.seed, "fresh": result.fresh, **measured,
        "iterations": list(result.log),
    }  # fmt: skip
    write_json(out / METRICS, metrics)
    return metrics


def answerable(
    base: Band, words: Sequence[str], prompts: Sequence[Prompt], skip: bool
) -> tuple[list[Prompt], list[str]]:
    """The prompts that leave room for an answer with the longest words after them, and what is wrong with the others.

    Each prompt once.
    """
    longest = max(words, key=len)
    whole = {with_request(prompt, longest): prompt for prompt in prompts}
    usable, wrong = usable_prompts(base, PLAIN, list(whole), skip)
    return [whole[asked] for asked in usable], wrong


def outcome(result: PolicyResult) -> str:
    """What the training stage says when it ends."""
    if not result.fresh:
        return "was there already, trained on the same with the same settings"
    first, last = result.log[0], result.log[-1]
    return f"reward {first['reward']:.3f} at first and {last['reward']:.3f} at last, KL {last['kl']:.2f} nats"


def measure(
    band: Band, config: PolicyConfig, words: Sequence[str], reward: Reward, prompts: Sequence[Prompt], bar: Bar
) -> dict[str, Any]:
    """Of base and policy the reward, the KL to the base, the length and the share that ended; and what was gained."""
    base, policy = (
        _measured(_answers(band, config, plan, words, prompts, bar.task(name)), reward, len(prompts), len(words))
        for name, plan in (("the base's", BASE), ("the policy's", POLICY_PLAN))
    )
    gain_P = policy["reward"] - base["reward"]
    return {
        "base": {name: mean_interval(x_P, seed=config.seed).to_dict() for name, x_P in base.items()},
        "policy": {name: mean_interval(x_P, seed=config.seed).to_dict() for name, x_P in policy.items()},
        "gain": mean_interval(gain_P, seed=config.seed).to_dict(),
    }


def _answers(
    band: Band, config: PolicyConfig, plan: Plan, words: Sequence[str], prompts: Sequence[Prompt], progress: Progress
) -> list[Completion]:
    """An answer to every prompt with every profile's words, profiles changing fastest; drawn as in training."""
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)
    requests = [
        band.request(with_request(prompt, said), plan, replace(sampling, seed=config.seed + index), "token")
        for index, prompt in enumerate(prompts)
        for said in words
    ]
    return band.run(requests, progress)


def _measured(answers: Sequence[Completion], reward: Reward, prompts: int, profiles: int) -> dict[str, np.ndarray]:
    """Each measure by prompt, `[P]`: its mean over the profiles."""
    prompt_N, profile_N = np.divmod(np.arange(len(answers)), profiles)
    traces = [answer.trace for answer in answers if answer.trace]
    found_N = {
        "reward": reward(prompt_N.tolist(), [answer.text for answer in answers], profile_N.tolist()),
        "kl": [float((trace.logp_TK[:, 0] - trace.logp_TK[:, 1]).sum()) for trace in traces],
        "length": [len(trace.tokens) for trace in traces],
        "ended": [answer.finish == "stop" for answer in answers],
    }
    return {name: np.array(x_N, dtype=float).reshape(prompts, profiles).mean(axis=1) for name, x_N in found_N.items()}
