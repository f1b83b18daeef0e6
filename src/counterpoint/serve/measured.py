"""What `counterpoint build` measured of a band's methods, from the answers that it leaves beside the band."""

from functools import lru_cache
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ValidationError

from counterpoint.profiles import format_profile, parse_profile
from counterpoint.types import CounterpointError, Profile

BESIDE = "responses.jsonl"
"""The file of scored answers in the folder that a built band lies in."""


class Answered(BaseModel):
    """The part that matters here of a line of that file."""

    method: str
    strength: float
    profile: str
    scores: dict[str, float]


class Point(BaseModel):
    """Mean rewards that were measured, of something that has a method and a name."""

    label: str
    method: str
    rewards: dict[str, float]


def measured(band: Path | None, dimensions: tuple[str, ...]) -> list[Point]:
    """Mean rewards by method and profile over the prompts that were judged; none where nothing was left beside a band.

    A file of that name that is something else, or that is about other dimensions, says nothing of this band.
    """
    path = band.resolve().parent / BESIDE if band else None
    if path is None or not path.is_file():
        return []
    return list(_read(path, path.stat().st_mtime_ns, dimensions))


@lru_cache(maxsize=1)
def _read(path: Path, _changed: int, dimensions: tuple[str, ...]) -> tuple[Point, ...]:
    """Read once, and again when the file has changed: it holds thousands of answers."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = Answered.model_validate_json(line)
            profile = Profile(parse_profile(row.profile, dimensions).weights, row.strength)
            found.setdefault((row.method, format_profile(profile)), []).append(row.scores)
        return tuple(
            Point(label=label, method=method, rewards=_mean(scores)) for (method, label), scores in found.items()
        )
    except (ValidationError, CounterpointError, UnicodeDecodeError):
        return ()


def _mean(scores: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: round(fmean(one[name] for one in scores), 4) for name in scores[0] if all(name in one for one in scores)
    }
