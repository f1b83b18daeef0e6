"""Fixtures: a band of three random experts over a pico model, the command line, and where optional real data lies."""

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from counterpoint.cli import main
from counterpoint.decode.band import Band
from counterpoint.models.band_file import add_expert, new_band
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import Dimension, Expert

torch.set_num_threads(1)

DIMENSIONS = (
    Dimension("terse", "says it in few words", "Be terse."),
    Dimension("warm", "is kind", "Be warm."),
    Dimension("exact", "uses the field's terms", "Be exact."),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever a test before set: commands take every core, and sums in other orders are other bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def band_folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a band over a pico model of a family, made once."""
    return cache(lambda family: make_band(tmp_path_factory.mktemp("band"), family))


def make_band(folder: Path, family: str) -> Path:
    """Experts of different rank, scale rule and pattern, so that nothing holds by symmetry."""
    base = save_pico(folder / "base", seed=1, family=family)
    new_band(folder, str(base), DIMENSIONS)
    attention, mlp, last = (
        ("c_attn", "c_fc", "h.1.mlp.c_fc") if family == "gpt2" else ("q_proj", "up_proj", "layers.1.mlp.up_proj")
    )
    adapters = [
        pico_adapter(folder / "made" / "terse", base, seed=11, rank=4, alpha=8),
        pico_adapter(folder / "made" / "warm", base, seed=12, rank=2, alpha=4, rslora=True),
        pico_adapter(
            folder / "made" / "exact", base, seed=13, rank=3, alpha=6,
            rank_pattern={attention: 5}, alpha_pattern={last: 3}, targets=[attention, mlp],
        ),
    ]  # fmt: skip
    for adapter in adapters:
        add_expert(folder, adapter, Expert(adapter.name, adapter.name))
    return folder


@pytest.fixture(scope="session")
def band_folder(band_folder_of: Callable[[str], Path]) -> Path:
    return band_folder_of("llama")


@pytest.fixture
def band(band_folder: Path) -> Band:
    return Band.load(band_folder)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs `counterpoint ...` in this process and gives its exit code and what it printed: output, then errors."""
    for name in ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM"):  # `main` sets them for its process
        monkeypatch.setenv(name, os.environ.get(name, "passive" if name.startswith("OMP") else "false"))

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["counterpoint", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models that tests use where it is at hand."""
    name = os.environ.get("COUNTERPOINT_SHARED")
    if not name or not Path(name).is_dir():
        pytest.skip("COUNTERPOINT_SHARED names no folder of real data")
    return Path(name)
