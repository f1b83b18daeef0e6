"""Policies by PPO: one for a preference, or one for all profiles, which tells them apart by words (P-MORL).

    R(x, y) = mean over what the profile wants of sigmoid(z(y))

A lesson may start from an adapter that another has made, with a fresh optimiser, and may keep the policy at several
stops on its way. KL is to the base in either case.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from experiments.psoups_scaling.base import MAX_TOKENS, TEMPERATURE, in_words
from experiments.psoups_scaling.setting import Setting
from peft import load_peft_weights, set_peft_model_state_dict

from counterpoint.artifacts import publish, write_json
from counterpoint.train.on_policy import learn
from counterpoint.train.policy import PolicyConfig, new_learner
from counterpoint.train.run import save
from counterpoint.types import Profile

EACH = 4
"""Iterations for one preference, or for one profile where a policy gets as many for each: 256 responses."""


@dataclass(frozen=True)
class Lesson:
    """A policy for `profiles`, kept after each of `stops` iterations."""

    name: str
    profiles: tuple[Profile, ...]
    stops: tuple[int, ...]
    start: str | None = None

    def at(self, stop: int) -> str:
        """The name of the policy at a stop."""
        return f"{self.name}-{stop}"


def config_of(setting: Setting, seed: int) -> PolicyConfig:
    return PolicyConfig(
        model=setting.task.model, seed=seed, prompts_per_iteration=16, samples=4, epochs=2, minibatch=32,
        learning_rate=5e-3, kl=0.2, temperature=TEMPERATURE, max_tokens=MAX_TOKENS,
    )  # fmt: skip


def teach(lesson: Lesson, setting: Setting, seed: int, model: Any, out: Path) -> None:
    """Train a lesson's policy, unless `out` has it, and keep the adapter and the log at every stop."""
    places = [out / lesson.at(stop) for stop in lesson.stops]
    if all(place.exists() for place in places):
        return
    pairs = [(prompt, profile) for prompt in setting.task.train_prompts for profile in lesson.profiles]
    prompts = [in_words(prompt, tuple(profile.weights)) for prompt, profile in pairs]

    def reward(asked_N: Sequence[int], texts: Sequence[str], _: Sequence[int]) -> np.ndarray:
        own = [pairs[asked] for asked in asked_N]
        return setting.earned([prompt for prompt, _ in own], texts, [profile for _, profile in own])

    config = config_of(setting, seed)
    learner = new_learner(config, prompts, [""], reward, model)
    if lesson.start:
        set_peft_model_state_dict(learner.model, load_peft_weights(str(out / lesson.start), device="cpu"))
    for stop, place in zip(lesson.stops, places, strict=True):
        log = learn(learner, replace(config, iterations=stop), out / ".work" / lesson.name, None, config.adaptive)
        if not place.exists():
            with publish(place) as staging:
                save(learner.model, None, staging)
                write_json(staging / "log.json", list(log))
