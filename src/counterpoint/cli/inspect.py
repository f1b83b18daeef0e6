"""`counterpoint inspect`."""

import json

from rich.table import Table

from counterpoint.cli.app import AsJson, BandFolder, app, out


@app.command()
def inspect(band: BandFolder, as_json: AsJson = False) -> None:
    """Show what a band holds, and check that it is whole."""
    from counterpoint.models.adapter import read_adapter
    from counterpoint.models.band_file import base_path, read_band

    file = read_band(band)
    base = base_path(band, file)
    adapters = {entry.name: read_adapter(band / "experts" / entry.name) for entry in file.experts}
    if as_json:
        sizes = {name: adapter.size for name, adapter in adapters.items()}
        rewards = sorted(folder.name for folder in (band / "rewards").glob("*/"))
        print(json.dumps({**file.model_dump(), "parameters": sizes, "rewards": rewards}, indent=1))
        return
    out.print(f"[bold]{band}[/bold]  base {base}, {len(file.experts)} experts", soft_wrap=True)
    table = Table("expert", "dimension", "what it gives", "parameters", "own score", "trained on", box=None)
    descriptions = {entry.name: entry.description for entry in file.dimensions}
    for entry in file.experts:
        score = entry.scores.get(entry.dimension)
        table.add_row(
            entry.name, entry.dimension, descriptions[entry.dimension], f"{adapters[entry.name].size:,}",
            "-" if score is None else f"{score:+.2f}", entry.trained_on,
        )  # fmt: skip
    out.print(table)
    if file.strengths:
        best = ", ".join(f"{method} {strength:g}" for method, strength in file.strengths.items())
        out.print(f"strengths that scored best in training: {best}", soft_wrap=True)
