"""What is noticed of each request, around all that answers it: an id, how it went, and what could not be foreseen."""

import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterpoint.serve.errors import Refused, body_of, refused
from counterpoint.serve.keys import LOCAL, Key
from counterpoint.serve.worker import Stream
from counterpoint.types import CounterpointError

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids of clients that are taken over: nothing that could make two lines of one in a log."""

NO_ROUTE = "none"
GONE = 499
"""The status of an answer that nobody is there to read."""


@dataclass
class Seen:
    """One request. Endpoints add the method of their answer, and the streams of the engine that it comes from.

    Of `prompt_tokens` each prompt's count once, however many answers it gets and rows it takes. `status` is 0 until the
    answer begins; `over` says that all of it was handed on.
    """

    id: str
    verb: str
    begun: float = field(default_factory=time.monotonic)
    key: Key | None = None
    owner: str = LOCAL
    method: str | None = None
    prompt_tokens: int = 0
    streams: list[Stream] = field(default_factory=list)
    route: str = NO_ROUTE
    status: int = 0
    refused: str | None = None
    over: bool = False
    refusal: CounterpointError | None = None
    error: Exception | None = None

    @property
    def fault(self) -> Refused | None:
        """What failed that is no mistake of the client's, also in a stream that had begun well."""
        found = [self.refusal, *(error for stream in self.streams for error in stream.errors)]
        return next((r for r in map(refused, filter(None, found)) if r.status >= 500), None)

    @property
    def gone(self) -> bool:
        """Whether the client left, or was cut off, before its answer ended."""
        return self.status == GONE or not (self.over or self.error)

    @property
    def tokens(self) -> int:
        """Tokens that were said, also to a client that left before it heard them."""
        return sum(len(times) for stream in self.streams for times in stream.times)

    @property
    def first_token(self) -> float | None:
        """Seconds from the request's arrival to its first token."""
        firsts = [times[0] for stream in self.streams for times in stream.times if times]
        return min(firsts) - self.begun if firsts else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens of the same answer."""
        each = [times for stream in self.streams for times in stream.times]
        return [after - before for times in each for before, after in pairwise(times)]


def seen_of(request: Request) -> Seen:
    """What is noticed of the request that is being answered."""
    seen: Seen = request.state.seen
    return seen


class Watch:
    """The outermost layer: `ended` is told of every request, and no error leaves it unanswered.

    An error that nobody foresaw becomes a 500 that tells its id alone, or cuts off an answer that had begun.
    """

    def __init__(self, app: ASGIApp, ended: Callable[[Seen], None]) -> None:
        self.app = app
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = Seen(request_id(Headers(scope=scope)), scope["method"])
        scope.setdefault("state", {})["seen"] = seen
        try:
            await self.app(scope, receive, _telling(seen, send))
        except Exception as error:  # noqa: BLE001 - it is logged by `ended`, and the client is told
            seen.error = error
            if not seen.status:
                message = f"the server failed at this request; its log says more of {seen.id}"
                await JSONResponse(body_of(message, 500, "failed"), 500)(scope, receive, _telling(seen, send))
        finally:
            seen.refusal = scope["state"].get("refusal")
            seen.route = getattr(scope.get("route"), "path", NO_ROUTE)
            self.ended(seen)


def request_id(headers: Headers) -> str:
    """The client's own, where it can be put on a line, or a new one."""
    given = headers.get("x-request-id", "")
    return given if ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"


def _telling(seen: Seen, send: Send) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = seen.id
        elif seen.status >= 400 and seen.refused is None:
            seen.refused = code_of(message.get("body", b""))
        seen.over = seen.status > 0 and not message.get("more_body", message["type"] == "http.response.start")
        await send(message)

    return tell


def code_of(body: bytes) -> str:
    """The code of an error as the client reads it, or its type."""
    try:
        error = json.loads(body)["error"]
        return str(error["code"] or error["type"])
    except (ValueError, LookupError, TypeError):
        return "other"
