"""One call of a client: what the engine says of its answers, and that nothing goes on once the client has gone."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from counterpoint.decode.request import Request as Asking
from counterpoint.decode.request import Said
from counterpoint.serve.errors import Refused, told
from counterpoint.serve.fair import Owner
from counterpoint.serve.seen import seen_of
from counterpoint.serve.streams import Growing
from counterpoint.serve.worker import Stream, Worker
from counterpoint.types import Completion, CounterpointError

T = TypeVar("T")
Body = Mapping[str, Any]


@dataclass
class Answering:
    """One answer as it grows; `said` are its tokens' news, the end-of-text token's included."""

    growing: Growing
    said: list[Said] = field(default_factory=list)
    completion: Completion | None = None
    _told: int = 0

    def hear(self, said: Said) -> str:
        """What can be told of its text after some news."""
        self.said.append(said)
        if said.completion is None:
            return "" if said.token is None else self.growing.add(said.token)
        self.completion = said.completion
        return self.growing.end(said.completion.text, said.token)

    def fresh(self) -> list[tuple[int, Said]]:
        """The news since this was last asked, and their places among all."""
        told, self._told = self._told, len(self.said)
        return list(enumerate(self.said))[told:]

    @property
    def whole(self) -> Completion:
        if self.completion is None:
            raise RuntimeError("the answer is not complete")
        return self.completion


def submit(request: Request, worker: Worker, owner: Owner, asking: Sequence[Asking], prompt_tokens: int) -> Stream:
    """Queue what a call asks of the engine, which may be nothing; of its prompts' tokens it is charged once."""
    if not asking:
        return Stream(owner, [])
    stream, seen = worker.submit(owner, asking), seen_of(request)
    seen.streams.append(stream)
    seen.prompt_tokens = prompt_tokens
    return stream


async def news(worker: Worker, stream: Stream) -> AsyncIterator[tuple[int, Said]]:
    """What the engine says, to the end. Raises the CounterpointError of the first request that fails."""
    try:
        async for index, said in stream:
            if said.error:
                raise said.error
            yield index, said
    finally:
        if stream.open:
            worker.cancel(stream)


async def begun(told: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same, once the first has come: what is wrong by then is a reply of its own, with a status of its own."""
    first = await anext(told, None)

    async def every() -> AsyncIterator[T]:
        if first is not None:
            yield first
        async for one in told:
            yield one

    return every()


class Events(StreamingResponse):
    """Server-sent events as OpenAI's clients read them; the rows of a stream that is left early are freed at once.

    An error after the first event is an event too, and the last: the status has been told by then.
    """

    def __init__(self, worker: Worker, stream: Stream, bodies: AsyncIterator[Body], headers: Mapping[str, str]) -> None:
        super().__init__(_events(bodies), 200, {**headers, "Cache-Control": "no-store"}, "text/event-stream")
        self._worker = worker
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._stream.open:
                self._worker.cancel(self._stream)


async def _events(bodies: AsyncIterator[Body]) -> AsyncIterator[bytes]:
    try:
        async for body in bodies:
            yield _event(body)
    except CounterpointError as error:
        yield _event(told(error))
        return
    yield b"data: [DONE]\n\n"


def _event(body: Body) -> bytes:
    return b"data: %b\n\n" % to_json(body)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What some work returns. Where the client goes first the work is cancelled; the `Refused` of that nobody reads."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refused("the client has gone", 499, "client_gone")
    finally:
        working.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def usage(prompt: int, said: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
