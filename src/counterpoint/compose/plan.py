"""What every space turns a weighting into: rows of one forward, and how their distributions become one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

CONTROLLER = "controller:"
"""The name by which a gate asks for the controller; no expert can have it, since a name holds no colon."""

Space = Literal["prob", "log"]
Temper = Literal["mixture", "experts"]


@dataclass(frozen=True)
class Row:
    """One view of a request: the coefficient of each expert's delta, and what is asked for in words."""

    gate: Mapping[str, float] = field(default_factory=dict)
    requests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Control:
    """What a controller adds to a plan's coefficients, anew at every token (MoPE, arXiv 2407.04181 section 3).

        c_k(t) = coefficient_k + strength * softmax_k(log_prior_k + z_k(t))

    `row` is the controller's own view of the request, whose output is z; `columns` says which entry of z is each row's.
    A prior of -inf leaves a row with its coefficient alone.
    """

    row: Row
    columns: tuple[int, ...]
    log_prior: tuple[float, ...]
    strength: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Rows and the coefficients `c_K` that mix their next-token distributions, in probability or in log space.

    A temperature acts on the `mixture`, or on each of the `experts` before they are mixed (in log space the same).
    """

    rows: tuple[Row, ...]
    coefficients: tuple[float, ...] = (1.0,)
    space: Space = "log"
    control: Control | None = None
    temper: Temper = "mixture"

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.coefficients):
            raise ValueError(f"{len(self.rows)} rows but {len(self.coefficients)} coefficients")
        if self.control and not len(self.rows) == len(self.control.columns) == len(self.control.log_prior):
            raise ValueError(f"{len(self.rows)} rows but {len(self.control.columns)} columns of the controller")

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """The rows that are decoded: those that are mixed, then the controller's."""
        return (*self.rows, self.control.row) if self.control else self.rows
