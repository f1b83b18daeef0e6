"""The two settings: the embedded world and a real model of 260 K parameters, each with the band that a build made."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experiments.stories.run import RULES
from recipes.demo import world_task

from counterpoint.build.present import text_of
from counterpoint.build.task import Task
from counterpoint.cli.build import make_task
from counterpoint.decode.band import Band
from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.rewards.calibrate import ZScore
from counterpoint.rewards.rules import Rewards
from counterpoint.types import Prompt, RewardFn

MADE_BY = {"world": "python -m experiments.world.run", "stories": "python -m experiments.stories.run"}
MAX_TOKENS = {"world": 64, "stories": 80}


@dataclass(frozen=True)
class Setting:
    """A built band and its task, and the rewards: the learned models, and the judge's exact rules in z-scores."""

    name: str
    folder: Path
    task: Task
    band: Band
    models: RewardFn
    judge: RewardFn

    @property
    def max_tokens(self) -> int:
        return MAX_TOKENS[self.name]


@dataclass(frozen=True)
class Judge:
    """The exact rules in standard deviations of the build's pool, a unit of which passes for a logit of preference."""

    task: Task
    unit: ZScore

    @property
    def dimensions(self) -> tuple[str, ...]:
        return self.task.names

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return self.unit(self.task.scores(self.task.judge, prompts, responses))


def load_setting(name: str, seed: int, work: Path) -> Setting:
    """Load what the build of a seed left in `work`, or say how to make it."""
    folder = work / name / str(seed) if name == "stories" else work / "seeds" / str(seed)
    band_folder = folder / "band"
    if not (folder / "summary.json").exists():
        sys.exit(f"{folder} holds no build; run: {MADE_BY[name]} --seeds {seed}")
    if name == "world":
        task = world_task(band_folder / "base")
    else:
        if "COUNTERPOINT_SHARED" not in os.environ:
            sys.exit("set COUNTERPOINT_SHARED to the folder that holds models/stories260k")
        base = str(Path(os.environ["COUNTERPOINT_SHARED"]) / "models" / "stories260k")
        prompts = Path(__file__).parent.parent.parent / "recipes" / "stories_prompts.txt"
        task = make_task(base, [prompts], [], RULES, [], [], [], skip_bad=False)
    models = Rewards([BradleyTerryReward.load(band_folder / "rewards" / dimension) for dimension in task.names])
    return Setting(name, folder, task, Band.load(band_folder), models, Judge(task, unit_of(folder, task)))


def unit_of(folder: Path, task: Task) -> ZScore:
    """The unit in which the build judged, read off its answers: z is a line in what the judge gives to the text."""
    rows = [json.loads(line) for line in (folder / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts = {text_of(prompt): prompt for prompt in task.test_prompts}
    scores_ND = task.scores(task.judge, [prompts[row["prompt"]] for row in rows], [row["response"] for row in rows])
    z_ND = np.array([[row["scores"][name] for name in task.names] for row in rows])
    lines = [np.polyfit(scores_N, z_N, 1) for scores_N, z_N in zip(scores_ND.T, z_ND.T, strict=True)]
    return ZScore(task.names, tuple(-b / a for a, b in lines), tuple(1 / a for a, _ in lines))
