"""Adapters that are added, removed or damaged on disk while a band answers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from counterpoint.artifacts import read_json, write_json
from counterpoint.decode.band import Band
from counterpoint.decode.request import Said
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import add_expert, add_model, remove_expert, set_bounds
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import Completion, CounterpointError, Expert

LONG = Sampling(max_tokens=12, seed=3)
PROFILE = "terse=0.4, warm=0.6"


@pytest.fixture
def folder(band_folder: Path, tmp_path: Path) -> Path:
    """A band of its own for each test, since tests change it."""
    return Path(shutil.copytree(band_folder, tmp_path / "band"))


def begin(band: Band, profile: str = PROFILE, method: str = "soup", sampling: Sampling = LONG) -> int:
    return band.engine.submit(band.request("Tell me.", band.plan(band.in_force(profile), method), sampling))


def finish(band: Band) -> dict[int, Said]:
    last: dict[int, Said] = {}
    while not band.engine.idle:
        last |= {said.ticket: said for said in band.engine.advance()}
    return last


def answer(band: Band, profile: str = PROFILE, method: str = "soup") -> Completion | None:
    ticket = begin(band, profile, method)
    return finish(band)[ticket].completion


def add(folder: Path, name: str, seed: int) -> None:
    adapter = pico_adapter(folder / "made" / f"{name}{seed}", folder / "base", seed=seed)
    add_expert(folder, adapter, Expert(name, name))


def test_an_adapter_that_was_added_answers_and_those_under_way_are_not_disturbed(folder: Path) -> None:
    band = Band.load(folder)
    before = answer(band)
    ticket = begin(band)
    for _ in range(3):
        band.engine.advance()
    add(folder, "bold", seed=21)
    band.refresh()
    assert band.dimensions == ("terse", "warm", "exact", "bold")
    added = begin(band, "bold=1, terse=1")
    last = finish(band)
    assert last[ticket].completion == before
    assert last[added].completion == answer(Band.load(folder), "bold=1, terse=1")


@pytest.mark.parametrize("method", ["soup", "mixture-prob"])
def test_an_adapter_that_was_removed_stays_for_those_who_began_with_it_and_then_goes(folder: Path, method: str) -> None:
    band = Band.load(folder)
    before = answer(band, method=method)
    ticket = begin(band, method=method)
    band.engine.advance()
    remove_expert(folder, "warm")
    band.refresh()
    assert "warm" not in band.dimensions
    with pytest.raises(CounterpointError, match="warm"):
        band.plan(band.in_force("warm=1"), method)
    assert "warm" in band.bank.experts
    shorter = begin(band, "terse=1", method, Sampling(max_tokens=2))
    last = finish(band)
    assert last[ticket].completion == before
    assert last[shorter].completion is not None
    assert "warm" not in band.bank.experts


def test_who_waits_for_a_removed_adapter_is_told_and_the_others_go_on(folder: Path) -> None:
    band = Band.load(folder)
    band.engine.max_rows = 1
    other = begin(band, "terse=1")
    band.engine.advance()
    waiting = begin(band, "warm=1")
    remove_expert(folder, "warm")
    band.refresh()
    last = finish(band)
    assert "no expert called 'warm'" in str(last[waiting].error)
    assert last[other].completion is not None


def test_an_adapter_of_the_same_name_takes_the_place_when_nobody_has_it(folder: Path) -> None:
    band = Band.load(folder)
    ticket = begin(band)
    band.engine.advance()
    add(folder, "warm", seed=22)
    with pytest.raises(CounterpointError, match="expert 'warm' is not the adapter that was loaded"):
        band.refresh()
    assert finish(band)[ticket].completion is not None
    band.refresh()
    assert answer(band) == answer(Band.load(folder))


def test_regression_an_adapter_that_is_back_before_anybody_was_answered_without_it_stays(
    folder: Path, tmp_path: Path
) -> None:
    """It left with the first request that did not want it, although the folder had it again."""
    band = Band.load(folder)
    before = answer(band)
    shutil.copytree(folder, tmp_path / "before")
    remove_expert(folder, "warm")
    band.refresh()
    shutil.copytree(tmp_path / "before", folder, dirs_exist_ok=True)
    band.refresh()
    assert answer(band, "terse=1") is not None
    assert answer(band) == before


def corrupt_tensors(folder: Path) -> None:
    (folder / "experts" / "bold" / "adapter_model.safetensors").write_bytes(b"no tensors")


def corrupt_config(folder: Path) -> None:
    (folder / "experts" / "bold" / "adapter_config.json").write_text("{")


def corrupt_band(folder: Path) -> None:
    (folder / "band.json").write_text("{")


def other_base(folder: Path) -> None:
    raw = read_json(folder / "band.json")
    write_json(folder / "band.json", raw | {"base_hash": "0" * 64})


def whole_model(folder: Path) -> None:
    add_model(folder, str(save_pico(folder / "whole", seed=9)), Expert("whole", "whole"))


def misfit(folder: Path) -> None:
    wide = save_pico(folder / "wide", seed=9, hidden=64)
    add_expert(folder, pico_adapter(folder / "made" / "wide", wide, seed=3), Expert("bold", "bold"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt_tensors, r"adapter_model.safetensors: not a readable"),
        (corrupt_config, r"adapter_config.json"),
        (corrupt_band, r"band.json"),
        (other_base, r"band.json: the base is not the one that was loaded"),
        (whole_model, r"band.json: expert 'whole' is or was a whole model"),
        (misfit, r"expert 'bold', module .*: its delta is"),
    ],
)
def test_what_is_damaged_is_named_and_everything_stays_as_it_was(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    band = Band.load(folder)
    before, file = answer(band), band.file
    ticket = begin(band)
    band.engine.advance()
    add(folder, "bold", seed=21)
    remove_expert(folder, "exact")
    damage(folder)
    with pytest.raises(CounterpointError, match=message):
        band.refresh()
    assert band.file is file
    assert set(band.bank.experts) == {"terse", "warm", "exact"}
    assert finish(band)[ticket].completion == before


def test_bounds_are_taken(folder: Path) -> None:
    band = Band.load(folder)
    set_bounds(folder, {"warm": (0.0, 0.0)})
    band.refresh()
    assert band.in_force("terse=1, warm=1") == band.in_force("terse=1, warm=0")


def test_a_band_without_a_folder_has_nothing_to_read_again(band_folder: Path) -> None:
    band = Band.assemble(band_folder / "base", {"terse": band_folder / "made" / "terse"})
    with pytest.raises(CounterpointError, match="lies in no folder"):
        band.refresh()
