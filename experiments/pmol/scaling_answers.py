"""What a way of answering earns in a world, asked plainly or told what an answer is judged by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from experiments.pmol.scaling_worlds import World

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose.plan import Plan
from counterpoint.decode.band import Band
from counterpoint.types import Profile, Prompt

PlanOf = Callable[[Profile | None], Plan]
"""How a way of answering serves a profile, or nobody in particular."""


@dataclass(frozen=True)
class Asked:
    """A prompt, the preferences that an answer is judged by, and the profile that whoever answers is told."""

    prompt: Prompt
    names: tuple[str, ...]
    profile: Profile | None = None


def plainly(world: World, names: Sequence[str], prompts: Sequence[Prompt]) -> list[Asked]:
    """Every prompt that is judged by any of the preferences, once."""
    wanted = [(prompt, tuple(world.wanted(prompt, names))) for prompt in prompts]
    return [Asked(prompt, own) for prompt, own in wanted if own]


def told(world: World, names: Sequence[str], prompts: Sequence[Prompt]) -> list[Asked]:
    """Every prompt once for each preference that it is judged by."""
    plain = plainly(world, names, prompts)
    return [Asked(asked.prompt, (name,), Profile({name: 1.0})) for asked in plain for name in asked.names]


def earned(
    world: World, band: Band, plan: PlanOf, asked: Sequence[Asked], draws: int, seed: int, file: Path
) -> np.ndarray:
    """The mean reward of the answers to each prompt, over draws and what each was judged by, `[P]`.

    Answers that the file has are not made again.
    """
    if not file.exists():
        requests = [
            band.request(
                one.prompt, plan(one.profile), replace(world.sampling, seed=(seed * len(asked) + i) * draws + j)
            )
            for i, one in enumerate(asked)
            for j in range(draws)
        ]
        write_json(file, [completion.text for completion in band.run(requests)])
    texts = read_json(file)
    each = [one for one in asked for _ in range(draws)]
    reward_ND = world.rewards([one.prompt for one in each], texts, world.order)
    judged_ND = np.array([[name in one.names for name in world.order] for one in each])
    reward_N = (reward_ND * judged_ND).sum(1) / judged_ND.sum(1)
    rows: dict[Prompt, list[float]] = {}
    for one, reward in zip(each, reward_N, strict=True):
        rows.setdefault(one.prompt, []).append(float(reward))
    return np.array([np.mean(of) for of in rows.values()])
