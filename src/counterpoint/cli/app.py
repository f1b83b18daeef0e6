"""What the commands share: the application, the consoles and the options that mean the same everywhere."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from counterpoint.types import CounterpointError

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
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens of this total probability.")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
AnswerSeed = Annotated[int, typer.Option(help="The same seed gives the same answer.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]


def set_threads(threads: int) -> None:
    """Let torch use so many threads; 0 is every core."""
    import torch

    if threads < 0:
        raise CounterpointError(f"--threads {threads}: expected 1 or more, or 0 for every core")
    torch.set_num_threads(threads or os.cpu_count() or 1)


def check_out(to: Path | None, read: Sequence[Path]) -> None:
    """Refuse to write over what is read, into a file of another kind, or where nothing can be written."""
    from counterpoint.artifacts import check_place

    if to is None:
        return
    if to.suffix != ".jsonl":
        raise CounterpointError(f"--out {to}: expected a file name that ends with .jsonl")
    if to.is_dir():
        raise CounterpointError(f"--out {to}: is a folder, expected the name of a file")
    if to.resolve() in [file.resolve() for file in read]:
        raise CounterpointError(f"--out {to}: is read as well, and would be lost; name another file")
    check_place(to)


def load_band(folder: Path, threads: int, device: str = "cpu", dtype: str = "float32") -> "Band":
    from counterpoint.decode.band import Band
    from counterpoint.models.load import parse_device, parse_dtype

    set_threads(threads)
    return Band.load(folder, parse_dtype(dtype), parse_device(device))
