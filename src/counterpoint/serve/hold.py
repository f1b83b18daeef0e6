"""What an operator's settings make of a band: floors and caps, memory, and what a request gets that says nothing."""

import math
from collections.abc import Sequence

from counterpoint.decode.band import METHODS, Band
from counterpoint.profiles import format_bounds, parse_bounds, parse_profile, unknown_name
from counterpoint.profiles.bounds import FREE, Bounds
from counterpoint.serve.settings import Settings
from counterpoint.types import CounterpointError

GIB = 1 << 30


def hold(band: Band, settings: Settings) -> None:
    """Let a band serve as the settings say. Raises CounterpointError for settings that do not fit the band."""
    if settings.method not in METHODS:
        raise CounterpointError(f"setting method: {unknown_name('method', settings.method, METHODS)}")
    band.bounds = merged(parse_bounds(band.file.bounds, band.dimensions), settings.bounds, band.dimensions)
    band.bound(settings.max_rows, int(settings.memory_gib * GIB), settings.prefill_chunk)
    try:
        band.plan(parse_profile(settings.profile, band.dimensions) if settings.profile else None, settings.method)
    except CounterpointError as error:
        raise CounterpointError(f"settings method {settings.method!r}, profile {settings.profile!r}: {error}") from None


def refresh(band: Band, settings: Settings) -> None:
    """Take what has changed in a band's folder, held to the settings all the while.

    Raises CounterpointError where the folder, or its bounds beside the settings', are at fault; nothing changes then.
    """
    band.refresh(lambda own, known: merged(own, settings.bounds, known))


def merged(own: Bounds, text: str, known: Sequence[str]) -> Bounds:
    """Bounds that keep a band's own and those of a setting: the higher floor and the lower cap of each dimension.

    Raises CounterpointError for a setting that cannot be read, and where nothing keeps both.
    """
    try:
        given = parse_bounds(text, known)
    except CounterpointError as error:
        raise CounterpointError(f"setting {error}") from None
    both: dict[str, tuple[float, float | None]] = {}
    for name in {**own, **given}:
        lows, highs = zip(own.get(name, FREE), given.get(name, FREE), strict=True)
        both[name] = max(lows), None if min(highs) == math.inf else min(highs)
    try:
        return parse_bounds(both, known)
    except CounterpointError as error:
        raise CounterpointError(
            f"setting bounds {text!r} contradicts the band's own, {format_bounds(own)!r}: {error}"
        ) from None
