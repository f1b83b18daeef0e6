"""Chat completions from any OpenAI-compatible server: one that judges, or one whose answers are collected."""

import asyncio
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from openai import APIError, APIStatusError, AsyncOpenAI
from pydantic import BaseModel, Field, ValidationError

from counterpoint.decode.endpoint import (
    ABSENT,
    REFUSED,
    REPLY,
    Unwanted,
    api_key,
    may_pass,
    new_client,
    quoted,
    what_went_wrong,
)
from counterpoint.decode.remote import begin
from counterpoint.models.band_file import EndpointEntry
from counterpoint.types import CounterpointError

RETRIES = 6
"""Attempts after a server that is busy or away: after about 0.5, 1, 2, 4, 8 and 8 seconds, or when it says."""

LONGEST_WAIT_S = 120.0
"""The longest that a server can have the client wait before it asks again."""

UNWANTED = (*REFUSED, 413)
"""What a server says to a request that it will not take, however often it is sent."""

MOST_UNWANTED = 20
"""So many requests rejected and none taken: it is not the requests, but the settings that they share."""

FILTERED = "content_filter"
"""What stopped a reply, or is the code of an error, where a server refuses on its own."""


@dataclass(frozen=True)
class Reply:
    """What a model said; `cut` where it ran out of tokens, token counts `None` where the server told none."""

    text: str
    refused: bool = False
    cut: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None


class Rejected(CounterpointError):
    """A server will not take one request, such as one that is too long for it; it may take others."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chat(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class Caller:
    """Asks a server for chat completions; its key is read from the environment once, and never shown.

    `role` is what messages call the model. `taken` is whether the server is known to take requests of this kind.
    """

    def __init__(self, entry: EndpointEntry, role: str = "model", retries: int = RETRIES) -> None:
        self.entry = entry
        self.role = role
        self.attempts = retries + 1
        self._key = api_key(role, entry)
        self._length = "max_tokens"
        self.taken = False
        self._unwanted = 0
        self.client = new_client(entry, self._key, retries)
        weakref.finalize(self, _close, self.client).atexit = False

    async def reply(self, body: Mapping[str, Any]) -> Reply:
        """The reply to a chat; raises CounterpointError with the address, what went wrong and what to do.

        It is `Rejected` where others may yet be taken.
        """
        with self._telling():
            try:
                reply = read_reply(await self._content(body))
            except APIStatusError as error:
                if error.code != FILTERED:
                    raise
                reply = Reply("", refused=True)
        self.taken = True
        return reply

    async def _content(self, body: Mapping[str, Any]) -> bytes:
        """A reply's bytes; newer models of OpenAI know `max_tokens` under another name only."""
        try:
            return await self._post(body)
        except APIStatusError as error:
            if error.status_code not in REFUSED or "max_completion_tokens" not in str(error):
                raise
        self._length = "max_completion_tokens"
        return await self._post(body)

    async def _post(self, body: Mapping[str, Any]) -> bytes:
        """In the time for all attempts: a reply that comes in drops would never be too late for the client."""
        named = {self._length if name == "max_tokens" else name: value for name, value in body.items()}
        async with asyncio.timeout(self.attempts * (self.entry.timeout_s + LONGEST_WAIT_S)):
            return (await self.client.post("/chat/completions", cast_to=REPLY, body=named)).content

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong inside, as one message."""
        try:
            yield
        except (APIError, ValidationError, TimeoutError, Unwanted) as error:
            entry = self.entry
            said = quoted(what_went_wrong(error, entry.timeout_s, self.attempts), self._key)
            raise self._kind(error)(
                f"{self.role} {entry.model!r} at {entry.url} gave no reply: {said}; {remedy(error)}"
            ) from None

    def _kind(self, error: Exception) -> type[CounterpointError]:
        if not isinstance(error, APIStatusError) or error.status_code not in UNWANTED:
            return CounterpointError
        self._unwanted += 1
        return Rejected if self.taken or self._unwanted < MOST_UNWANTED else CounterpointError


def _close(client: AsyncOpenAI) -> None:
    begin(client.close())


def read_reply(content: bytes) -> Reply:
    """A chat completion as a reply. Raises ValidationError for anything else."""
    chat = _Chat.model_validate_json(content)
    choice, usage = chat.choices[0], chat.usage or _Usage()
    return Reply(
        text=choice.message.content or "",
        refused=bool(choice.message.refusal) or choice.finish_reason == FILTERED,
        cut=choice.finish_reason == "length",
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
    )


def remedy(error: Exception) -> str:
    """What to do about it."""
    if isinstance(error, Unwanted):
        return error.remedy
    status = error.status_code if isinstance(error, APIStatusError) else None
    if status in (401, 403):
        return "name the environment variable of the right key"
    if status in ABSENT:
        return "see that the address and the model are right; most addresses end with /v1"
    if status in UNWANTED:
        return "see what the server allows: how long a conversation, which temperature, how many tokens"
    if may_pass(error):
        return "see that the server is up, and run again, perhaps with less asked at once"
    return "use a server that answers chat completions"
