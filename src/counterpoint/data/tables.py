"""Rows of text files (JSON lines, JSON, CSV, TSV, plain text), one at a time and each with its place.

A row that cannot be read is given as the error in its stead, so that a reader may go on after it.
"""

import ast
import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.data.places import Place, brief
from counterpoint.types import CounterpointError

Values = dict[str, Any] | CounterpointError
"""A row's values by column, or what is wrong with the row."""

Rows = Iterator[tuple[Place, Values]]

JSONL = (".jsonl", ".jsonl.gz")
JSON = (".json", ".json.gz")
CSV = (".csv", ".csv.gz")
TSV = (".tsv", ".tsv.gz")
TEXT = (".txt", ".txt.gz")


class UnreadableFile(CounterpointError):
    """A fault of a whole file, which skipping rows does not mend."""


@dataclass(frozen=True)
class Table:
    """Rows under one name; `rows()` begins anew at each call."""

    name: str
    format: str
    rows: Callable[[], Rows]


def text_table(path: Path) -> Table:
    """The table in a text file, by its suffix; `.json` may hold a list or lines, `.csv` commas, semicolons or tabs.

    Raises CounterpointError for a file that is not the gzip that it claims to be.
    """
    name = str(path)
    if path.name.endswith(TEXT):
        return Table(name, "text, one prompt per line", lambda: _text_lines(path))
    if path.name.endswith((*CSV, *TSV)):
        delimiter = "\t" if path.name.endswith(TSV) else _delimiter(path)
        label = {"\t": "TSV", ";": "CSV with semicolons", ",": "CSV"}[delimiter]
        return Table(name, label, lambda: _cells(path, delimiter))
    if path.name.endswith(JSONL) or _has_lines_of_json(path):
        return Table(name, "JSON lines", lambda: _json_lines(path))
    return Table(name, "JSON", lambda: _json_list(path))


class Lines:
    """The lines of a file, with their ends. Iteration goes on past one that is not UTF-8; `number` counts it too."""

    def __init__(self, path: Path) -> None:
        self._raw = _raw_lines(path)
        self.number = 0

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        raw = next(self._raw)
        self.number += 1
        return _decode(raw, self.number)


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Lines of a file that may be gzipped, cut at line feeds alone."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for raw in file:
                number += 1
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableFile(
            f"{path}: corrupt gzip after line {number} ({error}); expected a gzip file, fetch or compress it again"
        ) from None
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read: {error.strerror}") from None


def _decode(raw: bytes, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        utf16 = " (the file begins as UTF-16 does)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise CounterpointError(
            f"not valid UTF-8 at byte {error.start + 1} of the line, found 0x{raw[error.start]:02x}{utf16}; "
            "expected a file saved as UTF-8"
        ) from None


def _each_line(path: Path, read: Callable[[str], dict[str, Any]]) -> Rows:
    for number, raw in enumerate(_raw_lines(path), start=1):
        place = Place(str(path), number, number)
        try:
            line = _decode(raw, number).rstrip("\r\n")
            if line.strip():
                yield place, read(line)
        except CounterpointError as error:
            yield place, error


def _text_lines(path: Path) -> Rows:
    return _each_line(path, lambda line: {"prompt": line})


def _json_lines(path: Path) -> Rows:
    return _each_line(path, parse_object)


def parse_object(text: str) -> dict[str, Any]:
    """Parse one JSON object of Unicode text whose keys differ; raises CounterpointError for anything else."""
    value = _parse_json(text)
    if isinstance(value, CounterpointError):
        raise value
    if not isinstance(value, dict):
        raise CounterpointError(f"expected a JSON object, found {brief(value)}")
    if _may_hold_surrogates(text):
        _check_unicode(value)
    return value


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise CounterpointError(f"not valid JSON at {line}column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deeply, or an integer of thousands of digits
        raise CounterpointError(f"not valid JSON: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Values:
    """The object, or in its place an error for its row: raised here, it would end a whole list of rows."""
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    return CounterpointError(f"field {twice!r}: given twice; keep one")


def _may_hold_surrogates(text: str) -> bool:
    return "\\ud" in text.lower()


def _check_unicode(value: Any) -> None:
    """Half a surrogate pair is JSON, but no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise CounterpointError(f"not Unicode text: {error.reason}, {brief(error.object[error.start])}") from None


def _has_lines_of_json(path: Path) -> bool:
    """Whether a file called .json has an object of its own on its first line, as JSON lines under that name do."""
    try:
        first = parse_object(next((line for line in Lines(path) if line.strip()), ""))
    except CounterpointError:
        return False  # whatever it is, the reader of lists says what is wrong with it
    return not isinstance(first.get("data"), list)


def _json_list(path: Path) -> Rows:
    text, rows = _list_of_rows(path)
    suspect = _may_hold_surrogates(text)
    for number, row in enumerate(rows, start=1):
        yield Place(str(path), number), _object(row, suspect)


def _list_of_rows(path: Path) -> tuple[str, list[Any]]:
    """A JSON file's text and its rows. The whole file is in memory: JSON lines are for files that are larger."""
    lines = Lines(path)
    try:
        text = "".join(lines)
    except UnreadableFile:
        raise
    except CounterpointError as error:
        raise CounterpointError(f"{path}:{lines.number}: {error}") from None
    if not text.strip():
        return "", []
    try:
        found = _parse_json(text)
    except CounterpointError as error:
        raise CounterpointError(f"{path}: {error}; mend the file") from None
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        wanted = "a list of objects, or an object whose 'data' is one"
        raise CounterpointError(f"{path}: expected {wanted}, found {brief(found)}")
    return text, rows


def _object(row: Any, suspect: bool) -> Values:
    if not isinstance(row, dict | CounterpointError):
        return CounterpointError(f"expected a JSON object, found {brief(row)}")
    try:
        if suspect:
            _check_unicode(row)
    except CounterpointError as error:
        return error
    return row


def _delimiter(path: Path) -> str:
    """What separates the cells of a .csv: the comma, unless the header has none but semicolons or tabs."""
    header = next(_raw_lines(path), b"")
    return next((mark for mark in ",;\t" if mark.encode() in header), ",")


def _cells(path: Path, delimiter: str) -> Rows:
    """Rows below a header. A cell may span lines in quotes; a row of another width than the header is an error."""
    lines = Lines(path)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _header(path, reader)
    for row in itertools.count(1):
        first = lines.number + 1
        try:
            cells = next((cells for cells in reader if any(cells)), None)
            if cells is None:
                return
            yield Place(str(path), row, _first_line(lines, cells)), _named(header, cells)
        except UnreadableFile:
            raise
        except CounterpointError as error:
            yield Place(str(path), row, lines.number), error
        except csv.Error as error:
            yield Place(str(path), row, first), _csv_error(error, first, lines.number)


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next((cells for cells in reader if any(cells)), [])]
    except UnreadableFile:
        raise
    except (csv.Error, CounterpointError) as error:
        raise CounterpointError(f"{path}:1: {error}; the first line must name the columns") from None
    wrong = next((name for name in header if header.count(name) > 1 or not name), None)
    if wrong is not None:
        what = f"the name {wrong!r} is there twice" if wrong else "a column has no name"
        raise CounterpointError(f"{path}:1: {what}; the first line must name each column once")
    return header


def _first_line(lines: Lines, cells: list[str]) -> int:
    return lines.number - sum(cell.count("\n") for cell in cells)


def _named(header: list[str], cells: list[str]) -> Values:
    if len(cells) != len(header):
        return CounterpointError(
            f"expected {len(header)} cells as in the header, found {len(cells)}; put cells that hold a separator or a "
            "line end in double quotes"
        )
    return dict(zip(header, map(_cell, cells), strict=True))


def _csv_error(error: csv.Error, first: int, last: int) -> CounterpointError:
    lines = f"lines {first} to {last}: {error}"
    if "field larger" in str(error):
        return CounterpointError(
            f"not valid CSV in {lines}; close the quotes, or convert a file of such cells to JSON lines"
        )
    return CounterpointError(f"not valid CSV in {lines}; close the quotes, and write a quote inside quotes twice")


def _cell(text: str) -> Any:
    """A cell's text, or the list of messages that it holds in JSON or as Python prints it."""
    if not text.startswith("[{"):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value):
            return value
    return text
