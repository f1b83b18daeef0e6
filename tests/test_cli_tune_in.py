"""`counterpoint tune-in`: choices by keys, kept and gone on with."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture
def tune_in(command: Command, monkeypatch: pytest.MonkeyPatch, band_folder: Path) -> Callable[..., Any]:
    """Runs it with keys typed ahead."""

    def run(keys: str, *arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        return partial(command, "tune-in", band_folder, "--threads", 1, "--max-tokens", 6)(*arguments)

    return run


def numbers(done: tuple[object, str, str]) -> Any:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


def test_without_scorers_profiles_are_compared(tune_in: Callable[..., Any]) -> None:
    done = tune_in("12=q", "--json", "--prompt", "Hello")
    found = numbers(done)
    assert "no rewards" in done[2]
    assert found["features"] == "profiles"
    assert found["choices"] == 3
    assert [row["share"] for row in found["rows"]] == [1.0, 0.0, 0.5]
    assert all(row["profiles"][0] != row["profiles"][1] for row in found["rows"])


def test_scores_of_the_answers_are_what_is_learned_from(tune_in: Callable[..., Any]) -> None:
    rewards = ["--reward", "terse=-length", "--reward", "warm=regex:e"]
    found = numbers(tune_in("11", "--json", "--prompt", "Hello", *rewards))
    assert found["features"] == "rewards"
    assert found["dimensions"] == ["terse", "warm"]
    assert set(found["rows"][0]["a"]) == {"terse", "warm"}


def test_more_than_is_desired_tells_nothing(tune_in: Callable[..., Any]) -> None:
    """Every answer has fewer than a million characters, which is what this zone is content with."""
    rewards = ["--reward", "terse=-length", "--reward", "warm=regex:e", "--zone", "terse=-2e6:-1e6"]
    found = numbers(tune_in("11", "--json", "--prompt", "Hello", *rewards))
    assert abs(found["weights"]["terse"]["weight"]) < 0.1
    assert found["rows"][0]["a"]["terse"] <= 0, "what is kept are the scores themselves"


def test_a_place_that_cannot_be_written_is_refused_before_the_first_choice(tune_in: Callable[..., Any]) -> None:
    code, _, errors = tune_in("1", "--prompt", "Hello", "--out", "/proc/choices.json")
    assert code == 2
    assert "/proc/choices.json" in errors
    assert "1. Hello" not in errors


def test_a_kept_session_goes_on(tune_in: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    once = numbers(tune_in("1212", "--json", "--prompt", "Hello"))
    assert numbers(tune_in("12", "--json", "--prompt", "Hello", "--out", file))["choices"] == 2
    resumed = numbers(tune_in("12", "--json", "--prompt", "Hello", "--out", file))
    assert resumed["rows"] == once["rows"]
    assert json.loads(file.read_text())["choices"] == once["rows"]


def test_how_pairs_are_chosen_can_be_chosen(tune_in: Callable[..., Any]) -> None:
    told, drawn = (
        numbers(tune_in("1", "--json", "--choices", 1, "--pairs", name)) for name in ("information", "thompson")
    )
    assert set(told["rows"][0]["profiles"]) != set(drawn["rows"][0]["profiles"])


def test_it_stops_after_so_many_choices_and_says_a_profile(tune_in: Callable[..., Any]) -> None:
    code, printed, errors = tune_in("1111", "--choices", 2, "--prompt", "Hello")
    assert code == 0, errors
    assert "2 choices" in printed
    assert any(name in printed.splitlines()[-1] for name in ("terse=", "warm=", "exact="))


def test_a_key_that_is_none_is_asked_again(tune_in: Callable[..., Any]) -> None:
    done = tune_in(["x", "1"], "--json", "--choices", 1, "--prompt", "Hello")
    assert numbers(done)["choices"] == 1
    assert "'x' is none of" in done[2]


def test_mistakes_are_one_line(tune_in: Callable[..., Any], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"choices": 3}')
    alien = tmp_path / "alien.json"
    row = {"a": {"x": 1.0}, "b": {"x": 0.0}, "share": 1.0}
    alien.write_text(json.dumps({"dimensions": ["x"], "features": "rewards", "choices": [row]}))
    for arguments, message in (
        (["--out", other], "holds something else than choices"),
        (["--out", alien], "its choices are of dimensions ['x']"),
        (["--out", tmp_path / "a.txt"], "ends with .json"),
        (["--choices", -1], "expected 0 or more"),
        (["--sentence", " "], "--sentence: says nothing"),
        (["--zone", "terse=0:1"], "name some with --reward"),
        (["--reward", "terse=-length", "--reward", "warm=regex:e", "--zone", "terse=1"], "expected NAME=ADEQUATE"),
        (["--reward", "terse=-length"], "two dimensions or more; found terse"),
    ):
        code, _, errors = tune_in("1", *arguments)
        assert code == 2
        assert message in " ".join(errors.split())
        assert "Traceback" not in errors
