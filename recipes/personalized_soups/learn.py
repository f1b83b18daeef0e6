"""Reward models, policies, and the one model that imitates for all."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from recipes.personalized_soups.run import Run, everybody, need
from recipes.personalized_soups.settings import MORL, MULTITASK, RLHF

from counterpoint.artifacts import hash_files
from counterpoint.build.policy import outcome
from counterpoint.build.reward import divide_together, learn_shared_reward, room_for
from counterpoint.cli.train import accelerator, resolved
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.examples import example
from counterpoint.data.preferences import imitated
from counterpoint.models.adapter import CONFIG
from counterpoint.models.band_file import add_expert, new_band
from counterpoint.models.load import load_tokenizer, parse_dtype
from counterpoint.rewards.bradley_terry import FILE
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.rewards.judge_prompts import GENERAL
from counterpoint.rewards.load import load_reward
from counterpoint.train.controller import reward_of
from counterpoint.train.mope import Reward
from counterpoint.train.policy import PolicyConfig, train_policy, words_of
from counterpoint.train.sft import train_sft
from counterpoint.train.steered import SteeredConfig
from counterpoint.types import Comparison, Dimension, Expert, Profile


def rewards(run: Run) -> None:
    """A reward model for each preference, one for all, which requests steer, and one of what is better on the whole."""
    for preference in run.known:
        learn_reward(run, preference.name, [preference])
    if run.does(MORL):
        learn_reward(run, MORL, run.known)
    if run.does(RLHF):
        learn_reward(run, RLHF, [GENERAL])


def learn_reward(run: Run, name: str, preferences: Sequence[Dimension]) -> None:
    """One reward model. It reads a preference's request as well, as in the released code; `GENERAL` has none."""
    model, config, learning = resolved(run.settings.models.reward), run.settings.reward, run.settings.learning
    tokenizer, requests = load_tokenizer(model), tuple((p.name, p.request) for p in preferences)
    found = [comparison for p in preferences for comparison in compared(run, p.name)]
    room, names = room_for(requests, tokenizer, config.max_length), [p.name for p in preferences]
    divided = divide_together(found, names, tokenizer, room, learning.holdout, config.seed)
    steps = steps_of(sum(len(part.seen) for part in divided), config, learning.reward_passes)
    full = replace(config, model=model, requests=requests, steps=steps)
    learn_shared_reward(full, divided, run.reward(name), run.stages, accelerator())


def compared(run: Run, name: str) -> tuple[Comparison, ...]:
    return read_comparisons(need(run.labels(name), "labels")).comparisons


def steps_of(pairs: int, config: SteeredConfig, passes: float) -> int:
    """Steps for so many passes over the pairs, the last one filled up."""
    return max(1, math.ceil(passes * pairs / (config.batch * config.accumulate)))


def policies(run: Run) -> None:
    """An expert for each preference, RLHF by one reward, P-MORL for all people; then the band of the experts."""
    learning = run.settings.learning
    for preference in run.known:
        learn_expert(run, preference)
    if run.does(RLHF):
        learn_policy(run, RLHF, [Profile({GENERAL.name: 1.0})], False, learning.policy_passes)
    if run.does(MORL):
        learn_policy(run, MORL, everybody(run.known), True, learning.morl_passes)
    make_band(run)


def learn_expert(run: Run, preference: Dimension) -> None:
    """The expert of a preference, by its own reward model."""
    learning = run.settings.learning
    learn_policy(run, preference.name, [Profile({preference.name: 1.0})], learning.asked, learning.policy_passes)


def learn_policy(run: Run, name: str, people: Sequence[Profile], asked: bool, passes: float) -> None:
    """PPO over the training prompts; people earn the mean of the rewards that they want, of prompt *and* answer.

    They say what they want in words if `asked`. The reward model has the policy's name.
    """
    need(run.reward(name) / FILE, "rewards")
    iterations = iterations_of(len(run.train), run.settings.policy, passes)
    config = replace(run.settings.policy, model=resolved(run.settings.models.policy), iterations=iterations)
    words = [words_of(person, run.preferences) if asked else "" for person in people]
    answers = iterations * config.prompts_per_iteration * config.samples
    why = f"{iterations} iterations of {config.algorithm}, {answers} answers; it is asked in {len(words)} ways"
    with run.stages.stage(f"policy {name}", why) as bar:
        result = train_policy(
            config, run.train, words, earned_by(run, name, people), run.policy(name), progress=bar.task("iterations"),
            judged_by=hash_files(*sorted(run.reward(name).glob("*.safetensors"))),
        )  # fmt: skip
        bar.note(outcome(result))


def iterations_of(prompts: int, config: PolicyConfig, passes: float) -> int:
    """Whole batches in so many passes over the prompts."""
    return max(1, int(passes * prompts / config.prompts_per_iteration))


def earned_by(run: Run, name: str, people: Sequence[Profile]) -> Reward:
    """What answers to the training prompts earn; the reward model is loaded when the first is scored."""

    @cache
    def scored() -> Reward:
        reward = load_reward(run.reward(name), accelerator(), parse_dtype(run.settings.models.dtype))
        return reward_of(reward, run.train, profile_weights(people, reward.dimensions), None)

    def earned(prompt_N: Sequence[int], texts: Sequence[str], profile_N: Sequence[int]) -> np.ndarray:
        return scored()(prompt_N, texts, profile_N)

    return earned


def make_band(run: Run) -> None:
    """The experts as a band, for `counterpoint chat`, `merge` and the evaluation; new ones as far as they are there."""
    folder = run.out / "band"
    new = [preference for preference in run.novel if (run.policy(preference.name) / CONFIG).exists()]
    preferences = (*run.known, *new)
    with run.stages.stage("band", f"{folder}: {', '.join(preference.name for preference in preferences)}"):
        new_band(folder, resolved(run.settings.models.policy), preferences)
        for name in (preference.name for preference in preferences):
            need(run.policy(name) / CONFIG, "policies")
            source = f"{run.settings.policy.algorithm} on its own answers, by a reward model of {name}"
            add_expert(folder, run.policy(name), Expert(name, name, source))


def multitask(run: Run) -> None:
    """One adapter that imitates the better of two answers to each request."""
    if not run.does(MULTITASK):
        return
    config = replace(run.settings.multitask, model=resolved(run.settings.models.policy))
    tokenizer, requests = load_tokenizer(config.model), {p.name: p.request for p in run.known}
    better = [pair for name in requests for pair in compared(run, f"{name}.same")]
    examples = [example(prompt, said, tokenizer) for prompt, said in imitated(better, requests)]
    why = f"{config.steps} steps of {config.batch * config.accumulate} of {len(examples)} preferred answers"
    with run.stages.stage(MULTITASK, why) as bar:
        result = train_sft(config, examples, run.policy(MULTITASK), progress=bar.task("steps"))
        bar.note(f"loss {result.losses[-1]:.3f} nats a token; {result.dropped} left out as too long")
