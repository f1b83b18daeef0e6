"""The engine's own thread: requests go in, news of their tokens come out, once a step for all of them."""

import asyncio
import queue
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from counterpoint.decode.band import Band
from counterpoint.decode.engine import Request, Said
from counterpoint.serve.errors import Refused
from counterpoint.types import CounterpointError

T = TypeVar("T")


class Stream:
    """What the engine says to the requests of one call, as it says it: pairs of (which request, news)."""

    def __init__(self, owner: str, requests: Sequence[Request]) -> None:
        self.owner = owner
        self.requests = requests
        self.tickets: set[int] = set()
        self.gone = False
        self._news: asyncio.Queue[tuple[int, Said]] = asyncio.Queue()
        self._left = len(requests)

    def tell(self, index: int, said: Said) -> None:
        self._news.put_nowait((index, said))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Said]]:
        while self._left:
            index, said = await self._news.get()
            self._left -= said.completion is not None or said.error is not None
            yield index, said


class FairQueue:
    """Requests that wait; next is one of the owner with the fewest rows under way, of each owner the oldest."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[Stream, int]]] = {}
        self.rows: Counter[str] = Counter()
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def add(self, stream: Stream) -> None:
        self._waiting.setdefault(stream.owner, deque()).extend((stream, i) for i in range(len(stream.requests)))
        self.length += len(stream.requests)

    def next(self) -> tuple[Stream, int] | None:
        if not self._waiting:
            return None
        return self._waiting[min(self._waiting, key=lambda owner: self.rows[owner])][0]

    def take(self) -> tuple[Stream, int]:
        found = self.next()
        if found is None:
            raise IndexError("nobody waits")
        self._keep(found[0].owner, [pair for pair in self._waiting[found[0].owner] if pair is not found])
        return found

    def forget(self, stream: Stream) -> None:
        mine = self._waiting.get(stream.owner, deque())
        self._keep(stream.owner, [pair for pair in mine if pair[0] is not stream])

    def _keep(self, owner: str, kept: Sequence[tuple[Stream, int]]) -> None:
        self.length -= len(self._waiting.pop(owner, ())) - len(kept)
        if kept:
            self._waiting[owner] = deque(kept)


class Worker:
    """Runs a band's engine in a thread. All methods but `_run` and what it calls belong to the event loop's thread."""

    def __init__(self, band: Band, max_waiting: int) -> None:
        self.band = band
        self.max_waiting = max_waiting
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._queue = FairQueue()
        self._live: dict[int, tuple[Stream, int]] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step in progress."""
        self._inbox.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy(self) -> bool:
        return bool(self._queue.length or self._live or not self._inbox.empty())

    def submit(self, owner: str, requests: Sequence[Request]) -> Stream:
        """Queue requests for an owner. Raises `Refused` with 429 where too many wait already."""
        if self._queue.length + len(requests) > self.max_waiting:
            raise Refused("too many requests wait; come again in a moment", 429, "queue_full", retry_after=1)
        stream = Stream(owner, requests)
        self._inbox.put(lambda: self._queue.add(stream))
        return stream

    def cancel(self, stream: Stream) -> None:
        """Free the rows of a call whose client has gone."""
        self._inbox.put(lambda: self._cancel(stream))

    async def call(self, function: Callable[[], T]) -> T:
        """What a function returns that runs between two steps, when nobody else touches the band."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._inbox.put(run)
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        while True:
            idle = self.band.engine.idle and not self._queue
            try:
                command = self._inbox.get(block=idle)
            except queue.Empty:
                self._step()
                continue
            if command is None:
                return
            command()

    def _step(self) -> None:
        self._feed()
        try:
            news = self.band.engine.advance()
        except CounterpointError as error:
            news = [Said(ticket, error=error) for ticket in self._live]
            self.band.engine.clear()
        told = []
        for said in news:
            stream, index = self._live[said.ticket]
            told.append((stream, index, said))
            if said.completion or said.error:
                self._forget(said.ticket)
        self._loop.call_soon_threadsafe(self._tell, told)

    def _feed(self) -> None:
        """Hand the engine what fits: it keeps the order of what it was handed, so that the choice is made late."""
        engine = self.band.engine
        while (found := self._queue.next()) and engine.has_room(found[0].requests[found[1]]):
            stream, index = self._queue.take()
            ticket = engine.submit(stream.requests[index])
            self._live[ticket] = stream, index
            stream.tickets.add(ticket)
            self._queue.rows[stream.owner] += len(stream.requests[index].contexts)

    def _forget(self, ticket: int) -> None:
        stream, index = self._live.pop(ticket)
        stream.tickets.discard(ticket)
        self._queue.rows[stream.owner] -= len(stream.requests[index].contexts)
        if not self._queue.rows[stream.owner]:
            del self._queue.rows[stream.owner]

    def _cancel(self, stream: Stream) -> None:
        self._queue.forget(stream)
        for ticket in list(stream.tickets):
            self.band.engine.cancel(ticket)
            self._forget(ticket)

    def _tell(self, told: Sequence[tuple[Stream, int, Said]]) -> None:
        for stream, index, said in told:
            stream.tell(index, said)
