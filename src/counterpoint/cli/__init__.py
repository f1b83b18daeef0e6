"""The command line: parse, call, print. Heavy imports wait inside the commands, so that `--help` is quick."""

import os
import sys

from rich.console import Console

from counterpoint.cli import (
    add,
    bounds,
    build,
    chat,
    controller,
    data,
    evaluate,
    expert,
    gate,
    inspect,
    keys,
    label,
    merge,
    policy,
    preferences,
    remove,
    sample,
    score,
    serve,
    trace,
    train,
    tune_in,
    users,
)
from counterpoint.cli.app import app
from counterpoint.types import CounterpointError

__all__ = [
    "add",
    "app",
    "bounds",
    "build",
    "chat",
    "controller",
    "data",
    "evaluate",
    "expert",
    "gate",
    "inspect",
    "keys",
    "label",
    "main",
    "merge",
    "policy",
    "preferences",
    "remove",
    "sample",
    "score",
    "serve",
    "trace",
    "train",
    "tune_in",
    "users",
]


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2, never in a traceback."""
    if sys.argv[1:2] != ["serve"]:  # a server has its machine to itself: threads that spin are 1.5 times as fast
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except CounterpointError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
