"""What is trained for so many preferences, and what it cost: every way sees as many pairs of each preference.

    pmol     a group of two experts of rank 2 for each preference, a router and an empty expert, by DPO on the mix
    lora     one adapter of as many parameters, on the same mix
    full     all parameters of the base, on the same mix
    expert   one preference's adapter of as many parameters as its part of the one adapter; for soups and mixtures

Batches are of one size, so that what learns K preferences together takes K times as many steps as an expert, as it
would in one pass over all pairs there are.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.pmol.scaling_worlds import World
from safetensors import safe_open

from counterpoint.artifacts import read_json, write_json
from counterpoint.models.adapter import weight_OI
from counterpoint.models.bank import together
from counterpoint.train.dpo import DpoConfig, train_dpo
from counterpoint.train.gate import GateConfig, train_gate

STEPS, BATCH = 15, 8
"""Steps for each preference, and pairs in a step: 120 pairs of a preference."""
PER_GROUP, RANK = 2, 2
RATES = {
    "pmol": (3e-3, 1e-2, 3e-2),
    "lora": (3e-4, 1e-3, 3e-3),
    "full": (3e-4, 1e-3, 3e-3),
    "expert": (3e-3, 1e-2, 3e-2),
}
"""The learning rates that are tried, on the training prompts of the first seed."""


@dataclass(frozen=True)
class Lesson:
    """Something to be trained on `names`, at a learning rate."""

    kind: str
    names: tuple[str, ...]
    rate: float
    seed: int

    def folder(self, out: Path) -> Path:
        what = self.names[0] if self.kind == "expert" else str(len(self.names))
        return out / f"{self.kind}-{what}-{self.rate:g}"


def learn(lesson: Lesson, world: World, model: Any, out: Path) -> Path:
    """Train a lesson, unless `out` has it, and keep what it cost beside it; the folder of what was trained."""
    folder = lesson.folder(out)
    if not _cost(folder).exists():
        spent = _seconds(trainer_of(lesson, world, model, folder))
        write_json(_cost(folder), {"cpu_seconds": round(spent, 2), "parameters": parameters(folder)})
    return folder


def cost_of(folder: Path) -> dict[str, float]:
    """CPU seconds of a training that was done, and how many parameters it moved."""
    found: dict[str, float] = read_json(_cost(folder))
    return found


def _cost(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _seconds(do: Callable[[], Any]) -> float:
    """CPU seconds, which others on the same machine change less than those of the clock."""
    start = time.process_time()
    do()
    return time.process_time() - start


def trainer_of(
    lesson: Lesson, world: World, model: Any, folder: Path, steps: int | None = None, each: int | None = None
) -> Callable[[], Any]:
    """The training of a lesson: all of its steps, with at most `each` of a preference's comparisons."""
    comparisons = [c for name in lesson.names for c in world.of([name])[:each]]
    steps = steps or STEPS * len(lesson.names)
    if lesson.kind == "pmol":
        gate = GateConfig(
            model=world.task.model, dimensions=lesson.names, per_group=PER_GROUP, lora_rank=RANK, lora_alpha=2 * RANK,
            steps=steps, batch=BATCH, seed=lesson.seed, learning_rate=lesson.rate,
        )  # fmt: skip
        return lambda: train_gate(gate, comparisons, folder, model=model)
    mixed = [replace(c, dimension="all") for c in comparisons]
    rank = {"lora": equal_rank(model, len(lesson.names)), "full": 0, "expert": equal_rank(model, 2) // 2}[lesson.kind]
    dpo = DpoConfig(
        model=world.task.model, dimension="all", steps=steps, batch=BATCH, seed=lesson.seed,
        learning_rate=lesson.rate, lora_rank=rank, lora_alpha=2 * rank,
    )  # fmt: skip
    return lambda: train_dpo(dpo, mixed, folder, model=model)


def equal_rank(model: Any, preferences: int) -> int:
    """The rank of one adapter that has as many parameters as a PMoL with its router, to the nearest."""
    head = model.get_output_embeddings()
    layers = [model.get_submodule(name) for group in together(model) for name in group]
    shapes = [weight_OI(layer).shape for layer in layers if layer is not head]
    experts = PER_GROUP * preferences
    of_rank_one = sum(out + into for out, into in shapes)
    routers = sum((experts + 1) * into for _, into in shapes)
    return round(experts * RANK + routers / of_rank_one)


def parameters(folder: Path) -> int:
    """How many numbers are in the tensors of a folder."""
    total = 0
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is not a mapping)
                total += math.prod(tensors.get_slice(name).get_shape())
    return total
