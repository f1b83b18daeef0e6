"""Rows that hold responses with scores: one per row, or a prompt with a list of completions."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from counterpoint.data.layouts import NAMES, ByHand, prompt_value, understand_scored
from counterpoint.data.places import brief, found_only
from counterpoint.data.reports import FileReport
from counterpoint.data.rows import TextOrMessages, check_prompt, check_row, plain
from counterpoint.data.scores import Scored, Scoring
from counterpoint.data.transcripts import unfolded
from counterpoint.types import CounterpointError, Prompt

UNRATED = ("", "n/a", "na", "nan", "none", "null")
RATING = ("Rating", "rating", "Score", "score")
"""Keys under which an aspect that is an object keeps its number."""


class PromptOnly(BaseModel):
    """The prompt of a row with responses."""

    model_config = ConfigDict(strict=True)
    prompt: TextOrMessages


def scored_row(
    values: Mapping[str, Any], said: ByHand, scoring: Scoring, transcripts: bool, report: FileReport
) -> list[Scored]:
    """The responses of a row with their scores; raises CounterpointError that names the field that is wrong.

    A score is a number, as text or within an object under "Rating" or "score", in a column of its own or inside one
    such as `scores` or `annotations`. None, "N/A" and the like are no score.
    """
    layout = understand_scored(tuple(values), said)
    row = check_row({"prompt": prompt_value(values, layout)}, PromptOnly)
    prompt, was_transcript = unfolded(plain(row.prompt), transcripts)
    check_prompt(prompt, layout.parts["prompt"])
    if "response" in layout.parts:
        scored = [_scored(prompt, values, layout.parts["response"], scoring, "")]
    else:
        scored = _completions(prompt, values, layout.parts["completions"], scoring)
    if was_transcript:
        scored = [replace(answer, response=answer.response.strip()) for answer in scored]
    report.count(layout, (), was_transcript)
    report.unused -= _score_columns(values, scoring)
    return scored


def _completions(prompt: Prompt, values: Mapping[str, Any], column: str, scoring: Scoring) -> list[Scored]:
    completions = values[column]
    if not isinstance(completions, list) or not all(isinstance(entry, dict) for entry in completions):
        raise CounterpointError(
            f"field {column!r}: expected a list of objects with a response and its scores, found {brief(completions)}"
        )
    return [
        _scored(prompt, entry, _text_key(entry, f"{column}[{index}]"), scoring, f"{column}[{index}].")
        for index, entry in enumerate(completions)
    ]


def _text_key(entry: Mapping[str, Any], where: str) -> str:
    key = next((name for name in NAMES["response"] if name in entry), None)
    if key is None:
        raise CounterpointError(f"field '{where}': no response; {found_only(entry)}; expected {NAMES['response'][0]!r}")
    return key


def _scored(prompt: Prompt, values: Mapping[str, Any], key: str, scoring: Scoring, where: str) -> Scored:
    response = values[key]
    if not isinstance(response, str) or not response.strip():
        raise CounterpointError(f"field '{where}{key}': expected a response as text, found {brief(response)}")
    found = {column.dimension: _score(values, column.column, where) for column in scoring.columns}
    signs = {column.dimension: column.sign for column in scoring.columns}
    return Scored(prompt, response, {name: signs[name] * score for name, score in found.items() if score is not None})


def _score(values: Mapping[str, Any], column: str, where: str) -> float | None:
    """The number in a column, or in a key of that name inside a column; None for no score."""
    holders = [values, *(value for value in values.values() if isinstance(value, dict))]
    holder = next((holder for holder in holders if column in holder), None)
    if holder is None:
        raise CounterpointError(f"field '{where}{column}': missing; {found_only(values)}; name a column with scores")
    value = holder[column]
    if isinstance(value, dict):
        value = next((value[key] for key in RATING if key in value), value)
    if value is None or (isinstance(value, str) and value.strip().lower() in UNRATED):
        return None
    return _number(value, f"{where}{column}")


def _number(value: Any, field: str) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or math.isinf(number):
        raise CounterpointError(f"field {field!r}: expected a number, found {brief(value)}")
    return None if math.isnan(number) else number


def _score_columns(values: Mapping[str, Any], scoring: Scoring) -> set[str]:
    """Columns of scores, also those that hold one inside."""
    wanted = {column.column for column in scoring.columns}
    return {
        name for name, value in values.items() if name in wanted or (isinstance(value, dict) and wanted & value.keys())
    }
