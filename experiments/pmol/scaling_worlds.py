"""Two worlds in which preferences can be added one by one, each the last of a list.

stories   eight rules on continuations of a real model of 260 K parameters. All preferences judge the same prompts,
          and an answer is to please all of them at once: nothing but the response tells them apart.
topics    six preferences of the embedded world, each with two topics of its own. An answer is to please the
          preference of its topic alone: prompts tell them apart, and two poles of an axis do not meet.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from experiments.mope.setting import unit_of as unit_of_build
from experiments.psoups_scaling.base import plain_answers, scores_of, unit_of
from experiments.psoups_scaling.base import sampling as sampling_of_stories
from experiments.psoups_scaling.setting import RULES
from recipes.demo import world_task

from counterpoint.build.task import Task
from counterpoint.cli.build import make_task
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.examples import of_dimension
from counterpoint.data.world import find_question
from counterpoint.decode.sampling import Sampling
from counterpoint.models.load import load_tokenizer
from counterpoint.rewards.calibrate import ZScore, bt_reward
from counterpoint.types import Comparison, Prompt

STORIES = ("happy", "short", "animals", "outside", "size", "people", "inside", "sad")
TOPICS = ("concise", "friendly", "knowledgeable", "informative", "elementary", "unfriendly")
SIZES = {"stories": (2, 3, 4, 6, 8), "topics": (2, 3, 4, 6)}
SIZE = "size=words:big,little,small,tiny,huge,long,tall"
"""In the place of long, since a preference and its opposite earn the same together whatever is said."""
SAMPLES = 32
"""Stories to each training prompt that are compared."""
APART = 0.5
"""Standard deviations by which two stories must differ to be compared."""
PAIRS = 320
"""Comparisons of a preference."""


@dataclass(frozen=True)
class World:
    """A base, its preferences in the order in which they are added, and what a seed compares.

    `draws` are answers to a test prompt, `tries` to a training prompt on which something is chosen. `own` is whether a
    prompt is for one preference alone, which `owner` names by topic.
    """

    name: str
    task: Task
    order: tuple[str, ...]
    unit: ZScore
    comparisons: tuple[Comparison, ...]
    sampling: Sampling
    draws: int
    tries: int
    owner: Mapping[str, str]

    @property
    def own(self) -> bool:
        return bool(self.owner)

    def of(self, names: Sequence[str]) -> list[Comparison]:
        """The comparisons on some preferences."""
        return [c for name in names for c in of_dimension(self.comparisons, name)]

    def wanted(self, prompt: Prompt, names: Sequence[str]) -> list[str]:
        """Those of the preferences that an answer to a prompt is judged by; none where the prompt is for another."""
        return [name for name in names if name == self.owner[topic_of(prompt)]] if self.own else list(names)

    def rewards(self, prompts: Sequence[Prompt], texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        """sigmoid(z), `[N, D]`: 0.5 for a plain answer; z in standard deviations of the base's plain answers."""
        z_ND = self.unit(self.task.scores(self.task.judge, prompts, texts))
        reward_ND: np.ndarray = bt_reward(z_ND, np.zeros(1))[:, [self.task.names.index(name) for name in names]]
        return reward_ND


def topic_of(prompt: Prompt) -> str:
    assert not isinstance(prompt, str)
    return find_question(prompt[0].content).fact.topic


def load_world(name: str, seed: int, builds: Path, shared: Path | None, out: Path) -> World:
    """A world as one seed sees it; `builds` holds what `experiments.world.run` made."""
    if name == "topics":
        return _topics(builds / str(seed))
    assert shared is not None, "the stories are told by a model of the shared folder"
    return _stories(shared / "models" / "stories260k", seed, out)


def _stories(model: Path, seed: int, out: Path) -> World:
    rules = [rule for rule in (*RULES, SIZE) if rule.partition("=")[0] in STORIES]
    prompts = Path(__file__).parent.parent.parent / "recipes" / "stories_prompts.txt"
    task = make_task(str(model), [prompts], [], rules, [], [], [], skip_bad=False)
    said = plain_answers(task, SAMPLES, 0, out / "plain.json")
    unit = unit_of(task, said)
    z_ND = unit(scores_of(task, said))
    tokenizer = load_tokenizer(task.model)
    texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said]
    asked = [prompt for prompt in task.train_prompts for _ in range(SAMPLES)]
    compared = [
        comparison
        for name in STORIES
        for comparison in compare(asked, texts, z_ND[:, task.names.index(name)], name, seed)
    ]
    return World("stories", task, STORIES, unit, tuple(compared), sampling_of_stories(0), draws=6, tries=6, owner={})


def compare(asked: Sequence[Prompt], texts: Sequence[str], z_N: np.ndarray, name: str, seed: int) -> list[Comparison]:
    """Pairs of answers to one prompt, of which one has clearly more; drawn from all there are."""
    rows: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(asked):
        rows.setdefault(prompt, []).append(row)
    near = [pair for of in rows.values() for pair in combinations(of, 2)]
    found = [(i, j) if z_N[i] > z_N[j] else (j, i) for i, j in near if abs(z_N[i] - z_N[j]) > APART]
    drawn = random.Random(f"{name} {seed}").sample(found, min(PAIRS, len(found)))
    return [Comparison(asked[i], texts[i], texts[j], name) for i, j in drawn]


def _topics(folder: Path) -> World:
    task = world_task(folder / "band" / "base")
    topics = sorted({topic_of(prompt) for prompt in task.test_prompts})
    owner = {topic: TOPICS[i % len(TOPICS)] for i, topic in enumerate(topics)}
    found = read_comparisons(folder / "comparisons.jsonl").comparisons
    own = [c for c in found if owner[topic_of(c.prompt)] == c.dimension]
    drawn: list[Comparison] = []
    for name in TOPICS:
        of = of_dimension(own, name)
        drawn += random.Random(name).sample(of, min(PAIRS, len(of)))
    told = Sampling(temperature=0.7, max_tokens=64)
    return World("topics", task, TOPICS, unit_of_build(folder, task), tuple(drawn), told, draws=3, tries=1, owner=owner)
