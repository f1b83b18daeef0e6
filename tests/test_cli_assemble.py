"""`add`, `remove` and `inspect` as a person meets them: a band from folders, what is refused, what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterpoint.artifacts import read_json, write_json
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import CONFIG, TENSORS
from counterpoint.testing import pico_adapter, pico_tokenizer, save_pico

Command = Callable[..., tuple[object, str, str]]


class Terminal:
    """The command line, whose commands are expected to end with a given code."""

    def __init__(self, command: Command) -> None:
        self.command = command

    def run(self, *arguments: object, code: int = 0) -> str:
        """What a command prints, after checking its exit code."""
        ended, said, told = self.command(*arguments)
        assert ended == code, told
        return told if code == 2 else said

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))

    def mistake(self, *arguments: object) -> str:
        """The one line that a mistake ends in."""
        said = self.run(*arguments, code=2)
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said


@pytest.fixture
def terminal(command: Command) -> Terminal:
    return Terminal(command)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    base = save_pico(folder / "base", seed=1)
    for seed, name in enumerate(("concise", "friendly")):
        pico_adapter(folder / "made" / name, base, seed=seed)
    save_pico(folder / "wild", seed=4, family="gpt2", hidden=16)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which is the working folder."""
    place = Path(shutil.copytree(made, tmp_path / "copy"))
    for name in ("concise", "friendly"):
        config = place / "made" / name / CONFIG
        write_json(config, read_json(config) | {"base_model_name_or_path": str(place / "base")})
    monkeypatch.chdir(place)
    return place


def three(terminal: Terminal) -> None:
    terminal.run("add", "band", "made/concise", "--dimension", "concise")
    terminal.run("add", "band", "made/friendly", "--dimension", "friendly", "--name", "warm")
    terminal.run("add", "band", "wild", "--dimension", "wild")


def test_a_band_is_assembled_and_answers(place: Path, terminal: Terminal) -> None:
    said = terminal.run(
        "add", "band", "made/concise", "--dimension", "concise", "--description", "says it shortly",
        "--request", "Please be brief.",
    )  # fmt: skip
    assert said.splitlines() == [
        f"started band on the base {place / 'base'}",
        "added adapter made/concise as expert 'concise' for 'concise'; the band has 1",
    ]
    found = terminal.json("add", "band", "made/friendly", "--dimension", "friendly", "--name", "warm")
    assert found == {
        "expert": "warm", "dimension": "friendly", "kind": "adapter", "path": "made/friendly",
        "base": str(Path("band") / ".." / "base"), "new": False, "notes": [],
    }  # fmt: skip
    assert terminal.json("add", "band", "wild", "--dimension", "wild")["kind"] == "model"
    band = Band.load("band")
    assert band.file.dimension("concise").request == "Please be brief."
    for profile, method in (("concise=1, friendly=0.5", "soup"), ("wild=1, concise=1", "mixture-log")):
        arguments = ("chat", "band", "Hi", "--profile", profile, "--method", method, "--max-tokens", 6)
        expected = band.chat("Hi", profile, method, Sampling(temperature=0.7, max_tokens=6))
        assert terminal.json(*arguments)["response"] == expected


def test_the_base_may_be_named(place: Path, terminal: Terminal) -> None:
    assert "started band on the base base" in terminal.run(
        "add", "band", "wild", "--dimension", "wild", "--base", "base"
    )
    assert "another band" in terminal.mistake("add", "band", "made/concise", "--dimension", "concise", "--base", "wild")


def test_a_note_is_printed(place: Path, terminal: Terminal) -> None:
    said = terminal.run("add", "band", "made/concise", "--dimension", "concise", "--base", "base")
    assert "note:" not in said
    moved = Path(shutil.copytree(place / "base", place / "moved"))
    said = terminal.run("add", "other", "made/concise", "--dimension", "concise", "--base", moved)
    assert f"note: made/concise/{CONFIG}: it names another base, '{place / 'base'}'; its factors fit" in said


def test_wrong_turns_of_add_are_one_line(place: Path, terminal: Terminal) -> None:
    three(terminal)
    add = ("add", "band")
    assert "--replace" in terminal.mistake(*add, "made/concise", "--dimension", "concise")
    terminal.run(*add, "made/friendly", "--dimension", "concise", "--replace")
    assert "made/concise, made/friendly" in terminal.mistake(*add, "made", "--dimension", "x")
    assert "there is no such folder" in terminal.mistake(*add, "made/gone", "--dimension", "x")
    assert "cannot name a dimension" in terminal.mistake(*add, "made/concise", "--dimension", "a=b")
    other = pico_tokenizer()
    other.add_tokens(["<extra>"])
    other.save_pretrained(place / "made" / "friendly")
    assert "ids that differ: 1, first id 290 is '<extra>', in the base None" in terminal.mistake(
        *add, "made/friendly", "--dimension", "x"
    )
    with (place / "base" / "model.safetensors").open("ab") as stream:
        stream.write(b" ")
    assert "these are not the weights" in terminal.mistake(*add, "made/concise", "--dimension", "x")


NOWHERE = "http://127.0.0.1:9/v1"
"""An address at which no server listens; tests/decode/test_remote.py has those at which one does."""


def test_a_server_that_is_down_is_added_unasked(place: Path, terminal: Terminal) -> None:
    three(terminal)
    add = ("add", "band", NOWHERE, "--dimension", "exact", "--remote-model", "owl", "--no-check")
    options = ("--api-key-env", "COUNTERPOINT_KEY", "--top", 5, "--trust-tokenizer", "--timeout", 90)
    assert terminal.run(*add, *options).splitlines() == [
        f"added model on the server {NOWHERE} as expert 'exact' for 'exact'; the band has 4",
        "note: the server was not asked whether it can be used",
    ]
    assert read_json(place / "band" / "band.json")["experts"][-1]["endpoint"] == {
        "url": NOWHERE, "model": "owl", "top": 5, "api_key_env": "COUNTERPOINT_KEY", "on_failure": "fail",
        "timeout_s": 90.0, "trust_tokenizer": True,
    }  # fmt: skip
    assert "there is an expert 'exact' for 'exact' already" in terminal.mistake(*add)
    found = terminal.json("add", "band", NOWHERE + "/", *add[3:], "--name", "concise", "--replace")
    assert {key: found[key] for key in ("expert", "kind", "path", "new")} == {
        "expert": "concise", "kind": "endpoint", "path": NOWHERE, "new": False,
    }  # fmt: skip
    assert not (place / "band" / "experts" / "concise").exists(), "the adapter that was there of that name"
    assert "endpoint" in terminal.run("inspect", "band", code=1)
    seen = terminal.json("inspect", "band", code=1)
    assert seen["kinds"]["exact"] == "endpoint"
    unset, down = seen["problems"]
    assert "expert 'exact'" in unset
    assert "environment variable COUNTERPOINT_KEY, which is not set" in unset
    assert f"expert 'concise' at {NOWHERE} (model 'owl') did not list its models: no connection, tried once" in down
    terminal.run("remove", "band", "exact")


def test_wrong_turns_of_a_model_on_a_server_are_one_line(place: Path, terminal: Terminal) -> None:
    three(terminal)
    before = (place / "band" / "band.json").read_text()
    add = ("add", "band", NOWHERE, "--dimension", "exact")
    assert "--remote-model names which of its models" in terminal.mistake(*add)
    assert "--remote-model names which of its models" in terminal.mistake(
        "add", "band", "made/concise", "--dimension", "exact", "--top", "all"
    )
    remote = (*add, "--remote-model", "owl")
    for wrong in ("./gone", "made/concise"):
        new = ("add", "other", *remote[2:], "--base", wrong, "--no-check")
        assert wrong in terminal.mistake(*new), "a server that is not asked needs a base all the same"
    assert not (place / "other").exists()
    assert "--remote-model names which of its" in terminal.mistake(*add[:2], "made/concise", *add[3:], "--timeout", 5)
    assert "timeout_s: input should be greater than 0" in terminal.mistake(*remote, "--timeout", 0)
    assert "name the base model with --base" in terminal.mistake("add", "other", *remote[2:])
    assert "this band's base is" in terminal.mistake(*remote, "--base", "wild")
    assert "top: value error, 'few' is neither a number from 1 nor all" in terminal.mistake(*remote, "--top", "few")
    assert "on_failure: input should be 'fail' or 'drop'" in terminal.mistake(*remote, "--on-failure", "wait")
    assert "is no address of a server" in terminal.mistake(*add[:2], "owl:8000/v1", *remote[3:])
    assert "environment variable COUNTERPOINT_KEY, which is not set" in terminal.mistake(
        *remote, "--api-key-env", "COUNTERPOINT_KEY"
    )
    assert (place / "band" / "band.json").read_text() == before


def test_remove(place: Path, terminal: Terminal) -> None:
    three(terminal)
    assert "did you mean 'wild'" in terminal.mistake("remove", "band", "wil")
    said = terminal.run("remove", "band", "warm")
    assert said == "removed expert 'warm' and the dimension 'friendly'; left: concise, wild\n"
    assert terminal.json("remove", "band", "concise", "--keep-dimension") == {
        "removed": "concise", "dimensions_dropped": [], "experts": ["wild"], "gates_broken": [],
    }  # fmt: skip
    assert Band.load("band").dimensions == ("concise", "wild")


def test_inspect_shows_what_there_is(place: Path, terminal: Terminal) -> None:
    three(terminal)
    raw = read_json(place / "band" / "band.json")
    write_json(place / "band" / "band.json", raw | {"bounds": {"concise": [0.25, None]}})
    said = terminal.run("inspect", "band")
    for part in ("hash as recorded", "290 ids", "ends with 2", "512 tokens", "adapter", "model", "concise >= 0.25"):
        assert part in said
    found = terminal.json("inspect", "band")
    assert found["kinds"] == {"concise": "adapter", "warm": "adapter", "wild": "model"}
    assert found["problems"] == []
    assert {key: found[key] for key in raw} == raw | {"bounds": {"concise": [0.25, None]}}


def test_inspect_tells_all_that_is_wrong(place: Path, terminal: Terminal) -> None:
    three(terminal)
    shutil.rmtree(place / "wild")
    (place / "band" / "experts" / "warm" / TENSORS).unlink()
    said = terminal.run("inspect", "band", code=1)
    wrong = [line for line in said.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 2
    assert len(terminal.json("inspect", "band", code=1)["problems"]) == 2
    assert "not a band" in terminal.mistake("inspect", "made")
