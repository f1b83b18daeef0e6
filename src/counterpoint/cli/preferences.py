"""`counterpoint preferences`: the table of what people may ask for, built in or a user's own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import AsJson, app, out

if TYPE_CHECKING:
    from counterpoint.data.preferences import PreferenceRow
    from counterpoint.types import Dimension

TABLE = "A table of preferences: .jsonl, .json, .csv, ... with name, request, axis, description, criterion."
PREFERENCES = "A table of preferences (see `counterpoint preferences`) or a band, in place of the built-in table."

Preferences = Annotated[Path | None, typer.Option(help=PREFERENCES)]
Chosen = Annotated[list[str] | None, typer.Option("--dimension", help="One of the preferences; several with several.")]


@app.command()
def preferences(
    file: Annotated[Path | None, typer.Argument(help=f"{TABLE} Without it, the built-in table.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the preferences that a model may be asked for. What --json prints can be edited and read again."""
    from counterpoint.data.preferences import axes_of, read_table
    from counterpoint.profiles import corners

    rows = read_table(file)
    if as_json:
        print(json.dumps([row.model_dump() for row in rows], ensure_ascii=False, indent=1))
        return
    print_preferences(rows)
    axes = axes_of(row.dimension for row in rows)
    if axes:
        out.print(f"One pole of each axis is a profile: {len(corners(axes))} in all.")


def print_preferences(rows: "Sequence[PreferenceRow]") -> None:
    """A line for each, with what a judge is told."""
    table = Table("name", "id", "axis", "request", "criterion", box=None)
    for row in rows:
        table.add_row(*map(escape, (row.name, row.id, row.axis, row.request, row.criterion)))
    out.print(table)


def read_dimensions(path: Path | None) -> "list[Dimension]":
    """The built-in preferences, those of a table, or a band's dimensions that one can ask for in words."""
    from counterpoint.data.preferences import read_preferences
    from counterpoint.models.band_file import BAND, read_band
    from counterpoint.types import CounterpointError

    if path is None or not (path / BAND).exists():
        return read_preferences(path)
    band = read_band(path)
    found = [band.dimension(entry.name) for entry in band.dimensions if entry.request]
    if not found:
        raise CounterpointError(f"{path / BAND}: no dimension has a request; `counterpoint add` takes one with each")
    return found
