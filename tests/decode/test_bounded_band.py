"""An operator's bounds on a band: whoever asks for whatever, by any method, gets what they allow."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from counterpoint import Band
from counterpoint.artifacts import read_json, write_json
from counterpoint.cli import app
from counterpoint.compose.plan import Plan
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import BAND, read_band, remove_expert, set_bounds
from counterpoint.profiles import parse_bounds
from counterpoint.types import CounterpointError, Profile

BOUNDS = "terse >= 0.3, warm = 0, exact <= 0.5"
MIXED = ("soup", "moe", "mixture-prob", "mixture-log")
SHORT = Sampling(max_tokens=8, seed=3)
ASKED = (
    None,
    Profile({"warm": 1.0}),
    Profile({"warm": 1.0, "exact": 1.0}),
    Profile({"exact": 1.0}, 0.0),
    Profile({"exact": 1.0}, 0.1),
    Profile({"terse": 0.1, "exact": 0.9}),
    Profile({"terse": 1.0}),
)


@pytest.fixture
def bounded(band: Band) -> Band:
    band.bounds = parse_bounds(BOUNDS, band.dimensions)
    return band


@pytest.fixture
def folder(band_folder: Path, tmp_path: Path) -> Path:
    """A copy of the band that a test may change."""
    shutil.copytree(band_folder, tmp_path / "band")
    return tmp_path / "band"


def doses(band: Band, plan: Plan) -> dict[str, float]:
    """The coefficient with which each dimension of the pico band, whose experts have its names, reaches the model."""
    found: dict[str, float] = {}
    for row, coefficient in zip(plan.rows, plan.coefficients, strict=True):
        found |= {expert: coefficient * gate for expert, gate in row.gate.items()}
    return found


@pytest.mark.parametrize("method", MIXED)
@pytest.mark.parametrize("profile", ASKED)
def test_what_reaches_the_model_keeps_the_bounds(bounded: Band, profile: Profile | None, method: str) -> None:
    given = doses(bounded, bounded.plan(profile, method))
    assert given["terse"] >= 0.3 - 1e-9
    assert given.get("warm", 0.0) == 0
    assert given.get("exact", 0.0) <= 0.5 + 1e-9


@pytest.mark.parametrize("method", MIXED)
def test_it_answers_as_for_the_profile_in_force(band_folder: Path, bounded: Band, method: str) -> None:
    free = Band.load(band_folder)
    for profile in ASKED:
        held = bounded.respond(["Hi"], [profile], method, SHORT)
        assert held == free.respond(["Hi"], [bounded.in_force(profile)], method, SHORT)
    assert bounded.chat("Hi", method=method, sampling=SHORT) != free.chat("Hi", method=method, sampling=SHORT)


def test_in_force_reads_what_chat_reads(bounded: Band) -> None:
    # warm gets nothing, exact would get all of the 1 but for its cap: .5, and terse has its floor
    for way in ("warm=1, exact=1", {"warm": 1.0, "exact": 1.0}, Profile({"warm": 2.0, "exact": 2.0})):
        found = bounded.in_force(way)
        assert found is not None
        assert found.weights == pytest.approx({"terse": 0.3, "warm": 0.0, "exact": 0.5})
        assert found.strength == pytest.approx(0.8)
    assert bounded.in_force(None) == Profile({"terse": 0.3}, 0.3)
    with pytest.raises(CounterpointError, match="unknown dimension 'ters'"):
        bounded.in_force("ters")


def test_base_by_name_stays_the_base(band_folder: Path, bounded: Band) -> None:
    free = Band.load(band_folder)
    assert bounded.chat("Hi", "exact", "base", SHORT) == free.chat("Hi", sampling=SHORT)


def test_prompted_asks_for_what_is_in_force(bounded: Band) -> None:
    (row,) = bounded.plan(Profile({"warm": 1.0, "exact": 1.0}), "prompted").rows
    assert set(row.requests) == {"terse", "exact"}
    assert bounded.plan(None, "prompted").rows[0].requests == ("terse",)
    bounded.bounds = parse_bounds("warm = 0", bounded.dimensions)
    for asked in (Profile({"warm": 1.0}), Profile({"warm": 1.0}, 0.0), Profile({"warm": 1e-12}, 1e-12)):
        assert bounded.plan(asked, "prompted").rows[0].requests == ()


def test_one_expert_alone_keeps_its_cap_and_breaks_no_floor(bounded: Band) -> None:
    for entry in bounded.file.experts:
        entry.scores = {entry.dimension: 1.0}
    exact = Profile({"terse": 0.1, "exact": 0.9}, 0.8)  # in force: .3 and .5
    for method in ("route", "best-expert"):
        with pytest.raises(
            CounterpointError, match="one expert alone, here for 'exact', cannot keep the bound terse >="
        ):
            bounded.plan(exact, method)
        assert doses(bounded, bounded.plan(Profile({"terse": 1.0}, 1.5), method)) == {"terse": 1.5}
    bounded.bounds = parse_bounds("exact <= 0.5, terse <= 0.2", bounded.dimensions)
    for method in ("route", "best-expert"):
        assert doses(bounded, bounded.plan(exact, method)) == {"exact": 0.5}


def test_a_mixture_of_probabilities_takes_a_total_of_one(bounded: Band) -> None:
    plan = bounded.plan(Profile({"terse": 1.0, "exact": 2.0}), "mixture-prob")
    assert doses(bounded, plan) == pytest.approx({"terse": 0.5, "exact": 0.5})
    with pytest.raises(CounterpointError, match=r"strength is 1\.5, at most 1 is possible"):
        bounded.plan(Profile({"terse": 1.0}, 1.5), "mixture-prob")
    # where a cap leaves less than 1, more may be asked for
    assert doses(bounded, bounded.plan(Profile({"exact": 1.0}, 1.5), "mixture-prob"))["exact"] == 0.5


def test_a_floor_is_shared_by_the_experts_of_its_dimension(bounded: Band) -> None:
    """Bounds are on dimensions: here terse is served by two experts, one of another name."""
    bounded.experts = [*bounded.experts[:1], *(type(e)(e.name, "terse") for e in bounded.experts[1:2])]
    assert doses(bounded, bounded.plan(None, "moe")) == pytest.approx({"terse": 0.15, "warm": 0.15})


# band.json


def test_bounds_are_kept_in_the_band(folder: Path) -> None:
    set_bounds(folder, BOUNDS)
    assert read_json(folder / BAND)["bounds"] == {"terse": [0.3, None], "warm": [0.0, 0.0], "exact": [0.0, 0.5]}
    assert Band.load(folder).bounds == parse_bounds(BOUNDS, ("terse", "warm", "exact"))
    set_bounds(folder, "exact <= 1")
    assert list(read_band(folder).bounds) == ["exact"], "new bounds replace all that were there"


def test_a_floor_that_no_expert_serves_is_refused(folder: Path) -> None:
    raw = read_json(folder / BAND)
    raw["dimensions"].append({"name": "lone"})
    write_json(folder / BAND, raw)
    with pytest.raises(CounterpointError, match=r"the floor 0\.1 of 'lone' cannot hold, since no expert serves it"):
        set_bounds(folder, "lone >= 0.1")
    set_bounds(folder, "lone = 0")


def test_a_bound_outlives_its_expert(folder: Path) -> None:
    """A floor that nothing can give any more refuses every request, rather than lapse."""
    set_bounds(folder, "terse >= 0.1")
    remove_expert(folder, "terse")
    with pytest.raises(CounterpointError, match="no expert serves the dimension 'terse'"):
        Band.load(folder).chat("Hi", "exact", sampling=SHORT)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"ters": [0, 1]}, "did you mean 'terse'"),
        ({"terse": [2, 1]}, "floor 2 above its cap 1"),
        ({"terse": 1}, "tuple"),
    ],
)
def test_bounds_that_were_written_wrong_name_the_file(folder: Path, bounds: object, message: str) -> None:
    write_json(folder / BAND, {**read_json(folder / BAND), "bounds": bounds})
    with pytest.raises(CounterpointError, match=f"{folder / BAND}.*{message}"):
        Band.load(folder)


# Command line


def run(*arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


def test_the_command_sets_shows_and_clears(folder: Path) -> None:
    assert run("bounds", str(folder)) == ("no bounds\n", "")
    assert run("bounds", str(folder), BOUNDS) == (f"{BOUNDS}\n", "")
    shown = json.loads(run("bounds", str(folder), "--json")[0])
    assert shown == {"bounds": {"terse": [0.3, None], "warm": [0.0, 0.0], "exact": [0.0, 0.5]}}
    with pytest.raises(CounterpointError, match="found --clear and the bounds 'warm = 0'; give one of them"):
        run("bounds", str(folder), "warm = 0", "--clear")
    with pytest.raises(CounterpointError, match="the bounds are empty; use --clear"):
        run("bounds", str(folder), " ")
    assert run("bounds", str(folder), "--clear")[0] == "no bounds\n"
    assert read_band(folder).bounds == {}


def test_chat_says_which_bounds_acted(folder: Path) -> None:
    set_bounds(folder, "terse >= 0.3")
    chat = ("chat", str(folder), "Hi", "--max-tokens", "2")
    found = json.loads(run(*chat, "--profile", "exact=1", "--json")[0])
    assert found["asked"] == {"weights": {"exact": 1.0}, "strength": 1.0}
    assert (found["weights"], found["strength"]) == ({"exact": 0.7, "terse": 0.3}, 1.0)
    assert found["bounds"] == {"terse": {"asked": 0.0, "in_force": 0.3}}
    nobody = json.loads(run(*chat, "--json")[0])
    assert (nobody["asked"], nobody["weights"], nobody["method"]) == (None, {"terse": 0.3}, "soup")
    assert run(*chat, "--profile", "exact=1")[1] == "bounds in force: terse 0 -> 0.3\n"
    assert run(*chat, "--profile", "terse=1")[1] == ""
    assert "not in force: the method base knows none (terse >= 0.3)" in run(*chat, "--method", "base")[1]
