"""What a user keeps is whole or not there, whatever interrupts its writing."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from counterpoint.artifacts import (
    MANIFEST,
    check_place,
    hash_files,
    make_once,
    publish,
    read_json,
    scratch_of,
    write_json,
    write_manifest,
    write_text,
)
from counterpoint.types import CounterpointError


@dataclass(frozen=True)
class Config:
    steps: int = 3
    seed: int = 7


class Killed(BaseException):
    """What no `except Exception` catches."""


def fail(*_: Any, **__: Any) -> None:
    raise Killed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files


def test_write_text_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert names(path.parent) == ["b.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("where", ["replace", "fsync", "chmod"])
def test_a_write_that_is_interrupted_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, where, fail)
    with pytest.raises(Killed):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"], "no temporary file is left"


def test_what_is_written_is_synced_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("fsync", "replace"):
        real: Callable[..., None] = getattr(os, name)

        def spy(*args: Any, name: str = name, real: Callable[..., None] = real) -> None:
            order.append(name)
            real(*args)

        monkeypatch.setattr(os, name, spy)
    write_text(tmp_path / "a.txt", "new")
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("nan")]}])
def test_nan_is_refused_and_nothing_is_written(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "a.json", {"a": None})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"a": None}
    assert names(tmp_path) == ["a.json"]


def test_json_is_readable_and_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"word": "Grüße", "n": [1, 2.5, None]})
    assert "Grüße" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"word": "Grüße", "n": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n oops}', "not valid JSON: .*line 2 column 2"),
        (b'"\xff"', "not valid JSON: .*utf-8"),
        (b"", "not valid"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CounterpointError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"a\.json: there is no such file"):
        read_json(tmp_path / "a.json")


def test_a_hash_is_of_contents_in_order(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("c", "onetwo"), ("d", "")):
        write_text(tmp_path / name, text)
    a, b, c, d = (tmp_path / name for name in "abcd")
    hashes = [hash_files(a, b), hash_files(b, a), hash_files(c), hash_files(c, d), hash_files(a), hash_files()]
    assert len(set(hashes)) == len(hashes)
    assert hash_files(tmp_path) == hash_files(a, b, c, d)


def test_a_manifest_says_what_a_run_is_made_from(tmp_path: Path) -> None:
    write_manifest(tmp_path, Config(), {"data": "abc"}, 7)
    manifest = read_json(tmp_path / MANIFEST)
    assert manifest["config"] == {"steps": 3, "seed": 7}
    assert (manifest["inputs"], manifest["seed"]) == ({"data": "abc"}, 7)
    assert set(manifest["versions"]) == {"counterpoint", "torch", "transformers", "peft", "trl"}


# Folders that are published


def fill(folder: Path, text: str) -> None:
    write_text(folder / "file", text)
    write_text(folder / "inner" / "file", text)


def test_publish_replaces_the_whole_folder(tmp_path: Path) -> None:
    with publish(tmp_path / "out") as staging:
        assert not (tmp_path / "out").exists()
        fill(staging, "old")
        write_text(staging / "extra", "old")
    with publish(tmp_path / "out") as staging:
        assert names(staging) == []
        fill(staging, "new")
        assert (tmp_path / "out" / "file").read_text() == "old"
    assert names(tmp_path / "out") == ["file", "inner"]
    assert (tmp_path / "out" / "inner" / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_publish_leaves_the_old_folder_after_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    with publish(tmp_path / "out") as staging:
        fill(staging, "old")

    def attempt() -> None:
        with publish(tmp_path / "out") as staging:
            fill(staging, "new")
            raise error

    with pytest.raises(error):
        attempt()
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_regression_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one was moved aside first, and stayed there when the second rename failed."""
    with publish(tmp_path / "out") as staging:
        fill(staging, "old")
    rename = os.rename

    def fails_for_the_new(source: Path, destination: Path) -> None:
        if ".new." in str(source):
            raise OSError("no space left")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fails_for_the_new)
    with pytest.raises(CounterpointError, match="no space left"), publish(tmp_path / "out") as staging:
        fill(staging, "new")
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("write", [write_text, lambda path, text: publish(path).__enter__()])
def test_regression_a_place_below_a_file_is_one_line(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    """The system's own exception came through, as a traceback."""
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "x", tmp_path / "file" / "y" / "x"):
        with pytest.raises(CounterpointError, match="cannot be written"):
            write(place, "text")
        with pytest.raises(CounterpointError, match="is a file, not a folder"):
            check_place(place)
    assert (tmp_path / "file").read_text() == "mine"


def test_regression_a_folder_is_not_replaced_by_a_file_nor_a_file_by_a_folder(tmp_path: Path) -> None:
    """The first was a traceback; the second moved the file aside for good."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CounterpointError, match=r"folder: cannot be written"):
        write_text(tmp_path / "folder", "text")
    with pytest.raises(CounterpointError, match=r"file: is a file, expected a folder"):
        make_once(tmp_path / "file", Config(), {}, fail)
    with pytest.raises(CounterpointError, match=r"file: is a file, expected a folder"):
        publish(tmp_path / "file").__enter__()
    assert names(tmp_path) == ["file", "folder"]


# Work that is done once


class Maker:
    """Counts how often it works, and can fail on the way."""

    def __init__(self) -> None:
        self.runs = 0
        self.found: list[str] = []
        self.fails: type[BaseException] | None = None

    def __call__(self, scratch: Path) -> None:
        self.runs += 1
        self.found = sorted(str(p.relative_to(scratch)) for p in scratch.rglob("*") if p.is_file())
        write_text(scratch / "work" / "checkpoint", "half")
        write_text(scratch / "part", "half")
        if self.fails:
            raise self.fails
        write_text(scratch / "result", f"run {self.runs}")


@pytest.fixture
def maker() -> Maker:
    return Maker()


def test_make_once_publishes_with_a_manifest_and_without_its_work(tmp_path: Path, maker: Maker) -> None:
    assert make_once(tmp_path / "out", Config(), {"data": "abc"}, maker)
    assert names(tmp_path / "out") == [MANIFEST, "part", "result"]
    assert names(tmp_path) == ["out"]
    manifest = read_json(tmp_path / "out" / MANIFEST)
    assert (manifest["config"], manifest["seed"]) == (asdict(Config()), 7)
    assert manifest["inputs"]["data"] == "abc"


def test_make_once_skips_the_same_and_redoes_what_changed(tmp_path: Path, maker: Maker) -> None:
    out = tmp_path / "out"
    assert make_once(out, Config(), {"data": "abc"}, maker)
    before = (out / MANIFEST).stat().st_mtime_ns
    assert not make_once(out, Config(), {"data": "abc"}, maker)
    assert (maker.runs, (out / MANIFEST).stat().st_mtime_ns) == (1, before)
    changes: list[tuple[Config, dict[str, str]]] = [
        (Config(), {"data": "abd"}),
        (Config(steps=4), {"data": "abd"}),
        (Config(steps=4, seed=8), {"data": "abd"}),
        (Config(steps=4, seed=8), {"data": "abd", "base": "x"}),
    ]
    for runs, (config, inputs) in enumerate(changes, start=2):
        assert make_once(out, config, inputs, maker)
        assert not make_once(out, config, inputs, maker)
        assert (maker.runs, (out / "result").read_text()) == (runs, f"run {runs}")
        assert maker.found == ["work/key"], "another run's files are not taken over"


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_make_once_resumes_from_its_scratch_folder(tmp_path: Path, maker: Maker, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    maker.fails = error
    with pytest.raises(error):
        make_once(out, Config(), {}, maker)
    assert not out.exists()
    assert names(scratch_of(out)) == ["part", "work"]
    maker.fails = None
    assert make_once(out, Config(), {}, maker)
    assert maker.found == ["part", "work/checkpoint", "work/key"]
    assert names(out) == [MANIFEST, "part", "result"]
    assert names(tmp_path) == ["out"]


def test_make_once_does_not_resume_another_run(tmp_path: Path, maker: Maker) -> None:
    maker.fails = Killed
    with pytest.raises(Killed):
        make_once(tmp_path / "out", Config(), {}, maker)
    maker.fails = None
    assert make_once(tmp_path / "out", Config(steps=9), {}, maker)
    assert maker.found == ["work/key"]


def test_a_failed_redo_leaves_the_old_artefact(tmp_path: Path, maker: Maker) -> None:
    out = tmp_path / "out"
    make_once(out, Config(), {}, maker)
    maker.fails = Killed
    with pytest.raises(Killed):
        make_once(out, Config(steps=9), {}, maker)
    assert (out / "result").read_text() == "run 1"
    assert json.loads((out / MANIFEST).read_text())["config"]["steps"] == 3
    maker.fails = None
    assert not make_once(out, Config(), {}, maker)
