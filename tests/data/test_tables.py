"""The same rows from every format; and for every format what is wrong, with its row and line."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.prompts import read_prompts
from counterpoint.types import Comparison, CounterpointError, Message

ROWS = [
    {"prompt": "Why?", "chosen": 'He said "so",\nand left.', "rejected": "No;\tidea", "dimension": "terse"},
    {"prompt": "Où?", "chosen": "là 漢", "rejected": "NA", "dimension": "warm"},
]
EXPECTED = tuple(Comparison(**row) for row in ROWS)


def csv_text(separator: str, rows: list[dict[str, str]] = ROWS, end: str = "\n") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [separator.join(rows[0]), *(separator.join(map(cell, row.values())) for row in rows)]
    return "".join(line + end for line in lines)


def jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def text(content: str, encoding: str = "utf-8") -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode(encoding))


def zipped(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(gzip.compress(content.encode()))


@pytest.mark.parametrize(
    ("name", "write", "label"),
    [
        ("x.jsonl", jsonl, "JSON lines"),
        ("x.json", jsonl, "JSON lines"),
        ("x.json", text(json.dumps(ROWS)), "JSON"),
        ("x.json", text(json.dumps({"version": 1, "data": ROWS}, indent=1), "utf-8-sig"), "JSON"),
        ("x.json", text(json.dumps({"data": ROWS})), "JSON"),
        ("x.json.gz", zipped(json.dumps(ROWS)), "JSON"),
        ("x.csv", text(csv_text(",")), "CSV"),
        ("x.csv", text(csv_text(",", end="\r\n"), "utf-8-sig"), "CSV"),
        ("x.csv", text(csv_text(";")), "CSV with semicolons"),
        ("x.csv", text(csv_text("\t")), "TSV"),
        ("x.tsv", text("\n" + csv_text("\t") + '\n""\t""\t""\t""\n'), "TSV"),
        ("x.csv.gz", zipped(csv_text(",")), "CSV"),
        ("x.parquet", parquet, "Parquet"),
    ],
)
def test_every_format_gives_the_same(tmp_path: Path, name: str, write: Callable[[Path], object], label: str) -> None:
    write(tmp_path / name)
    found = read_comparisons(tmp_path / name)
    assert found.comparisons == EXPECTED
    assert [(file.format, file.rows) for file in found.files] == [(label, 2)]
    assert [str(p) for p in read_prompts(tmp_path / name).prompts] == ["Why?", "Où?"]


WRONG = [
    ("x.csv", b"prompt,chosen\nq,a,b\n", "x.csv:2 (row 1): expected 2 cells as in the header, found 3"),
    ("x.csv", b'prompt,chosen\n"q","a"b\n', "x.csv:2 (row 1): not valid CSV in lines 2 to 2: ',' expected"),
    ("x.csv", b'prompt,chosen\n"q\n\n","a\n', "x.csv:2 (row 1): not valid CSV in lines 2 to 4: unexpected end"),
    ("x.csv", b'prompt,chosen\n"' + b"q" * 200_000, "x.csv:2 (row 1): not valid CSV in lines 2 to 2: field larger"),
    ("x.csv", b"prompt,chosen\nq,\xe9\n", "x.csv:2 (row 1): not valid UTF-8 at byte 3 of the line, found 0xe9"),
    ("x.csv", b"prompt,prompt\nq,a\n", "x.csv:1: the name 'prompt' is there twice"),
    ("x.csv", b"prompt,,x\nq,a,b\n", "x.csv:1: a column has no name"),
    ("x.csv", b"\xe9,x\n", "x.csv:1: not valid UTF-8"),
    ("x.csv", "prompt,x\n".encode("utf-16"), "x.csv:1: not valid UTF-8 at byte 1 of the line, found 0xff (the"),
    ("x.csv", b"prompt,chosen,rejected\n", "x.csv: the file is empty"),
    ("x.csv", b"", "x.csv: the file is empty"),
    ("x.json", b'[{"a": 1},\n {"b": }]', "x.json: not valid JSON at line 2, column 8: Expecting value; mend"),
    ("x.json", b'[\n"\xff"]', "x.json:2: not valid UTF-8 at byte 2 of the line"),
    ("x.json", b'{"train": [1]}\n', "x.json:1: field 'chosen': missing; found only 'train'"),
    ("x.json", b'{\n"train": [1]}\n', "x.json: expected a list of objects, or an object whose 'data' is one"),
    ("x.json", b'{"data": {"0": 1}}', "x.json:1: field 'chosen': missing"),
    ("x.json", b"3", "x.json: expected a list of objects, or an object whose 'data' is one, found 3"),
    ("x.json", b"[3]", "x.json, row 1: expected a JSON object, found 3"),
    ("x.json", b'[{"prompt": "a", "prompt": "b"}]', "x.json, row 1: field 'prompt': given twice"),
    ("x.json", b'[{"prompt": "\\ud800"}]', "x.json, row 1: not Unicode text"),
    ("x.json", b"[]", "x.json: the file is empty"),
    ("x.json", b"\n", "x.json: the file is empty"),
    ("x.parquet", b"PAR1", "x.parquet: cannot be read after row 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CounterpointError, match=re.escape(message)) as error:
        read_comparisons(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path))


def test_rows_after_a_bad_one_are_read(tmp_path: Path) -> None:
    good = "q,a,b\r\n"
    bad = [b"q,a\r\n", b"q,\xff,b\r\n", b'q,"a"a,b\r\n', b",,\r\n", b"q,,b\r\n"]
    content = b"prompt,chosen,rejected\r\n" + b"".join(line + good.encode() for line in bad)
    (tmp_path / "x.csv").write_bytes(content)
    found = read_comparisons(tmp_path / "x.csv", dimension="d", skip_bad=True)
    assert found.counts == {"d": 5}
    assert [place.place.line for place in found.dropped] == [2, 4, 6, 10], "a row without any text is none"
    assert [place.place.row for place in found.dropped] == [1, 3, 5, 8]


def test_a_corrupt_file_is_an_error_whatever_is_skipped(tmp_path: Path) -> None:
    whole = gzip.compress(csv_text(",", ROWS * 50).encode())
    (tmp_path / "x.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(CounterpointError, match="corrupt gzip"):
        read_comparisons(tmp_path / "x.csv.gz", skip_bad=True)


@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_messages_in_cells(tmp_path: Path, dump: Callable[[Any], str]) -> None:
    said = [("user", 'a "b"'), ("assistant", "yes"), ("assistant", "no")]
    ask, yes, no = ({"role": role, "content": content} for role, content in said)
    row = {"chosen": dump([ask, yes]), "rejected": dump([ask, no]), "dimension": "d"}
    (tmp_path / "x.csv").write_text(csv_text(",", [row]))
    assert read_comparisons(tmp_path / "x.csv").comparisons == (
        Comparison((Message("user", 'a "b"'),), "yes", "no", "d"),
    )


def test_a_cell_that_merely_looks_like_a_list_is_text(tmp_path: Path) -> None:
    row = {"prompt": "[{x", "chosen": '[{"name": 1}]', "rejected": "[{'role': }]", "dimension": "d"}
    (tmp_path / "x.csv").write_text(csv_text(",", [row]))
    assert read_comparisons(tmp_path / "x.csv").comparisons == (Comparison(**row),)


def test_nulls_and_numbers_in_parquet(tmp_path: Path) -> None:
    rows = [{"prompt": None, "chosen": "Q a", "rejected": "Q b"}, {"prompt": "q", "chosen": None, "rejected": "b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "nulls.parquet")
    found = read_comparisons(tmp_path / "nulls.parquet", "d", skip_bad=True)
    assert found.comparisons == (Comparison("Q", " a", " b", "d"),)
    assert str(found.dropped[0]).endswith(
        "nulls.parquet, row 2: field 'chosen': expected text or a list of messages, found None"
    )
    pq.write_table(pa.Table.from_pylist([{"prompt": "q", "chosen": 1.5, "rejected": 2.0}]), tmp_path / "n.parquet")
    with pytest.raises(CounterpointError, match=r"n.parquet, row 1: field 'chosen': expected text .* found 1.5"):
        read_comparisons(tmp_path / "n.parquet", "d")


def test_parquet_rows_are_counted_over_batches(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": f"a{i}", "rejected": "b" if i != 2345 else ""} for i in range(2500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    found = read_comparisons(tmp_path / "x.parquet", "d", skip_bad=True)
    assert len(found.comparisons) == 2499
    assert [bad.place.row for bad in found.dropped] == [2346]
