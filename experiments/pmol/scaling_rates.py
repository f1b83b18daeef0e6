"""The learning rates at which everything is trained, chosen on training prompts with the first seed."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.pmol.scaling_train import RATES
from experiments.pmol.scaling_ways import Stand, plan_of
from experiments.pmol.scaling_worlds import World

from counterpoint.compose.weighers.gate import open_gate
from counterpoint.decode.band import Band

TUNED_AT = 4
"""How many preferences there are where learning rates are chosen."""


def tried_rates(world: World, model: Any, out: Path) -> dict[str, dict[str, float]]:
    """By kind and learning rate: what it earns on training prompts; experts alone, each of its own preference."""
    names = world.order[:TUNED_AT]

    def earns(kind: str, rate: float) -> float:
        stand = Stand(world, model, 0, {kind: rate}, out)
        if kind == "expert":
            own = [_of_one(stand, name, rate) for name in names]
            return float(np.mean(own))
        return _of_all(stand, kind, names, rate)

    return {kind: {f"{rate:g}": round(earns(kind, rate), 4) for rate in rates} for kind, rates in RATES.items()}


def best_of(tried: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The rate of each kind that earns most; of equals the smallest."""
    return {kind: float(max(of, key=lambda rate: of[rate])) for kind, of in tried.items()}


def _of_one(stand: Stand, name: str, rate: float) -> float:
    band = Band.assemble(stand.world.task.model, {name: stand.lesson("expert", [name])})
    return stand.tuned(band, partial(plan_of, band, "soup", [name], 1.0), [name], f"expert-{name}-{rate:g}")


def _of_all(stand: Stand, kind: str, names: Sequence[str], rate: float) -> float:
    folder, base = stand.lesson(kind, names), stand.world.task.model
    band = Band.assemble(folder if kind == "full" else base, {"lora": folder} if kind == "lora" else {})
    if kind == "pmol":
        band.take_gate(open_gate(folder, {}))
        return stand.tuned(band, lambda _: band.plan(None, kind), names, f"{kind}-{rate:g}")
    return stand.tuned(band, partial(plan_of, band, kind, names, 1.0), names, f"{kind}-{rate:g}")
