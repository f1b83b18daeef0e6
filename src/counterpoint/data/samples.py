"""Roll-outs: what a model said to a prompt, with the preferences that it was asked for and without."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from counterpoint.data.places import BadRow
from counterpoint.data.reports import FileReport
from counterpoint.data.responses import prompt_column
from counterpoint.data.rows import TextOrMessages, check_prompt, check_row, plain, read_rows
from counterpoint.data.sources import find_tables
from counterpoint.types import CounterpointError, Prompt


@dataclass(frozen=True)
class Ask:
    """One response to be drawn: the `index`-th to a prompt with the requests of `asked`, from `seed`."""

    prompt: Prompt
    asked: tuple[str, ...]
    index: int
    seed: int


@dataclass(frozen=True)
class Sample:
    """A response to a prompt (bare, as files hold it) with the requests of `asked`, none for a neutral one.

    It is the `index`-th of these, drawn from `seed`; `ended` is whether it ended by itself, and was not cut.
    """

    prompt: Prompt
    asked: tuple[str, ...]
    response: str
    index: int
    ended: bool
    seed: int


class SampleRow(BaseModel):
    """A sample as files hold it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    prompt: TextOrMessages
    asked: list[str]
    response: str
    index: Annotated[int, Field(ge=0)]
    ended: bool
    seed: int


def asks(prompts: Sequence[Prompt], asked: Sequence[tuple[str, ...]], samples: int, seed: int) -> list[Ask]:
    """All that is drawn: for each prompt, each set of requests (an empty one is neutral), each of so many samples."""
    return [
        Ask(prompt, names, index, seed_of(seed, prompt, names, index))
        for prompt in prompts
        for names in asked
        for index in range(samples)
    ]


def seed_of(seed: int, prompt: Prompt, asked: Sequence[str], index: int) -> int:
    """The seed of one sample: 31 bits (which every server takes) of a hash of what tells it from all others.

    So a sample stays the same where prompts, preferences or more samples are added.
    """
    text = json.dumps([seed, prompt_column(prompt), list(asked), index])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def sample_row(sample: Sample) -> dict[str, Any]:
    """A sample as files hold it."""
    return {**vars(sample), "prompt": prompt_column(sample.prompt), "asked": list(sample.asked)}


def parse_sample(values: dict[str, Any]) -> Sample:
    """A sample from its row; raises CounterpointError that names the field at fault."""
    row = check_row(values, SampleRow)
    prompt = plain(row.prompt)
    check_prompt(prompt)
    return Sample(prompt, tuple(row.asked), row.response, row.index, row.ended, row.seed)


def read_samples(paths: str | Path | Iterable[str | Path]) -> list[Sample]:
    """Read what `counterpoint sample` wrote, from one file or several; an error names file, row and field."""
    found: list[Sample] = []
    bad: list[BadRow] = []
    for table in find_tables(paths):
        found += read_rows(table, parse_sample, FileReport.of(table), bad)
    if bad:
        raise CounterpointError(f"{bad[0]}; expected rows as `counterpoint sample` writes them")
    return found
