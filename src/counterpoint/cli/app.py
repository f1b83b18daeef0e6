"""What the commands share: the application, the consoles and the options that mean the same everywhere."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from counterpoint.decode.band import Band

app = typer.Typer(
    help="Language models that suit each person: one expert per preference, combined for any profile.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False)

BandFolder = Annotated[Path, typer.Argument(help="A band: a folder with band.json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 uses every core.")]


def set_threads(threads: int) -> None:
    """Let torch use so many threads; 0 is every core."""
    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)


def load_band(folder: Path, threads: int) -> "Band":
    from counterpoint.decode.band import Band

    set_threads(threads)
    return Band.load(folder)
