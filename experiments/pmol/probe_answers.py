"""What a gate answers to test questions: as it is routed, and for who wants one preference, the topic's own or another.

Rewards are the world's rules, in standard deviations of the pool of the demo's build.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from experiments.mope.setting import unit_of
from experiments.pmol.probe_setting import NAMES, OWNER
from experiments.pmol.scaling_worlds import topic_of
from recipes.demo import world_task

from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.types import Profile

STEP = 2
"""Every second test question is asked."""


def rewards_of(band: Band, build: Path, seed: int, profiles: Sequence[Profile | None]) -> list[np.ndarray]:
    """For each profile the reward of each manner, `[P, D]` over `NAMES`."""
    task = world_task(build / "band" / "base")
    unit, prompts = unit_of(build, task), task.test_prompts[::STEP]
    columns = [task.names.index(name) for name in NAMES]
    found = []
    for profile in profiles:
        plan = band.gate("pmol").plan(profile, {})
        said = band.run(
            [
                band.request(prompt, plan, Sampling(0.7, max_tokens=64, seed=seed * len(prompts) + i))
                for i, prompt in enumerate(prompts)
            ]
        )
        z_PD = unit(task.scores(task.judge, prompts, [completion.text for completion in said]))
        found.append(z_PD[:, columns])
    return found


def follows(band: Band, build: Path, seed: int) -> dict[str, list[float]]:
    """The reward `[P]` of the topic's owner and of the two others, as routed and for who wants one of the others.

    `asked` and `owner` are what answers to who wants another than the owner earn of the one and of the other.
    """
    plain_PD, *steered = rewards_of(band, build, seed, [None, *(Profile({name: 1.0}) for name in NAMES)])
    steered_DPD = np.stack(steered)
    questions = world_task(build / "band" / "base").test_prompts[::STEP]
    owner_P = np.array([NAMES.index(OWNER[topic_of(prompt)]) for prompt in questions])
    is_owner_PD = np.eye(len(NAMES), dtype=bool)[owner_P]
    others, row_P = len(NAMES) - 1, np.arange(len(owner_P))
    asked_PD = np.einsum("dpd->pd", steered_DPD)
    owner_PD = steered_DPD[:, row_P, owner_P].T
    found = {
        "plain: owner": plain_PD[row_P, owner_P],
        "plain: others": (plain_PD * ~is_owner_PD).sum(1) / others,
        "wants the owner: owner": asked_PD[row_P, owner_P],
        "wants another: asked": (asked_PD * ~is_owner_PD).sum(1) / others,
        "wants another: owner": (owner_PD * ~is_owner_PD).sum(1) / others,
    }
    return {name: np.round(z_P, 4).tolist() for name, z_P in found.items()}
