import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from counterpoint.data.prompts import read_prompts
from counterpoint.types import CounterpointError, Message

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "Be kind."}


def test_text_has_one_prompt_per_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("One?\r\n\n  \n two \u2028 é\n".encode())
    assert read_prompts(tmp_path / "x.txt").prompts == ("One?", " two \u2028 é")


def test_json_lines_hold_text_or_messages(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "id": 1}, {"prompt": [USER]}, {"messages": [SYSTEM, USER]}]
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    found = read_prompts(str(tmp_path))
    messages = (Message("system", "Be kind."), Message("user", "hi"))
    assert found.prompts == ("a", messages[1:], messages)
    assert found.extra_columns == ("id",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "text": "x"}, "field 'prompt': expected either 'prompt' or 'messages', found id, text"),
        ({}, "field 'prompt': expected either 'prompt' or 'messages', found neither"),
        ({"prompt": "a", "messages": [USER]}, "field 'prompt': expected either 'prompt' or 'messages', found both"),
        ({"prompt": " "}, "field 'prompt': empty"),
        ({"prompt": 1}, "field 'prompt': expected text or a list of messages, found 1"),
        ({"messages": []}, "field 'messages': empty"),
        ({"messages": "x"}, "field 'messages': expected a valid list, found 'x'"),
        ({"messages": [SYSTEM]}, "field 'messages': the last message is of role 'system', expected 'user'"),
        ({"messages": [{"role": "x", "content": ""}]}, "field 'messages[0].role': expected 'system', 'user' or"),
    ],
)
def test_a_bad_line_is_named_or_dropped(tmp_path: Path, row: Any, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{json.dumps(row)}\n')
    with pytest.raises(CounterpointError) as error:
        read_prompts(path)
    assert str(error.value).startswith(f"{path}:2: {message}")
    assert str(error.value).endswith("; fix the row or pass --skip-bad")
    found = read_prompts(path, skip_bad=True)
    assert found.prompts == ("fine",)
    assert [bad.place.line for bad in found.dropped] == [2]
    assert found.dropped[0].reason.startswith(message)


def test_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"one\nca\xe9\n")
    with pytest.raises(CounterpointError, match=r"x.txt:2: not valid UTF-8 at byte 3 of the line, found 0xe9"):
        read_prompts(tmp_path / "x.txt")


def test_real_data_is_read_whole(shared: Path) -> None:
    found = read_prompts(shared / "data" / "ultrafeedback_subset" / "train_1000.jsonl.gz")
    assert len(found.prompts) == 1000
    assert "chosen" in found.extra_columns
