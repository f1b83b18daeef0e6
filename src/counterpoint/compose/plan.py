"""What every space turns a weighting into: rows of one forward, and how their distributions become one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Space = Literal["prob", "log"]


@dataclass(frozen=True)
class Row:
    """One view of a request: the coefficient of each expert's delta, and what is asked for in words."""

    gate: Mapping[str, float] = field(default_factory=dict)
    requests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Rows and the coefficients `c_K` that mix their next-token distributions, in probability or in log space."""

    rows: tuple[Row, ...]
    coefficients: tuple[float, ...] = (1.0,)
    space: Space = "log"

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.coefficients):
            raise ValueError(f"{len(self.rows)} rows but {len(self.coefficients)} coefficients")
