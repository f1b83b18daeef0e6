"""`counterpoint bounds`."""

import json
from typing import Annotated

import typer

from counterpoint.cli.app import AsJson, BandFolder, app, out
from counterpoint.types import CounterpointError


@app.command()
def bounds(
    band: BandFolder,
    text: Annotated[str | None, typer.Argument(help='All bounds, such as "harmless >= 0.3, unfriendly = 0".')] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all bounds away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set what every person of a band gets at least and at most, in place of what was set before; or show it.

    A bound holds on strength times a dimension's share of the profile, so that strength 0 does not get round a floor.
    """
    from counterpoint.models.band_file import read_band, set_bounds
    from counterpoint.profiles import format_bounds, parse_bounds

    if clear and text is not None:
        raise CounterpointError(f"found --clear and the bounds {text!r}; give one of them")
    if text is not None and not text.strip():
        raise CounterpointError("the bounds are empty; use --clear to take all bounds away")
    file = read_band(band) if text is None and not clear else set_bounds(band, text or {})
    if as_json:
        print(json.dumps({"bounds": file.bounds}))
        return
    known = [entry.name for entry in file.dimensions]
    out.print(format_bounds(parse_bounds(file.bounds, known)) or "no bounds", markup=False, soft_wrap=True)
