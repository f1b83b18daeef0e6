"""What OpenAI's requests may ask for and this server does not do: told plainly, and never passed over in silence."""

import json
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported"
UNKNOWN = "unknown_parameter"

UNSERVED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), "no tools are called; describe them in a message, and read the call from the answer"),
    "tool_choice": (("none", "auto"), "no tools are called"),
    "tool_calls": (([],), "no tools are called; say in a message's content what was called"),
    "tool_call_id": ((), "no tools are called; give what a tool said in a message of the role 'user'"),
    "functions": (([],), "no functions are called"),
    "function_call": (("none", "auto"), "no functions are called"),
    "response_format": (({"type": "text"},), "answers are text; ask for a format in a message"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "annotations": (([],), "messages are text"),
    "refusal": (("",), "put it into the message's content"),
    "prediction": ((), "no answer is predicted"),
    "moderation": ((), "nothing is moderated"),
    "web_search_options": ((), "nothing is searched"),
    "reasoning_effort": (("none",), "models answer without reasoning first"),
    "verbosity": (("medium",), "ask for it with a profile, where the band has such a dimension"),
    "suffix": (("",), "text is continued, never filled in"),
    "guided_json": ((), "answers are text; ask for a format in a message"),
    "ignore_eos": ((False,), "give the end token's id a logit_bias of -100"),
}
"""By field: the values that ask for nothing, and what there is instead. Null asks for nothing in every field."""


def only_served(body: Any, known: Collection[str]) -> Any:
    """A body without its nulls and without what asks for nothing.

    Raises PydanticCustomError, whose context names the field, for what is not served and for an unknown field.
    """
    if not isinstance(body, Mapping):
        return body
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name not in known:
            _check(name, value, known)
    return {name: value for name, value in given.items() if name in known}


def _check(name: str, value: Any, known: Collection[str]) -> None:
    if name not in UNSERVED:
        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected some of: {', '.join(known)}"
        raise mistake(name, f"unknown field {name!r}; {hint}", UNKNOWN)
    harmless, instead = UNSERVED[name]
    if value not in harmless:
        raise unsupported(name, instead)


def unsupported(field: str, instead: str, what: str = "") -> PydanticCustomError:
    return mistake(field, f"{what or field} is not supported: {instead}", UNSUPPORTED)


def mistake(field: str, message: str, kind: str = "invalid_value") -> PydanticCustomError:
    """What is wrong with a field, told whole: nothing is put before the message."""
    return PydanticCustomError(kind, "{message}", {"message": message, "field": field})


def whole_characters(body: Any) -> Any:
    """A body as it is. Raises PydanticCustomError for half a character, which JSON can say and no text can hold."""
    try:
        json.dumps(body, ensure_ascii=False, default=repr).encode()  # bytes of a body that is not said to be JSON
    except UnicodeEncodeError as error:
        half = hex(ord(error.object[error.start]))
        raise mistake(
            "body", f"the body holds half a character, {half}; both halves of a surrogate pair belong in it"
        ) from None
    return body
