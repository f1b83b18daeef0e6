"""The two settings of `experiments.mope`, with several draws of an answer where test prompts are few."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from experiments.mope.measure import Measured, measure
from experiments.mope.setting import Setting, load_setting

from counterpoint.build.task import BuildConfig
from counterpoint.compose.plan import Plan
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.types import Profile

DRAWS = {"world": 1, "stories": 4}
TUNE = 24
"""Training prompts on which a strength is chosen."""
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)


def load(name: str, seed: int, work: Path) -> Setting:
    """A setting whose every test prompt stands there once for each draw, with another seed."""
    setting = load_setting(name, seed, work)
    return replace(setting, task=replace(setting.task, test_prompts=setting.task.test_prompts * DRAWS[name]))


def by_prompt(name: str, values_N: np.ndarray) -> np.ndarray:
    """The mean over the draws of each prompt: `[draws * P, ...]` to `[P, ...]`."""
    mean_P: np.ndarray = values_N.reshape(DRAWS[name], -1, *values_N.shape[1:]).mean(axis=0)
    return mean_P


def build_config(name: str, seed: int) -> BuildConfig:
    """How the band of a setting and seed was built, for what is made again from the same pool."""
    if name == "world":
        return BuildConfig(asked=4, pairs_per_prompt=24, workers=2, seed=seed)
    return BuildConfig(samples=16, asked=0, max_tokens=80, workers=2, seed=seed)


def wanted_mean(z_PRD: np.ndarray, profiles: Sequence[Profile], names: Sequence[str]) -> np.ndarray:
    """`mean_PR` over the dimensions that each profile gives any weight."""
    wanted_RD = profile_weights(profiles, names) > 0
    mean_PR: np.ndarray = (z_PRD * wanted_RD).sum(-1) / wanted_RD.sum(-1)
    return mean_PR


def tuning(setting: Setting) -> Setting:
    """The setting with some training prompts in the place of the test prompts."""
    task = setting.task
    swapped = replace(task, train_prompts=task.test_prompts, test_prompts=task.train_prompts[:TUNE])
    return replace(setting, task=swapped)


def best_strength(
    setting: Setting, title: str, plans_at: Callable[[float], Sequence[Plan]], profiles: Sequence[Profile], out: Path
) -> float:
    """The strength whose answers to training prompts earn the profiles most, by the judge; of equals, the smallest."""
    names, prompts = setting.task.names, tuning(setting)

    def earned(strength: float) -> float:
        found = measure(prompts, f"{title}@{strength:g}", plans_at(strength), out)
        return float(wanted_mean(found.z_PRD, profiles, names).mean())

    return max(STRENGTHS, key=earned)


def read(setting: Setting, title: str, out: Path) -> Measured:
    """What was measured under this title."""
    return measure(setting, title, None, out)
