"""A gate over LoRA experts for a band: from a user's own comparisons, or for Arrow from the band's adapters alone.

It lies in the band's folder `gates/<kind>`, where the method of that name finds it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.artifacts import make_once, write_json
from counterpoint.build.examine_gates import over_layers, read_routing
from counterpoint.build.gate_band import Begun, list_dimensions
from counterpoint.build.pairs import HELD_OUT, METRICS, Divided
from counterpoint.compose.weighers.arrow import arrow_scores
from counterpoint.compose.weighers.gate import FILE, GATES, Gate, gate_over, read_gate, write_gate
from counterpoint.data.comparisons import write_comparisons
from counterpoint.decode.band import Band
from counterpoint.evaluate.gate import gate_quality
from counterpoint.models.band_file import read_band
from counterpoint.models.gates import RULES, Kind
from counterpoint.stages import Bar, Stages
from counterpoint.train.gate import GateConfig, train_gate
from counterpoint.train.gate_start import Given
from counterpoint.train.phatgoose import PhatgooseConfig, train_phatgoose
from counterpoint.train.run import TrainResult
from counterpoint.types import Comparison, CounterpointError, Dimension, Expert


@dataclass(frozen=True)
class ArrowConfig:
    """What an Arrow is made of; nothing is trained."""

    model: str
    kind: str = "arrow"


@dataclass(frozen=True)
class Shared:
    """How scores become shares, where a kind leaves that open; `None` is what the kind's paper has."""

    top_k: int | None = None
    temperature: float = 1.0


Config = GateConfig | PhatgooseConfig


def kind_of(config: Config) -> Kind:
    """Which gate a configuration trains."""
    return config.kind if isinstance(config, GateConfig) else "phatgoose"


def check_shared(shared: Shared, experts: int) -> None:
    """Refuse a top k or a temperature that no gate over so many experts can have."""
    if shared.top_k is not None and not 1 <= shared.top_k <= experts:
        raise CounterpointError(f"top k is {shared.top_k}, and there are {experts} experts; expected 1 to {experts}")
    if not 0 < shared.temperature < math.inf:
        raise CounterpointError(f"the temperature of a gate is {shared.temperature:g}; expected more than 0")


def make_arrow(begun: Begun, given: Sequence[Given], shared: Shared, stages: Stages) -> dict[str, Any]:
    """Write an Arrow over adapters of the band, and say of what; one of the same adapters is not made again."""
    check_shared(shared, len(given))
    factors = {entry.name: own for entry, own in given}
    hashes = {entry.name: str(entry.hash) for entry, _ in given}
    gate = gate_over("arrow", [Expert(entry.name, entry.dimension) for entry, _ in given], factors, hashes)

    def make(scratch: Path) -> None:
        write_gate(scratch, gate, arrow_scores(list(factors.values()), gate.modules), {}, begun.base)

    why = f"what each of {len(given)} adapters stretches most, in {len(gate.modules)} layers"
    with stages.stage("arrow gate", why):
        fresh = make_once(begun.folder / GATES / "arrow", ArrowConfig(begun.base), hashes, make)
    made = settle(begun.folder, "arrow", shared)
    return {"kind": "arrow", "fresh": fresh, "experts": list(factors), "layers": len(gate.modules), "top_k": made.top_k}


def learn_gate(
    begun: Begun,
    config: Config,
    divided: Sequence[Divided],
    given: Sequence[Given],
    dimensions: Sequence[Dimension],
    shared: Shared,
    stages: Stages,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a gate into the band, which is started where there is none; what the gate's `metrics.json` says.

    `divided` are the comparisons of each dimension (`divide_together`), `given` adapters to start from. The band then
    knows all `dimensions`.
    """
    kind, folder = kind_of(config), begun.folder
    out = folder / GATES / kind
    if given:
        check_shared(shared, len(given))
    with stages.stage(f"{kind} gate", about(config, divided, given)) as bar:
        seen = [comparison for part in divided for comparison in part.seen]
        result = _train(config, seen, out, given, bar)
        bar.note(outcome(result))
    new = list_dimensions(folder, config.model, dimensions)
    settle(folder, kind, shared)
    with stages.stage("held-out pairs", "see how often it raises the chosen response by more") as bar:
        quality = measure_gate(folder, kind, divided, config.seed, bar, device)
    routing = read_routing(out)
    metrics = {
        "kind": kind, "fresh": result.fresh, "last_loss": result.losses[-1], "dimensions_added": new,
        "dimensions": {part.dimension: {**part.to_dict(), **quality[part.dimension]} for part in divided},
        "routing": None if routing is None else over_layers(routing),
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


def settle(folder: Path, kind: str, shared: Shared) -> Gate:
    """Write into `gate.json` what needs no training: which base it is for, and what the kind leaves open."""
    place = folder / GATES / kind
    gate = read_gate(place)
    usual = RULES[gate.kind].top_k
    top_k = shared.top_k or (None if usual is None else min(usual, len(gate.experts)))
    open_to = {"temperature": shared.temperature, "top_k": top_k}
    settled = gate.model_copy(update={"base": read_band(folder).base_hash, **open_to})
    write_json(place / FILE, settled.model_dump(exclude_defaults=True))
    return settled


def measure_gate(
    folder: Path, kind: str, divided: Sequence[Divided], seed: int, bar: Bar, device: str
) -> dict[str, dict[str, Any]]:
    """The band's gate on the held-out pairs of each dimension, ready for JSON."""
    band = Band.load(folder, device=device)
    band.gate(kind)
    found = {}
    for part in divided:
        report = bar.task(part.dimension)
        quality = gate_quality(band.bank, kind, part.dimension, band.tokenizer, part.unseen, seed, report)
        found[part.dimension] = {"routed": quality.routed.to_dict(), "asked": quality.asked.to_dict()}
    return found
