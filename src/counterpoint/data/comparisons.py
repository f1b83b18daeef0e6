"""Read and write comparisons in the preference formats of TRL, with a `dimension` column."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from counterpoint.artifacts import write_text
from counterpoint.data.prompts import (
    JSONL,
    BadLine,
    MessageRow,
    TextOrMessages,
    brief,
    check_prompt,
    extra_columns,
    parse_row,
    read_lines,
    to_messages,
)
from counterpoint.profiles import unknown_name
from counterpoint.types import Comparison, CounterpointError, Message, Prompt


@dataclass(frozen=True)
class Comparisons:
    """What was read: the comparisons, the lines that were dropped, and the columns that were not used."""

    comparisons: tuple[Comparison, ...]
    dropped: tuple[BadLine, ...]
    extra_columns: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many comparisons there are on each dimension, in the order of their first line."""
        return dict(Counter(c.dimension for c in self.comparisons))


class ComparisonRow(BaseModel):
    """A line of a comparisons file; without `prompt`, the prompt is what `chosen` and `rejected` begin with."""

    model_config = ConfigDict(strict=True, extra="allow")
    prompt: TextOrMessages | None = None
    chosen: TextOrMessages
    rejected: TextOrMessages
    dimension: str | None = None


def read_comparisons(
    paths: str | Path | Iterable[str | Path],
    dimension: str | None = None,
    known: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Comparisons:
    """Read comparisons from `.jsonl` or `.jsonl.gz`: a file, a folder of them (at any depth, by name) or several.

    A line holds `chosen` and `rejected` (text, or messages that end with the assistant's), a `prompt` (text, messages,
    or none: then it is what both begin with, whole messages or whole words) and a `dimension`; the argument
    `dimension` is for lines without one. With `known`, other dimensions are errors. A bad line raises
    CounterpointError with file, line and field, or with `skip_bad` is listed in `dropped`; blank lines are allowed.

    Prompt and response of text join to the original: a space between them belongs to the response, as in TRL.
    """
    extras: set[str] = set()

    def parse(path: Path, line: str) -> Comparison:
        row = parse_row(line, ComparisonRow)
        comparison = _comparison(row, dimension, known)
        extras.update(extra_columns(row))
        return comparison

    comparisons, dropped = read_lines(paths, JSONL, parse, skip_bad)
    return Comparisons(tuple(comparisons), tuple(dropped), tuple(sorted(extras)))


def write_comparisons(path: str | Path, comparisons: Iterable[Comparison]) -> None:
    """Write comparisons as JSON lines with an explicit prompt, atomically; `read_comparisons` gives them back."""
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


def _comparison(row: ComparisonRow, dimension: str | None, known: Sequence[str] | None) -> Comparison:
    name = row.dimension if row.dimension is not None else dimension
    if not name:
        found = ", ".join(map(repr, sorted(row.model_fields_set)))
        raise CounterpointError(f"field 'dimension': missing or empty; found only {found}; add it or pass --dimension")
    if known is not None and name not in known:
        raise CounterpointError(f"field 'dimension': {unknown_name('dimension', name, known)}")
    prompt, chosen, rejected = _split(row)
    check_prompt(prompt)
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise CounterpointError(f"field {field!r}: empty; expected a response")
    _check_differ(chosen, rejected)
    return Comparison(prompt, chosen, rejected, name)


def _split(row: ComparisonRow) -> tuple[Prompt, str, str]:
    prompt = None if row.prompt is None else _plain(row.prompt)
    chosen, rejected = _plain(row.chosen), _plain(row.rejected)
    _check_differ(chosen, rejected)
    if prompt is not None:
        check_prompt(prompt)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return (prompt, chosen, rejected) if prompt is not None else _split_text(chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise CounterpointError("field 'rejected': expected text or messages, whichever 'chosen' is, found the other")
    before = _before(prompt, chosen, rejected)
    return before, _reply("chosen", chosen, before), _reply("rejected", rejected, before)


def _plain(value: str | list[MessageRow]) -> Prompt:
    return value if isinstance(value, str) else to_messages(value)


def _check_differ(chosen: Prompt, rejected: Prompt) -> None:
    if chosen == rejected:
        raise CounterpointError(f"field 'rejected': the same as 'chosen', {brief(rejected)}; expected two responses")


def _split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Cut both after the words that they share; a space at the cut goes to the responses."""
    size = min(len(chosen), len(rejected))
    end = next((i for i in range(size) if chosen[i] != rejected[i]), size)
    if not (end < size and chosen[end].isspace() and rejected[end].isspace()):
        space = next((i for i in reversed(range(end)) if chosen[i].isspace()), -1)
        end = space if chosen[space : space + 1] == " " else space + 1
    if end <= 0:
        raise CounterpointError("field 'prompt': missing, and 'chosen' and 'rejected' share no first words; add it")
    return chosen[:end], chosen[end:], rejected[end:]


def _before(prompt: Prompt | None, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    if isinstance(prompt, tuple):
        return prompt
    size = min(len(chosen), len(rejected))
    shared = chosen[: next((i for i in range(size) if chosen[i] != rejected[i]), size)]
    if prompt is None and not shared:
        raise CounterpointError("field 'prompt': missing, and 'chosen' and 'rejected' share no first messages; add it")
    if prompt is not None and Message("user", prompt) not in shared:
        raise CounterpointError(
            f"field 'prompt': text that no user message of both 'chosen' and 'rejected' holds, found {brief(prompt)}; "
            "expected messages, since the responses are messages"
        )
    return shared


def _reply(field: str, messages: tuple[Message, ...], before: tuple[Message, ...]) -> str:
    rest = messages[len(before) :] if messages[: len(before)] == before else messages
    if messages and messages[-1].role != "assistant":
        raise CounterpointError(
            f"field {field!r}: the last message is of role {messages[-1].role!r}, expected 'assistant'"
        )
    if len(rest) != 1:
        raise CounterpointError(f"field {field!r}: expected one assistant message after the prompt, found {len(rest)}")
    return rest[0].content
