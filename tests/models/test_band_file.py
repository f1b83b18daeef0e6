"""`band.json`: what is refused and how it is said, and that a band can be moved."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from counterpoint.artifacts import MANIFEST, read_json, write_json
from counterpoint.decode.band import Band
from counterpoint.models import band_file
from counterpoint.models.adapter import CONFIG, TENSORS
from counterpoint.models.band_file import (
    BAND,
    add_expert,
    base_path,
    hash_model,
    new_band,
    read_band,
    stamp_model,
    write_band,
)
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import CounterpointError, Dimension, Expert

DIMENSIONS = (Dimension("terse", "few words", "Be terse."), Dimension("warm"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `terse` (an adapter) and `band`, which refers to `../base`."""
    folder = tmp_path_factory.mktemp("bands")
    base = save_pico(folder / "base", seed=1)
    pico_adapter(folder / "terse", base, seed=2)
    new_band(folder / "band", str(base), DIMENSIONS)
    add_expert(folder / "band", folder / "terse", Expert("terse", "terse", "by hand"))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def change(folder: Path, **fields: Any) -> None:
    write_json(folder / BAND, read_json(folder / BAND) | fields)


def refused(folder: Path) -> str:
    with pytest.raises(CounterpointError) as caught:
        Band.load(folder)
    return str(caught.value)


def test_what_a_band_file_holds(made: Path) -> None:
    raw = read_json(made / "band" / BAND)
    assert raw == {
        "base": "../base",
        "base_hash": hash_model(made / "base"),
        "base_stamp": stamp_model(made / "base"),
        "dimensions": [
            {"name": "terse", "description": "few words", "request": "Be terse.", "axis": "", "criterion": ""},
            {"name": "warm", "description": "", "request": "", "axis": "", "criterion": ""},
        ],
        "experts": [
            {
                "name": "terse",
                "dimension": "terse",
                "trained_on": "by hand",
                "scores": {},
                "model": None,
                "hash": None,
                "stamp": None,
                "endpoint": None,
            }
        ],
        "strengths": {},
        "bounds": {},
    }
    band = read_band(made / "band")
    assert band.typed_experts() == [Expert("terse", "terse", "by hand")]
    assert band.dimension("terse") == DIMENSIONS[0]


def test_write_and_read_are_inverse(place: Path) -> None:
    band = read_band(place / "band")
    band.experts[0].scores = {"terse": 0.25}
    band.strengths = {"soup": 1.5}
    write_band(place / "band", band)
    assert read_band(place / "band") == band


def test_a_folder_that_is_no_band(tmp_path: Path) -> None:
    assert f"{tmp_path}: not a band, since it holds no band.json" in refused(tmp_path)
    assert f"{tmp_path / 'nowhere'}: not a band" in refused(tmp_path / "nowhere")


def test_broken_json_names_the_file_and_the_place(place: Path) -> None:
    (place / "band" / BAND).write_text('{"base": "x",}')
    assert refused(place / "band").startswith(f"{place / 'band' / BAND}: not valid JSON: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour: extra inputs are not permitted"),
        ({"base": 3}, "base: input should be a valid string"),
        ({"dimensions": [{"nam": "terse"}]}, "dimensions.0.name: field required; dimensions.0.nam: extra inputs"),
        ({"experts": [{"name": "terse", "dimension": "terse", "rank": 8}]}, "experts.0.rank: extra inputs"),
        ({"experts": [{"name": "terse", "dimension": "terse", "scores": {"terse": "x"}}]}, "experts.0.scores.terse: "),
        ({"strengths": {"soup": None}}, "strengths.soup: input should be a valid number"),
    ],
)
def test_a_wrong_field_is_named(place: Path, fields: dict[str, Any], message: str) -> None:
    change(place / "band", **fields)
    found = refused(place / "band")
    assert found.startswith(f"{place / 'band' / BAND}: ")
    assert message in found


def test_a_missing_field_and_another_type_of_file(place: Path) -> None:
    raw = read_json(place / "band" / BAND)
    del raw["experts"]
    write_json(place / "band" / BAND, raw)
    assert "experts: field required" in refused(place / "band")
    write_json(place / "band" / BAND, ["terse"])
    assert "top level: input should be" in refused(place / "band")


def test_an_expert_of_a_dimension_that_is_not_declared(place: Path) -> None:
    change(place / "band", experts=[{"name": "terse", "dimension": "brief"}])
    assert "expert 'terse' is for dimension 'brief', which is not among ['terse', 'warm']" in refused(place / "band")


def test_every_fault_is_named_at_once(place: Path) -> None:
    twin = {"name": "terse", "dimension": "brief"}
    change(place / "band", experts=[twin, twin], dimensions=[{"name": "a=b"}])
    found = refused(place / "band")
    assert "'a=b' cannot name a dimension" in found
    assert "the name 'terse' is there twice" in found
    assert found.count("expert 'terse' is for dimension 'brief', which is not among ['a=b']") == 2


def test_an_expert_whose_adapter_is_gone(place: Path) -> None:
    inside = place / "band" / "experts" / "terse"
    (inside / TENSORS).unlink()
    assert refused(place / "band").startswith(f"{inside / TENSORS}: there is no such file")
    shutil.rmtree(place / "band" / "experts")
    assert refused(place / "band") == f"{inside / CONFIG}: there is no such file"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_base_of_another_hash(place: Path, file: str) -> None:
    with (place / "base" / file).open("ab") as stream:
        stream.write(b" ")
    found, expected = hash_model(place / "base"), read_band(place / "band").base_hash
    assert expected is not None
    assert found != expected
    message = refused(place / "band")
    assert message.startswith(
        f"{(place / 'base').resolve()}: these are not the weights and vocabulary that the band's experts"
    )
    assert f"(hash {found[:12]}, expected {expected[:12]})" in message


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The model folders that are hashed from here on."""
    folders: list[Path] = []

    def counted(folder: Path) -> str:
        folders.append(folder)
        return hash_model(folder)

    monkeypatch.setattr(band_file, "hash_model", counted)
    return folders


def test_a_base_whose_files_keep_their_sizes_and_times_is_not_hashed_again(place: Path, hashed: list[Path]) -> None:
    band = read_band(place / "band")
    base_path(place / "band", band)
    assert hashed == []
    base_path(place / "band", band, trust_stamp=False)
    (place / "base" / "model.safetensors").touch()
    base_path(place / "band", band)
    assert hashed == [place / "band" / ".." / "base"] * 2


def test_a_band_of_before_there_were_stamps_is_hashed(place: Path, hashed: list[Path]) -> None:
    change(place / "band", base_stamp=None)
    Band.load(place / "band")
    assert len(hashed) == 1


def test_a_stamp_tells_names_sizes_and_times(place: Path) -> None:
    stamps = {stamp_model(place / "base")}
    weights = place / "base" / "model.safetensors"
    weights.touch()
    stamps.add(stamp_model(place / "base"))
    weights.rename(place / "base" / "other.safetensors")
    stamps.add(stamp_model(place / "base"))
    (place / "base" / "notes.txt").write_text("mine")
    stamps.add(stamp_model(place / "base"))
    assert len(stamps) == 3


def test_what_is_beside_the_weights_does_not_count(place: Path) -> None:
    (place / "base" / "notes.txt").write_text("mine")
    Band.load(place / "band")


def test_a_band_that_is_moved_with_its_base_loads(place: Path, tmp_path: Path) -> None:
    before = Band.load(place / "band").chat("Hi", profile="terse=1")
    (tmp_path / "far").mkdir()
    moved = place.rename(tmp_path / "far" / "away")
    assert Band.load(moved / "band").chat("Hi", profile="terse=1") == before


def test_a_band_is_loaded_from_any_working_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "band")
    Band.load(".")
    monkeypatch.chdir(place)
    Band.load("band")


def test_a_band_that_is_moved_without_its_base_says_where_it_looked(place: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    moved = (place / "band").rename(tmp_path / "far" / "band")
    assert f"{moved / BAND}: the base '../base' is not a folder at {tmp_path / 'far' / 'base'}" in refused(moved)


def test_regression_a_relative_base_beyond_a_symbolic_link(place: Path, tmp_path: Path) -> None:
    """`link/new/../../base` goes up from where the link leads, not from where it lies."""
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
    band = new_band(tmp_path / "link" / "new", str(place / "base"), DIMENSIONS)
    assert not Path(band.base).is_absolute()
    assert Path(base_path(tmp_path / "link" / "new", band)).resolve() == (place / "base").resolve()


def test_a_base_by_its_id_has_no_hash(tmp_path: Path) -> None:
    band = new_band(tmp_path / "band", "someone/model", DIMENSIONS)
    assert (band.base, band.base_hash) == ("someone/model", None)
    assert base_path(tmp_path / "band", band) == "someone/model"


def test_regression_a_base_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CounterpointError, match=r"empty: not a model folder, since it holds no config\.json"):
        new_band(tmp_path / "band", str(tmp_path / "empty"), DIMENSIONS)
    assert not (tmp_path / "band").exists()


def test_adding_an_expert_of_a_new_dimension_declares_it(place: Path) -> None:
    band = add_expert(place / "band", place / "terse", Expert("short", "brief"))
    assert [entry.name for entry in band.dimensions] == ["terse", "warm", "brief"]
    assert read_band(place / "band") == band
    assert list(Band.load(place / "band").bank.experts) == ["terse", "short"]


def test_adding_an_expert_again_replaces_it_and_its_scores(place: Path) -> None:
    band = read_band(place / "band")
    band.experts[0].scores = {"terse": 1.0}
    write_band(place / "band", band)
    other = pico_adapter(place / "other", place / "base", seed=77)
    write_json(other / MANIFEST, {"seed": 77})
    band = add_expert(place / "band", other, Expert("terse", "warm"))
    assert [(entry.name, entry.dimension, entry.scores) for entry in band.experts] == [("terse", "warm", {})]
    inside = place / "band" / "experts" / "terse"
    assert (inside / TENSORS).read_bytes() == (other / TENSORS).read_bytes()
    assert sorted(path.name for path in inside.iterdir()) == sorted([CONFIG, TENSORS, MANIFEST])
    assert json.loads((inside / MANIFEST).read_text()) == {"seed": 77}


def test_an_adapter_that_is_refused_leaves_the_band_as_it_was(place: Path) -> None:
    files = (place / "band" / BAND, place / "band" / "experts" / "terse" / TENSORS)
    before = [file.read_bytes() for file in files]
    write_json(place / "terse" / CONFIG, read_json(place / "terse" / CONFIG) | {"use_dora": True})
    with pytest.raises(CounterpointError, match="use_dora=True is not supported"):
        add_expert(place / "band", place / "terse", Expert("terse", "terse"))
    with pytest.raises(CounterpointError, match="nowhere"):
        add_expert(place / "band", place / "nowhere", Expert("new", "terse"))
    assert [file.read_bytes() for file in files] == before
    assert [path.name for path in (place / "band" / "experts").iterdir()] == ["terse"]
