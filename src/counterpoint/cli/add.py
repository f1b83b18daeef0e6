"""`counterpoint add`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterpoint.cli.app import AsJson, app, out

if TYPE_CHECKING:
    from counterpoint.models.assemble import Added


@app.command()
def add(
    band: Annotated[Path, typer.Argument(help="A band; where there is none, one is started.")],
    expert: Annotated[str, typer.Argument(help="A PEFT LoRA adapter's folder, or a whole model's folder or hub id.")],
    dimension: Annotated[str, typer.Option(help="What it is an expert for, such as concise.")],
    name: Annotated[str | None, typer.Option(help="The expert's name; without it, the dimension's.")] = None,
    description: Annotated[str, typer.Option(help="What the dimension gives, for people.")] = "",
    request: Annotated[str, typer.Option(help='How one asks for it in words: "Please be brief."')] = "",
    base: Annotated[str | None, typer.Option(help="A new band's base; else the one that the adapter names.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of one of that name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put an adapter or a whole model into a band, if it fits; start the band if need be."""
    from counterpoint.models.assemble import add as add_to
    from counterpoint.types import Dimension

    wanted = Dimension(dimension, description, request)
    added = add_to(band, expert, wanted, name or dimension, base, replace)
    if as_json:
        print(json.dumps(as_dict(added, name or dimension), indent=1))
        return
    for line in lines(added, name or dimension, band):
        out.print(line, markup=False, soft_wrap=True)


def as_dict(added: "Added", name: str) -> dict[str, object]:
    """What was added to what."""
    entry = next(entry for entry in added.file.experts if entry.name == name)
    return {
        "expert": name,
        "dimension": entry.dimension,
        "kind": added.source.kind,
        "path": added.source.path,
        "base": added.base,
        "new": added.new,
        "notes": list(added.notes),
    }


def lines(added: "Added", name: str, band: Path) -> list[str]:
    """The same for people."""
    entry = next(entry for entry in added.file.experts if entry.name == name)
    begun = [f"started {band} on the base {added.base}"] if added.new else []
    kind = "adapter" if added.source.kind == "adapter" else "whole model"
    done = f"added {kind} {added.source.path} as expert {name!r} for {entry.dimension!r}"
    return [*begun, f"{done}; the band has {len(added.file.experts)}", *(f"note: {note}" for note in added.notes)]
