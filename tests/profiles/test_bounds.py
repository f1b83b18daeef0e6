"""An operator's bounds: how they are read, and the one way in which a profile is held to them."""

import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from counterpoint.profiles import format_bounds, in_force, parse_bounds
from counterpoint.profiles.bounds import FREE, Bounds, acting, alone, as_pairs, coefficients, project
from counterpoint.types import CounterpointError, Profile

KNOWN = ("harmless", "unfriendly", "concise", "well read")
INF = math.inf
Case = tuple[dict[str, float], dict[str, tuple[float, float]]]


# Reading and writing


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        (
            "harmless >= 0.3, unfriendly = 0, concise <= 0.5",
            {"harmless": (0.3, INF), "unfriendly": (0, 0), "concise": (0, 0.5)},
        ),
        ("harmless>=.3,harmless<=1.5", {"harmless": (0.3, 1.5)}),
        (" well read >= 1e-1 ", {"well read": (0.1, INF)}),
        ("harmless >= 0", {}),
        ("", {}),
        ({}, {}),
        ({"harmless": [0.3, 1], "concise": (0, None)}, {"harmless": (0.3, 1)}),
        ({"unfriendly": [None, 0]}, {"unfriendly": (0, 0)}),
        ("harmless >= 0.5, unfriendly >= 0.5", {"harmless": (0.5, INF), "unfriendly": (0.5, INF)}),
    ],
)
def test_grammar(text: Any, bounds: dict[str, tuple[float, float]]) -> None:
    assert parse_bounds(text, KNOWN) == bounds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "harmles >= 1",
            "bounds 'harmles >= 1': unknown dimension 'harmles'; did you mean 'harmless'? Known: harmless",
        ),
        ("strength <= 1", "unknown dimension 'strength'"),
        ("harmless", "found 'harmless'; expected a name, one of >=, <= and =, and a number, as in 'harmless >= 0.3'"),
        ("harmless > 0.3", "found 'harmless > 0.3'; expected a name"),
        ("0.3 <= harmless <= 1", "found '0.3 <= harmless <= 1'; expected a name"),
        ("harmless >= 0.3,", "found ''; expected a name"),
        ("harmless >=", "found 'harmless >='; expected a name"),
        ("harmless >= lots", "the floor of 'harmless' is 'lots'; expected a number"),
        ("harmless <= -1", "the cap of 'harmless' is -1.0; expected a finite number that is 0 or more"),
        ("harmless <= nan", "the cap of 'harmless' is nan; expected a finite number"),
        ("harmless <= inf", "the cap of 'harmless' is inf; expected a finite number"),
        ("harmless >= 0.1, harmless >= 0.2", "the floor of 'harmless' is given twice; give it once"),
        ("harmless = 0.1, harmless <= 0.2", "the cap of 'harmless' is given twice; give it once"),
        ("harmless >= 0.6, harmless <= 0.5", "'harmless' has the floor 0.6 above its cap 0.5; swap or drop one"),
        ("harmless >= 0.6, concise >= 0.5", "the floors sum to 1.1; expected 1 at most"),
        ({"harmless": 0.3}, "'harmless' is 0.3; expected [floor, cap], None for no cap"),
        ({"harmless": "01"}, "'harmless' is '01'; expected [floor, cap]"),
        ({"harmless": [0.3]}, "'harmless' is [0.3]; expected [floor, cap]"),
        ({"harmless": [True, 1]}, "the floor of 'harmless' is True; expected a number"),
        ({"harmless": [0, 10**400]}, "expected a finite number"),
        (["harmless"], "bounds: expected text or a mapping, found ['harmless']"),
    ],
)
def test_errors_say_what_was_found(text: Any, message: str) -> None:
    with pytest.raises(CounterpointError, match=re.escape(message)):
        parse_bounds(text, KNOWN)


def test_text_and_json_round_trip() -> None:
    for _, bounds in cases():
        read = parse_bounds(bounds, tuple(bounds))
        assert parse_bounds(format_bounds(read), tuple(bounds)) == read
        assert parse_bounds(json.loads(json.dumps(as_pairs(read))), tuple(bounds)) == read
    assert format_bounds({"a": (0.3, INF), "b": (0, 0), "c": (0.1, 2)}) == "a >= 0.3, b = 0, c >= 0.1, c <= 2"


# By hand


@pytest.mark.parametrize(
    ("profile", "bounds", "weights", "strength"),
    [
        # the rest gives way: lambda = 0.7
        (Profile({"a": 1}), {"b": (0.3, INF)}, {"a": 0.7, "b": 0.3}, 1),
        # 2 : 1 among those at no bound: 0.6 is shared out as 0.4 and 0.2
        (Profile({"a": 2, "b": 1}), {"c": (0.4, INF)}, {"a": 0.4, "b": 0.2, "c": 0.4}, 1),
        # the shares .6 .3 .1 are above a's cap by .3, below c's floor by .1: a = .3, and .7 is shared out 3 : 1 as .525
        # and .175; that is below c's floor: c = .2, b = .5. Lambda is .5 / .3
        (
            Profile({"a": 6, "b": 3, "c": 1}), {"a": (0, 0.3), "c": (0.2, INF)},
            {"a": 0.3, "b": 0.5, "c": 0.2}, 1,
        ),
        # a cap on all that was asked for: the strength falls
        (Profile({"a": 1}, 1.5), {"a": (0, 0.5)}, {"a": 0.5}, 0.5),
        # a dimension that was not asked for fills no gap
        (Profile({"a": 1, "b": 0}), {"a": (0, 0.5), "b": (0, 2)}, {"a": 0.5, "b": 0}, 0.5),
        # strength 0 and strengths below the floors give the floors alone
        (Profile({"a": 1}, 0), {"b": (0.3, INF)}, {"a": 0, "b": 0.3}, 0.3),
        (Profile({"a": 1}, 0.2), {"b": (0.3, INF)}, {"a": 0, "b": 0.3}, 0.3),
        (Profile({"a": 1}, 0.5), {"b": (0.3, INF)}, {"a": 0.2, "b": 0.3}, 0.5),
        (Profile({"a": 1}, 2), {"b": (0.3, INF)}, {"a": 1.7, "b": 0.3}, 2),
        (None, {"a": (0.2, INF), "b": (0.3, 1), "c": (0, 0)}, {"a": 0.2, "b": 0.3}, 0.5),
    ],
)  # fmt: skip
def test_in_force_by_hand(profile: Profile | None, bounds: Bounds, weights: dict[str, float], strength: float) -> None:
    found = in_force(profile, bounds)
    assert found is not None
    assert found.weights == pytest.approx(weights)
    assert found.strength == pytest.approx(strength)


def test_nothing_left_is_the_base() -> None:
    assert in_force(Profile({"a": 1}), {"a": (0, 0)}) is None
    assert in_force(None, {"a": (0, 0.5)}) is None
    assert in_force(None, {}) is None


def test_a_total_of_one_is_one_to_the_last_digit() -> None:
    """Else mixture-prob refuses it: shares of 1 often sum to the next float above."""
    raw = [math.fsum(project(shares_of(asked), bounds).values()) for asked, bounds in cases() if any(asked.values())]
    assert max(total for total in raw if total < 1 + 1e-9) > 1
    for asked, bounds in cases():
        found = in_force(Profile(asked), bounds) if any(asked.values()) else None
        assert found is None or found.strength == 1 or abs(found.strength - 1) > 1e-9


def test_a_small_weight_is_scaled_up_without_overflow() -> None:
    # a gives up .5, and b, of which 1e-320 was asked, is all that may take it
    assert project({"a": 1, "b": 1e-320}, {"a": (0, 0.5)}) == {"a": 0.5, "b": 0.5}


def test_acting_names_the_bounds_that_changed_something() -> None:
    bounds = {"a": (0.0, 0.5), "b": (0.3, INF), "c": (0.0, 0.9)}
    assert acting(Profile({"a": 0.2, "b": 0.8}), bounds) == {}
    assert acting(Profile({"a": 1}), bounds) == {"a": (1.0, 0.5), "b": (0.0, 0.3)}
    assert acting(Profile({"c": 1}, 0.0), bounds) == {"b": (0.0, 0.3)}


def test_one_dimension_alone() -> None:
    assert alone("a", 1.5, {"a": (0.3, 0.5), "b": (0, 0)}) == 0.5
    assert alone("a", 0.4, {}) == 0.4
    with pytest.raises(CounterpointError, match=re.escape("here for 'a', cannot keep the bound b >= 0.1; soup, moe")):
        alone("a", 1.0, {"b": (0.1, INF)})


# Laws


def cases() -> Iterator[Case]:
    """Coefficients and bounds of up to five dimensions: some not asked for, some free, floors that sum to at most 1."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        size = int(rng.integers(1, 6))
        names = [f"d{i}" for i in range(size)]
        asked = rng.dirichlet(np.ones(size)) * rng.choice([0.3, 1.0, 1.5]) * (rng.random(size) < 0.8)
        lows = rng.dirichlet(np.ones(size)) * rng.random() * (rng.random(size) < 0.5)
        highs = lows + np.where(rng.random(size) < 0.5, rng.random(size) * 0.5, INF)
        free = rng.random(size) < 0.2
        limits = [FREE if f else (float(low), float(high)) for f, low, high in zip(free, lows, highs, strict=True)]
        yield dict(zip(names, asked.tolist(), strict=True)), dict(zip(names, limits, strict=True))


def shares_of(asked: dict[str, float]) -> dict[str, float]:
    return {name: c / math.fsum(asked.values()) for name, c in asked.items()}


def profile_of(asked: dict[str, float]) -> Profile:
    return Profile(asked, math.fsum(asked.values())) if any(asked.values()) else Profile(dict.fromkeys(asked, 1.0), 0.0)


def test_inside_the_bounds_and_as_near_to_the_total_as_they_allow() -> None:
    for asked, bounds in cases():
        given = project(asked, bounds)
        for name, (low, high) in bounds.items():
            assert low - 1e-12 <= given[name] <= high + 1e-12
        least = sum(low for low, _ in bounds.values())
        most = sum(bounds[name][1 if asked[name] else 0] for name in bounds)
        assert sum(given.values()) == pytest.approx(max(least, min(most, sum(asked.values()))))


def test_one_lambda_for_all() -> None:
    """x_i = clip(lambda c_i, low_i, high_i): those at no bound share a lambda, and those at one lie beyond it."""
    for asked, bounds in cases():
        given = project(asked, bounds)
        wanted = [name for name in asked if asked[name]]
        ratios = {name: given[name] / asked[name] for name in wanted}
        inside = [ratios[n] for n in wanted if bounds[n][0] + 1e-9 < given[n] < bounds[n][1] - 1e-9]
        for ratio in inside:
            assert ratio == pytest.approx(inside[0])
            assert all(ratios[n] >= ratio * (1 - 1e-9) for n in wanted if given[n] <= bounds[n][0] + 1e-9)
            assert all(ratios[n] <= ratio * (1 + 1e-9) for n in wanted if given[n] >= bounds[n][1] - 1e-9)


def solve(c_D: np.ndarray, total: float, limits_D2: np.ndarray) -> np.ndarray:
    """The least `sum x log(x / c)` of that total inside the limits, by a general solver."""
    solved = minimize(
        lambda x_D: float((x_D * np.log(x_D / c_D)).sum()),
        np.clip(np.full(len(c_D), total / len(c_D)), *limits_D2.T),
        jac=lambda x_D: np.log(x_D / c_D) + 1,
        bounds=limits_D2,
        constraints={"type": "eq", "fun": lambda x_D: x_D.sum() - total},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    return np.asarray(solved.x)


def test_it_is_the_kullback_leibler_projection() -> None:
    checked = 0
    for asked, bounds in cases():
        if min(asked.values()) > 1e-3 and len(asked) > 1 and min(high for _, high in bounds.values()) > 1e-3:
            given_D = np.array(list(project(asked, bounds).values()))
            limits_D2 = np.clip(np.array(list(bounds.values())), 1e-9, 9)
            expected_D = solve(np.array(list(asked.values())), given_D.sum(), limits_D2)
            assert given_D == pytest.approx(expected_D, abs=1e-5)
            checked += 1
    assert checked > 80


def test_projecting_twice_is_projecting_once() -> None:
    for asked, bounds in cases():
        once = in_force(profile_of(asked), bounds)
        assert in_force(once, bounds) is once


def test_what_keeps_the_bounds_stays() -> None:
    kept = 0
    for asked, bounds in cases():
        if all(low <= asked[name] <= high for name, (low, high) in bounds.items()):
            profile = profile_of(asked)
            assert in_force(profile, bounds) is profile
            assert project(asked, bounds) == pytest.approx(asked)
            kept += 1
    assert kept > 20


def test_more_strength_takes_nothing_away() -> None:
    for asked, bounds in cases():
        doses = [project({name: s * c for name, c in asked.items()}, bounds) for s in (0.01, 0.5, 1, 1.3, 4)]
        for weaker, stronger in pairwise(doses):
            assert all(stronger[name] >= weaker[name] - 1e-12 for name in asked)


def test_more_of_a_dimension_gives_no_less_of_it() -> None:
    for asked, bounds in cases():
        for name in asked:
            total = sum(asked.values())
            raised = {**asked, name: asked[name] + 0.2}
            scaled = {n: c * total / sum(raised.values()) for n, c in raised.items()}
            assert project(scaled, bounds)[name] >= project(asked, bounds)[name] - 1e-12


def test_the_order_of_dimensions_does_not_matter() -> None:
    for asked, bounds in cases():
        backwards = project(dict(reversed(asked.items())), dict(reversed(bounds.items())))
        assert backwards == pytest.approx(project(asked, bounds))


def test_coefficients_are_what_reaches_the_model() -> None:
    assert coefficients(Profile({"a": 3, "b": 1}, 0.5)) == {"a": 0.375, "b": 0.125}
    assert coefficients(None) == {}
