"""Experts behind endpoints: rows that a server continues, and the proof that it reads token ids as the base does."""

import asyncio
import math
import warnings
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any, TypeVar

import torch
from openai import AsyncOpenAI
from torch import Tensor

from counterpoint.decode.endpoint import Endpoint, Unreachable
from counterpoint.decode.several import Whole
from counterpoint.models.band_file import EndpointEntry, ExpertEntry
from counterpoint.types import CounterpointError

IDS_COMPARED = 500
IDS_AT_ONCE = 50
LAST_COMPARED = 50
"""The last ids, where what was added to a tokenizer lies, and as many special ones."""

LOOK_S = 3.0
"""Seconds that a look at a server may take."""

NO_CHARACTER = "\ufffd"
"""What the bytes of a part of a character are shown as, unlike from server to server."""

T = TypeVar("T")

Reader = Callable[[Sequence[int]], Coroutine[Any, Any, str | None]]
"""Gives the text of token ids, or None where the server does not tell it."""


@dataclass
class _Row:
    """What the server has been sent so far, and whether it failed to answer."""

    context: list[int]
    lost: bool = False


class RemoteRows:
    """`Background` over an endpoint, which is sent a row's whole context at each step: prefix caching is the server's.

    A request that fails, after the client's retries, fails the step. With on_failure "drop" its row is -inf alone from
    then on instead, which is said in a warning, once until all rows have left; a row that joins later is asked for
    again. An endpoint that is not `proved` is when rows join; it may fail or be dropped then.
    """

    def __init__(self, endpoint: Endpoint, longest: int, proved: bool = True) -> None:
        self.endpoint = endpoint
        self.longest = longest
        self._proved = proved
        self._rows: list[_Row] = []
        self._warned = False

    @property
    def vocabulary(self) -> int:
        return self.endpoint.vocabulary

    def join(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows. Raises CounterpointError for a context that the server has no room for; then none joins.

        And, where the endpoint is not proved, what `probe` raises.
        """
        lost = not self._prove()
        for context in contexts:
            if not 0 < len(context) < self.longest:
                raise CounterpointError(
                    f"a prompt of {len(context)} tokens: expert {self.endpoint.expert!r} takes 1 to {self.longest - 1} "
                    "and a response"
                )
        self._rows += [_Row(list(context[:-1]), lost) for context in contexts]

    def begin(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """`join`: there is nothing to fill."""
        self.join(contexts, gates)

    def fill(self, most: int | None = None) -> bool:
        """True: a row's whole context is sent with its first step."""
        return True

    def extend(self, rows: Sequence[int], tokens_RT: Sequence[Sequence[int]]) -> Tensor:
        """Raise CounterpointError: an endpoint is asked for the tokens that follow, not for those of a given text."""
        raise CounterpointError(
            f"expert {self.endpoint.expert!r} is behind an endpoint, which tells no log-probabilities of a given text; "
            "score with a method and a profile that leave it out"
        )

    def _prove(self) -> bool:
        """Whether the endpoint is proved, now if not before."""
        if not self._proved:
            try:
                self.longest = probe(self.endpoint) or self.longest
            except Unreachable as error:
                if self.endpoint.entry.on_failure == "fail":
                    raise
                self._warn(error)
                return False
            self._proved = True
        return True

    def start(self, tokens_B: Sequence[int]) -> "Future[Tensor]":
        """Begin a step: one request per row, all at once; its result is `[B, V + 1]`, see `with_rest`.

        After a step that failed, rows can only leave.
        """
        rows = self._rows[: len(tokens_B)]
        for row, token in zip(rows, tokens_B, strict=True):
            row.context.append(token)
        return begin(self._step(rows))

    def step(self, tokens_B: Sequence[int]) -> Tensor:
        """Feed one token to each row; `[B, V + 1]`, -inf alone for a row that is lost."""
        return result_of(self.start(tokens_B))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        self._rows = [self._rows[row] for row in rows]
        self._warned = self._warned and bool(rows)

    async def _step(self, rows: Sequence[_Row]) -> Tensor:
        return torch.stack(await together([self._next_logp(row) for row in rows]))

    async def _next_logp(self, row: _Row) -> Tensor:
        if not row.lost:
            try:
                return await self.endpoint.next_logp(row.context)
            except CounterpointError as error:
                if self.endpoint.entry.on_failure == "fail":
                    raise
                row.lost = True
                self._warn(error)
        return torch.full((self.vocabulary + 1,), -math.inf)

    def _warn(self, error: CounterpointError) -> None:
        if not self._warned:
            warn(f"answers go on without it: {error}")
        self._warned = True


def warn(message: str) -> None:
    """Warn also of what was warned of before: each batch of requests may lose an expert anew."""
    warnings.warn_explicit(message, UserWarning, __file__, lineno=0, module=__name__)


def remote_whole(entry: ExpertEntry, tokenizer: Any, vocabulary: int, longest: int) -> Whole:
    """An expert behind an endpoint, after `probe`; it has the base's tokenizer, and its length unless it says its own.

    A server that cannot be reached is warned of, and proved when rows first join. Raises what else `probe` raises,
    whatever `on_failure` is: that is for a server that is lost, not for a wrong one.
    """
    endpoint = _endpoint(entry, tokenizer, vocabulary)
    try:
        reach = probe(endpoint) or longest
    except Unreachable as error:
        warn(f"{error}; it is asked again when it is first needed")
        return Whole(tokenizer, longest, lambda: RemoteRows(endpoint, longest, proved=False), remote=True)
    return Whole(tokenizer, reach, lambda: RemoteRows(endpoint, reach), remote=True)


def check_remote(entry: ExpertEntry, tokenizer: Any, vocabulary: int) -> None:
    """Raise CounterpointError where an expert's endpoint cannot be used."""
    probe(_endpoint(entry, tokenizer, vocabulary))


def look(entry: ExpertEntry) -> None:
    """Raise CounterpointError where a server does not offer an expert's model now, asked once for `LOOK_S` at most."""
    found = _described(entry)
    brief = found.model_copy(update={"timeout_s": min(found.timeout_s, LOOK_S)})
    endpoint = Endpoint(entry.name, brief, None, 0, retries=0)
    try:
        result_of(begin(_longest(endpoint)))
    finally:
        _close(endpoint.client)


def _endpoint(entry: ExpertEntry, tokenizer: Any, vocabulary: int) -> Endpoint:
    endpoint = Endpoint(entry.name, _described(entry), tokenizer, vocabulary)
    weakref.finalize(endpoint, _close, endpoint.client).atexit = False
    return endpoint


def _described(entry: ExpertEntry) -> EndpointEntry:
    if entry.endpoint is None:
        raise ValueError(f"expert {entry.name!r} has no endpoint")
    return entry.endpoint


def _close(client: AsyncOpenAI) -> None:
    begin(client.close())


def probe(endpoint: Endpoint) -> int | None:
    """Prove that an endpoint offers the model, reports log-probabilities, and reads ids as the tokenizer does.

    Returns its longest sequence in tokens, where it tells. Raises CounterpointError for whatever is not so.
    """
    return result_of(begin(_probe(endpoint)))


async def _probe(endpoint: Endpoint) -> int | None:
    longest = await _longest(endpoint)
    ids = ordinary_ids(endpoint.tokenizer, endpoint.vocabulary)
    await endpoint.next_logp(ids[:1])
    if not endpoint.entry.trust_tokenizer:
        await _check_tokenizer(endpoint, ids)
    return longest


async def _longest(endpoint: Endpoint) -> int | None:
    """What /models says of a model's longest sequence; of an adapter, vLLM says it of the base only."""
    models = {model.id: model for model in await endpoint.models()}
    found = models.get(endpoint.entry.model)
    if found is None:
        raise CounterpointError(
            f"expert {endpoint.expert!r}: {endpoint.entry.url} offers no model {endpoint.entry.model!r}; it offers: "
            f"{endpoint.quoted(', '.join(models)) or 'none'}"
        )
    base = models.get(found.parent or "")
    return found.longest or (base.longest if base else None)


async def _check_tokenizer(endpoint: Endpoint, ids: Sequence[int]) -> None:
    """Raise CounterpointError for the first of some ids that the server reads as another text."""
    read = await _reader(endpoint, ids[:1])
    for start in range(0, len(ids), IDS_AT_ONCE):
        part = ids[start : start + IDS_AT_ONCE]
        if not _alike(await read(part), _text_of(endpoint, part)):  # or is it only how tokens are joined?
            texts = await together([read([token]) for token in part])
            for token, text in zip(part, texts, strict=True):
                _check_token(endpoint, token, text)
    special = special_ids(endpoint.tokenizer, endpoint.vocabulary)
    for token, text in zip(special, await together([read([token]) for token in special]), strict=True):
        if text and text.strip():  # some servers leave out what is no text to people
            _check_token(endpoint, token, text)


def _check_token(endpoint: Endpoint, token: int, theirs: str | None) -> None:
    ours = _text_of(endpoint, [token])
    if not _alike(theirs, ours):
        raise CounterpointError(
            f"expert {endpoint.expert!r}: {endpoint.entry.url} has another tokenizer than the base: token {token} is "
            f"{endpoint.quoted(repr(theirs))} there and {ours!r} here; experts can only be mixed over the same tokens"
        )


async def _reader(endpoint: Endpoint, ids: Sequence[int]) -> Reader:
    """How the server tells the text of ids."""
    for read in (endpoint.text_of, endpoint.echo_of):
        if await read(ids) is not None:
            return read
    raise CounterpointError(
        f"expert {endpoint.expert!r}: {endpoint.entry.url} has no /detokenize and repeats no prompt, so that nothing "
        "proves that its token ids are the base's; if you know that they are, say so with trust_tokenizer"
    )


def _text_of(endpoint: Endpoint, ids: Sequence[int]) -> str:
    text: str = endpoint.tokenizer.decode(list(ids))
    return text


def _alike(theirs: str | None, ours: str) -> bool:
    """But for spaces around them, which not every server gives for a token alone."""
    return theirs is not None and theirs.strip() == ours.strip()


def ordinary_ids(tokenizer: Any, vocabulary: int) -> list[int]:
    """Some `IDS_COMPARED` ids spread over a vocabulary and the `LAST_COMPARED`, in order.

    Without special tokens and those for a part of a character.
    """
    special = set(tokenizer.all_special_ids)
    spread = range(0, vocabulary, math.ceil(vocabulary / IDS_COMPARED))
    chosen = sorted({*spread, *range(max(vocabulary - LAST_COMPARED, 0), vocabulary)})
    return [token for token in chosen if token not in special and NO_CHARACTER not in tokenizer.decode([token])]


def special_ids(tokenizer: Any, vocabulary: int) -> list[int]:
    """Up to `LAST_COMPARED` special tokens, first that which ends a text."""
    ids = dict.fromkeys([tokenizer.eos_token_id, *tokenizer.all_special_ids])
    return [token for token in ids if token is not None and token < vocabulary][:LAST_COMPARED]


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The one event loop of all endpoints, in a thread of its own that ends with the process."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="endpoints", daemon=True).start()
    return loop


def begin(asking: Coroutine[Any, Any, T]) -> "Future[T]":
    """Let the event loop do something; what it does is given up where the future is cancelled."""
    return asyncio.run_coroutine_threadsafe(asking, event_loop())


def result_of(future: "Future[T]") -> T:
    """What the event loop was asked for; it is given up where this thread is interrupted."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def together(askings: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Do several things at once; where one fails, the others are given up."""
    tasks = [asyncio.ensure_future(asking) for asking in askings]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
