"""What gates a band has, what each made of its data, and which need an expert; a broken one hides no other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.artifacts import read_json
from counterpoint.compose.weighers.gate import FILE, GATES, KINDS, Gate, Opened, read_gate
from counterpoint.decode.band import open_for
from counterpoint.models.adapter import read_adapter
from counterpoint.models.bank import LoraBank
from counterpoint.models.examine import Examined
from counterpoint.train.gate_log import ROUTING
from counterpoint.types import CounterpointError


@dataclass(frozen=True)
class FoundGate:
    """A gate of a band: its experts by dimension, and in how many layers it is.

    `parameters` are the router's and those of experts that came with it (None where they cannot be read), `own` says
    whether any did. `routing` is `routing.json`, and `means` what it says over all layers; both None for a gate that
    was not trained, and where the file cannot be read.
    """

    kind: str
    experts: Mapping[str, list[str]]
    own: bool
    layers: int
    parameters: int | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    means: Mapping[str, Any] | None = None
    routing: Mapping[str, Any] | None = None


def examine_gates(folder: Path, found: Examined) -> dict[str, FoundGate]:
    """The band's gates by kind; what is wrong with them joins the problems of the band."""
    gates: dict[str, FoundGate] = {}
    for place in sorted((folder / GATES).glob("[!.]*/")):
        if place.name not in KINDS:
            found.problems.append(f"{place}: no gate is of that kind; there are: {', '.join(KINDS)}")
        elif (gate := found.attempt(partial(read_gate, place))) is not None:
            opened = found.attempt(partial(open_whole, folder, place, found))
            gates[place.name] = found_gate(gate, opened, found.attempt(partial(read_routing, place)))
    return gates


def open_whole(folder: Path, place: Path, found: Examined) -> Opened:
    """A gate that a band could use, held against the shapes of its base and of its experts."""
    adapters = {e.name: folder / "experts" / e.name for e in found.file.experts if e.kind == "adapter"}
    opened = open_for(place, adapters, found.file.base_hash)
    if found.model is not None:
        bank = LoraBank(found.model)
        for name in opened.router.experts:
            bank.add(name, opened.experts[name] if name in opened.experts else read_adapter(adapters[name]))
        bank.add_router(opened.gate.kind, opened.router)
    known = [entry.name for entry in found.file.dimensions]
    if unknown := [name for name in opened.gate.groups if name not in known]:
        raise CounterpointError(
            f"{place / FILE}: it serves {unknown[0]!r}, which is none of the band's dimensions, so that no profile can "
            "ask for it; add it to band.json"
        )
    return opened


def found_gate(gate: Gate, opened: Opened | None, routing: Mapping[str, Any] | None) -> FoundGate:
    """What there is to say of a gate, of which the tensors may be unreadable."""
    experts: dict[str, list[str]] = {}
    for expert in gate.experts:
        experts.setdefault(expert.dimension, []).append(expert.name)
    settings = gate.model_dump(exclude={"kind", "experts", "modules", "base"}, exclude_defaults=True)
    means = None if routing is None else over_layers(routing)
    own = any(expert.hash is None for expert in gate.experts)
    parameters = None if opened is None else size(opened)
    return FoundGate(gate.kind, experts, own, len(gate.modules), parameters, settings, means, routing)


def size(opened: Opened) -> int:
    """Parameters of the router and of the experts that came with it."""
    guide = opened.router.guide
    rows = sum(rows.numel() for rows in opened.router.scores.values())
    learned = sum(p.numel() for p in guide.parameters()) if guide else rows
    return learned + sum(factors.size for factors in opened.experts.values())


def read_routing(place: Path) -> dict[str, Any] | None:
    """`routing.json` of a gate; None for one without. Raises CounterpointError for one that lacks something."""
    if not (place / ROUTING).exists():
        return None
    routing: dict[str, Any] = read_json(place / ROUTING)
    if missing := sorted({"dimensions", "groups", "mass", "empty", "entropy"} - set(routing)):
        raise CounterpointError(f"{place / ROUTING}: {missing[0]!r} is missing; train the gate again")
    return routing


def over_layers(routing: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By dimension of the data: the mean share over layers of each group of experts and of nobody, and the entropy.

    A dimension of which there was no data is not among them.
    """
    mass_JDG, empty_JD, entropy_JD = (np.array(routing[name], float) for name in ("mass", "empty", "entropy"))
    return {
        name: {
            "mass": dict(zip(routing["groups"], mass_JDG[:, d].mean(axis=0).tolist(), strict=True)),
            "empty": float(empty_JD[:, d].mean()),
            "entropy": float(entropy_JD[:, d].mean()),
        }
        for d, name in enumerate(routing["dimensions"])
        if np.isfinite(empty_JD[:, d]).all()
    }


def readable_gates(folder: Path) -> dict[str, Gate]:
    """The band's gates whose `gate.json` can be read, by kind."""
    gates: dict[str, Gate] = {}
    for kind in KINDS:
        if (folder / GATES / kind / FILE).exists():
            try:
                gates[kind] = read_gate(folder / GATES / kind)
            except CounterpointError:  # a gate that is broken already needs nothing; `inspect` says what is wrong
                continue
    return gates


def gates_over(folder: Path, expert: str) -> list[str]:
    """The kinds of the band's gates that are over an adapter of its own."""
    return [
        kind
        for kind, gate in readable_gates(folder).items()
        if any(one.name == expert and one.hash is not None for one in gate.experts)
    ]


def served_by_gates(folder: Path) -> set[str]:
    """The dimensions for which the band's gates hold experts of their own, which need none of the band."""
    return {one.dimension for gate in readable_gates(folder).values() for one in gate.experts if one.hash is None}
