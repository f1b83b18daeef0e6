"""A gate over LoRA experts for a band: from a user's own comparisons, or for Arrow from the band's adapters alone.

It lies in the band's folder `gates/<kind>`, where the method of that name finds it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.artifacts import make_once, read_json, write_json
from counterpoint.build.examine_gates import over_layers
from counterpoint.build.gate_band import Begun, list_dimensions
from counterpoint.build.pairs import HELD_OUT, METRICS, Divided
from counterpoint.compose.weighers.arrow import arrow_scores
from counterpoint.compose.weighers.gate import GATES, gate_over, write_gate
from counterpoint.data.comparisons import write_comparisons
from counterpoint.decode.band import Band
from counterpoint.evaluate.gate import gate_quality
from counterpoint.models.gates import Kind
from counterpoint.stages import Bar, Stages
from counterpoint.train.gate import GateConfig, train_gate
from counterpoint.train.gate_log import ROUTING
from counterpoint.train.gate_start import Given
from counterpoint.train.phatgoose import PhatgooseConfig, train_phatgoose
from counterpoint.train.run import TrainResult
from counterpoint.types import Comparison, Dimension, Expert


@dataclass(frozen=True)
class ArrowConfig:
    """What an Arrow is made of, and how scores become shares; nothing is trained. No `top_k`: 3, or all of fewer."""

    model: str
    top_k: int | None = None
    temperature: float = 1.0


Config = GateConfig | PhatgooseConfig


def kind_of(config: Config) -> Kind:
    """Which gate a configuration trains."""
    return config.kind if isinstance(config, GateConfig) else "phatgoose"


def make_arrow(folder: Path, config: ArrowConfig, given: Sequence[Given], stages: Stages) -> dict[str, Any]:
    """Write an Arrow over adapters of the band, and say of what; the same one is not made again."""
    factors = {entry.name: own for entry, own in given}
    hashes = {entry.name: str(entry.hash) for entry, _ in given}
    experts = [Expert(entry.name, entry.dimension) for entry, _ in given]
    gate = gate_over("arrow", experts, factors, hashes, config.top_k, config.temperature)

    def make(scratch: Path) -> None:
        write_gate(scratch, gate, arrow_scores(list(factors.values()), gate.modules), {}, config.model)

    why = f"what each of {len(given)} adapters stretches most, in {len(gate.modules)} layers"
    with stages.stage("arrow gate", why):
        inputs = {"experts": json.dumps([entry.model_dump() for entry, _ in given])}
        fresh = make_once(folder / GATES / "arrow", config, inputs, make)
    return {"kind": "arrow", "fresh": fresh, "experts": list(factors), "layers": len(gate.modules), "top_k": gate.top_k}


def learn_gate(
    begun: Begun,
    config: Config,
    divided: Sequence[Divided],
    given: Sequence[Given],
    dimensions: Sequence[Dimension],
    stages: Stages,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a gate into the band, which is started where there is none; what the gate's `metrics.json` says.

    `divided` are the comparisons of each dimension (`divide_together`), `given` adapters to start from. The band then
    knows all `dimensions`.
    """
    kind, folder = kind_of(config), begun.folder
    out = folder / GATES / kind
    with stages.stage(f"{kind} gate", about(config, divided, given)) as bar:
        seen = [comparison for part in divided for comparison in part.seen]
        result = _train(config, seen, out, given, bar)
        bar.note(outcome(result))
    new = list_dimensions(folder, config.model, dimensions)
    with stages.stage("held-out pairs", "see how often it raises the chosen response by more") as bar:
        band = Band.load(folder, device=device)
        band.gate(kind)
        quality = measure_gate(band, kind, divided, config.seed, bar)
    metrics = {
        "kind": kind, "fresh": result.fresh, "last_loss": result.losses[-1], "dimensions_added": new,
        "dimensions": {part.dimension: {**part.to_dict(), **quality[part.dimension]} for part in divided},
        "routing": over_layers(read_json(out / ROUTING)),
    }  # fmt: skip
    write_comparisons(out / HELD_OUT, [comparison for part in divided for comparison in part.unseen])
    write_json(out / METRICS, metrics)
    return metrics


def _train(config: Config, seen: Sequence[Comparison], out: Path, given: Sequence[Given], bar: Bar) -> TrainResult:
    if isinstance(config, PhatgooseConfig):
        return train_phatgoose(config, seen, out, given, progress=bar.task("steps"))
    return train_gate(config, seen, out, given, progress=bar.task("steps"))


def about(config: Config, divided: Sequence[Divided], given: Sequence[Given]) -> str:
    """What a stage of training says of itself."""
    pairs = "pairs: " + ", ".join(f"{part.dimension} {len(part.seen)}" for part in divided)
    if isinstance(config, PhatgooseConfig):
        return f"{pairs}; {config.steps} steps for each of {len(given)} adapters, on chosen responses"
    experts = f"{len(given)} adapters of the band" if given else f"{config.per_group} new experts for each"
    moves = "the router alone learns" if config.learn == "router" else "experts and router learn"
    return f"{pairs}; {experts}; {moves}; {config.steps} steps of {config.loss}"


def outcome(result: TrainResult) -> str:
    """What the stage says when it ends."""
    if not result.fresh:
        return "was there already, trained on the same pairs with the same settings"
    return f"loss {result.losses[0]:.3f} at first and {result.losses[-1]:.3f} at last"


def measure_gate(band: Band, kind: str, divided: Sequence[Divided], seed: int, bar: Bar) -> dict[str, dict[str, Any]]:
    """The band's gate on the held-out pairs of each dimension, ready for JSON."""
    found = {}
    for part in divided:
        report = bar.task(part.dimension)
        quality = gate_quality(band.bank, kind, part.dimension, band.tokenizer, part.unseen, seed, report)
        found[part.dimension] = {"routed": quality.routed.to_dict(), "asked": quality.asked.to_dict()}
    return found
