import re
import subprocess
import sys
from random import Random
from typing import Any

import pytest

from counterpoint.profiles import format_profile, parse_profile, unknown_name
from counterpoint.types import CounterpointError, Profile

KNOWN = ("concise", "friendly", "formal")


@pytest.mark.parametrize(
    ("text", "weights", "strength"),
    [
        ("concise=1, friendly=0.5", {"concise": 1.0, "friendly": 0.5}, 1.0),
        ("concise=1,friendly=.5", {"concise": 1.0, "friendly": 0.5}, 1.0),
        ("concise+friendly", {"concise": 1.0, "friendly": 1.0}, 1.0),
        (" concise + friendly ,strength = 1.5 ", {"concise": 1.0, "friendly": 1.0}, 1.5),
        ("concise", {"concise": 1.0}, 1.0),
        ("concise, friendly=2e-1", {"concise": 1.0, "friendly": 0.2}, 1.0),
        ("concise=0, friendly=1, strength=0", {"concise": 0.0, "friendly": 1.0}, 0.0),
        ({"concise": 2, "strength": 3}, {"concise": 2.0}, 3.0),
        (Profile({"formal": 1}, 2), {"formal": 1.0}, 2.0),
    ],
)
def test_grammar(text: Any, weights: dict[str, float], strength: float) -> None:
    assert parse_profile(text, KNOWN) == Profile(weights, strength)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "concize",
            "profile 'concize': unknown dimension 'concize'; did you mean 'concise'? Known: concise, friendly, formal",
        ),
        ("CONCISE", "did you mean 'concise'?"),
        ("zzz", "unknown dimension 'zzz'. Known: concise, friendly, formal"),
        ("concise=-1", "'concise' is -1.0; expected a finite number that is 0 or more"),
        ("concise=nan", "'concise' is nan; expected a finite"),
        ("concise=1e400", "'concise' is inf; expected a finite"),
        ({"concise": 10**400}, "expected a finite"),
        ("concise=lots", "'concise' is 'lots'; expected a number"),
        ("concise=", "'concise' is ''; expected a number"),
        ("concise=1=2", "'concise' is '1=2'; expected a number"),
        ({"concise": True}, "'concise' is True; expected a number"),
        ({"concise": "1"}, "'concise' is '1'; expected a number"),
        ({"concise": None}, "'concise' is None; expected a number"),
        ("concise=0, friendly=0", "every weight is 0; give at least one"),
        ("concise=1e308, friendly=1e308", "the weights add up to more than a float holds"),
        ("", "names no dimension; expected at least one of: concise, friendly, formal"),
        ("  ", "names no dimension"),
        ("strength=2", "names no dimension"),
        ({}, "names no dimension"),
        ("concise,", "a name is missing"),
        ("=1", "a name is missing"),
        ("concise++friendly", "a name is missing"),
        ("concise, concise=2", "'concise' is given twice; name it once"),
        ("concise+friendly=2", "found 'concise+friendly=2'; give each name its own weight"),
        ("concise, strength", "'strength' is ''; expected a number"),
        ("concise, strength=-1", "'strength' is -1.0; expected a finite number"),
        ("concise, strength=nan", "'strength' is nan; expected a finite number"),
        ("concise, strength=1, strength=1", "'strength' is given twice"),
        (Profile({"concise": 1}, float("nan")), "'strength' is nan"),
        (["concise"], "expected text or a mapping, found ['concise']"),
    ],
)
def test_errors_say_what_was_found(text: Any, message: str) -> None:
    with pytest.raises(CounterpointError, match=re.escape(message)):
        parse_profile(text, KNOWN)


def test_format_is_short() -> None:
    assert format_profile(Profile({"concise": 1.0, "friendly": 0.1})) == "concise=1, friendly=0.1"
    assert format_profile(Profile({"concise": 1.0}, 1.5)) == "concise=1, strength=1.5"


def test_format_round_trips() -> None:
    random = Random(0)
    for _ in range(500):
        names = random.sample(KNOWN, random.randint(1, 3))
        exponents = (random.randint(-300, 300) for _ in names)
        profile = Profile(
            {name: random.random() * 10.0**e for name, e in zip(names, exponents, strict=True)},
            random.choice([0.0, 1.0, 1.5, random.random()]),
        )
        assert parse_profile(format_profile(profile), KNOWN) == profile


def test_unknown_name_without_any_known() -> None:
    assert unknown_name("rule", "x", []) == "unknown rule 'x'. Known: none"


def test_import_is_light() -> None:
    code = "import sys, counterpoint.profiles; print([m for m in ('torch', 'scipy', 'pydantic') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
