"""A request's body, whole before anything reads it: bounded in bytes, and in the time that it may take."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterpoint.serve.errors import Refused, reply_to


class WholeBody:
    """Reads at most `limit` bytes within `seconds`; more is a 413 and slower a 408, in the shape of every error here.

    FastAPI's own limit answers in plain text, which OpenAI's clients cannot read. The rest of a body that is too long
    is read and dropped by the HTTP protocol, so that the connection lives on.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(int(Headers(scope=scope).get("content-length", "0")))
            async with asyncio.timeout(self.seconds):
                body = await self._read(receive)
        except TimeoutError:
            slow = Refused(f"the body took more than {self.seconds:g} s", 408, "too_slow")
            await reply_to(slow)(scope, receive, send)
        except Refused as error:
            await reply_to(error)(scope, receive, send)
        else:
            if body is not None:
                await self.app(scope, _once(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None where the client left before it was there."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._check(size)
            more = message.get("more_body", False)
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise Refused(f"the body has more than {self.limit} bytes, which is the most", 413, "body_too_large")


def _once(body: bytes, receive: Receive) -> Receive:
    """The body as one message, and what comes after it as it comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def hear() -> Message:
        return messages.pop() if messages else await receive()

    return hear
