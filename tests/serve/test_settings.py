"""Where settings come from, which of them wins, and what is said of bad ones."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from counterpoint.cli.serve import serve
from counterpoint.decode.band import Band
from counterpoint.serve.hold import GIB, hold, merged
from counterpoint.serve.settings import Settings, read_settings
from counterpoint.types import CounterpointError

DIMENSIONS = ("terse", "warm")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text('port = 1001\nmax_rows = 7\ncors_origins = ["https://a.example"]\n')
    return path


def test_flags_win_over_variables_and_those_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_PORT", "1002")
    monkeypatch.setenv("COUNTERPOINT_MAX_WAITING", "5")
    found = read_settings({"port": 1003, "host": None}, file)
    settings = found.settings
    assert (settings.port, settings.max_rows, settings.max_waiting, settings.host) == (1003, 7, 5, "127.0.0.1")
    assert found.origins == {
        "port": "--port",
        "max_rows": f"{file}: max_rows",
        "cors_origins": f"{file}: cors_origins",
        "max_waiting": "COUNTERPOINT_MAX_WAITING",
    }
    assert read_settings({}, file).settings.port == 1002


def test_made_in_python_nothing_else_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_PORT", "1002")
    assert Settings().port == 8000


def test_a_variable_that_is_no_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_SHARED", "/data")
    assert read_settings({}).origins == {}


def test_a_variable_that_is_nearly_a_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server whose operator meant to ask for keys would not."""
    monkeypatch.setenv("COUNTERPOINT_REQUIRE_KEY", "true")
    with pytest.raises(CounterpointError, match=r"^COUNTERPOINT_REQUIRE_KEY: .*did you mean COUNTERPOINT_REQUIRE_KEYS"):
        read_settings({})


def test_an_empty_variable_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_PORT", "")
    assert read_settings({}).settings.port == 8000


def test_a_list_in_a_variable_has_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_CORS_ORIGINS", "https://a.example, https://b.example")
    assert read_settings({}).settings.cors_origins == ["https://a.example", "https://b.example"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot'; did you mean 'port'"),
        ("port = 99999", "port: found 99999; expected less than or equal to 65535"),
        ("port = 'x'", "port: found 'x'; expected a valid integer"),
        ("memory_gib = nan", "memory_gib: found nan; expected a finite number"),
        ("log_level = 'loud'", "log_level: found 'loud'; expected 'debug', 'info', 'warning' or 'error'"),
        ("[port]\na = 1", "port: found {'a': 1}"),
        ("port = \n", "is no TOML: .*line 1"),
        (b"\xff", "is no TOML"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "server.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CounterpointError, match=f"{path}: {said}"):
        read_settings({}, path)


def test_bad_flags_and_variables_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"^--max-rows: found 0; expected greater than or equal to 1"):
        read_settings({"max_rows": 0})
    with pytest.raises(CounterpointError, match=r"none\.toml: cannot be read: No such file"):
        read_settings({}, tmp_path / "none.toml")
    monkeypatch.setenv("COUNTERPOINT_MAX_ROWS", "many")
    with pytest.raises(CounterpointError, match=r"^COUNTERPOINT_MAX_ROWS: found 'many'; expected a valid integer"):
        read_settings({})


def test_every_flag_but_those_of_the_command_itself_is_a_setting() -> None:
    own = {"context", "band", "file", "print_settings", "as_json"}
    assert set(inspect.signature(serve).parameters) - own <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True),
     ("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


def test_of_two_bounds_the_stricter_holds() -> None:
    own = {"terse": (0.2, 0.5)}
    assert merged(own, "terse >= 0.1, terse <= 0.4, warm >= 0.3", DIMENSIONS) == {
        "terse": (0.2, 0.4),
        "warm": (0.3, float("inf")),
    }
    assert merged(own, "", DIMENSIONS) == own


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("terse >= 0.6", "contradicts the band's own, 'terse >= 0.2, terse <= 0.5'.*floor 0.6 above its cap 0.5"),
        ("warm >= 0.9", "contradicts the band's own.*floors sum to 1.1"),
        ("cold = 1", "^setting bounds 'cold = 1': unknown dimension 'cold'"),
    ],
)
def test_contradictory_bounds_are_refused(text: str, said: str) -> None:
    with pytest.raises(CounterpointError, match=said):
        merged({"terse": (0.2, 0.5)}, text, DIMENSIONS)


def test_a_band_is_held_to_the_settings(band: Band) -> None:
    hold(band, Settings(bounds="warm >= 0.3", max_rows=5, memory_gib=0.5, prefill_chunk=16, profile="terse"))
    in_force = band.in_force("terse=1")
    assert in_force is not None
    assert in_force.weights["warm"] == pytest.approx(0.3)
    # A cell of the pico band: 2 (keys and values) x 2 layers x 2 heads x 8 x 4 bytes.
    config = band.model.config
    each = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert (band.engine.max_rows, band.engine.max_cells, band.engine.chunk) == (5, GIB // 2 // each, 16)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "sope"}, "unknown method 'sope'; did you mean 'soup'"),
        ({"profile": "tense"}, "profile 'tense': unknown dimension 'tense'; did you mean 'terse'"),
        ({"method": "pmol"}, "method 'pmol'.*no pmol gate"),
        ({"method": "route", "profile": "terse", "bounds": "warm >= 0.3"}, "cannot keep the bound warm >= 0.3"),
    ],
)
def test_settings_that_do_not_fit_the_band_are_refused(band: Band, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CounterpointError, match=said):
        hold(band, Settings(**settings))
