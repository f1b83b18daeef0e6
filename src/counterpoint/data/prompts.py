"""Read prompts from text, rows of any format, or data sets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from counterpoint.data.layouts import ByHand, by_hand, prompt_value, understand_prompt
from counterpoint.data.places import BadRow
from counterpoint.data.reports import FileReport, unused_columns
from counterpoint.data.rows import (
    MessageRow,
    TextOrMessages,
    check_prompt,
    check_row,
    extra_keys,
    nothing_good,
    plain,
    read_rows,
)
from counterpoint.data.sources import ROWS, find_tables
from counterpoint.data.tables import TEXT
from counterpoint.data.transcripts import unfolded
from counterpoint.types import CounterpointError, Prompt


@dataclass(frozen=True)
class Prompts:
    """What was read: the prompts, the rows that were dropped, the columns not used, and each file's counts."""

    prompts: tuple[Prompt, ...]
    dropped: tuple[BadRow, ...]
    extra_columns: tuple[str, ...]
    files: tuple[FileReport, ...] = ()


class PromptRow(BaseModel):
    """A row of prompts: either `prompt` or `messages`."""

    model_config = ConfigDict(strict=True)
    prompt: TextOrMessages | None = None
    messages: list[MessageRow] | None = None


def read_prompts(
    paths: str | Path | Iterable[str | Path],
    skip_bad: bool = False,
    columns: Mapping[str, str] | None = None,
    transcripts: bool = True,
) -> Prompts:
    """Read prompts from `.txt` (one per line) or from rows of any format that `find_tables` takes.

    A row has `prompt` (text or messages; also called instruction, question, query or input) or `messages`; `columns`
    names them otherwise, as in `{"prompt": "post"}`. Dialogues with the marks "Human:" and "Assistant:" become messages
    unless `transcripts` is false. Blank lines are allowed. A bad row raises CounterpointError with file, row and field,
    or with `skip_bad` is listed in `dropped`.
    """
    said = by_hand(columns)
    prompts: list[Prompt] = []
    bad: list[BadRow] = []
    files: list[FileReport] = []
    for table in find_tables(paths, (*TEXT, *ROWS)):
        report = FileReport.of(table)
        parse = partial(_prompt, said=said, transcripts=transcripts, report=report)
        prompts += read_rows(table, parse, report, bad if skip_bad else None)
        files.append(report)
    if not prompts:
        raise nothing_good(bad)
    return Prompts(tuple(prompts), tuple(bad), unused_columns(files), tuple(files))


def _prompt(values: Mapping[str, Any], said: ByHand, transcripts: bool, report: FileReport) -> Prompt:
    layout = understand_prompt(tuple(values), said)
    messages = values[layout.parts["messages"]] if "messages" in layout.parts else None
    row = check_row({"prompt": prompt_value(values, layout), "messages": messages}, PromptRow)
    if (row.prompt is None) == (row.messages is None):
        found = "both" if row.prompt is not None else ", ".join(layout.unused) or "neither"
        raise CounterpointError(f"field 'prompt': expected either 'prompt' or 'messages', found {found}")
    field, value = ("prompt", row.prompt) if row.messages is None else ("messages", row.messages)
    assert value is not None
    prompt, was_transcript = unfolded(plain(value), transcripts)
    check_prompt(prompt, field)
    report.count(layout, extra_keys(row), was_transcript)
    return prompt
