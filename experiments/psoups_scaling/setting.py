"""A real model of 260 K parameters, eight rules in four axes of two poles, and how a wish is put to a policy in words.

The model knows stories and no instructions, so that words before a story move nothing. `base.py` makes a base of it
that has read what its own stories are about: it stands for a model that was tuned on instructions.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from experiments.psoups_scaling.base import make_base, plain_answers, unit_of

from counterpoint.build.task import Task
from counterpoint.cli.build import make_task
from counterpoint.profiles import corners
from counterpoint.rewards.calibrate import ZScore, bt_reward, profile_weights, scalarise
from counterpoint.types import Profile, Prompt

RULES = (
    r"short=regex:[a-z][.!?](?=\s|$)",
    r"long=-regex:[a-z][.!?](?=\s|$)",
    "happy=words:happy,smiled,smile,laughed,laugh,fun,love,loved,glad,excited,hugged",
    "sad=words:sad,cried,cry,scared,afraid,hurt,lost,angry,sorry,alone,not,no,didn't,couldn't,away,don't",
    "animals=words:dog,dogs,cat,cats,bird,birds,bear,rabbit,duck,fish,frog,mouse,bunny,fox,squirrel,animal,animals",
    "people=words:mom,mommy,dad,daddy,mother,father,friend,friends,man,woman,people,boy,girl,sister,brother",
    "outside=words:park,tree,trees,garden,sun,sky,flower,flowers,grass,forest,lake,river,sea,beach,outside",
    "inside=words:house,room,bed,kitchen,home,door,table,chair,window,floor,box,bath,wall,inside,couch",
)
AXES = (("short", "long"), ("happy", "sad"), ("animals", "people"), ("outside", "inside"))
"""Short and long are sentences; the others are what a story dwells on."""
NEW = AXES[3]
"""Where preferences are new, these are further poles of the third axis."""
SAMPLES = 8


@dataclass(frozen=True)
class Setting:
    """The model and its prompts, and the rules in standard deviations of the base's plain answers."""

    task: Task
    unit: ZScore

    def rewards(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        """sigmoid(z), `[N, D]`: 0.5 for a plain answer.

        Bounded, since a mean of z is earned best by saying nothing but what one rule counts.
        """
        z_ND = self.unit(self.task.scores(self.task.judge, prompts, texts))
        return bt_reward(z_ND, np.zeros(1))

    def earned(self, prompts: Sequence[Prompt], texts: Sequence[str], profiles: Sequence[Profile]) -> np.ndarray:
        """The mean reward over what each profile wants, `[N]`."""
        return scalarise(self.rewards(prompts, texts), profile_weights(profiles, self.task.names))


def load_setting(work: Path) -> Setting:
    """The setting; the base and its plain answers, which are the unit of every rule, are kept in `work`."""
    if "COUNTERPOINT_SHARED" not in os.environ:
        sys.exit("set COUNTERPOINT_SHARED to the folder that holds models/stories260k")
    model = str(Path(os.environ["COUNTERPOINT_SHARED"]) / "models" / "stories260k")
    prompts = Path(__file__).parent.parent.parent / "recipes" / "stories_prompts.txt"
    task = make_task(model, [prompts], [], list(RULES), [",".join(axis) for axis in AXES], [], [], skip_bad=False)
    tuned = replace(task, model=str(make_base(task, work / "base")))
    return Setting(tuned, unit_of(tuned, plain_answers(tuned, SAMPLES, 0, work / "plain.json")))


def people(dimensions: int) -> list[Profile]:
    """All profiles over so many dimensions: 2^(d/2) corners."""
    return corners(AXES[: dimensions // 2])


def newcomers() -> list[Profile]:
    """All profiles that take a new pole of the third axis."""
    return corners((*AXES[:2], NEW))
