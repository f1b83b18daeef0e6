import gzip
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from counterpoint.data.comparisons import read_comparisons, write_comparisons
from counterpoint.data.places import Place
from counterpoint.types import Comparison, CounterpointError, Message

USER = {"role": "user", "content": "hi"}
YES = {"role": "assistant", "content": "yes"}
NO = {"role": "assistant", "content": "no"}
GOOD = {"prompt": "p", "chosen": "a", "rejected": "b", "dimension": "concise"}


def write(path: Path, *rows: Any) -> Path:
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
    return path


def read_one(tmp_path: Path, row: dict[str, Any]) -> Comparison:
    (comparison,) = read_comparisons(write(tmp_path / "x.jsonl", row), dimension="concise").comparisons
    return comparison


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "p", "a", "b"),
        ({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, (Message("user", "hi"),), "yes", "no"),
        ({"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]}, (Message("user", "hi"),), "yes", "no"),
        ({"prompt": [USER], "chosen": "yes", "rejected": "no"}, (Message("user", "hi"),), "yes", "no"),
        ({"prompt": "hi", "chosen": [USER, YES], "rejected": [USER, NO]}, (Message("user", "hi"),), "yes", "no"),
        ({"chosen": [USER, YES], "rejected": [USER, NO]}, (Message("user", "hi"),), "yes", "no"),
        (
            {"chosen": [USER, YES, USER, YES], "rejected": [USER, YES, USER, NO]},
            (Message("user", "hi"), Message("assistant", "yes"), Message("user", "hi")),
            "yes",
            "no",
        ),
        # a space at the cut belongs to the responses, other white space to the prompt
        ({"chosen": "Q: x A: Yes", "rejected": "Q: x A: Yet"}, "Q: x A:", " Yes", " Yet"),
        ({"chosen": "Q\nYes", "rejected": "Q\nYet"}, "Q\n", "Yes", "Yet"),
        ({"chosen": "Q\nYes", "rejected": "Q No"}, "Q", "\nYes", " No"),
        ({"chosen": "Q it is", "rejected": "Q it is blue"}, "Q it", " is", " is blue"),
    ],
)
def test_formats(tmp_path: Path, row: dict[str, Any], prompt: Any, chosen: str, rejected: str) -> None:
    assert read_one(tmp_path, row) == Comparison(prompt, chosen, rejected, "concise")


def test_implicit_text_prompts_lose_nothing(tmp_path: Path) -> None:
    random = Random(0)
    for _ in range(200):
        shared, first, second = ("".join(random.choices("ab \n", k=random.randint(2, 9))) for _ in range(3))
        chosen, rejected = f"Q {shared}{first}", f"Q {shared}{second}"
        write(tmp_path / "x.jsonl", {"chosen": chosen, "rejected": rejected, "dimension": "d"}, GOOD)
        for c in read_comparisons(tmp_path / "x.jsonl", skip_bad=True).comparisons[:-1]:
            assert isinstance(c.prompt, str)
            assert (c.prompt + c.chosen, c.prompt + c.rejected) == (chosen, rejected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"prompt": "p",}', "not valid JSON at column 16: Expecting property name enclosed in double quotes"),
        (b"not json", "not valid JSON at column 1: Expecting value"),
        (b"[" * 100_000, "not valid JSON: maximum recursion depth exceeded"),
        (b'{"n": ' + b"1" * 5000 + b"}", "not valid JSON: Exceeds the limit"),
        (b"[1]", "expected a JSON object, found [1]"),
        (b'{"prompt": "\xff"}', "not valid UTF-8 at byte 13 of the line, found 0xff; expected a file saved as UTF-8"),
        (b'{"prompt": "\\ud800"}', "not Unicode text: surrogates not allowed, '\\ud800'"),
        (b'{"chosen": "a", "chosen": "b"}', "field 'chosen': given twice; keep one"),
        ({"prompt": "p", "rejected": "b"}, "field 'chosen': missing; found only 'prompt', 'rejected'"),
        ({}, "field 'chosen': missing; found only an empty object"),
        ({**GOOD, "chosen": 3}, "field 'chosen': expected text or a list of messages, found 3"),
        ({**GOOD, "prompt": {"a": 1}}, "field 'prompt': expected text or a list of messages, found {'a': 1}"),
        ({**GOOD, "dimension": 3}, "field 'dimension': expected the name of a dimension, found 3"),
        ({**GOOD, "chosen": ["x"]}, "field 'chosen[0]': expected a message with a role and a content, found 'x'"),
        ({**GOOD, "chosen": "  "}, "field 'chosen': empty; expected a response"),
        ({**GOOD, "rejected": ""}, "field 'rejected': empty; expected a response"),
        ({**GOOD, "prompt": ""}, "field 'prompt': empty; expected text"),
        ({**GOOD, "prompt": []}, "field 'prompt': empty; expected text"),
        ({**GOOD, "rejected": "a"}, "field 'rejected': the same as 'chosen', 'a'; expected two responses"),
        ({"prompt": [USER], "chosen": [USER, YES], "rejected": [YES]}, "field 'rejected': the same as 'chosen', 'yes'"),
        ({**GOOD, "chosen": [YES]}, "field 'rejected': expected text or messages, whichever 'chosen' is"),
        ({**GOOD, "chosen": [YES], "rejected": [NO]}, "field 'prompt': text that no user message of both"),
        ({"chosen": [USER, YES, USER], "rejected": [USER, NO]}, "field 'chosen': the last message is of role 'user'"),
        ({"chosen": [USER, YES], "rejected": [USER, NO, NO]}, "field 'rejected': expected one assistant message"),
        (
            {"chosen": [USER, YES], "rejected": [USER, YES, NO]},
            "field 'chosen': expected one assistant message after the prompt, found 0",
        ),
        ({"prompt": [YES], "chosen": [YES], "rejected": [NO]}, "field 'prompt': the last message is of role 'assist"),
        (
            {"chosen": [USER, YES], "rejected": [USER, {"role": "bot", "content": "x"}]},
            "field 'rejected[1].role': expected 'system', 'user' or 'assistant', found 'bot'",
        ),
        (
            {"chosen": [USER, {"role": "user"}], "rejected": [USER, NO]},
            "field 'chosen[1].content': missing; found only 'role'",
        ),
        (
            {"chosen": [USER, {"role": "assistant", "content": [{"type": "text"}]}], "rejected": [USER, NO]},
            "field 'chosen[1].content': expected a valid string, found [{'type': 'text'}]",
        ),
        ({"chosen": [YES], "rejected": [NO]}, "field 'prompt': missing, and 'chosen' and 'rejected' share no first m"),
        ({"chosen": "yes", "rejected": "no"}, "field 'prompt': missing, and 'chosen' and 'rejected' share no first w"),
        ({"chosen": "", "rejected": "no"}, "field 'prompt': missing, and 'chosen' and 'rejected' share no first w"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "of": 1}, "field 'dimension': missing or empty; found only"),
        ({**GOOD, "dimension": ""}, "field 'dimension': missing or empty"),
        ({**GOOD, "dimension": "concize"}, "field 'dimension': unknown dimension 'concize'; did you mean 'concise'?"),
    ],
)
def test_a_bad_line_is_named_or_dropped(tmp_path: Path, row: Any, message: str) -> None:
    if isinstance(row, dict) and row and "of" not in row:
        row = {**row, "dimension": row.get("dimension", "concise")}
    path = write(tmp_path / "x.jsonl", GOOD, b"", row, GOOD)
    with pytest.raises(CounterpointError) as error:
        read_comparisons(path, known=["concise"])
    assert str(error.value).startswith(f"{path}:3: {message}")
    assert str(error.value).endswith("; fix the row or pass --skip-bad")

    found = read_comparisons(path, known=["concise"], skip_bad=True)
    (bad,) = found.dropped
    assert bad.place == Place(str(path), 3, 3)
    assert bad.reason.startswith(message)
    assert found.counts == {"concise": 2}


def test_regression_an_empty_cell_takes_the_dimension_of_the_argument(tmp_path: Path) -> None:
    """It was an error, where the null of JSON was none."""
    (tmp_path / "x.csv").write_text("prompt,chosen,rejected,dimension\np,a,b,concise\np,a,c,\n")
    assert read_comparisons(tmp_path / "x.csv", dimension="friendly").counts == {"concise": 1, "friendly": 1}


def test_an_argument_names_the_dimension_of_lines_without_one(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", GOOD, {"prompt": "p", "chosen": "a", "rejected": "b"})
    assert read_comparisons(path, dimension="friendly").counts == {"concise": 1, "friendly": 1}


def test_folders_gzip_byte_order_marks_and_repeats(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    (tmp_path / "sub").mkdir()
    with gzip.open(tmp_path / "sub" / "a.jsonl.gz", "wb") as file:
        file.write(json.dumps({**GOOD, "dimension": "friendly"}).encode())
    write(tmp_path / ".scratch.jsonl", b"ignored")
    (tmp_path / "notes.md").write_text("ignored")
    assert read_comparisons(tmp_path).counts == {"concise": 1, "friendly": 1}
    assert read_comparisons([tmp_path, tmp_path / "b.jsonl"]).counts == {"concise": 1, "friendly": 1}


def test_extra_columns_are_listed_once(tmp_path: Path) -> None:
    row = {**GOOD, "score": 1, "chosen": [{**USER}, {**YES, "name": "x"}], "rejected": [USER, NO], "prompt": [USER]}
    found = read_comparisons(write(tmp_path / "x.jsonl", row, {**GOOD, "source": "s"}, row))
    assert found.extra_columns == ("chosen[].name", "score", "source")


def test_a_line_separator_inside_text_is_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({**GOOD, "chosen": "one\u2028two\x85three"}, ensure_ascii=False), encoding="utf-8")
    assert read_comparisons(path).comparisons[0].chosen == "one\u2028two\x85three"


def test_whole_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join([json.dumps(GOOD).encode()] * 9))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-9])
    (tmp_path / "no.jsonl.gz").write_bytes(b"plain")
    (tmp_path / "empty.jsonl").write_bytes(b"\n \n")
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    write(tmp_path / "bad.jsonl", b"x", b"y")
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("cut.jsonl.gz", "corrupt gzip after line"),
        ("no.jsonl.gz", "corrupt gzip after line 0 (Not a gzipped file (b'pl')); expected a gzip file"),
        ("empty.jsonl", "the file is empty; expected one example per row"),
        ("table.xlsx", "expected .jsonl, .jsonl.gz, .json, .json.gz, .csv, .csv.gz, .tsv, .tsv.gz, .parquet; found a"),
        ("folder", "expected .jsonl, .jsonl.gz, .json, .json.gz, .csv, .csv.gz, .tsv, .tsv.gz, .parquet; no such"),
        ("missing.jsonl", "there is no such file or folder"),
    ]:
        with pytest.raises(CounterpointError, match=re.escape(f"{tmp_path / name}: {message}")):
            read_comparisons(tmp_path / name, skip_bad=True)
    with pytest.raises(CounterpointError, match=r"all 2 rows are bad; the first is .*bad.jsonl:1: not valid JSON"):
        read_comparisons(tmp_path / "bad.jsonl", skip_bad=True)
    with pytest.raises(CounterpointError, match="no file is named"):
        read_comparisons([])


def test_round_trip(tmp_path: Path) -> None:
    random = Random(1)

    def text() -> str:
        return "".join(random.choices('ab \n\t"\\é漢🙂\u2028\x00', k=random.randint(1, 20))) + random.choice("xyz")

    comparisons = []
    for i in range(300):
        turns = [Message("system", ""), Message("user", text()), Message("assistant", text()), Message("user", text())]
        prompt = text() if i % 2 else tuple(turns[random.choice([0, 1, 3]) :])
        comparisons.append(Comparison(prompt, "1" + text(), "2" + text(), random.choice(["a", "b"])))
    write_comparisons(tmp_path / "new" / "x.jsonl", comparisons)
    assert list(read_comparisons(tmp_path / "new" / "x.jsonl").comparisons) == comparisons


def test_a_written_file_is_a_preference_dataset_of_trl(tmp_path: Path) -> None:
    comparison = Comparison((Message("user", "hi"),), "yes", "no", "concise")
    write_comparisons(tmp_path / "x.jsonl", [comparison])
    row = json.loads((tmp_path / "x.jsonl").read_text())
    assert row == {"prompt": [USER], "chosen": [YES], "rejected": [NO], "dimension": "concise"}


def test_write_names_its_format(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"x.csv: expected a file name that ends with .jsonl"):
        write_comparisons(tmp_path / "x.csv", [])


@pytest.mark.parametrize(
    ("name", "kept", "dropped", "transcripts"),
    [
        ("hh_rlhf/helpful_base_test.jsonl.gz", {"helpful": 2348}, 4, 2348),  # 4 empty responses
        ("hh_rlhf/harmless_base_test.jsonl.gz", {"harmless": 2308}, 4, 2308),  # 4 empty responses
        ("ultrafeedback_subset", {"good": 1193}, 7, 0),  # 2 empty responses, 5 equal pairs
    ],
)
def test_real_data_is_read_and_counted(
    shared: Path, name: str, kept: dict[str, int], dropped: int, transcripts: int
) -> None:
    found = read_comparisons(shared / "data" / name, dimension="good", skip_bad=True)
    assert found.counts == kept
    assert len(found.dropped) == dropped
    assert all("empty" in bad.reason or "the same as" in bad.reason for bad in found.dropped)
    assert sum(file.transcripts for file in found.files) == transcripts
    assert sum(isinstance(c.prompt, tuple) for c in found.comparisons) == transcripts


def test_a_persons_words_for_columns(shared: Path) -> None:
    """Sentences and their friendly paraphrases: the unfriendly one is both the prompt and the worse response."""
    columns = {"prompt": "unfriendly", "chosen": "friendly", "rejected": "unfriendly"}
    path = shared / "data" / "paradetox" / "paradetox.jsonl.gz"
    found = read_comparisons(path, dimension="friendly", columns=columns, skip_bad=True)
    assert found.counts == {"friendly": 19743 - len(found.dropped)}
    assert {bad.reason.split(",")[0] for bad in found.dropped} == {"field 'rejected': the same as 'chosen'"}


def test_a_verdict_in_other_words_is_refused(shared: Path) -> None:
    """The winner is the name of a data set, which is said in another column."""
    path = shared / "data" / "asset_simplification" / "human_pairwise.jsonl.gz"
    columns = {"prompt": "source", "response_a": "asset_simplification", "response_b": "other_simplification"}
    with pytest.raises(CounterpointError, match=r"gz:4: field 'winner': expected a, b, .* or tie, found 'asset'"):
        read_comparisons(path, columns=columns)
