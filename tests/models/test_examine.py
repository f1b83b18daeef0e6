"""What a band is found to be made of, and that one problem does not hide the others."""

import shutil
from pathlib import Path

import pytest

from counterpoint.artifacts import read_json, write_json
from counterpoint.models.adapter import CONFIG, TENSORS, read_adapter
from counterpoint.models.band_file import BAND, add_expert, add_model, new_band
from counterpoint.models.examine import Base, Part, examine
from counterpoint.testing import pico_adapter, pico_model, pico_tokenizer, save_pico
from counterpoint.types import CounterpointError, Dimension, Expert

IDS = len(pico_tokenizer())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A band of two adapters and a whole model."""
    folder = tmp_path_factory.mktemp("examine")
    base = save_pico(folder / "base", seed=1)
    wild = save_pico(folder / "wild", seed=4, family="gpt2", hidden=16, positions=96)
    new_band(folder / "band", str(base), [Dimension("terse")])
    for name in ("terse", "warm"):
        add_expert(folder / "band", pico_adapter(folder / name, base, seed=2), Expert(name, name))
    add_model(folder / "band", str(wild), Expert("wild", "wild"))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_a_whole_band(made: Path) -> None:
    found = examine(made / "band")
    path = str(made / "band" / ".." / "base")
    assert found.base == Base(path, "as recorded", ids=IDS, ends=[2], longest=512)
    size = read_adapter(made / "terse").size
    wild = sum(p.numel() for p in pico_model(4, "gpt2", hidden=16, positions=96).parameters())
    assert found.experts == {
        "terse": Part("adapter", size, 512),
        "warm": Part("adapter", size, 512),
        "wild": Part("model", wild, 96),
    }
    assert (found.rewards, found.unused, found.problems) == ([], [], [])


def test_every_problem_is_told(place: Path) -> None:
    band = place / "band"
    with (place / "base" / "model.safetensors").open("ab") as stream:
        stream.write(b" ")
    (band / "experts" / "terse" / TENSORS).unlink()
    config = band / "experts" / "warm" / CONFIG
    write_json(config, read_json(config) | {"use_dora": True})
    shutil.rmtree(place / "wild")
    found = examine(band)
    assert [problem.split(": ")[0] for problem in found.problems] == [
        str((place / "base").resolve()),
        str(band / "experts" / "terse" / TENSORS),
        str(config),
        str(band / BAND),
    ]
    assert "these are not the weights and vocabulary that the band's experts were made for" in found.problems[0]
    assert "expert 'wild': the model '../wild' is not a folder" in found.problems[3]
    assert found.base.hash == "differs"
    assert found.experts["terse"] == Part("adapter", None, None)
    assert found.experts["wild"] == Part("model", None, None)


def test_experts_that_fit_no_longer(place: Path) -> None:
    save_pico(place / "base", seed=1, hidden=48)
    raw = read_json(place / "band" / BAND)
    write_json(place / "band" / BAND, raw | {"base_hash": None, "base_stamp": None})
    pico_tokenizer().save_pretrained(place / "wild")
    write_json(place / "wild" / "generation_config.json", {"eos_token_id": 9})
    found = examine(place / "band")
    assert found.base.hash == "none recorded"
    assert len(found.problems) == 3
    for name, problem in zip(("terse", "warm"), found.problems[:2], strict=True):
        assert problem.startswith(f"expert {name!r}, module 'model.layers.0.")
    assert "ends a response with the tokens [2, 9], the base" in found.problems[2]


def test_a_base_that_is_gone(place: Path) -> None:
    shutil.rmtree(place / "base")
    found = examine(place / "band")
    assert found.base == Base()
    assert len(found.problems) == 1
    assert found.experts["terse"].parameters == read_adapter(place / "terse").size


def test_what_was_left_behind_is_no_problem(place: Path) -> None:
    shutil.copytree(place / "terse", place / "band" / "experts" / "old")
    (place / "band" / "experts" / ".new.scratch").mkdir()
    (place / "band" / "rewards" / "terse").mkdir(parents=True)
    found = examine(place / "band")
    assert (found.unused, found.rewards, found.problems) == (["old"], ["terse"], [])


def test_a_copy_without_its_times_is_hashed_at_each_load(place: Path) -> None:
    (place / "base" / "config.json").touch()
    assert examine(place / "band").base.hash == "as recorded, but hashed anew at each load"


def test_an_unreadable_band_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="not a band"):
        examine(tmp_path)
