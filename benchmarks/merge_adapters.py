"""Four adapters of rank 16 become one: ours in one turn with PEFT's `add_weighted_adapter`, at the 135 M shape.

What is timed is tensors in memory to tensors in memory; PEFT's side also makes the layers that hold them, which is what
its users wait for.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from benchmarks import peers
from benchmarks.models import adapter_folder, prepare
from benchmarks.timing import Row, in_turn, seconds
from counterpoint.compose.inexact import Recipe, merged
from counterpoint.compose.soup import by_module
from counterpoint.models.adapter import LoraFactors, read_adapter

WEIGHTS = (0.1, 0.3, 0.2, 0.4)
PEFTS = {"delta": "cat", "svd": "svd", "peft-linear": "linear"}
"""Our names and PEFT's for the same merge."""


def adapter_merges(folder: Path, dtype: str = "float32") -> Iterator[Row]:
    """Each merge in milliseconds, the median of several; PEFT's SVD, of seconds, is run once."""
    prepare(folder)
    experts = {f"a{index}": read_adapter(adapter_folder(folder, index)) for index in range(len(WEIGHTS))}
    theirs = peers.peft_model(folder, torch.float32, len(WEIGHTS))
    for ours, kind in PEFTS.items():
        (took,) = in_turn(timed(experts, ours), rounds=1 if ours == "svd" else 5)
        peft = peers.add_weighted(theirs, kind, WEIGHTS, repeats=1 if ours == "svd" else 3)
        goal = "ratio <= 0.5" if ours == "svd" else ""
        yield Row(f"merge 4 adapters, {ours}: PEFT add_weighted_adapter {kind}", took, peft, "ms", goal)


def timed(experts: Mapping[str, LoraFactors], method: str) -> Callable[[], float]:
    """Milliseconds of a merge."""
    coefficients, recipe = dict(zip(experts, WEIGHTS, strict=True)), Recipe(method)

    def merge() -> None:
        for module, parts in by_module(experts, lambda module: coefficients):
            merged(parts, recipe, module)

    return lambda: 1e3 * seconds(merge)
