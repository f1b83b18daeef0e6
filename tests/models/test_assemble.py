"""Bands assembled from experts made elsewhere: what is written, what is refused, and that no kill spoils a band."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from counterpoint.artifacts import read_json, write_json
from counterpoint.decode.band import Band
from counterpoint.models.adapter import CONFIG
from counterpoint.models.assemble import add
from counterpoint.models.band_file import BAND, read_band, remove_expert
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import CounterpointError, Dimension


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters of it, and another whole model."""
    folder = tmp_path_factory.mktemp("assemble")
    base = save_pico(folder / "base", seed=1)
    pico_adapter(folder / "terse", base, seed=2)
    pico_adapter(folder / "warm", base, seed=3, rank=2)
    save_pico(folder / "wild", seed=4, family="gpt2", hidden=16)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to work in; its adapters name its base."""
    place = Path(shutil.copytree(made, tmp_path / "copy"))
    for name in ("terse", "warm"):
        config = read_json(place / name / CONFIG)
        write_json(place / name / CONFIG, config | {"base_model_name_or_path": str(place / "base")})
    return place


def put(place: Path, name: str, **more: object) -> None:
    add(place / "band", str(place / name), Dimension(name), name, **more)  # type: ignore[arg-type]


def names(place: Path) -> list[str]:
    return [entry.name for entry in read_band(place / "band").experts]


# Adding


def test_a_band_starts_on_the_base_that_its_first_adapter_names(place: Path) -> None:
    added = add(place / "band", str(place / "terse"), Dimension("terse", "few words", "Be terse."), "short")
    assert (added.new, added.base, added.notes) == (True, str(place / "base"), ())
    assert added.source.kind == "adapter"
    file = read_band(place / "band")
    assert file == added.file
    assert file.base == "../base"
    assert file.dimension("terse") == Dimension("terse", "few words", "Be terse.")
    assert [(e.name, e.dimension, e.kind) for e in file.experts] == [("short", "terse", "adapter")]
    again = add(place / "band", str(place / "warm"), Dimension("warm"), "warm", base=str(place / "base"))
    assert not again.new
    assert Band.load(place / "band").dimensions == ("terse", "warm")


def test_a_whole_model_stays_where_it_is(place: Path) -> None:
    put(place, "terse")
    put(place, "wild")
    entry = read_band(place / "band").experts[1]
    assert (entry.kind, entry.model) == ("model", "../wild")
    assert [path.name for path in (place / "band" / "experts").iterdir()] == ["terse"]
    assert Band.load(place / "band").chat("Hi", "wild=1", method="route")


def test_a_description_is_kept_until_another_is_given(place: Path) -> None:
    add(place / "band", str(place / "terse"), Dimension("terse", "few words", "Be terse."), "one")
    add(place / "band", str(place / "warm"), Dimension("terse"), "two")
    assert read_band(place / "band").dimension("terse") == Dimension("terse", "few words", "Be terse.")
    add(place / "band", str(place / "warm"), Dimension("terse", "fewer words"), "three")
    assert read_band(place / "band").dimension("terse") == Dimension("terse", "fewer words", "Be terse.")


def test_an_adapter_of_a_base_elsewhere_is_added_with_a_note(place: Path) -> None:
    put(place, "terse")
    write_json(place / "warm" / CONFIG, read_json(place / "warm" / CONFIG) | {"base_model_name_or_path": "far/away"})
    added = add(place / "band", str(place / "warm"), Dimension("warm"), "warm")
    assert len(added.notes) == 1
    assert "it names another base, 'far/away'; its factors fit" in added.notes[0]


# Refusals: the band stays as it was


def refused(place: Path, name: str, match: str, **more: object) -> None:
    before = {path: path.read_bytes() for path in (place / "band").rglob("*") if path.is_file()}
    with pytest.raises(CounterpointError, match=match):
        put(place, name, **more)
    assert {path: path.read_bytes() for path in (place / "band").rglob("*") if path.is_file()} == before


def test_a_name_that_is_taken(place: Path) -> None:
    put(place, "terse")
    refused(place, "terse", r"there is an expert 'terse' for 'terse' already; --replace puts the new one in its place")
    put(place, "terse", replace=True)
    assert names(place) == ["terse"]


def test_another_base(place: Path) -> None:
    put(place, "terse")
    refused(place, "warm", r"this band's base is '.*base', not '.*wild'; experts of another", base=str(place / "wild"))


def test_an_adapter_that_does_not_fit_starts_no_band(place: Path) -> None:
    refused(place, "terse", "the base model has no module", base=str(place / "wild"))
    assert not (place / "band").exists()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (None, "names no base model; name the base model with --base"),
        ("/gone/base", r"its base '/gone/base' is not a folder here; name the base model with --base"),
        ("../gone", r"its base '\.\./gone' is not a folder here"),
    ],
)
def test_an_adapter_that_names_no_base_that_is_here(place: Path, named: str | None, says: str) -> None:
    write_json(place / "terse" / CONFIG, read_json(place / "terse" / CONFIG) | {"base_model_name_or_path": named})
    refused(place, "terse", says)
    put(place, "terse", base=str(place / "base"))
    assert names(place) == ["terse"]


def test_a_whole_model_starts_no_band_without_a_base(place: Path) -> None:
    refused(place, "wild", "wild: not an adapter, so that it names no base; name the base model with --base")
    put(place, "wild", base=str(place / "base"))
    assert names(place) == ["wild"]


def test_a_base_that_has_changed_though_its_stamp_has_not(place: Path) -> None:
    """Loading trusts sizes and times, as of a file that was written in place; adding does not."""
    put(place, "terse")
    weights = place / "base" / "model.safetensors"
    times, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    Band.load(place / "band")
    refused(place, "warm", "base: these are not the weights and vocabulary that the band's experts were made for")


@pytest.mark.parametrize("name", ["strength", "a/b", ""])
def test_a_name_that_no_profile_could_say(place: Path, name: str) -> None:
    with pytest.raises(CounterpointError, match="cannot name a dimension"):
        add(place / "band", str(place / "terse"), Dimension(name), "terse")
    with pytest.raises(CounterpointError, match="cannot name a dimension"):
        add(place / "band", str(place / "terse"), Dimension("terse"), name)
    assert not (place / "band").exists()


# Removing


def test_an_expert_goes_with_its_dimension_if_it_is_the_last(place: Path) -> None:
    for name in ("terse", "warm", "wild"):
        put(place, name)
    add(place / "band", str(place / "warm"), Dimension("terse"), "second")
    remove_expert(place / "band", "terse")
    assert names(place) == ["warm", "wild", "second"]
    assert [entry.name for entry in read_band(place / "band").dimensions] == ["terse", "warm", "wild"]
    assert not (place / "band" / "experts" / "terse").exists()
    for name in ("second", "wild"):
        remove_expert(place / "band", name)
    assert [entry.name for entry in read_band(place / "band").dimensions] == ["warm"]
    assert (place / "wild" / "config.json").exists(), "a whole model is not the band's to delete"
    remove_expert(place / "band", "warm", keep_dimension=True)
    assert Band.load(place / "band").dimensions == ("warm",)


def test_a_dimension_with_a_reward_stays(place: Path) -> None:
    put(place, "terse")
    (place / "band" / "rewards" / "terse").mkdir(parents=True)
    assert [entry.name for entry in remove_expert(place / "band", "terse").dimensions] == ["terse"]


def test_an_expert_that_is_not_there_is_named_with_what_it_may_have_meant(place: Path) -> None:
    put(place, "terse")
    with pytest.raises(
        CounterpointError, match=r"band\.json: unknown expert 'ters'; did you mean 'terse'\? Known: terse"
    ):
        remove_expert(place / "band", "ters")


# Kills


@pytest.fixture
def moments(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Copies of the band as a kill would leave it before each rename and each removal from here on."""
    copies: list[Path] = []

    def watched(call: Callable[..., None]) -> Callable[..., None]:
        def watch(*arguments: object, **more: object) -> None:
            if (place / "band").exists():
                copies.append(Path(shutil.copytree(place / "band", place / f"killed{len(copies)}")))
            call(*arguments, **more)

        return watch

    def watching() -> list[Path]:
        monkeypatch.setattr(os, "replace", watched(os.replace))
        monkeypatch.setattr(os, "rename", watched(os.rename))
        monkeypatch.setattr(shutil, "rmtree", watched(shutil.rmtree))
        return copies

    return watching


def loads(copy: Path) -> tuple[str, ...]:
    band = Band.load(copy)
    return tuple(expert.name for expert in band.experts)


def test_a_kill_while_adding_leaves_a_band_that_loads(place: Path, moments: Callable[[], list[Path]]) -> None:
    put(place, "terse")
    copies = moments()
    put(place, "warm")
    assert len(copies) >= 2
    assert {loads(copy) for copy in copies} == {("terse",), ("terse", "warm")}


@pytest.mark.parametrize("other", ["warm", "wild"])
def test_a_kill_while_replacing_leaves_a_band_that_loads(
    place: Path, moments: Callable[[], list[Path]], other: str
) -> None:
    put(place, "terse")
    copies = moments()
    add(place / "band", str(place / other), Dimension("terse"), "terse", replace=True)
    assert len(copies) >= 3
    assert {loads(copy) for copy in copies} == {("terse",), ()}
    assert loads(place / "band") == ("terse",)


def test_a_kill_while_removing_leaves_a_band_that_loads(place: Path, moments: Callable[[], list[Path]]) -> None:
    put(place, "terse")
    put(place, "warm")
    copies = moments()
    remove_expert(place / "band", "terse")
    assert {loads(copy) for copy in copies} == {("terse", "warm"), ("warm",)}


def test_a_kill_while_starting_a_band_leaves_none_or_one_that_loads(
    place: Path, moments: Callable[[], list[Path]]
) -> None:
    copies = moments()
    put(place, "terse")
    started = [copy for copy in copies if (copy / BAND).exists()]
    assert {loads(copy) for copy in started} == {(), ("terse",)}
