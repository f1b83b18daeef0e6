"""`counterpoint chat --mix`: experts by name, with any coefficients."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from counterpoint.artifacts import read_json, write_json
from counterpoint.cli.chat import parse_mix
from counterpoint.compose import presets
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.types import CounterpointError, Message

Command = Callable[..., tuple[object, str, str]]
KNOWN = ("base", "terse", "warm")


def test_a_mix_is_read() -> None:
    assert parse_mix("base=1, terse = 1.5,warm=-0.5", KNOWN) == {"base": 1.0, "terse": 1.5, "warm": -0.5}
    assert parse_mix("base, warm=2e-1", KNOWN) == {"base": 1.0, "warm": 0.2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ters=1", r"unknown expert 'ters'; did you mean 'terse'\? Known: base, terse, warm"),
        ("base=1, base=2", "'base' is given twice"),
        ("base=one", "'base' is 'one'; expected a number"),
        ("base=", "'base' is ''; expected a number"),
        ("base=1,", "unknown expert ''"),
    ],
)
def test_a_mix_that_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(CounterpointError, match=f"--mix {text!r}: {says}"):
        parse_mix(text, KNOWN)


def test_chat_answers_as_the_mix(command: Command, band: Band, band_folder: Path) -> None:
    arguments = ("--mix", "base=1, terse=0.8, warm=-0.8", "--max-tokens", "8", "--seed", "2", "--threads", "1")
    code, said, _ = command("chat", band_folder, "Hi there", *arguments, "--json")
    plan = presets.proxy_tuning("terse", "warm", 0.8)
    sampling = Sampling(temperature=0.7, max_tokens=8, seed=2)
    expected = band.run([band.request((Message("user", "Hi there"),), plan, sampling)])[0].text
    assert code == 0
    assert json.loads(said) == {
        "prompt": "Hi there",
        "response": expected,
        "mix": {"base": 1.0, "terse": 0.8, "warm": -0.8},
    }
    assert command("chat", band_folder, "Hi there", *arguments)[1] == expected + "\n"


@pytest.mark.parametrize("other", [("--profile", "terse=1"), ("--method", "soup")])
def test_a_mix_is_said_alone(command: Command, band_folder: Path, other: tuple[str, str]) -> None:
    code, _, error = command("chat", band_folder, "Hi", "--mix", "base=1", *other)
    assert code == 2
    assert "leave out --profile and --method" in error


@pytest.mark.parametrize(("mix", "says"), [("terse=0", "nothing to mix"), ("base=1, terse=nan", "'terse' is nan")])
def test_a_mix_of_nothing_is_one_line(command: Command, band_folder: Path, mix: str, says: str) -> None:
    code, _, error = command("chat", band_folder, "Hi", "--mix", mix)
    assert code == 2
    assert says in error


def test_no_mix_gets_round_an_operators_bounds(command: Command, band_folder: Path, tmp_path: Path) -> None:
    bounded = Path(shutil.copytree(band_folder, tmp_path / "bounded"))
    raw = read_json(bounded / "band.json")
    raw["bounds"] = {"terse": [0.0, 0.5]}
    write_json(bounded / "band.json", raw)
    code, _, error = command("chat", bounded, "Hi", "--mix", "terse=2")
    assert code == 2
    assert "this band has bounds" in error
    assert command("chat", bounded, "Hi", "--profile", "terse=1", "--max-tokens", "2")[0] == 0
