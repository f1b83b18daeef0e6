"""`counterpoint serve` up to where it would listen: what it shows, and the one line that it ends with if it cannot."""

import json
import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from counterpoint.serve.settings import Settings

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, and the process's logging put back afterwards."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield tmp_path
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    logging.captureWarnings(False)


def test_the_settings_and_where_they_come_from(command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_DATABASE", "postgresql://ada:tiger@db.example/people")
    (here / "server.toml").write_text("max_rows = 7\n")
    flags = ("serve", "--settings", "server.toml", "--port", "0", "--no-open", "--print-settings")
    code, out, err = command(*flags, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert set(told["settings"]) == set(Settings.model_fields)
    assert (told["settings"]["max_rows"], told["settings"]["port"], told["settings"]["open"]) == (7, 0, False)
    assert told["origins"] == {
        "port": "--port", "open": "--open", "max_rows": "server.toml: max_rows", "database": "COUNTERPOINT_DATABASE",
    }  # fmt: skip
    assert "tiger" not in out
    text = command(*flags)[1]
    assert "tiger" not in text
    assert "server.toml: max_rows" in text


def test_help_shows_the_main_ones(command: Command) -> None:
    code, out, _ = command("serve", "--help")
    assert code == 0
    for flag in ("--settings", "--host", "--port", "--database", "--open", "--bounds", "--print-settings"):
        assert flag in out


def ends_with(command: Command, *arguments: object) -> str:
    """The one line that the command fails with."""
    code, out, err = command("serve", *arguments)
    assert (code, out) == (2, "")
    line = err.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_what_is_wrong_is_one_line(command: Command, band_folder: Path, here: Path) -> None:
    assert "no band is named" in ends_with(command)
    assert "nowhere: not a band" in ends_with(command, "nowhere", "--port", 0)
    assert list(here.iterdir()) == [], "no database is made for a band that is not there"
    assert "--port: found 70000" in ends_with(command, band_folder, "--port", 70000)
    (here / "server.toml").write_text("prot = 1\n")
    assert "server.toml: unknown setting 'prot'" in ends_with(command, band_folder, "--settings", "server.toml")
    assert "no API key yet" in ends_with(command, band_folder, "--host", "0.0.0.0")
    assert "setting method: unknown method 'sope'" in ends_with(command, band_folder, "--port", 0, "--method", "sope")
    assert "setting bounds" in ends_with(command, band_folder, "--port", 0, "--bounds", "cold = 1")


def test_an_address_that_is_taken_is_found_before_the_model_is_loaded(
    command: Command, band_folder: Path, here: Path
) -> None:
    mine = Path(shutil.copytree(band_folder, here / "band"))
    broken = mine / "experts" / "warm" / "adapter_model.safetensors"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        broken.write_text("")
        assert "Address already in use" in ends_with(command, mine, "--port", port)


def test_a_database_that_cannot_be_reached(command: Command, band_folder: Path, here: Path) -> None:
    assert "expected sqlite:///FILE or postgresql" in ends_with(command, band_folder, "--database", "mysql://x/y")
    (here / "people.db").write_bytes(b"no database at all" * 100)
    assert "people.db" in ends_with(command, band_folder, "--port", 0)
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        port = deaf.getsockname()[1]
    away = ends_with(command, band_folder, "--database", f"postgresql://ada:tiger@127.0.0.1:{port}/people")
    assert "refused" in away
    assert "tiger" not in away


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x80\x02}q\x00."], ids=["empty", "noise", "pickle"])
def test_an_adapter_that_is_broken_is_named(command: Command, band_folder: Path, here: Path, content: bytes) -> None:
    """The last is an empty dictionary as `pickle` writes it, which nothing here would open."""
    mine = Path(shutil.copytree(band_folder, here / "band"))
    broken = mine / "experts" / "warm" / "adapter_model.safetensors"
    broken.write_bytes(content)
    assert f"{broken}: not a readable safetensors file" in ends_with(command, mine, "--port", 0)


def test_a_band_whose_adapter_is_a_pickle_is_refused(command: Command, band_folder: Path, here: Path) -> None:
    mine = Path(shutil.copytree(band_folder, here / "band"))
    folder = mine / "experts" / "warm"
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "safetensors only" in ends_with(command, mine, "--port", 0)


def test_the_key_that_was_made_is_enough_to_be_reached(command: Command, band_folder: Path) -> None:
    assert "no API key yet" in ends_with(command, band_folder, "--host", "0.0.0.0", "--port", 0)
    assert command("keys", "add", "shop", "--database", "people.db")[0] == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "already in use" in ends_with(command, band_folder, "--host", "0.0.0.0", "--port", port)
