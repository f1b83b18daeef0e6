"""Values that say which of two responses is better."""

from typing import Any

import pytest

from counterpoint.data.tables import UnreadableFile
from counterpoint.data.verdicts import better
from counterpoint.types import CounterpointError

LETTERS, FROM_0, FROM_1 = ("a", "b"), ("0", "1"), ("1", "2")
COLUMNS = ("Left", "Right")


@pytest.mark.parametrize(
    ("value", "marks", "expected"),
    [
        ("a", LETTERS, 0), ("B", LETTERS, 1), (" model_b ", LETTERS, 1), ("Response A", LETTERS, 0),
        ("left", LETTERS, 0), ("RIGHT", FROM_0, 1),
        (0, FROM_0, 0), (1, FROM_0, 1), ("1", FROM_0, 1), (1.0, FROM_0, 1), ("0.0", FROM_0, 0),
        ("response_1", FROM_0, 1), ("model 0", FROM_0, 0),
        (1, FROM_1, 0), (2, FROM_1, 1), ("output_2", FROM_1, 1),
        ("tie", LETTERS, None), ("Tie (bothbad)", LETTERS, None), ("neither", FROM_0, None), ("", FROM_1, None),
        (None, LETTERS, None), (float("nan"), FROM_0, None), ("N/A", FROM_0, None),
    ],
)  # fmt: skip
def test_what_a_value_says(value: Any, marks: tuple[str, str], expected: int | None) -> None:
    assert better(value, marks, COLUMNS, "winner") == expected


@pytest.mark.parametrize(
    ("value", "marks"),
    [(1, LETTERS), ("0", LETTERS), (2, FROM_0), (0, FROM_1), (-2, FROM_1), (1.7, FROM_1), (True, FROM_0)],
)
def test_another_scale_refuses_the_file(value: Any, marks: tuple[str, str]) -> None:
    """On a scale from -3 to 3, or with labels counted from the other end, a mark would mean another thing."""
    with pytest.raises(UnreadableFile, match=f"field 'winner': found {value!r}, but the responses are told apart as"):
        better(value, marks, COLUMNS, "winner")


@pytest.mark.parametrize("value", ["asset", "c", "response_c", "a better", ["a"]])
def test_another_word_is_an_error_of_its_row(value: Any) -> None:
    with pytest.raises(CounterpointError, match=r"'winner': expected a, b, 'Left', 'Right' or tie, found") as error:
        better(value, LETTERS, COLUMNS, "winner")
    assert not isinstance(error.value, UnreadableFile)
