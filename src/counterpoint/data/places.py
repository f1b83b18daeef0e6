"""Where a row stands, and how a message shows what stands there."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A row of a source, from 1 and without a header; `line`, where it has lines, is from 1 with the header."""

    source: str
    row: int
    line: int | None = None

    def __str__(self) -> str:
        if self.line is None:
            return f"{self.source}, row {self.row}"
        return f"{self.source}:{self.line}" + (f" (row {self.row})" if self.row != self.line else "")


@dataclass(frozen=True)
class BadRow:
    """A row that could not be used, and why."""

    place: Place
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def brief(value: object) -> str:
    """A value as an error message shows it: its `repr`, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def found_only(names: Iterable[str]) -> str:
    """The names that a row has, for the message that another one is missing."""
    return f"found only {', '.join(map(repr, names)) or 'an empty object'}"
