"""What the server tells of a band, as the page and others read it."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from counterpoint.decode.band import METHODS, Band
from counterpoint.models.band_file import read_band, set_bounds, write_band
from counterpoint.serve.playground import methods


@pytest.fixture
def folder(band_folder: Path, tmp_path: Path) -> Path:
    """A band of this test's own."""
    return Path(shutil.copytree(band_folder, tmp_path / "band"))


def test_a_band_tells_what_it_has(folder: Path, serve: Callable[..., AbstractContextManager[Any]]) -> None:
    file = read_band(folder)
    file.experts[1].scores = {"warm": 1.5}
    file.dimensions[0].axis = "length"
    write_band(folder, file)
    set_bounds(folder, "exact <= 0.5")
    with serve(folder=folder, profile="warm=1, terse=0.5", method="moe", max_tokens=99) as server:
        told = server.http.get("/v1/band").json()
    assert [(d["name"], d["description"], d["axis"]) for d in told["dimensions"]] == [
        ("terse", "says it in few words", "length"), ("warm", "is kind", ""), ("exact", "uses the field's terms", ""),
    ]  # fmt: skip
    assert [m["name"] for m in told["methods"]] == list(METHODS)
    assert told["experts"][1] == {"name": "warm", "dimension": "warm", "scores": {"warm": 1.5}}
    assert told["points"] == []
    assert told["default"] == {"model": "moe", "profile": "warm=1, terse=0.5"}
    assert told["bounds"] == {"exact": [0.0, 0.5]}
    assert told["most_tokens"] == 99


def test_a_method_is_available_where_it_can_be_planned(folder: Path) -> None:
    found = {card.name: card for card in methods(Band.load(folder))}
    missing = {name for name, card in found.items() if not card.available}
    assert missing == {"best-expert", "mope", "arrow", "pmol", "loramoe", "x-lora", "phatgoose"}
    assert "measured scores" in str(found["best-expert"].why)
    assert "train controller" in str(found["mope"].why)
    assert "exact" in str(found["arrow"].why), "whose adapter is in other layers than the rest"
    assert all(found[name].why is None for name in METHODS if name not in missing)


def test_a_method_is_available_that_can_serve_one_dimension(folder: Path) -> None:
    """A floor keeps `route` from answering as any expert but its own, and `warm` is its own."""
    set_bounds(folder, "warm >= 0.2")
    found = {card.name: card for card in methods(Band.load(folder))}
    assert found["route"].available
    set_bounds(folder, "warm >= 0.2, terse >= 0.2")
    found = {card.name: card for card in methods(Band.load(folder))}
    assert "one expert alone" in str(found["route"].why)


def test_a_broken_gate_is_told_and_the_rest_is_served(folder: Path) -> None:
    (folder / "gates" / "pmol").mkdir(parents=True)
    found = {card.name: card for card in methods(Band.load(folder))}
    assert not found["pmol"].available
    assert "broken" in str(found["pmol"].why)
    assert str(folder) not in str(found["pmol"].why), "where it lies is for the operator"
    assert found["soup"].available
