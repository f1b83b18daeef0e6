"""Read prompts, and the line-by-line reading that every source of ours shares: nothing is dropped unseen."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError

from counterpoint.types import CounterpointError, Message, Prompt

JSONL = (".jsonl", ".jsonl.gz")
TEXT = (".txt", ".txt.gz")

T = TypeVar("T")
Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True)
class BadLine:
    """A line that could not be used, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Prompts:
    """What was read: the prompts, the lines that were dropped, and the columns that were not used."""

    prompts: tuple[Prompt, ...]
    dropped: tuple[BadLine, ...]
    extra_columns: tuple[str, ...]


class MessageRow(BaseModel):
    """A message as files hold it."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["system", "user", "assistant"]
    content: str


def _kind(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<messages>" if isinstance(value, list) else None


TextOrMessages = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[MessageRow], Tag("<messages>")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="Expected text or a list of messages"),
]


class PromptRow(BaseModel):
    """A line of a prompts file: either `prompt` or `messages`."""

    model_config = ConfigDict(strict=True, extra="allow")
    prompt: TextOrMessages | None = None
    messages: list[MessageRow] | None = None


def read_prompts(paths: str | Path | Iterable[str | Path], skip_bad: bool = False) -> Prompts:
    """Read prompts from `.txt` (one per line) or `.jsonl` (`prompt`: text or messages, or `messages`), also gzipped.

    `paths` is a file, a folder (its `.txt` and `.jsonl` files, at any depth, by name) or several. Blank lines are
    allowed. A bad line raises CounterpointError with file, line and field, or with `skip_bad` is listed in `dropped`.
    """
    extras: set[str] = set()

    def parse(path: Path, line: str) -> Prompt:
        return line if path.name.endswith(TEXT) else _prompt_of_line(line, extras)

    prompts, dropped = read_lines(paths, (*TEXT, *JSONL), parse, skip_bad)
    return Prompts(tuple(prompts), tuple(dropped), tuple(sorted(extras)))


def _prompt_of_line(line: str, extras: set[str]) -> Prompt:
    row = parse_row(line, PromptRow)
    if (row.prompt is None) == (row.messages is None):
        found = "both" if row.prompt is not None else ", ".join(row.model_extra or {}) or "neither"
        raise CounterpointError(f"field 'prompt': expected either 'prompt' or 'messages', found {found}")
    field = "messages" if row.prompt is None else "prompt"
    value = row.messages if row.prompt is None else row.prompt
    assert value is not None
    extras |= extra_columns(row)
    prompt = value if isinstance(value, str) else to_messages(value)
    check_prompt(prompt, field)
    return prompt


def check_prompt(prompt: Prompt, field: str = "prompt") -> None:
    """Refuse a prompt that is empty, or whose last message is not the user's."""
    last = Message("user", prompt) if isinstance(prompt, str) else prompt[-1] if prompt else Message("user", "")
    if last.role != "user":
        raise CounterpointError(f"field {field!r}: the last message is of role {last.role!r}, expected 'user'")
    if not last.content.strip():
        raise CounterpointError(f"field {field!r}: empty; expected text, or messages that end with the user's")


def to_messages(rows: Iterable[MessageRow]) -> tuple[Message, ...]:
    """Messages as the package knows them."""
    return tuple(Message(row.role, row.content) for row in rows)


def extra_columns(row: BaseModel) -> set[str]:
    """Names of the columns that a line has beyond those that are used, keys of its messages as `chosen[].name`."""
    names = set(row.model_extra or {})
    for field in type(row).model_fields:
        value = getattr(row, field)
        if isinstance(value, list):
            names |= {f"{field}[].{key}" for message in value for key in message.model_extra or {}}
    return names


def read_lines(
    paths: str | Path | Iterable[str | Path],
    suffixes: tuple[str, ...],
    parse: Callable[[Path, str], T],
    skip_bad: bool,
) -> tuple[list[T], list[BadLine]]:
    """`parse(file, line)` for every line that is not blank; what it raises gets file and line in front.

    With `skip_bad` bad lines are collected instead. Still errors: a file that is missing, empty or not the gzip that it
    claims to be, and a source of which no line is usable.
    """
    good: list[T] = []
    bad: list[BadLine] = []
    for path in find_files(paths, suffixes):
        before = len(good) + len(bad)
        for number, raw in _raw_lines(path):
            try:
                line = _decode(raw, number)
                if line.strip():
                    good.append(parse(path, line))
            except CounterpointError as error:
                if not skip_bad:
                    raise CounterpointError(f"{path}:{number}: {error}; fix the line or pass --skip-bad") from None
                bad.append(BadLine(str(path), number, str(error)))
        if len(good) + len(bad) == before:
            raise CounterpointError(f"{path}: the file is empty; expected one example per line")
    if not good:
        first = f"{bad[0].file}:{bad[0].line}: {bad[0].reason}"
        raise CounterpointError(f"all {len(bad)} lines are bad; the first is {first}; fix the lines")
    return good, bad


def find_files(paths: str | Path | Iterable[str | Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The files named, and for a folder those in it at any depth with a known suffix, by name; each file once."""
    files: dict[Path, Path] = {}
    for path in [Path(paths)] if isinstance(paths, str | Path) else [Path(p) for p in paths]:
        found = _files_in(path, suffixes) if path.is_dir() else [path]
        if not path.exists():
            raise CounterpointError(f"{path}: there is no such file or folder")
        if not found or not found[0].name.endswith(suffixes):
            lack = "no such files in this folder" if path.is_dir() else f"found a file called {path.name!r}"
            raise CounterpointError(f"{path}: expected {', '.join(suffixes)}; {lack}; convert or rename")
        files |= {file.resolve(): file for file in found if file.resolve() not in files}
    if not files:
        raise CounterpointError("no file is named; expected at least one")
    return list(files.values())


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name.endswith(suffixes)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield number, raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CounterpointError(
            f"{path}: corrupt gzip after line {number} ({error}); expected a gzip file, fetch or compress it again"
        ) from None


def _decode(raw: bytes, number: int) -> str:
    try:
        return raw.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise CounterpointError(
            f"not valid UTF-8 at byte {error.start + 1} of the line, found 0x{raw[error.start]:02x}; "
            "expected a file saved as UTF-8"
        ) from None


def parse_row(line: str, model: type[Row]) -> Row:
    """Parse one line of JSON as a row; the first thing that is wrong is named by its field."""
    try:
        value = json.loads(line, object_pairs_hook=_no_duplicates)
        if "\\ud" in line.lower():  # half a surrogate pair is JSON, but no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise CounterpointError(f"not valid JSON at column {error.colno}: {error.msg}") from None
    except UnicodeEncodeError as error:
        raise CounterpointError(f"not Unicode text: {error.reason}, {brief(error.object[error.start])}") from None
    except (RecursionError, ValueError) as error:  # nested too deeply, or an integer of thousands of digits
        raise CounterpointError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CounterpointError(f"expected a JSON object, found {brief(value)}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise CounterpointError(_field_error(error)) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CounterpointError(f"field {twice!r}: given twice; keep one")
    return value


def _field_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    parts = [part for part in first["loc"] if not str(part).startswith("<")]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    if first["type"] == "missing":
        return f"field {name!r}: missing; found only {', '.join(map(repr, first['input'])) or 'an empty object'}"
    message = first["msg"].replace("Input should be", "Expected")
    if first["type"] == "model_type":
        message = "Expected a message with a role and a content"
    return f"field {name!r}: {message[0].lower()}{message[1:]}, found {brief(first['input'])}"


def brief(value: object) -> str:
    """A value as an error message shows it: its `repr`, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
