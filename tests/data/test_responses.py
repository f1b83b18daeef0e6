import csv
import json
from pathlib import Path

import pytest

from counterpoint.data.responses import hold_pairs, prompt_column, read_responses
from counterpoint.types import CounterpointError, Message


def test_rows_of_any_format_keep_their_columns(tmp_path: Path) -> None:
    with (tmp_path / "said.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("instruction", "output", "mark"), ("Why?", "So.", "1"), ("Who?", "Me.", "2")])
    found = read_responses(tmp_path / "said.csv").responses
    assert [(r.prompt, r.response) for r in found] == [("Why?", "So."), ("Who?", "Me.")]
    assert found[1].row == {"instruction": "Who?", "output": "Me.", "mark": "2"}


def test_messages_and_an_empty_response(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Why?"}]
    (tmp_path / "said.jsonl").write_text(json.dumps({"prompt": asked, "response": ""}) + "\n")
    (found,) = read_responses(tmp_path / "said.jsonl").responses
    assert (found.prompt, found.response) == ((Message("user", "Why?"),), "")
    assert prompt_column(found.prompt) == asked


def test_a_row_without_a_response_is_named(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n{"prompt": "", "response": "b"}\n')
    with pytest.raises(CounterpointError, match=r"said\.jsonl:2: field 'response': missing"):
        read_responses(file)
    found = read_responses(file, skip_bad=True)
    assert [bad.place.line for bad in found.dropped] == [2, 3]
    assert len(found.responses) == 1


@pytest.mark.parametrize(
    ("name", "row", "pairs"),
    [
        ("a.jsonl", {"prompt": "p", "chosen": "x", "rejected": "y"}, True),
        ("a.jsonl", {"prompt": "p", "response_a": "x", "response_b": "y", "winner": "a"}, True),
        ("a.jsonl", {"prompt": "p", "response": "x"}, False),
        ("a.txt", {"chosen": "x", "rejected": "y"}, False),
    ],
)
def test_what_files_hold_is_told_by_their_columns(tmp_path: Path, name: str, row: dict[str, str], pairs: bool) -> None:
    (tmp_path / name).write_text(json.dumps(row) + "\n")
    assert hold_pairs([tmp_path / name]) is pairs
