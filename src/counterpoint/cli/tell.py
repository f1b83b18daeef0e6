"""What a command says beside its result: on the standard error, so that what it prints can be piped."""

from collections.abc import Iterable

from rich.console import Console


def tell(text: str) -> None:
    """Say one line."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def tell_left_out(found: Iterable[object]) -> None:
    """Say what was left out, a line each."""
    for bad in found:
        tell(f"left out: {bad}")
