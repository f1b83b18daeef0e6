"""Counterpoint: one expert per preference, combined for any person's profile."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.decode.band import Band

__all__ = ["Band"]


def __getattr__(name: str) -> Any:
    """Load `Band` on first use, so that `import counterpoint` needs neither torch nor transformers."""
    if name == "Band":
        from counterpoint.decode.band import Band

        return Band
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
