"""Ours and theirs in turn, so that both meet the same machine; medians of several."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` is ours over theirs; the goal is on the ratio, unless it is on `ours` itself."""

    name: str
    ours: float
    theirs: float | None
    unit: str
    goal: str = ""
    needs_bf16: bool = False

    @property
    def ratio(self) -> float | None:
        return None if self.theirs is None else self.ours / self.theirs

    def met(self, bf16_units: bool) -> bool | None:
        """Whether the goal is met; None without a goal, or where it presumes bf16 units that this CPU lacks."""
        if not self.goal or (self.needs_bf16 and not bf16_units):
            return None
        subject, sign, bound = self.goal.split(maxsplit=2)
        value = self.ratio if subject == "ratio" else self.ours
        assert value is not None
        return value >= float(bound) if sign == ">=" else value <= float(bound)

    def as_json(self, bf16_units: bool) -> dict[str, Any]:
        return {
            "name": self.name,
            "ours": _short(self.ours),
            "theirs": _short(self.theirs),
            "unit": self.unit,
            "ratio": _short(self.ratio),
            "goal": self.goal or None,
            "met": self.met(bf16_units),
        }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def in_turn(*measures: Callable[[], float], rounds: int = 5) -> list[float]:
    """The median of each measure over `rounds`, after one that is thrown away."""
    found: list[list[float]] = [[measure() for measure in measures] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*found, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
