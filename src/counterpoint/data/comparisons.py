"""Read and write comparisons: files of every usual format and wording, written as TRL's with a `dimension` column."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from counterpoint.artifacts import write_text
from counterpoint.data.answers import ComparisonRow, split
from counterpoint.data.layouts import PAIRS, ByHand, Layout, by_hand, prompt_value, understand_comparison
from counterpoint.data.places import BadRow, brief, found_only
from counterpoint.data.reports import FileReport, unused_columns
from counterpoint.data.rows import check_row, extra_keys, nothing_good, read_rows
from counterpoint.data.scored_rows import scored_row
from counterpoint.data.scores import Scoring, by_prompt, pairs_of
from counterpoint.data.sources import find_tables
from counterpoint.data.tables import Table
from counterpoint.data.verdicts import better
from counterpoint.profiles import unknown_name
from counterpoint.types import Comparison, CounterpointError


@dataclass(frozen=True)
class Comparisons:
    """What was read: the comparisons, the rows that were dropped, the columns not used, and each file's counts.

    `rest` holds, for each comparison, what its row has in columns that were not used (nothing where scores made pairs).
    """

    comparisons: tuple[Comparison, ...]
    dropped: tuple[BadRow, ...]
    extra_columns: tuple[str, ...]
    files: tuple[FileReport, ...] = ()
    rest: tuple[dict[str, Any], ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many comparisons there are on each dimension, in the order of their first row."""
        return dict(Counter(c.dimension for c in self.comparisons))


@dataclass(frozen=True)
class _Wanted:
    """How rows are to be read; the fields are the arguments of `read_comparisons`."""

    dimension: str | None
    known: Sequence[str] | None
    columns: ByHand
    scoring: Scoring | None
    transcripts: bool


def read_comparisons(
    paths: str | Path | Iterable[str | Path],
    dimension: str | None = None,
    known: Sequence[str] | None = None,
    skip_bad: bool = False,
    columns: Mapping[str, str] | None = None,
    scoring: Scoring | None = None,
    transcripts: bool = True,
) -> Comparisons:
    """Read comparisons from what `find_tables` takes: JSON lines, JSON, CSV, TSV, Parquet, folders and data sets.

    A row holds `chosen` and `rejected` (text, or messages that end with the assistant's), a `prompt` (text, messages,
    or none: then it is what both begin with, whole messages or whole words) and a `dimension`; the argument
    `dimension` is for rows without one. Or it holds two responses and a preference, or one `NAME_preference` per
    dimension; a tie makes no comparison. With `scoring` it holds responses and scores, and the responses to one prompt
    in one file make pairs. Other names that columns go by are in `layouts`, and `columns` gives a part's column by
    hand, as in `{"chosen": "good"}`. Text with the marks "Human:" and "Assistant:" becomes messages unless
    `transcripts` is false.

    With `known`, other dimensions are errors. A bad row raises CounterpointError with file, row and field, or with
    `skip_bad` is listed in `dropped`; blank lines are allowed.

    Prompt and response of text join to the original: a space between them belongs to the response, as in TRL.
    """
    if scoring and dimension is not None:
        raise CounterpointError(f"dimension {dimension!r}: scores name their dimensions; leave out one of the two")
    wanted = _Wanted(dimension, known, by_hand(columns), scoring, transcripts)
    for name in scoring.dimensions if scoring else ():
        _check_known(name, known)
    found: list[tuple[Comparison, dict[str, Any]]] = []
    bad: list[BadRow] = []
    files: list[FileReport] = []
    for table in find_tables(paths):
        report = FileReport.of(table)
        found += _of_table(table, wanted, report, bad if skip_bad else None)
        files.append(report)
    if not found:
        raise _none(bad, files)
    comparisons, rest = zip(*found, strict=True)
    return Comparisons(comparisons, tuple(bad), unused_columns(files), tuple(files), rest)


def write_comparisons(path: str | Path, comparisons: Iterable[Comparison]) -> None:
    """Write comparisons as JSON lines with an explicit prompt, atomically; `read_comparisons` gives them back.

    Text that reads as a transcript comes back as messages unless it is read with `transcripts=False`.
    """
    if Path(path).suffix != ".jsonl":
        raise CounterpointError(f"{path}: expected a file name that ends with .jsonl")
    lines = [json.dumps(_row(c), ensure_ascii=False) + "\n" for c in comparisons]
    write_text(Path(path), "".join(lines))


def _row(comparison: Comparison) -> dict[str, object]:
    chosen: object = comparison.chosen
    rejected: object = comparison.rejected
    prompt: object = comparison.prompt
    if not isinstance(comparison.prompt, str):
        prompt = [{"role": m.role, "content": m.content} for m in comparison.prompt]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "dimension": comparison.dimension}


def _of_table(
    table: Table, wanted: _Wanted, report: FileReport, bad: list[BadRow] | None
) -> Iterator[tuple[Comparison, dict[str, Any]]]:
    for comparison, rest in (_paired if wanted.scoring else _compared)(table, wanted, report, bad):
        report.comparisons[comparison.dimension] += 1
        yield comparison, rest


def _compared(
    table: Table, wanted: _Wanted, report: FileReport, bad: list[BadRow] | None
) -> Iterator[tuple[Comparison, dict[str, Any]]]:
    for row in read_rows(table, partial(_of_row, wanted=wanted, report=report), report, bad):
        yield from ((read.comparison, read.rest) for read in row)


def _paired(
    table: Table, wanted: _Wanted, report: FileReport, bad: list[BadRow] | None
) -> Iterator[tuple[Comparison, dict[str, Any]]]:
    """Comparisons of a table of scored responses, whose every row is read first: a prompt's rows may lie apart."""
    scoring = wanted.scoring
    assert scoring is not None
    parse = partial(scored_row, said=wanted.columns, scoring=scoring, transcripts=wanted.transcripts, report=report)
    rows = read_rows(table, parse, report, bad)
    groups = by_prompt(response for row in rows for response in row)
    report.comparisons.update(dict.fromkeys(scoring.dimensions, 0))  # a dimension without a pair is said, too
    report.prompts = len(groups)
    report.alone = sum(len(responses) == 1 for responses in groups.values())
    for responses in groups.values():
        try:
            yield from ((comparison, {}) for comparison in pairs_of(responses, scoring))
        except CounterpointError as error:
            raise CounterpointError(f"{table.name}: {error}") from None


def _none(bad: list[BadRow], files: list[FileReport]) -> CounterpointError:
    """What to say where nothing was bad enough to stop, yet no comparison came of it."""
    if not any(file.rows for file in files):
        return nothing_good(bad)
    found = [f"{sum(file.rows for file in files)} rows"]
    undecided = sum(file.undecided.total() for file in files)
    if undecided:
        found.append(f"{undecided} preferences that are ties or empty")
    alone = sum(file.alone for file in files)
    if alone:
        found.append(f"{alone} prompts with one response, which makes no pair")
    names = ", ".join(file.name for file in files)
    return CounterpointError(f"{names}: no comparison came of it; found {', '.join(found)}")


def _of_row(values: Mapping[str, Any], wanted: _Wanted, report: FileReport) -> "list[_Read]":
    """The comparisons of one row: one per preference, but for ties."""
    layout = understand_comparison(tuple(values), wanted.columns)
    found = []
    undecided = []
    for of, choice in _choices(values, layout):
        dimension = of or _dimension(values, layout, wanted)
        _check_known(dimension, wanted.known)
        if choice is None:
            undecided.append(dimension)
        else:
            found.append(_comparison(values, layout, choice, dimension, wanted.transcripts))
    report.count(layout, set().union(*(read.unused for read in found)), any(read.was_transcript for read in found))
    report.undecided.update(undecided)
    return found


def _choices(values: Mapping[str, Any], layout: Layout) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """For each preference its dimension ("" if its column names none), and the columns of the better and the worse."""
    if layout.pair is None:
        yield "", (layout.parts["chosen"], layout.parts["rejected"])
        return
    first, second = (layout.parts[name] for name in layout.pair)
    for dimension, column in layout.verdicts.items():
        index = better(values[column], PAIRS[layout.pair], (first, second), column)
        yield dimension, None if index is None else ((first, second), (second, first))[index]


def _dimension(values: Mapping[str, Any], layout: Layout, wanted: _Wanted) -> str:
    column = layout.parts.get("dimension")
    found = values[column] if column is not None else None
    name = wanted.dimension if found is None or found == "" else found  # a CSV has no other way to hold nothing
    if not isinstance(name, str | None):
        raise CounterpointError(f"field {column!r}: expected the name of a dimension, found {brief(name)}")
    if not name:
        raise CounterpointError(
            f"field {column or 'dimension'!r}: missing or empty; {found_only(values)}; add it or pass --dimension"
        )
    return name


def _check_known(dimension: str, known: Sequence[str] | None) -> None:
    if known is not None and dimension not in known:
        raise CounterpointError(f"field 'dimension': {unknown_name('dimension', dimension, known)}")


@dataclass(frozen=True)
class _Read:
    """A comparison, its messages' keys that were not used, whether it was a transcript, and its row's other columns."""

    comparison: Comparison
    unused: set[str]
    was_transcript: bool
    rest: dict[str, Any]


def _comparison(
    values: Mapping[str, Any], layout: Layout, choice: tuple[str, str], dimension: str, transcripts: bool
) -> _Read:
    fields = {"chosen": choice[0], "rejected": choice[1]}
    try:
        given = {name: values[column] for name, column in fields.items()}
        row = check_row({"prompt": prompt_value(values, layout), **given}, ComparisonRow)
        prompt, chosen, rejected, was_transcript = split(row, transcripts)
    except CounterpointError as error:
        fields |= {"prompt": layout.parts.get("prompt", "prompt")}
        renamed = [f"{name!r} is the column {column!r}" for name, column in fields.items() if name != column]
        where = f" ({', '.join(renamed)})" if renamed else ""
        raise CounterpointError(f"{error}{where}") from None
    rest = {column: values[column] for column in layout.unused}
    return _Read(Comparison(prompt, chosen, rejected, dimension), extra_keys(row), was_transcript, rest)
