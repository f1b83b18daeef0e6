"""`counterpoint trace`: in colours, without them, as JSON and as a page."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from counterpoint.artifacts import write_json
from counterpoint.cli import trace as command_file
from counterpoint.decode.band import Band
from counterpoint.evaluate.trace_page import GENERATOR

Command = Callable[..., tuple[object, str, str]]
BRIEF = ("--max-tokens", "6", "--threads", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(band_folder: Path, *more: str) -> tuple[str, ...]:
    return ("trace", str(band_folder), "Hi there", "--profile", "terse=1, warm=0.5", *BRIEF, *more)


@pytest.mark.parametrize("method", ["mixture-prob", "mixture-log"])
def test_json_tells_each_token(command: Command, band_folder: Path, here: Path, method: str) -> None:
    code, said, _ = command(*asked(band_folder, "--method", method, "--json"))
    found = json.loads(said)
    assert code == 0
    assert (found["method"], found["profile"], found["experts"]) == (method, "terse=1, warm=0.5", ["terse", "warm"])
    assert "".join(token["text"] for token in found["tokens"]) == found["response"]
    for token in found["tokens"]:
        assert token["weights"] == pytest.approx({"terse": 2 / 3, "warm": 1 / 3})
        if method == "mixture-prob":
            mean = sum(token["weights"][name] * token["probabilities"][name] for name in ("terse", "warm"))
            assert token["probability"] == pytest.approx(mean, rel=1e-4)
            assert sum(token["responsibilities"].values()) == pytest.approx(1)
    assert list(here.iterdir()) == [], "no page unless it is asked for"


def test_the_response_is_what_chat_says(command: Command, band_folder: Path, here: Path) -> None:
    traced = json.loads(command(*asked(band_folder, "--json", "--seed", "4"))[1])["response"]
    arguments = ("chat", *asked(band_folder, "--json", "--seed", "4", "--method", "mixture-prob")[1:])
    assert traced == json.loads(command(*arguments)[1])["response"]


def test_the_base_is_a_row_by_its_name(command: Command, band_folder: Path, here: Path) -> None:
    half = ("trace", str(band_folder), "Hi", "--profile", "terse=1, strength=0.5", *BRIEF, "--json")
    assert json.loads(command(*half)[1])["experts"] == ["terse", "base"]


def test_without_colour_there_is_a_table_and_a_page(
    command: Command, band_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    _, said, _ = command(*asked(band_folder))
    assert "\x1b" not in said
    assert "terse: weight, share" in said
    assert "0.67" in said
    tokens = [line for line in said.splitlines() if line.startswith(' "')]
    assert len(tokens) == 6
    assert said.endswith("the whole trace: trace.html\n")
    assert GENERATOR in (here / "trace.html").read_text(encoding="utf-8")
    assert command(*asked(band_folder))[0] == 0, "a page is written over a page"


def test_pulls_are_signed_in_the_table(
    command: Command, band_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    _, said, _ = command(*asked(band_folder, "--method", "mixture-log"))
    assert "terse: weight, pull" in said
    assert "0.67 +" in said or "0.67 -" in said


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_shows_the_response_in_colours_unless_these_are_not_wanted(
    command: Command, band_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    terminal = Console(
        record=True, force_terminal=True, color_system="truecolor", no_color=no_color, width=120, highlight=False
    )
    monkeypatch.setattr(command_file, "out", terminal)
    command(*asked(band_folder))
    shown = terminal.export_text(styles=True)
    assert ("weight, share" in shown) == no_color
    assert ("48;2;61;143;214" in shown) != no_color, "the first expert's colour in the legend"


def test_a_token_is_coloured_by_who_leads() -> None:
    from counterpoint.evaluate.trace_page import TracedToken

    def token(*share_K: float) -> TracedToken:
        return TracedToken("a", "a", share_K, share_K, share_K, 1.0, share_K, 1.0, 0.0)

    text = command_file.coloured([token(0.5, 0.5), token(0.0, 1.0), token(1.0, 0.0), token(0.25, 0.75)])
    assert text.plain == "aaaa"
    assert [str(span.style) for span in text.spans] == [
        "#000000 on #ff7f3f",
        "#000000 on #3d8fd6",
        "#000000 on #ffaa7f",  # two thirds of (255, 127, 63), and a third of white: 127 * 2/3 + 85 = 170
    ]


@pytest.mark.parametrize("method", ["soup", "moe", "route", "best-expert", "base", "prompted"])
def test_a_method_of_one_row_is_refused(command: Command, band_folder: Path, here: Path, method: str) -> None:
    code, _, error = command(*asked(band_folder, "--method", method))
    assert code == 2
    assert f"--method {method} answers with one distribution" in error
    assert "mixture-prob, mixture-log" in error
    assert list(here.iterdir()) == []


def test_an_unknown_method_and_profile_are_refused(command: Command, band_folder: Path, here: Path) -> None:
    assert "unknown method 'mixtures'" in command(*asked(band_folder, "--method", "mixtures"))[2]
    wrong = command("trace", str(band_folder), "Hi", "--profile", "ters=1", *BRIEF)
    assert wrong[0] == 2
    assert "did you mean 'terse'?" in wrong[2]


def test_a_file_of_another_kind_is_not_written_over(command: Command, band_folder: Path, here: Path) -> None:
    (here / "trace.html").write_text("<p>mine")
    code, _, error = command(*asked(band_folder))
    assert code == 2
    assert "trace.html: is not a page that `trace` wrote" in error
    assert (here / "trace.html").read_text() == "<p>mine"
    assert command(*asked(band_folder, "--out", "other.html"))[0] == 0
    assert (here / "other.html").exists()


def test_with_json_a_page_is_written_if_it_is_named(command: Command, band_folder: Path, here: Path) -> None:
    _, said, _ = command(*asked(band_folder, "--json", "--out", "page.html"))
    assert json.loads(said)["tokens"]
    assert GENERATOR in (here / "page.html").read_text(encoding="utf-8")


def test_a_band_without_a_controller_is_traced_as_a_mixture_of_probabilities(
    command: Command, band: Band, band_folder: Path, here: Path
) -> None:
    assert band.controller is None
    assert json.loads(command(*asked(band_folder, "--json"))[1])["method"] == "mixture-prob"
    assert "this band has no controller" in command(*asked(band_folder, "--method", "mope"))[2]


def test_a_band_with_a_controller_is_traced_as_it_is_steered(command: Command, band_folder: Path, here: Path) -> None:
    """Constants of 0 and log 6 on a prior of 2 : 1 are weights of 2 : 6."""
    steered = Path(shutil.copytree(band_folder, here / "steered"))
    constants = {"terse=1, warm=0.5": [0.0, math.log(6)]}
    write_json(
        steered / "controller" / "controller.json",
        {"experts": ["terse", "warm"], "dimensions": ["terse", "warm"], "constants": constants},
    )
    found = json.loads(command(*asked(steered, "--json"))[1])
    assert found["method"] == "mope"
    assert all(token["weights"] == pytest.approx({"terse": 0.25, "warm": 0.75}) for token in found["tokens"])
    assert json.loads(command(*asked(steered, "--json", "--method", "mixture-prob"))[1])["method"] == "mixture-prob"
