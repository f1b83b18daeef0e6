"""Which of two responses a value says is the better: a/b, 0/1, 1/2, a column's name, or a tie."""

import math
import re
from typing import Any

from counterpoint.data.places import brief
from counterpoint.data.tables import UnreadableFile
from counterpoint.types import CounterpointError

TIES = ("tie", "tied", "ties", "draw", "equal", "same", "similar", "both", "neither", "both_bad", "tie (bothbad)")
NOTHING = ("", "none", "null", "nan", "n/a", "no preference")
MARK = re.compile(r"(?:(?:model|response|assistant|output|answer|completion|conversation|option)[ _-]?)?([ab012])")


def better(value: Any, marks: tuple[str, str], columns: tuple[str, str], field: str) -> int | None:
    """0 for the first response, 1 for the second, None for a tie or for no verdict.

    `marks` are how the responses are told apart: ("a", "b"), ("0", "1") or ("1", "2"); before a mark may stand a word,
    as in `model_a`. A number that is no mark means another scale or another counting, in which the marks that do occur
    would be misread: then the whole file is refused. Raises CounterpointError for other values.
    """
    text = _text(value)
    if text is None or text in TIES or text in NOTHING:
        return None
    mark = MARK.fullmatch(text)
    for index in (0, 1):
        if text == columns[index].lower() or (mark and mark[1] == marks[index]):
            return index
    if isinstance(value, bool) or _is_number(text):
        raise UnreadableFile(
            f"field {field!r}: found {brief(value)}, but the responses are told apart as {marks[0]} and {marks[1]}; a "
            "number of another scale or counting would be misread, so say which response each number means: "
            "--column response_0=... --column response_1=... (or response_1 and response_2), or convert it to a, b, tie"
        )
    expected = f"{marks[0]}, {marks[1]}, {columns[0]!r}, {columns[1]!r} or tie"
    raise CounterpointError(f"field {field!r}: expected {expected}, found {brief(value)}")


def _text(value: Any) -> str | None:
    """Lower-case text of a value, whole numbers without a fraction; None where nothing is said."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip().lower()
    return text.removesuffix(".0") if _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
