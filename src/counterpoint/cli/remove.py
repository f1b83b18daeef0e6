"""`counterpoint remove`."""

import json
from typing import Annotated

import typer

from counterpoint.cli.app import AsJson, BandFolder, app, out


@app.command()
def remove(
    band: BandFolder,
    expert: Annotated[str, typer.Argument(help="The name of an expert; `counterpoint inspect` shows them.")],
    keep_dimension: Annotated[
        bool, typer.Option("--keep-dimension", help="Keep the dimension, though nothing is left for it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take an expert out of a band, and its dimension where no other expert and no reward is left for it."""
    from counterpoint.models.band_file import read_band, remove_expert

    before = [entry.name for entry in read_band(band).dimensions]
    after = remove_expert(band, expert, keep_dimension)
    experts = [entry.name for entry in after.experts]
    dropped = [name for name in before if name not in [entry.name for entry in after.dimensions]]
    if as_json:
        print(json.dumps({"removed": expert, "dimensions_dropped": dropped, "experts": experts}, indent=1))
        return
    gone = f" and the dimension {dropped[0]!r}" if dropped else ""
    out.print(f"removed expert {expert!r}{gone}; left: {', '.join(experts) or 'none'}", markup=False, soft_wrap=True)
