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
    """Take an expert out of a band, and its dimension where no other expert, reward or gate is left for it.

    Says which gates no longer work without it.
    """
    from counterpoint.build.examine_gates import gates_over, served_by_gates
    from counterpoint.models.band_file import read_band, remove_expert

    file = read_band(band)
    before = [entry.name for entry in file.dimensions]
    served = {entry.dimension for entry in file.experts if entry.name == expert} & served_by_gates(band)
    broken = gates_over(band, expert)
    after = remove_expert(band, expert, keep_dimension or bool(served))
    experts = [entry.name for entry in after.experts]
    dropped = [name for name in before if name not in [entry.name for entry in after.dimensions]]
    if as_json:
        told = {"removed": expert, "dimensions_dropped": dropped, "experts": experts, "gates_broken": broken}
        print(json.dumps(told, indent=1))
        return
    gone = f" and the dimension {dropped[0]!r}" if dropped else ""
    out.print(f"removed expert {expert!r}{gone}; left: {', '.join(experts) or 'none'}", markup=False, soft_wrap=True)
    for kind in broken:
        out.print(
            f"the gate {kind} was over it and works no longer; train it again with `counterpoint train gate`",
            markup=False,
            soft_wrap=True,
        )
