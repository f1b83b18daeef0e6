"""An OpenAI-compatible completions endpoint: what is asked of it, and what its replies say of the next token.

vLLM and llama.cpp's server name tokens by their ids, SGLang and others by their texts. A text that may stand for more
than one id, or for none, tells nothing: its probability goes to the tokens that were not reported.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import httpx2
import torch
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from counterpoint.models.band_file import EndpointEntry
from counterpoint.types import Away, CounterpointError

RETRIES = 3
"""Attempts after the first: after about 0.5, 1 and 2 seconds, or when the server says."""

SLACK = 1e-3
"""How far the probabilities of a reply may add up to more than one."""

REPLY = httpx2.Response

TOKEN_ID = "token_id:"
BY_ID = {"return_tokens_as_token_ids": True}
"""What makes vLLM name a token by `TOKEN_ID` and its id; llama.cpp's server does so anyway."""

NO_KEY = "none"
"""What a server gets that wants no key, lest the client take one for OpenAI from the environment."""

CONNECT_S = 10.0
"""How long to wait for a connection: a server that is not there is no slow one."""

MOST_BYTES = 64 * 2**20
"""The longest reply that is read; one with all of a vocabulary of 256,000 tokens takes about half."""

MOST_SAID = 300
"""Characters of what a server says that a message repeats."""

ABSENT = (404, 405, 501)
REFUSED = (400, 422)
BUSY = (408, 409, 429, 500, 502, 503, 504)

LEAST_REST = 2.0**-24
"""What tokens that were not reported have at least: less is lost when the others are rounded to float32."""


class Unreachable(Away):
    """A server that does not answer now, and may do so later."""


class Unwanted(ValueError):
    """A reply that is not read, and what to do about it."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(said)
        self.remedy = remedy


class _Top(BaseModel):
    id: int
    logprob: float


class _Token(BaseModel):
    top_logprobs: list[_Top]


class _Logprobs(BaseModel):
    """llama.cpp's server gives `content`, the others `top_logprobs`."""

    content: list[_Token] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    tokens: list[str] | None = None


class _Choice(BaseModel):
    text: str = ""
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class _Meta(BaseModel):
    n_ctx: int | None = None


class _Listed(BaseModel):
    """vLLM and SGLang give `max_model_len`, llama.cpp's server `meta`."""

    id: str
    parent: str | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None

    @property
    def longest(self) -> int | None:
        return self.max_model_len or (self.meta.n_ctx if self.meta else None)


class _Models(BaseModel):
    data: list[_Listed]


class _Text(BaseModel):
    """vLLM gives `prompt`, llama.cpp's server `content`, SGLang `text`."""

    prompt: str | None = None
    content: str | None = None
    text: str | None = None


class Endpoint:
    """A model behind an endpoint, as one expert of a band; its key is read from the environment once, and never shown.

    Every method that asks raises CounterpointError with the expert, the address, what went wrong and what to do.
    """

    def __init__(
        self, expert: str, entry: EndpointEntry, tokenizer: Any, vocabulary: int, retries: int = RETRIES
    ) -> None:
        self.expert = expert
        self.entry = entry
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.attempts = retries + 1
        self._key = api_key(f"expert {expert!r}", entry)
        self._by_id = BY_ID
        self.client = new_client(entry, self._key, retries)

    async def models(self) -> list[_Listed]:
        """The models that the server offers."""
        with self._telling("list its models"):
            return _Models.model_validate_json(await self._content(self.client.get("/models", cast_to=REPLY))).data

    async def next_logp(self, context: Sequence[int]) -> Tensor:
        """The log-distribution after a context of token ids, `[V + 1]`; see `with_rest`."""
        with self._telling("give the next token's log-probabilities"):
            completion = await self._completion_by_id(context)
            return with_rest(self._reported(completion.choices[0].logprobs), self.vocabulary)

    async def text_of(self, tokens: Sequence[int]) -> str | None:
        """The text of tokens as the server reads them, or None where it has no /detokenize."""
        address = self.entry.url.removesuffix("/v1") + "/detokenize"
        body = {"model": self.entry.model, "tokens": list(tokens)}
        with self._telling("turn token ids into text"):
            try:
                content = await self._content(self.client.post(address, cast_to=REPLY, body=body))
            except APIStatusError as error:
                if error.status_code in ABSENT:
                    return None
                raise
            found = _Text.model_validate_json(content)
            return next((text for text in (found.prompt, found.content, found.text) if text is not None), None)

    async def echo_of(self, tokens: Sequence[int]) -> str | None:
        """The text of tokens as the server repeats a prompt, or None where it repeats none."""
        with self._telling("repeat a prompt"):
            try:
                choice = (await self._complete(tokens, logprobs=1, echo=True)).choices[0]
            except APIStatusError as error:
                if error.status_code in REFUSED:
                    return None
                raise
            texts = (choice.logprobs and choice.logprobs.tokens) or []
            return choice.text.removesuffix(texts[-1]) if len(texts) > len(tokens) else None

    async def _completion_by_id(self, context: Sequence[int]) -> _Completion:
        """Ask for tokens by their ids, unless the server refuses so much as to be asked."""
        top = self.vocabulary if self.entry.top == "all" else self.entry.top
        try:
            return await self._complete(context, logprobs=top, **self._by_id)
        except APIStatusError as error:
            if error.status_code not in REFUSED or not any(name in f"{error} {error.body}" for name in self._by_id):
                raise
        self._by_id = {}
        return await self._complete(context, logprobs=top)

    async def _complete(self, context: Sequence[int], **options: Any) -> _Completion:
        body = {"model": self.entry.model, "prompt": list(context), "max_tokens": 1, "temperature": 0, **options}
        content = await self._content(self.client.post("/completions", cast_to=REPLY, body=body))
        return _Completion.model_validate_json(content)

    async def _content(self, asking: Awaitable[httpx2.Response]) -> bytes:
        """A reply, in the time for all attempts: one that comes in drops would never be too late for the client."""
        async with asyncio.timeout(self.attempts * self.entry.timeout_s):
            return (await asking).content

    def _reported(self, logprobs: _Logprobs | None) -> dict[int, float]:
        if logprobs is not None and logprobs.content:
            return {top.id: top.logprob for top in logprobs.content[0].top_logprobs}
        if logprobs is None or not logprobs.top_logprobs or not logprobs.top_logprobs[0]:
            raise ValueError("it reports no log-probabilities")
        named = logprobs.top_logprobs[0].items()
        return {token: logp for name, logp in named if (token := self._id_of(name)) is not None}

    def _id_of(self, name: str) -> int | None:
        if name.startswith(TOKEN_ID):
            return int(name.removeprefix(TOKEN_ID))
        return self._ids.get(name)

    @cached_property
    def _ids(self) -> dict[str, int | None]:
        return ids_by_text(self.tokenizer, self.vocabulary)

    def quoted(self, said: str) -> str:
        """What the server said, fit for a message; see `quoted`."""
        return quoted(said, self._key)

    @contextmanager
    def _telling(self, task: str) -> Iterator[None]:
        """What goes wrong inside, as one message."""
        try:
            yield
        except (APIError, ValidationError, ValueError, TimeoutError) as error:
            entry = self.entry
            said = self.quoted(what_went_wrong(error, entry.timeout_s, self.attempts))
            kind = Unreachable if may_pass(error) else Away
            raise kind(
                f"expert {self.expert!r} at {entry.url} (model {entry.model!r}) did not {task}: {said}; {remedy(error)}"
            ) from None


def new_client(entry: EndpointEntry, key: str | None, retries: int) -> AsyncOpenAI:
    """A client of an entry's server, which is sent nowhere else and reads no reply without end."""
    client = AsyncOpenAI(
        base_url=entry.url,
        api_key=key or NO_KEY,
        timeout=httpx2.Timeout(entry.timeout_s, connect=min(entry.timeout_s, CONNECT_S)),
        max_retries=retries,
        default_headers={"Accept-Encoding": "identity"},
        http_client=DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [_guard]}),
    )
    client.organization = client.project = None  # the client takes OpenAI's from the environment
    return client


def api_key(who: str, entry: EndpointEntry) -> str | None:
    """The key in the environment variable that an entry names, if it names one."""
    if entry.api_key_env is None:
        return None
    name = entry.api_key_env
    key = os.environ.get(name, "").strip()
    if not key:
        raise CounterpointError(
            f"{who} at {entry.url}: its key is to be in the environment variable {name}, which is not set; export it"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise CounterpointError(
            f"{who} at {entry.url}: the key in the environment variable {name} has characters that no key "
            "has, such as spaces or line ends; export the key alone"
        )
    return key


def may_pass(error: Exception) -> bool:
    """Whether a server is away or busy, rather than one that does not answer as it should."""
    if isinstance(error, APIStatusError):
        return error.status_code in BUSY
    return isinstance(error, APIConnectionError | TimeoutError)


def what_went_wrong(error: Exception, timeout_s: float, attempts: int) -> str:
    """An error of the client or of reading a reply, after so many attempts of so many seconds."""
    times = "once" if attempts == 1 else f"{attempts} times"
    if isinstance(error, APIStatusError):
        return f"status {error.status_code}, {_of_server(error)}"
    if isinstance(error, TimeoutError):
        return f"no whole answer in {attempts * timeout_s:g} s"
    if isinstance(error, APITimeoutError) and not isinstance(error.__cause__, httpx2.ConnectTimeout):
        return f"no answer in {timeout_s:g} s, asked {times}"
    if isinstance(error, APIConnectionError):
        return f"no connection, tried {times} ({str(error.__cause__ or '') or error})"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"its reply is not what was expected ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    return str(error)


def remedy(error: Exception) -> str:
    """What to do about it."""
    status = error.status_code if isinstance(error, APIStatusError) else None
    if status in (401, 403):
        return "name the environment variable of the right key with api_key_env"
    if status in ABSENT:
        return "see that the address is right; most end with /v1"
    if status in REFUSED:
        return "see what the server allows, such as vLLM's --max-logprobs, or set a smaller top"
    if isinstance(error, Unwanted):
        return error.remedy
    if not isinstance(error, APIError | TimeoutError):
        return "use a server that answers completions with logprobs, such as vLLM or llama.cpp's"
    return 'see that the server is up, or let the others answer without it with on_failure "drop"'


def _of_server(error: APIStatusError) -> str:
    """A server's own words, where it has any, instead of the client's."""
    body = error.body
    while isinstance(body, Mapping) and "error" in body:
        body = body["error"]
    found = (body.get("message") or body.get("detail")) if isinstance(body, Mapping) else None
    return str(found or error.message)


def quoted(said: str, key: str | None = None) -> str:
    """What a server said, fit for a message: one line of printable characters, without the key, and not too long."""
    line = "".join(character for character in " ".join(said.split()) if character.isprintable())
    if key:
        line = line.replace(key, "***")
    return line if len(line) <= MOST_SAID else line[:MOST_SAID] + "..."


async def _guard(reply: httpx2.Response) -> None:
    """Refuse a reply that sends elsewhere, where neither prompt nor key is meant to go, and cut one without end."""
    if reply.is_redirect:
        elsewhere = reply.headers.get("location", "another address")
        raise Unwanted(f"it sends to {elsewhere}", "name that address itself, if it is to be trusted")
    if reply.headers.get("content-encoding", "identity") != "identity":
        # the bytes that are counted would not be those that they become
        raise Unwanted("its reply is compressed, which was not asked for", "turn compression off at the server")
    if isinstance(reply.stream, httpx2.AsyncByteStream):
        reply.stream = _Capped(reply.stream)


class _Capped(httpx2.AsyncByteStream):
    """The bytes of a reply. Raises `Unwanted` where they are more than `MOST_BYTES`."""

    def __init__(self, whole: httpx2.AsyncByteStream) -> None:
        self.whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for part in self.whole:
            read += len(part)
            if read > MOST_BYTES:
                raise Unwanted(f"its reply has more than {MOST_BYTES:,} bytes", "set a smaller top")
            yield part

    async def aclose(self) -> None:
        await self.whole.aclose()


def with_rest(reported: Mapping[int, float], vocabulary: int) -> Tensor:
    """A log-distribution over the vocabulary and the rest, `[V + 1]` in float32.

    Tokens that were not reported are at -inf, and the last place holds the log of what they have together:
    log max(1 - sum p, `LEAST_REST`), -inf where every token was reported. Ids beyond the vocabulary, of padded heads,
    are no tokens: what they have goes to the rest, or where there is none is cut, as of a model here. Raises ValueError
    where no token is known, and for probabilities that add up to more than 1 + `SLACK`, or are not numbers.
    """
    known = {token: logp for token, logp in reported.items() if 0 <= token < vocabulary}
    if not known:
        raise ValueError("none of the tokens that it reports can be told to be one of the base's")
    logp_R = torch.full((vocabulary + 1,), -math.inf, dtype=torch.float64)
    logp_R[list(known)] = torch.tensor(list(known.values()), dtype=torch.float64)
    mass = logp_R.exp().sum().item()
    if not mass <= 1 + SLACK:
        raise ValueError(f"the probabilities that it reports add up to {mass:g}, expected at most 1")
    if len(known) < vocabulary:
        logp_R[-1] = math.log(max(1 - mass, LEAST_REST))
    return torch.log_softmax(logp_R, dim=-1).float()


def ids_by_text(tokenizer: Any, vocabulary: int) -> dict[str, int | None]:
    """The id that a token's text stands for, or None where it may be one of several.

    Both the text of a token alone and its text within a sentence count: some tokenizers drop a space at the start.
    """
    found: dict[str, int | None] = {}
    prefixes: tuple[list[int], ...] = ([], tokenizer.encode("a", add_special_tokens=False))
    for prefix in prefixes:
        start = len(tokenizer.decode(prefix))
        texts = tokenizer.batch_decode([[*prefix, token] for token in range(vocabulary)])
        for token, text in enumerate(texts):
            found[text[start:]] = token if found.get(text[start:], token) == token else None
    return found
