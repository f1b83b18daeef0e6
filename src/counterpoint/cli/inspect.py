"""`counterpoint inspect`."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import AsJson, BandFolder, app, out

if TYPE_CHECKING:
    from counterpoint.build.examine_gates import FoundGate
    from counterpoint.compose.weighers.controller import Controller
    from counterpoint.models.examine import Base, Examined


@app.command()
def inspect(band: BandFolder, as_json: AsJson = False) -> None:
    """Show what a band holds, and everything that is wrong with it; exit code 1 where anything is."""
    from counterpoint.build.examine_gates import examine_gates
    from counterpoint.models.examine import examine

    found = examine(band)
    controller = controller_of(band, found)
    gates = examine_gates(band, found)
    ask_servers(found)
    if as_json:
        told = {"controller": controller, "gates": {kind: vars(gate) for kind, gate in gates.items()}}
        print(json.dumps(as_dict(found) | told, indent=1))
    else:
        show(found, str(band), controller, list(gates.values()))
    if found.problems:
        raise typer.Exit(1)


def controller_of(band: Path, found: "Examined") -> dict[str, Any] | None:
    """`controller.json`, and how its training went; what is wrong with it joins the problems. None without one."""
    from counterpoint.artifacts import read_json
    from counterpoint.compose.weighers.controller import read_controller
    from counterpoint.train.controller import LOG

    folder = band / "controller"
    controller = found.attempt(lambda: read_controller(folder)) if folder.exists() else None
    log = found.attempt(lambda: read_json(folder / LOG)) if folder.exists() else None
    if controller is None or not log:
        return None
    if controller.constants is None:
        found.attempt(lambda: check_model_of(folder, controller, found.base))
    known = {entry.name for entry in found.file.experts} & set(controller.experts)
    if controller.head == "linear" and len(known) < 2:
        weighed = ", ".join(controller.experts)
        found.problems.append(f"{folder}: weighs {weighed}, of which the band has {len(known)}; train it again")
    trained = {"iterations": len(log), "last_reward": log[-1]["reward"]}
    kind = "transformer" if controller.constants is None else "constants"
    return {"kind": kind, **controller.model_dump(exclude={"constants"}), **trained}


def ask_servers(found: "Examined") -> None:
    """Try each endpoint for a few seconds; what is wrong with it, as a key that is not set, joins the problems."""
    remote = [entry for entry in found.file.experts if entry.endpoint is not None]
    if remote:
        from counterpoint.decode.remote import look

        for entry in remote:
            found.attempt(partial(look, entry))


def check_model_of(folder: Path, controller: "Controller", base: "Base") -> None:
    """Refuse a controller whose model cannot be loaded or reads another vocabulary; nothing without a base."""
    import torch
    from transformers import AutoConfig

    from counterpoint.compose.weighers.controller import check_vocabulary, load_parts

    if base.path is None or base.ids is None:
        return
    config = AutoConfig.from_pretrained(base.path)
    model = load_parts(folder, controller, lambda names: torch.zeros(len(names), config.hidden_size))
    check_vocabulary(folder, model, min(base.ids, config.vocab_size))


def as_dict(found: "Examined") -> dict[str, object]:
    """`band.json` with what was found beside it."""
    return {
        **found.file.model_dump(),
        "found": vars(found.base),
        "kinds": {name: part.kind for name, part in found.experts.items()},
        "parameters": {name: part.parameters for name, part in found.experts.items()},
        "longest": {name: part.longest for name, part in found.experts.items()},
        "rewards": found.rewards,
        "unused": found.unused,
        "problems": found.problems,
    }


def show(found: "Examined", name: str, controller: dict[str, Any] | None, gates: "Sequence[FoundGate]") -> None:
    """The same for people."""
    from counterpoint.profiles import format_bounds, parse_bounds

    file, base = found.file, found.base
    where = Path(base.path).resolve() if base.path and Path(base.path).is_dir() else file.base
    out.print(f"[bold]{escape(str(name))}[/bold]  experts: {len(file.experts)}", soft_wrap=True)
    say(f"base: {where}, hash {base.hash}")
    if base.ids is not None:
        ends = " and ".join(map(str, base.ends))
        say(f"tokenizer: {base.ids:,} ids, a response ends with {ends}; prompt and response: {base.longest:,} tokens")
    out.print(table_of(found))
    if file.bounds:
        say(f"bounds: {format_bounds(parse_bounds(file.bounds, list(file.bounds)))}")
    if file.strengths:
        best = ", ".join(f"{method} {strength:g}" for method, strength in file.strengths.items())
        say(f"strengths that scored best in training: {best}")
    if found.rewards:
        say(f"reward models: {', '.join(found.rewards)}")
    if controller is not None:
        say(f"controller: {summary(controller)}")
    for gate in gates:
        say_gate(gate)
    if found.unused:
        say(f"in experts/, but not in band.json: {', '.join(found.unused)}")
    for problem in found.problems:
        out.print(f"wrong: {problem}", style="red", markup=False, soft_wrap=True)


def summary(controller: dict[str, Any]) -> str:
    """A controller in one line."""
    names = ("space", "encoding", "expert_prompt", "prior", "temper", "head")
    options = ", ".join(f"{name} {controller[name]}" for name in names)
    trained = f"{controller['iterations']} iterations, last reward {controller['last_reward']:.3f}"
    return f"{controller['kind']} over {', '.join(controller['experts'])}; {options}; {trained}"


def say_gate(gate: "FoundGate") -> None:
    """A gate in one line, and one more for what it makes of data on each dimension."""
    groups = "; ".join(f"{name}: {', '.join(experts)}" for name, experts in gate.experts.items())
    whose = "experts of its own" if gate.own else "adapters of the band"
    size = "" if gate.parameters is None else f", {gate.parameters:,} parameters"
    settings = "".join(f", {name} {value}" for name, value in gate.settings.items())
    say(f"gate {gate.kind} over {whose} ({groups}) in {gate.layers} layers{size}{settings}")
    for name, found in (gate.means or {}).items():
        shares = ", ".join(f"{group} {share:.0%}" for group, share in found["mass"].items())
        say(f"  a token of {name} goes to {shares}, none {found['empty']:.0%}; entropy {found['entropy']:.2f} nats")


def table_of(found: "Examined") -> Table:
    """A row per expert."""
    descriptions = {entry.name: entry.description for entry in found.file.dimensions}
    columns = ("expert", "dimension", "what it gives", "kind", "parameters", "own score", "trained on")
    table = Table(*columns, box=None)
    for entry in found.file.experts:
        part, score = found.experts[entry.name], entry.scores.get(entry.dimension)
        kind = part.kind if entry.model is None else f"model {entry.model}"
        if entry.endpoint is not None:
            kind = f"endpoint {entry.endpoint.url}, model {entry.endpoint.model}"
        table.add_row(
            entry.name, entry.dimension, escape(descriptions[entry.dimension]), escape(kind),
            "-" if part.parameters is None else f"{part.parameters:,}",
            "-" if score is None else f"{score:+.2f}", escape(entry.trained_on),
        )  # fmt: skip
    return table


def say(line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)
