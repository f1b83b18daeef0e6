"""Rows that are checked: what is wrong with one is named by its place and field, and nothing is dropped unseen."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError

from counterpoint.data.places import BadRow, brief, found_only
from counterpoint.data.reports import FileReport
from counterpoint.data.tables import Table, UnreadableFile
from counterpoint.types import CounterpointError, Message, Prompt

T = TypeVar("T")
Row = TypeVar("Row", bound=BaseModel)


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


def read_rows(
    table: Table, parse: Callable[[dict[str, Any]], T], report: FileReport, bad: list[BadRow] | None
) -> Iterator[T]:
    """`parse(values)` for every row of a table; what it raises gets the row's place in front, or is added to `bad`.

    Errors with `bad` too: a table that is empty, and a fault of the whole file.
    """
    empty = True
    for place, values in table.rows():
        empty = False
        try:
            if isinstance(values, CounterpointError):
                raise values
            parsed = parse(values)
        except UnreadableFile as error:
            raise CounterpointError(f"{place}: {error}") from None
        except CounterpointError as error:
            if bad is None:
                raise CounterpointError(f"{place}: {error}; fix the row or pass --skip-bad") from None
            bad.append(BadRow(place, str(error)))
            report.dropped += 1
            continue
        yield parsed
    if empty:
        raise CounterpointError(f"{table.name}: the file is empty; expected one example per row")


def nothing_good(bad: list[BadRow]) -> CounterpointError:
    """What to raise where no row at all could be used."""
    return CounterpointError(f"all {len(bad)} rows are bad; the first is {bad[0]}; fix the rows")


def check_row(values: Mapping[str, Any], model: type[Row]) -> Row:
    """The row as its model; raises CounterpointError that names the first field that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise CounterpointError(_field_error(error)) from None


def _field_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    parts = [part for part in first["loc"] if not str(part).startswith("<")]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    if first["type"] == "missing":
        return f"field {name!r}: missing; {found_only(first['input'])}"
    message = first["msg"].replace("Input should be", "Expected")
    if first["type"] == "model_type":
        message = "Expected a message with a role and a content"
    return f"field {name!r}: {message[0].lower()}{message[1:]}, found {brief(first['input'])}"


def extra_keys(row: BaseModel) -> set[str]:
    """Keys of a row's messages beyond role and content, as `chosen[].name`."""
    names = set()
    for field in type(row).model_fields:
        value = getattr(row, field)
        if isinstance(value, list):
            names |= {f"{field}[].{key}" for message in value for key in message.model_extra or {}}
    return names


def to_messages(rows: Iterable[MessageRow]) -> tuple[Message, ...]:
    """Messages as the package knows them."""
    return tuple(Message(row.role, row.content) for row in rows)


def plain(value: str | list[MessageRow]) -> Prompt:
    """Text as it is, or messages as the package knows them."""
    return value if isinstance(value, str) else to_messages(value)


def check_prompt(prompt: Prompt, field: str = "prompt") -> None:
    """Refuse a prompt that is empty, or whose last message is not the user's."""
    last = Message("user", prompt) if isinstance(prompt, str) else prompt[-1] if prompt else Message("user", "")
    if last.role != "user":
        raise CounterpointError(f"field {field!r}: the last message is of role {last.role!r}, expected 'user'")
    if not last.content.strip():
        raise CounterpointError(f"field {field!r}: empty; expected text, or messages that end with the user's")
