"""Which column of a row plays which part: the names that people give to prompts, responses and preferences.

A part is `prompt`, `chosen`, `rejected`, `dimension`; or, of two responses and a preference, `response_a` and
`response_b` (or the like) with `preference` or `NAME_preference`; or, for scores, `response` or `completions`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import Any

from counterpoint.data.places import brief, found_only
from counterpoint.profiles import unknown_name
from counterpoint.types import CounterpointError

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query", "input"),
    "messages": ("messages",),
    "chosen": ("chosen", "chosen_response"),
    "rejected": ("rejected", "rejected_response"),
    "dimension": ("dimension", "dim", "aspect"),
    "preference": ("preference", "preferred", "winner", "label", "better_response_id"),
    "response": ("response", "output", "answer", "completion", "text"),
    "completions": ("completions", "responses", "answers", "outputs"),
}
"""The names that each part goes by; of several in one row the first is taken, and the others count as not used."""

CONTINUED = "prompt (continued)"
"""The part of Alpaca's `input`: what the `instruction` is about, appended to it after a blank line."""

STEMS = ("response", "output", "answer", "completion", "conversation")
MARKS = (("a", "b"), ("0", "1"), ("1", "2"))
PAIRS = {
    (f"{stem}{joint}{first}", f"{stem}{joint}{second}"): (first, second)
    for stem, joint, (first, second) in product(STEMS, ("_", ""), MARKS)
}
"""Names of two columns that hold two responses, and the marks by which a preference tells them apart."""

OF_DIMENSION = re.compile(r"(.+)_(?:preference|winner)")

Columns = tuple[str, ...]
ByHand = tuple[tuple[str, str], ...]
"""Parts and their columns as the user named them, in the place of the names above."""


@dataclass(frozen=True)
class Layout:
    """How columns are understood: `parts` to column, `verdicts` from dimension ("" where none is named) to column."""

    parts: Mapping[str, str]
    unused: Columns
    pair: tuple[str, str] | None = None
    verdicts: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """`prompt = instruction, chosen, rejected`: a part and its column, one word where both have one name."""
        said = [part if part == column else f"{part} = {column}" for part, column in self.parts.items()]
        said += [f"preference = {column}" for name, column in self.verdicts.items() if not name]
        said += [f"preference on {name} = {column}" for name, column in self.verdicts.items() if name]
        return ", ".join(said)


def by_hand(columns: Mapping[str, str] | None) -> ByHand:
    """What the user says about columns, part to column; raises CounterpointError for a part that there is not."""
    of_pairs = {name for pair in PAIRS for name in pair}
    for part in columns or {}:
        if part not in NAMES and part not in of_pairs and not OF_DIMENSION.fullmatch(part):
            known = [*NAMES, "response_a", "response_b", "NAME_preference"]
            raise CounterpointError(f"--column {part}=...: {unknown_name('part', part, known)}")
    return tuple((columns or {}).items())


@lru_cache(maxsize=1024)
def understand_comparison(columns: Columns, said: ByHand) -> Layout:
    """The layout of rows that hold `chosen` and `rejected`, or two responses and one preference or more.

    Where the user names a column of preferences, no other is one. Raises CounterpointError that names the columns found
    where none of this is there.
    """
    names = _names(columns, said)
    parts = _prompt(names) | _find("chosen", names) | _find("rejected", names)
    if parts.keys() >= {"chosen", "rejected"}:
        return _layout(columns, parts | _find("dimension", names))
    pair = next((pair for pair in _by_hand_first(said) if names.keys() >= set(pair)), None)
    verdicts = _verdicts(dict(said)) or _verdicts(names)
    if not pair or not verdicts or "chosen" in parts or "rejected" in parts:
        raise CounterpointError(_lack(columns, parts, names, pair))
    parts = _prompt(names) | {name: names[name] for name in pair}
    if "" in verdicts:
        parts |= _find("dimension", names)
    return _layout(columns, parts, pair, verdicts)


@lru_cache(maxsize=1024)
def understand_scored(columns: Columns, said: ByHand) -> Layout:
    """The layout of rows with one `response` or a list of `completions`, to which scores belong."""
    names = _names(columns, said)
    response = _find("response", names) or _find("completions", names)
    if not response:
        raise CounterpointError(f"field 'response': missing; {found_only(columns)}; name it: --column response=COLUMN")
    if not _prompt(names):
        raise CounterpointError(f"field 'prompt': missing; {found_only(columns)}; name it: --column prompt=COLUMN")
    return _layout(columns, _prompt(names) | response)


@lru_cache(maxsize=1024)
def understand_prompt(columns: Columns, said: ByHand) -> Layout:
    """The layout of rows that hold a `prompt` or `messages`; it may have neither part, or both."""
    names = _names(columns, said)
    return _layout(columns, _prompt(names) | _find("messages", names))


def _names(columns: Columns, said: ByHand) -> dict[str, str]:
    """Columns by the name under which they are looked for: in small letters with underscores, or the user's part."""
    for part, column in said:
        if column not in columns:
            raise CounterpointError(f"--column {part}={column}: there is no column {column!r}; {found_only(columns)}")
    taken = dict(said)
    free = [column for column in columns if column not in taken.values()]
    return {column.strip().lower().replace(" ", "_"): column for column in free} | taken


def _find(part: str, names: Mapping[str, str]) -> dict[str, str]:
    column = next((names[name] for name in NAMES[part] if name in names), None)
    return {} if column is None else {part: column}


def _prompt(names: Mapping[str, str]) -> dict[str, str]:
    found = _find("prompt", names)
    if "prompt" not in names and "instruction" in names and "input" in names:
        found[CONTINUED] = names["input"]
    return found


def _by_hand_first(said: ByHand) -> Iterable[tuple[str, str]]:
    parts = {part for part, _ in said}
    return sorted(PAIRS, key=lambda pair: not parts >= set(pair))


def _verdicts(names: Mapping[str, str]) -> dict[str, str]:
    """Columns that say which response is better, by the dimension that their name holds."""
    plain = _find("preference", names)
    found = {"": plain["preference"]} if plain else {}
    for name, column in names.items():
        match = OF_DIMENSION.fullmatch(name)
        if match:
            found[match[1]] = column
    return found


def _layout(
    columns: Columns,
    parts: Mapping[str, str],
    pair: tuple[str, str] | None = None,
    verdicts: Mapping[str, str] = MappingProxyType({}),
) -> Layout:
    used = {*parts.values(), *verdicts.values()}
    return Layout(parts, tuple(column for column in columns if column not in used), pair, verdicts)


def _lack(columns: Columns, parts: Mapping[str, str], names: Mapping[str, str], pair: tuple[str, str] | None) -> str:
    """Why columns are no comparison, and what would make them one."""
    found = found_only(columns)
    if "chosen" in parts:
        return f"field 'rejected': missing; {found}; name it: --column rejected=COLUMN"
    if pair:
        return f"no column says which of {' and '.join(pair)} is better; {found}; name it: --column preference=COLUMN"
    lack = f"field 'chosen': missing; {found}"
    if "rejected" not in parts and (_find("response", names) or _find("completions", names)):
        command = "counterpoint data FILE --scores helpfulness,verbosity --out pairs.jsonl"
        return f"{lack}; if these are responses with scores, first run `{command}`"
    return f"{lack}; name the columns: --column chosen=COLUMN, --column rejected=COLUMN"


def prompt_value(values: Mapping[str, Any], layout: Layout) -> Any:
    """What a row holds as its prompt, Alpaca's `input` appended; None where the row has no such column."""
    prompt = values[layout.parts["prompt"]] if "prompt" in layout.parts else None
    rest = values[layout.parts[CONTINUED]] if CONTINUED in layout.parts else None
    if rest is None or rest == "":
        return prompt
    if not isinstance(prompt, str) or not isinstance(rest, str):
        raise CounterpointError(
            f"field {layout.parts[CONTINUED]!r}: expected text that goes on from the text of "
            f"{layout.parts['prompt']!r}, found {brief(rest)} after {brief(prompt)}"
        )
    return f"{prompt}\n\n{rest}"
