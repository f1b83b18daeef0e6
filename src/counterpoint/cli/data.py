"""`counterpoint data`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, app, out


@app.command()
def data(
    files: Annotated[list[Path], typer.Argument(help="Preference data: .jsonl or .jsonl.gz, or folders of them.")],
    dimension: Annotated[str | None, typer.Option(help="The dimension of files without such a column.")] = None,
    skip_bad: Annotated[bool, typer.Option(help="Count and list bad lines instead of stopping at the first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check preference data: what was understood, and what is wrong with the rest."""
    from counterpoint.data.comparisons import read_comparisons

    found = read_comparisons(files, dimension, skip_bad=skip_bad)
    if as_json:
        dropped = [{"file": str(bad.file), "line": bad.line, "reason": bad.reason} for bad in found.dropped]
        columns = sorted(found.extra_columns)
        print(json.dumps({"comparisons": dict(found.counts), "dropped": dropped, "extra_columns": columns}, indent=1))
        return
    table = Table("dimension", "comparisons", box=None)
    for name, count in found.counts.items():
        table.add_row(name, str(count))
    out.print(table)
    if found.extra_columns:
        out.print(f"columns not used: {', '.join(sorted(found.extra_columns))}", markup=False)
    for bad in found.dropped:
        out.print(f"left out: {bad}", markup=False, soft_wrap=True)
