"""`results.json`: what is claimed, by how much, on how many prompts, and whether it holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from counterpoint.artifacts import read_json, write_json
from counterpoint.evaluate.bootstrap import Interval
from counterpoint.types import CounterpointError


class Difference(BaseModel):
    """`a` minus `b` and its 95 % interval by prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}")
        return self


class Claim(BaseModel):
    """`claim` in words; `a` is better than `b` on `metric` by `difference`, over `prompts` prompts and these `seeds`.

    `holds` is no opinion: it is `difference.low > 0`, and a file that says otherwise is refused. `command` re-creates
    the number and took `seconds`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    claim: str = Field(min_length=1)
    metric: str
    a: str
    b: str
    difference: Difference
    prompts: int = Field(ge=2)
    seeds: tuple[int, ...] = Field(min_length=1)
    holds: bool
    command: str
    seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _follows(self) -> Self:
        if self.holds != (self.difference.low > 0):
            raise ValueError(f"holds is {self.holds}, but the interval starts at {self.difference.low}")
        return self


def make_claim(
    claim: str,
    *,
    metric: str,
    a: str,
    b: str,
    difference: Interval,
    prompts: int,
    seeds: Sequence[int],
    command: str,
    seconds: float,
) -> Claim:
    """A claim whose `holds` follows from its interval: `low > 0`."""
    return Claim(
        claim=claim,
        metric=metric,
        a=a,
        b=b,
        difference=Difference(**difference.to_dict()),
        prompts=prompts,
        seeds=tuple(seeds),
        holds=difference.low > 0,
        command=command,
        seconds=seconds,
    )


def write_claims(path: Path, claims: Sequence[Claim]) -> None:
    """Write `results.json`, a list in the order given."""
    write_json(path, [claim.model_dump(mode="json") for claim in claims])


def read_claims(path: Path) -> list[Claim]:
    """Read `results.json`; `CounterpointError` names the file, the place and what is wrong there."""
    try:
        return TypeAdapter(list[Claim]).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CounterpointError(f"{path}: {place}: {first['msg']}") from None
