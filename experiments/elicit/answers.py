"""What a built band of the embedded world says for every profile of a grid, by exact rules and by its reward models."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import gcd
from pathlib import Path

import numpy as np
from recipes.demo import world_task

from counterpoint.artifacts import read_json, write_json
from counterpoint.build.answer import requests_of
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.rewards.load import load_rewards
from counterpoint.rewards.rules import Rewards
from counterpoint.rewards.scorer import Scorer
from counterpoint.rewards.world import WorldRules
from counterpoint.types import Profile, Prompt

METHOD, STRENGTH = "soup", 3.0
"""The strength that was best for soups on training prompts, in all three seeds of the demo."""
SHOWN = 32
"""Training questions that people are shown answers to; the final profile is judged on all test questions."""
LEVELS = (-2, -1, 0, 1, 2)
"""How much of an axis: of its first pole below 0, of its second above."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class World:
    """A band's answers: `true` and `model` are scores `[P, R, D]` of questions by profiles, in standard deviations.

    The first `SHOWN` questions are for choosing and measuring, the rest is held out. Both scales are of the answers
    to the questions shown.
    """

    dimensions: tuple[str, ...]
    profiles: tuple[Profile, ...]
    true_PRD: np.ndarray
    model_PRD: np.ndarray


def profiles_of(axes: tuple[tuple[str, str], ...]) -> list[Profile]:
    """Every direction over the axes with levels from `LEVELS`, once: 2:1:0, but not 2:2:0 beside 1:1:0."""
    found = []
    for levels in product(LEVELS, repeat=len(axes)):
        if gcd(*levels) == 1:
            poles = zip(axes, levels, strict=True)
            found.append(Profile({axis[level > 0]: float(abs(level)) for axis, level in poles if level}, STRENGTH))
    return found


def read_world(folder: Path, progress: Progress) -> World:
    """The answers and their scores for a folder of the demo, made once and kept in `FOLDER/elicit.json`."""
    task = world_task(folder / "band" / "base")
    profiles = profiles_of(tuple((first, second) for first, second in task.axes))
    prompts = [*task.train_prompts[:SHOWN], *task.test_prompts]
    asked = [prompt for prompt in prompts for _ in profiles]
    if not (folder / "elicit.json").exists():
        write_json(folder / "elicit.json", said_for(Band.load(folder / "band"), profiles, prompts, progress))
    texts = read_json(folder / "elicit.json")
    models = Rewards(load_rewards(folder / "band" / "rewards"))
    columns = [models.dimensions.index(name) for name in task.names]
    scored = [WorldRules()(asked, texts), Scorer(models, progress, len(texts))(asked, texts)[:, columns]]
    true_PRD, model_PRD = (standard(scores.reshape(len(prompts), len(profiles), -1)) for scores in scored)
    return World(task.names, tuple(profiles), true_PRD, model_PRD)


def said_for(band: Band, profiles: list[Profile], prompts: list[Prompt], progress: Progress) -> list[str]:
    """Every prompt for every profile, profiles changing fastest; a prompt's noise is the same for all."""
    plans = [band.plan(profile, METHOD) for profile in profiles]
    requests = requests_of(band, plans, prompts, Sampling(temperature=0.7, max_tokens=64, seed=0))
    return [said.text for said in band.run(requests, progress)]


def standard(scores_PRD: np.ndarray) -> np.ndarray:
    """Scores in standard deviations of the answers to the questions shown."""
    shown = scores_PRD[:SHOWN]
    return np.asarray((scores_PRD - shown.mean(axis=(0, 1))) / shown.std(axis=(0, 1)))
