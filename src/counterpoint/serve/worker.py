"""The engine's own thread: requests go in, news of their tokens come out, once a step for all of them.

What the two threads share has one writer each: the event loop's thread writes to the inbox, the engine's thread posts
callbacks to the loop, and a counter is written by one of them.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from counterpoint.decode.band import Band
from counterpoint.decode.request import Request, Said
from counterpoint.serve.errors import Refused
from counterpoint.serve.fair import FairQueue, Owner, Pace
from counterpoint.types import Completion, CounterpointError

T = TypeVar("T")
Told = tuple["Stream", int, Said]
log = logging.getLogger(__name__)


class Stream:
    """What the engine says to the requests of one call, as it says it: pairs of (which request, news).

    `submitted` and, of each request, the `times` at which its tokens were said are seconds of the monotonic clock.
    """

    def __init__(self, owner: Owner, requests: Sequence[Request]) -> None:
        self.owner = owner
        self.requests = requests
        self.submitted = time.monotonic()
        self.times: list[list[float]] = [[] for _ in requests]
        self.completions: dict[int, Completion] = {}
        self.errors: list[CounterpointError] = []
        self.open = set(range(len(requests)))
        self._news: asyncio.Queue[tuple[int, Said]] = asyncio.Queue()

    def tell(self, index: int, said: Said, at: float) -> None:
        if said.token is not None:
            self.times[index].append(at)
        if said.completion is not None:
            self.completions[index] = said.completion
        if said.error is not None:
            self.errors.append(said.error)
        if _is_last(said):
            self.open.discard(index)
        self._news.put_nowait((index, said))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Said]]:
        left = len(self.requests)
        while left:
            index, said = await self._news.get()
            left -= _is_last(said)
            yield index, said


class Worker:
    """Runs a band's engine in a thread. Methods without an underscore belong to the event loop's thread.

    At most `max_waiting` requests wait. Of those that do, one whose owner has the fewest rows under way is next.
    """

    def __init__(self, band: Band, max_waiting: int) -> None:
        self.band = band
        self.max_waiting = max_waiting
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._submitted = 0
        self._streams: set[Stream] = set()
        self._futures: set[Future[Any]] = set()
        # The engine's thread alone writes what follows; the counts may be read at any time.
        self.live_rows = self.steps = self.tokens_said = self.prompt_tokens = self.cancelled = self.failed = 0
        self._taken = 0
        self._pace = Pace()
        self._queue: FairQueue[tuple[Stream, int]] = FairQueue()
        self._live: dict[int, tuple[Stream, int]] = {}

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step in progress; whoever is still under way is told."""
        self._inbox.put(None)
        if self._thread:
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._ended

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return self._submitted - self._taken

    @property
    def rows_limit(self) -> int:
        return self.band.engine.max_rows

    def submit(self, owner: Owner, requests: Sequence[Request]) -> Stream:
        """Queue the requests of one call.

        Raises CounterpointError for one that can never be decoded, and `Refused` with 429 where too many wait already.
        """
        for request in requests:
            self.band.engine.check(request)
        self._expect(len(requests))
        stream = Stream(owner, requests)
        self._streams.add(stream)
        waiting = [(stream, index) for index in range(len(requests))]
        self._inbox.put(lambda: self._queue.add(owner, waiting))
        return stream

    def cancel(self, stream: Stream) -> None:
        """Free the rows of a call whose client has gone; nothing more is told to it."""
        self._streams.discard(stream)
        self._inbox.put(lambda: self._cancel(stream))

    async def call(self, function: Callable[[], T]) -> T:
        """What a function returns that runs between two steps, when nobody else touches the band."""
        self._refuse_if_ended()
        future: Future[T] = Future()
        self._futures.add(future)
        self._inbox.put(lambda: _fulfil(future, function))
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._futures.discard(future)

    def _expect(self, count: int) -> None:
        self._refuse_if_ended()
        if count > self.max_waiting:
            raise Refused(f"{count} requests in one call; at most {self.max_waiting} may wait", param="n")
        if self.waiting + count > self.max_waiting:
            seconds = self._pace.wait_for(self.waiting)
            raise Refused(
                f"{self.waiting} requests wait already; come again in {seconds:.0f} s", 429, "queue_full",
                retry_after=seconds,
            )  # fmt: skip
        self._submitted += count

    def _refuse_if_ended(self) -> None:
        if not self.alive:
            raise _stopped()

    def _tell(self, told: Sequence[Told], at: float) -> None:
        for stream, index, said in told:
            stream.tell(index, said, at)
            if not stream.open:
                self._streams.discard(stream)

    def _tell_the_end(self) -> None:
        """The thread has ended: nobody is left waiting for it."""
        self._ended = True
        now = time.monotonic()
        self._tell([(s, index, Said(-1, error=_stopped())) for s in self._streams for index in sorted(s.open)], now)
        for future in [future for future in self._futures if not future.done()]:
            future.set_exception(_stopped())

    # The engine's thread

    def _run(self) -> None:
        try:
            while self._obey():
                if told := self._step():
                    self._post(self._tell, told, time.monotonic())
        except Exception:
            log.exception("the engine's thread ends")
        finally:
            self._post(self._tell_the_end)

    def _obey(self) -> bool:
        """Do what was asked for since the last step, or wait for it where nothing is to be decoded; False to end."""
        wait = not self._live and not len(self._queue)
        while True:
            try:
                command = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            wait = False

    def _step(self) -> list[Told]:
        refused = self._feed()
        return refused + self._advance() if self._live else refused

    def _feed(self) -> list[Told]:
        """Hand the engine what has room now and no more, since it keeps to the order of what it has."""
        refused: list[Told] = []
        while found := self._queue.next():
            stream, index = found
            request = stream.requests[index]
            try:
                if self._live and not self.band.engine.has_room(request):
                    break
                self._begin(self.band.engine.submit(request), stream, index)
            except Exception as error:  # noqa: BLE001 (told to the one who asked, and logged)
                self._take(0)
                self.failed += 1
                refused.append((stream, index, Said(-1, error=_as_ours(error))))
        return refused

    def _advance(self) -> list[Told]:
        try:
            news = self.band.engine.advance()
        except Exception as error:  # noqa: BLE001 (told to all under way, and logged)
            news = [Said(ticket, error=_as_ours(error)) for ticket in self._live]
            self.band.engine.clear()
        self.steps += 1
        told = [(*self._live[said.ticket], said) for said in news]
        self.tokens_said += sum(said.token is not None for said in news)
        self.failed += sum(said.error is not None for said in news)
        for said in filter(_is_last, news):
            self._leave(said.ticket)
        return told

    def _begin(self, ticket: int, stream: Stream, index: int) -> None:
        contexts = stream.requests[index].contexts
        self._take(len(contexts))
        self._live[ticket] = stream, index
        self.live_rows += len(contexts)
        self.prompt_tokens += len(contexts[0])

    def _take(self, rows: int) -> None:
        self._queue.take(rows)
        self._taken += 1
        self._pace.mark()

    def _leave(self, ticket: int) -> None:
        stream, index = self._live.pop(ticket)
        rows = len(stream.requests[index].contexts)
        self.live_rows -= rows
        self._queue.leave(stream.owner, rows)

    def _cancel(self, stream: Stream) -> None:
        dropped = self._queue.forget(stream.owner, lambda waiting: waiting[0] is stream)
        self._taken += dropped
        tickets = [ticket for ticket, (whose, _) in self._live.items() if whose is stream]
        for ticket in tickets:
            self.band.engine.cancel(ticket)
            self._leave(ticket)
        self.cancelled += dropped + len(tickets)

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: there is nobody left to tell
            log.debug("nobody is left to tell")


def _is_last(said: Said) -> bool:
    return said.completion is not None or said.error is not None


def _stopped() -> Refused:
    return Refused("the engine has stopped; ask again once the server has been started anew", 503, "stopped")


def _as_ours(error: Exception) -> CounterpointError:
    """What a client may read of an error: a user's mistake as it is, of a bug that there was one."""
    if isinstance(error, CounterpointError):
        return error
    log.error("the engine failed", exc_info=error)
    return Refused("the engine failed at this request; the server's log says more", 500, "engine_failed")


def _fulfil(future: "Future[T]", function: Callable[[], T]) -> None:
    """Set a future to what a function returns or raises, unless whoever waited for it has gone."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001 (raised where it was asked for)
        future.set_exception(error)
