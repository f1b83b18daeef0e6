"""The memory that a training takes: the most that torch's CPU allocator holds above what was held before it.

Of a whole training of two steps with the same 8 pairs, from a base that is loaded: so with the copy that is trained,
the reference's own parameters where it has some, gradients, the optimiser's state and what a step keeps for its
gradient. Interpreter and libraries, which are hundreds of times larger than a base of 260 K parameters, are left out.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.pmol.scaling_train import BATCH, Lesson, trainer_of
from experiments.pmol.scaling_worlds import World
from torch.profiler import ProfilerActivity, profile


def peak_bytes(do: Callable[[], Any]) -> int:
    """The largest sum of what was allocated and not yet freed, since the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        do()
    moved = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(moved, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def training_bytes(lesson: Lesson, world: World, model: Any) -> int:
    """Of a training of a lesson; a gate's or an adapter's size follows from how many preferences there are."""
    with TemporaryDirectory() as folder:
        return peak_bytes(trainer_of(lesson, world, model, Path(folder) / "trained", steps=2, each=BATCH))
