"""What people may ask for, as a table: the eight preferences of Personalized Soups in our own words, or a user's file.

Personalized Soups (arXiv 2310.11564, table 1) has two poles on each of three axes, and two more styles that come later.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from counterpoint.data.chat import with_request
from counterpoint.data.places import BadRow
from counterpoint.data.reports import FileReport
from counterpoint.data.rows import check_row, read_rows
from counterpoint.data.sources import find_tables
from counterpoint.profiles import check_name, unknown_name
from counterpoint.types import Comparison, CounterpointError, Dimension, Prompt

BUILT_IN = Path(__file__).with_name("preferences.jsonl")


class PreferenceRow(BaseModel):
    """A preference as files hold it, with the fields of `Dimension`; `id` is what a paper calls it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str
    id: str = ""
    axis: str = ""
    request: Annotated[str, Field(min_length=1)]
    description: str = ""
    criterion: str = ""

    @property
    def dimension(self) -> Dimension:
        return Dimension(**self.model_dump(exclude={"id"}))


def read_table(path: str | Path | None = None) -> list[PreferenceRow]:
    """The built-in table, or that in a file of rows of any format that `find_tables` takes.

    A row has a `name` and a `request`, and may have an `axis`, a `description`, a `criterion` and an `id`. Raises
    CounterpointError with file and row for other fields and for names that no profile could say; for a name or a
    request that is there twice; and for an axis with one pole, which is most often a misspelt one.
    """
    rows: list[PreferenceRow] = []
    bad: list[BadRow] = []
    for table in find_tables(BUILT_IN if path is None else path):
        rows += read_rows(table, _row, FileReport.of(table), bad)
    if bad:
        raise CounterpointError(
            f"{bad[0]}; fix the row; `counterpoint preferences --json` shows a table as it should be"
        )
    where = "the built-in preferences" if path is None else str(path)
    _check_once([row.name for row in rows], f"{where}: the name")
    _check_once([row.request for row in rows], f"{where}: the request")
    _check_axes(rows, where)
    return rows


def read_preferences(path: str | Path | None = None) -> list[Dimension]:
    """The preferences of `read_table` as dimensions, in its order."""
    return [row.dimension for row in read_table(path)]


def chosen(preferences: Sequence[Dimension], names: Sequence[str]) -> list[Dimension]:
    """The preferences of these names, in the table's order; all of them where none is named."""
    known = [preference.name for preference in preferences]
    for name in names:
        if name not in known:
            raise CounterpointError(unknown_name("preference", name, known))
    return [preference for preference in preferences if not names or preference.name in names]


def axes_of(preferences: Iterable[Dimension]) -> list[tuple[str, ...]]:
    """The poles of each axis, for `profiles.corners`; a preference without an axis is on none."""
    axes: dict[str, list[str]] = {}
    for preference in preferences:
        if preference.axis:
            axes.setdefault(preference.axis, []).append(preference.name)
    return [tuple(poles) for poles in axes.values()]


def opposites_of(preference: Dimension, preferences: Iterable[Dimension]) -> tuple[str, ...]:
    """The other poles of a preference's axis: one, none, or several."""
    on_axis = (other for other in preferences if preference.axis and other.axis == preference.axis)
    return tuple(other.name for other in on_axis if other.name != preference.name)


def as_requested(prompt: Prompt, asked: Sequence[str], requests: Mapping[str, str]) -> Prompt:
    """A prompt with the requests of what is `asked` for after it, joined by single spaces."""
    return with_request(prompt, " ".join(requests[name] for name in asked))


def requested(comparisons: Iterable[Comparison], requests: Mapping[str, str]) -> list[Comparison]:
    """Comparisons whose prompts carry the request of their dimension: what a model that is steered by it learns from.

    Raises CounterpointError for a dimension without a request.
    """
    found = list(comparisons)
    for comparison in found:
        if comparison.dimension not in requests:
            raise CounterpointError(f"comparisons: {unknown_name('preference', comparison.dimension, requests)}")
    return [replace(c, prompt=as_requested(c.prompt, (c.dimension,), requests)) for c in found]


def imitated(comparisons: Iterable[Comparison], requests: Mapping[str, str]) -> list[tuple[Prompt, str]]:
    """Each chosen response once, with the prompt and request that it is to answer: data of multitask fine-tuning.

    Personalized Soups (section 4.1) imitates the better of two responses to the same request, so that pairs of other
    kinds are best left out; of `neutral-opposite` ones (`data.pair_types`) the chosen response was asked for nothing.
    """
    return list(dict.fromkeys((c.prompt, c.chosen) for c in requested(comparisons, requests)))


def _row(values: Mapping[str, Any]) -> PreferenceRow:
    row = check_row(values, PreferenceRow)
    check_name(row.name)
    return row


def _check_once(texts: Sequence[str], what: str) -> None:
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise CounterpointError(f"{what} {twice!r} is there twice; preferences must be told apart by it, change one")


def _check_axes(rows: Sequence[PreferenceRow], where: str) -> None:
    for poles in axes_of(row.dimension for row in rows):
        if len(poles) == 1:
            axis = next(row.axis for row in rows if row.name == poles[0])
            raise CounterpointError(
                f"{where}: the axis {axis!r} has one pole, {poles[0]!r}; opposed preferences name the same axis, and "
                "one that has no opposite names none"
            )
