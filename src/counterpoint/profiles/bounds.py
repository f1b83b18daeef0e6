"""What an operator allows of each dimension, whoever asks: floors and caps such as `"harmless >= 0.3, unfriendly = 0"`.

They hold on the coefficients `c_i = strength * w_i / sum_j w_j`, which are what reaches the model, and not on the
weights: a person who asks for little strength, or for none, would otherwise get round a floor.
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from numbers import Real

from counterpoint.profiles.parse import unknown_name
from counterpoint.types import CounterpointError, Profile

Bounds = Mapping[str, tuple[float, float]]
"""Floor and cap by dimension; a dimension without a cap has an infinite one."""
Sides = list[tuple[str, str, object]]
"""Dimension, floor or cap, and what was given for it."""

FREE = (0.0, math.inf)
FLOOR, CAP = "floor", "cap"
SIGNS = {">=": (FLOOR,), "<=": (CAP,), "=": (FLOOR, CAP)}
NEAR = 1e-9
"""Coefficients this close to a bound keep it: what is left is the rounding of shares and sums."""


def parse_bounds(
    text_or_mapping: str | Mapping[str, Sequence[float | None]], known: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Read an operator's bounds and check their names and numbers.

    Text is entries joined by commas: `name >= number`, `name <= number` or `name = number`; a dimension may have one
    floor and one cap. A mapping gives `[floor, cap]` by name, `None` where there is none. Empty text and an empty
    mapping set no bounds. Raises CounterpointError for anything else, for a floor above its cap, and for floors that
    sum to more than 1, which no convex mixture could give.
    """
    if isinstance(text_or_mapping, str):
        where = f"bounds {text_or_mapping!r}"
        sides = _sides_of_text(text_or_mapping, where)
    elif isinstance(text_or_mapping, Mapping):
        where = f"bounds {dict(text_or_mapping)!r}"
        sides = _sides_of_mapping(text_or_mapping, where)
    else:
        raise CounterpointError(f"bounds: expected text or a mapping, found {text_or_mapping!r}")
    numbers = _numbers(sides, known, where)
    limits = {name: (numbers.get((name, FLOOR), 0.0), numbers.get((name, CAP), math.inf)) for name, _ in numbers}
    _check_limits(limits, where)
    return {name: limit for name, limit in limits.items() if limit != FREE}


def format_bounds(bounds: Bounds) -> str:
    """Write bounds as the text that `parse_bounds` reads back to equal ones."""
    entries = []
    for name, (low, high) in bounds.items():
        if low == high:
            entries.append(f"{name} = {_short(low)}")
        else:
            entries += [f"{name} >= {_short(low)}"] * (low > 0) + [f"{name} <= {_short(high)}"] * (high < math.inf)
    return ", ".join(entries)


def in_force(profile: Profile | None, bounds: Bounds) -> Profile | None:
    """The profile that an operator's bounds leave of a person's, `None` for the base.

    A profile that keeps the bounds stays as it is. Else the weights of the result are its coefficients themselves, and
    its strength their sum (see `project`). No profile asks for nothing and gets the floors; a profile of which the caps
    leave nothing is the base.
    """
    asked = coefficients(profile)
    if all(low - NEAR <= asked.get(name, 0.0) <= high + NEAR for name, (low, high) in bounds.items()):
        return profile
    given = project(asked, bounds)
    strength = round(math.fsum(given.values()), 12)  # mixture-prob refuses the next float above 1
    return Profile(given, strength) if strength else None


def coefficients(profile: Profile | None) -> dict[str, float]:
    """How much of each dimension reaches the model: `c_i = strength * w_i / sum_j w_j`; nothing for no profile."""
    if profile is None:
        return {}
    total = math.fsum(profile.weights.values())
    return {name: profile.strength * (weight / total) for name, weight in profile.weights.items()}


def alone(dimension: str, strength: float, bounds: Bounds) -> float:
    """The strength at which one dimension may answer by itself: `min(strength, cap)`, the rest stays on the base.

    Raises CounterpointError where another dimension has a floor, which cannot hold then.
    """
    for name, (low, _) in bounds.items():
        if low and name != dimension:
            raise CounterpointError(
                f"one expert alone, here for {dimension!r}, cannot keep the bound {name} >= {_short(low)}; soup, moe, "
                "mixture-prob and mixture-log can"
            )
    return min(strength, bounds.get(dimension, FREE)[1])


def as_pairs(bounds: Bounds) -> dict[str, tuple[float, float | None]]:
    """Bounds for JSON, which has no infinity: `None` where there is no cap. `parse_bounds` reads them back."""
    return {name: (low, None if high == math.inf else high) for name, (low, high) in bounds.items()}


def acting(profile: Profile | None, bounds: Bounds) -> dict[str, tuple[float, float]]:
    """By dimension that a bound holds away from what was asked: the coefficient asked for and the one in force."""
    asked, given = coefficients(profile), coefficients(in_force(profile, bounds))
    pairs = {name: (asked.get(name, 0.0), given.get(name, 0.0)) for name in bounds}
    return {
        name: (wanted, found)
        for name, (wanted, found) in pairs.items()
        if abs(found - wanted) > NEAR and min(abs(found - limit) for limit in bounds[name]) <= NEAR
    }


def project(asked: Mapping[str, float], bounds: Bounds) -> dict[str, float]:
    """Scale coefficients into their bounds, keeping the ratios of those at no bound.

        x_i = clip(lambda * c_i, low_i, high_i),   sum_i x_i = the total nearest to sum_i c_i that the bounds allow

    This is the Kullback-Leibler projection: with `low <= x <= high` and that total it minimises `sum_i x_i log(x_i /
    c_i)`, whose stationarity `log(x_i / c_i) = const` fails at a bound only. The one lambda is found in at most one
    round per dimension: share out what is left in proportion to c, then fix those below their floors, or those above
    their caps, whichever are out by more (Bitran and Hax 1981, Management Science 27(4)).

    A dimension that was not asked for gets its floor and no more; what the caps of all that was asked for leave over
    stays on the base. A dimension that was asked for a little may grow until the total is met: that is what keeping the
    strength costs where another is capped.
    """
    names = [*asked, *(name for name, (low, _) in bounds.items() if low and name not in asked)]
    limits = {name: bounds.get(name, FREE) for name in names}
    given = {name: low for name, (low, _) in limits.items() if not asked.get(name)}
    free = {name: asked[name] for name in names if name not in given}
    least = math.fsum(low for low, _ in limits.values())
    most = math.fsum([*given.values(), *(limits[name][1] for name in free)])
    total = max(least, min(most, math.fsum(asked.values())))
    while free:
        left, whole = total - math.fsum(given.values()), math.fsum(free.values())
        share = {name: left * (c / whole) for name, c in free.items()}
        below = {name: limits[name][0] for name in free if share[name] < limits[name][0]}
        above = {name: limits[name][1] for name in free if share[name] > limits[name][1]}
        lift = math.fsum(low - share[name] for name, low in below.items())
        cut = math.fsum(share[name] - high for name, high in above.items())
        fixed = (below if lift >= cut else above) or share
        given |= fixed
        free = {name: c for name, c in free.items() if name not in fixed}
    return {name: given[name] for name in names}


def _sides_of_text(text: str, where: str) -> Sides:
    sides: Sides = []
    for entry in text.split(",") if text.strip() else []:
        found = re.fullmatch(r"([^<>=]+)(>=|<=|=)([^<>=]+)", entry.strip())
        if not found:
            raise CounterpointError(
                f"{where}: found {entry.strip()!r}; expected a name, one of >=, <= and =, and a number, as in "
                "'harmless >= 0.3'"
            )
        name, sign, number = found.groups()
        sides += [(name.strip(), side, _as_number(number)) for side in SIGNS[sign]]
    return sides


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _sides_of_mapping(mapping: Mapping[str, Sequence[float | None]], where: str) -> Sides:
    sides: Sides = []
    for name, pair in mapping.items():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise CounterpointError(f"{where}: {name!r} is {pair!r}; expected [floor, cap], None for no cap")
        given = zip((FLOOR, CAP), pair, (None, math.inf), strict=True)
        sides += [(name, side, value) for side, value, none in given if value not in (None, none)]
    return sides


def _numbers(sides: Sides, known: Sequence[str], where: str) -> dict[tuple[str, str], float]:
    numbers: dict[tuple[str, str], float] = {}
    for name, side, value in sides:
        if name not in known:
            raise CounterpointError(f"{where}: {unknown_name('dimension', name, known)}")
        if (name, side) in numbers:
            raise CounterpointError(f"{where}: the {side} of {name!r} is given twice; give it once")
        if not isinstance(value, Real) or isinstance(value, bool):
            raise CounterpointError(f"{where}: the {side} of {name!r} is {value!r}; expected a number")
        if value < 0 or not value <= sys.float_info.max:  # below infinity an integer may lie beyond the floats
            raise CounterpointError(
                f"{where}: the {side} of {name!r} is {value}; expected a finite number that is 0 or more"
            )
        numbers[name, side] = float(value)
    return numbers


def _check_limits(limits: Bounds, where: str) -> None:
    for name, (low, high) in limits.items():
        if low > high:
            raise CounterpointError(f"{where}: {name!r} has the floor {low:g} above its cap {high:g}; swap or drop one")
    floors = round(math.fsum(low for low, _ in limits.values()), 12)
    if floors > 1:
        raise CounterpointError(f"{where}: the floors sum to {floors:g}; expected 1 at most, so lower some of them")


def _short(value: float) -> str:
    return repr(value).removesuffix(".0")
