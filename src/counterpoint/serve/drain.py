"""How a server ends: who is inside may finish, nobody else comes in."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from counterpoint.serve.auth import is_public
from counterpoint.serve.errors import Refused, reply_to

RETRY_S = 5.0
"""When a client may find another server in this one's place."""

FLUSH_S = 5
"""Seconds for the last bytes of finished answers to reach clients that read slowly."""


class Drain:
    """How many requests are under way, and whether the server is about to end."""

    def __init__(self) -> None:
        self.under_way = 0
        self._until: float | None = None

    @property
    def begun(self) -> bool:
        return self._until is not None

    @property
    def over(self) -> bool:
        """Whether nobody is left, or the time for them is up."""
        return self._until is not None and (not self.under_way or time.monotonic() >= self._until)

    def begin(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds


class Doors:
    """Counts who is inside, and answers 503 to who comes once the end has begun; probes are always answered."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_public(scope["path"]):
            await self.app(scope, receive, send)
        elif self.drain.begun:
            refused = Refused("the server is about to end; ask again", 503, "draining", retry_after=RETRY_S)
            await reply_to(refused)(scope, receive, send)
        else:
            self.drain.under_way += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.drain.under_way -= 1


class Server(uvicorn.Server):
    """Drains on SIGTERM and SIGINT and then ends well; a second signal ends it at once, as that signal.

    Until the end it goes on listening, so that clients are told instead of refused. `announce` is called once it
    listens, `reload` on SIGHUP, and `give_up` where the time is up for requests that are under way: it tells them so.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        drain_s: float,
        announce: Callable[[], None],
        reload: Callable[[], Coroutine[Any, Any, None]],
        give_up: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.config.timeout_graceful_shutdown = FLUSH_S
        self.drain = drain
        self.drain_s = drain_s
        self.announce = announce
        self.reload = reload
        self.give_up = give_up
        self._reloading: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        self.announce()

    def _reload(self) -> None:
        task = asyncio.create_task(self.reload())
        self._reloading.add(task)  # the loop itself would let go of it
        task.add_done_callback(self._reloading.discard)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.drain.begun:
            self._captured_signals.append(sig)
            self.should_exit = self.force_exit = True
        else:
            self.drain.begin(self.drain_s)

    async def on_tick(self, counter: int) -> bool:
        if self.drain.over and not self.should_exit:
            self.should_exit = True
            if self.drain.under_way:
                self.give_up()
        return await super().on_tick(counter)
