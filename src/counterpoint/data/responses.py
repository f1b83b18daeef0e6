"""Read responses that are to be scored, with the rows that they came in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from counterpoint.data.layouts import ByHand, by_hand, prompt_value, understand_comparison, understand_scored
from counterpoint.data.places import BadRow
from counterpoint.data.reports import FileReport
from counterpoint.data.rows import TextOrMessages, check_prompt, check_row, nothing_good, plain, read_rows
from counterpoint.data.sources import ROWS, find_tables
from counterpoint.data.tables import TEXT, Table
from counterpoint.data.transcripts import unfolded
from counterpoint.types import CounterpointError, Prompt


@dataclass(frozen=True)
class Response:
    """A response, what it answers (no text where nobody says), and the columns of its row."""

    prompt: Prompt
    response: str
    row: dict[str, Any]


@dataclass(frozen=True)
class Responses:
    """What was read, and the rows that were dropped."""

    responses: tuple[Response, ...]
    dropped: tuple[BadRow, ...]


class ResponseRow(BaseModel):
    """A response as files hold it; an empty one is one, too."""

    model_config = ConfigDict(strict=True)
    prompt: TextOrMessages
    response: str


def read_responses(
    paths: str | Path | Iterable[str | Path],
    skip_bad: bool = False,
    columns: Mapping[str, str] | None = None,
    transcripts: bool = True,
) -> Responses:
    """Read responses from rows of any format that `find_tables` takes, or from `.txt`: one per line, to no prompt.

    A row has a `prompt` and a `response` (also called output, answer, completion or text). All else is as in
    `read_prompts`.
    """
    said = by_hand(columns)
    found: list[Response] = []
    bad: list[BadRow] = []
    for table in find_tables(paths, (*TEXT, *ROWS)):
        parse = _line if _is_text(table) else partial(_response, said=said, transcripts=transcripts)
        found += read_rows(table, parse, FileReport.of(table), bad if skip_bad else None)
    if not found:
        raise nothing_good(bad)
    return Responses(tuple(found), tuple(bad))


def hold_pairs(paths: Sequence[str | Path], columns: Mapping[str, str] | None = None) -> bool:
    """Whether files hold comparisons, by the columns of their first rows; files of both kinds are an error."""
    tables = find_tables(paths, (*TEXT, *ROWS))
    pairs = [table.name for table in tables if _holds_pairs(table, columns)]
    others = [table.name for table in tables if table.name not in pairs]
    if pairs and others:
        raise CounterpointError(f"{pairs[0]} holds pairs, but {others[0]} responses; score them one after the other")
    return bool(pairs)


def _holds_pairs(table: Table, columns: Mapping[str, str] | None) -> bool:
    if _is_text(table):
        return False
    first = next((values for _, values in table.rows() if isinstance(values, dict)), {})
    try:
        understand_comparison(tuple(first), by_hand(columns))
    except CounterpointError:
        return False
    return True


def prompt_column(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as files hold it."""
    return prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt]


def _is_text(table: Table) -> bool:
    return table.name.endswith(TEXT)


def _line(values: Mapping[str, Any]) -> Response:
    return Response("", values["prompt"], {"response": values["prompt"]})


def _response(values: Mapping[str, Any], said: ByHand, transcripts: bool) -> Response:
    layout = understand_scored(tuple(values), said)
    response = values.get(layout.parts.get("response", ""))
    row = check_row({"prompt": prompt_value(values, layout), "response": response}, ResponseRow)
    prompt, _ = unfolded(plain(row.prompt), transcripts)
    check_prompt(prompt, layout.parts["prompt"])
    return Response(prompt, row.response, dict(values))
