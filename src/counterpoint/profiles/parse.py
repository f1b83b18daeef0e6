"""How a person's wishes are written down: `"concise=1, friendly=0.5"`, `"concise+friendly"` or a mapping."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real

from counterpoint.types import CounterpointError, Profile

STRENGTH = "strength"
"""The reserved key, in text and in mappings, that says how far from the base to go."""


def parse_profile(text_or_mapping: str | Mapping[str, float] | Profile, known: Sequence[str]) -> Profile:
    """Read a profile and check its names and numbers; weights stay relative, as they were given.

    Text is a list of entries joined by commas: `name=weight`, a bare `name` (weight 1), `name+name` (weight 1 each) or
    `strength=number`. A mapping has the same keys. Weights are finite, non-negative and not all zero; a `strength` of 0
    is the base model. Raises CounterpointError for anything else.
    """
    pairs: list[tuple[str, object]]
    if isinstance(text_or_mapping, Profile):
        where, pairs = "profile", [*text_or_mapping.weights.items(), (STRENGTH, text_or_mapping.strength)]
    elif isinstance(text_or_mapping, str):
        where = f"profile {text_or_mapping!r}"
        pairs = _pairs(text_or_mapping, where)
    elif isinstance(text_or_mapping, Mapping):
        where, pairs = f"profile {dict(text_or_mapping)!r}", list(text_or_mapping.items())
    else:
        raise CounterpointError(f"profile: expected text or a mapping, found {text_or_mapping!r}")
    numbers = _numbers(pairs, known, where)
    strength = numbers.pop(STRENGTH, 1.0)
    _check_total(numbers, known, where)
    return Profile(numbers, strength)


def format_profile(profile: Profile) -> str:
    """Write a profile as the text that `parse_profile` reads back to an equal one."""
    entries = list(profile.weights.items())
    if profile.strength != 1:
        entries.append((STRENGTH, profile.strength))
    return ", ".join(f"{name}={repr(float(value)).removesuffix('.0')}" for name, value in entries)


def names_strength(text_or_mapping: str | Mapping[str, float]) -> bool:
    """Whether a profile, which `parse_profile` takes, says a strength of its own."""
    if isinstance(text_or_mapping, str):
        return any(name == STRENGTH for name, _ in _pairs(text_or_mapping, "profile"))
    return STRENGTH in text_or_mapping


TAKEN = ("strength", "base")
"""What a profile and a mix say besides names."""


def check_name(name: str) -> None:
    """Raise CounterpointError for a dimension's name that no profile could say, or that is not the name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]*", name) or name in TAKEN or name != name.strip():
        raise CounterpointError(
            f"{name!r} cannot name a dimension: letters, digits, '_', '-', '.' and spaces make a name, and 'strength' "
            "and 'base' are taken"
        )


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """Say that a name is unknown, what it may have meant, and which names there are."""
    names = {k.lower(): k for k in known}
    near = [repr(names[n]) for n in get_close_matches(str(name).lower(), names, n=2)]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(names.values()) or 'none'}"


def _pairs(text: str, where: str) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for entry in text.split(",") if text.strip() else []:
        names, equals, number = entry.partition("=")
        if not equals:
            pairs += [(name, "" if name == STRENGTH else 1.0) for name in map(str.strip, names.split("+"))]
        elif "+" in names:
            raise CounterpointError(
                f"{where}: found {entry.strip()!r}; give each name its own weight, as in 'a=1, b=1'"
            )
        else:
            pairs.append((names.strip(), _number(number)))
    if any(not name for name, _ in pairs):
        raise CounterpointError(f"{where}: a name is missing; expected entries such as 'concise=1, friendly=0.5'")
    return pairs


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _numbers(pairs: Iterable[tuple[str, object]], known: Sequence[str], where: str) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in pairs:
        if name != STRENGTH and name not in known:
            raise CounterpointError(f"{where}: {unknown_name('dimension', name, known)}")
        if name in numbers:
            raise CounterpointError(f"{where}: {name!r} is given twice; name it once")
        if not isinstance(value, Real) or isinstance(value, bool):
            raise CounterpointError(f"{where}: {name!r} is {value!r}; expected a number")
        if not _is_finite(value) or value < 0:
            raise CounterpointError(f"{where}: {name!r} is {value}; expected a finite number that is 0 or more")
        numbers[name] = float(value)
    return numbers


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False


def _check_total(numbers: Mapping[str, float], known: Sequence[str], where: str) -> None:
    if not numbers:
        raise CounterpointError(f"{where}: names no dimension; expected at least one of: {', '.join(known) or 'none'}")
    total = sum(numbers.values())
    if total == 0:
        raise CounterpointError(f"{where}: every weight is 0; give at least one dimension a positive weight")
    if not math.isfinite(total):
        raise CounterpointError(f"{where}: the weights add up to more than a float holds; use smaller ones")
