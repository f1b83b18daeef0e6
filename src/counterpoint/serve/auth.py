"""Who asks, and how often they may: the API key of a request, its rates, and what no key is needed for."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterpoint.serve.database import StoreDown
from counterpoint.serve.errors import Refused, reply_to
from counterpoint.serve.keys import Key, Keys, hashed
from counterpoint.serve.limits import Limits
from counterpoint.serve.seen import Seen
from counterpoint.serve.settings import Settings

PUBLIC = {"/", "/favicon.ico", "/healthz", "/readyz", "/metrics", "/openapi.json"}
PAGE = "/static/"

FRESH_S = 10.0
"""How long a key that was found is not looked up again: so long at most does one go on that was revoked."""

LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)


class KnownKeys:
    """The keys of a database, remembered for a moment, and for as long as the database is away.

    While one request asks anew, others are answered from what was known: a database that hangs holds up one of them.
    Raises `StoreDown` where it is away at the start, when nothing is known yet.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._found: dict[str, tuple[Key, float]] = {}
        self._any = keys.any(), time.monotonic()

    async def find(self, secret: str) -> Key | None:
        """The key of a secret. Raises `StoreDown` for one that was not seen before the database went away."""
        name = hashed(secret)
        known, at = self._found.get(name, (None, 0.0))
        if known and fresh(at):
            return known
        if known:
            self._found[name] = known, time.monotonic()
        try:
            found = await run_in_threadpool(self._keys.find, secret)
        except StoreDown:
            if known is None:
                raise
            return known
        self._found.pop(name, None)
        if found:
            self._found[name] = found, time.monotonic()
        return found

    async def any(self) -> bool:
        """Whether there is a key, or was one: a server that has asked for keys goes on until it ends."""
        known, at = self._any
        if known or fresh(at):
            return known
        self._any = known, time.monotonic()
        with suppress(StoreDown):
            self._any = await run_in_threadpool(self._keys.any), time.monotonic()
        return self._any[0]


def fresh(at: float) -> bool:
    return time.monotonic() - at < FRESH_S


class Guard:
    """Lets a request in, as `request.state.owner` and `request.state.key`, or answers why not.

    401 tells the same of a key that is missing, unknown and revoked.
    """

    def __init__(self, app: ASGIApp, keys: KnownKeys, limits: Limits, settings: Settings) -> None:
        self.app = app
        self.keys = keys
        self.limits = limits
        self.settings = settings
        self.always = settings.require_keys or not (settings.loopback or settings.open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            await self._identify(scope)
        except Refused as error:
            await refusal(error)(scope, receive, send)
            return
        seen = seen_in(scope)
        wait = self.limits.admit(seen.owner, *rates(seen.key))
        send = with_headers(send, rate_headers(self.limits.left(seen.owner, *rates(seen.key))))
        await (self.app if wait is None else reply_to(too_often(wait)))(scope, receive, send)

    async def _identify(self, scope: Scope) -> None:
        headers, seen = Headers(scope=scope), seen_in(scope)
        if self.always or await self.keys.any():
            seen.key = await self._key(headers)
            seen.owner = seen.key.id
        elif not self.settings.open:
            check_host(headers)
        scope["state"] |= {"owner": seen.owner, "key": seen.key}

    async def _key(self, headers: Headers) -> Key:
        kind, _, secret = headers.get("authorization", "").partition(" ")
        found = await self.keys.find(secret.strip()) if kind.lower() == "bearer" else None
        if found is None:
            raise Refused("no API key that is known here; send `Authorization: Bearer KEY`", 401, "invalid_api_key")
        return found


def is_public(path: str) -> bool:
    """The page, its parts, and what tells how the server is, which need no key. Everything else does."""
    return path in PUBLIC or path.startswith(PAGE)


def rates(key: Key | None) -> tuple[int | None, int | None]:
    """Requests and tokens per minute of a key; None is the server's own rate."""
    return (key.requests_per_minute, key.tokens_per_minute) if key else (None, None)


def rate_headers(left: Mapping[str, tuple[int, int, float]]) -> dict[str, str]:
    """What OpenAI's clients read of their rates; tokens as they were when the request came in."""
    return {
        f"x-ratelimit-{part}-{what}": str(value)
        for what, (whole, rest, seconds) in left.items()
        for part, value in (("limit", whole), ("remaining", rest), ("reset", f"{seconds:.3g}s"))
    }


def with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return tell


def refusal(error: Refused) -> JSONResponse:
    reply = reply_to(error)
    if error.status == 401:
        reply.headers["WWW-Authenticate"] = "Bearer"
    return reply


def too_often(wait: float) -> Refused:
    message = f"too many requests or tokens in the last minute; come again in {wait:.0f} s"
    return Refused(message, 429, "rate_limit_exceeded", retry_after=wait)


def seen_in(scope: Scope) -> Seen:
    seen: Seen = scope["state"]["seen"]
    return seen


def check_host(headers: Headers) -> None:
    """Refuse a request for another host's name: a page elsewhere can point its own name at this machine."""
    host = headers.get("host", "")
    if not LOCAL_HOST.fullmatch(host):
        raise Refused(
            f"host {host[:80]!r}: a server without API keys answers to localhost alone; make a key with `counterpoint "
            "keys add`, or start it with --open", 403, "host_not_allowed",
        )  # fmt: skip


def check_admin(request: Request) -> None:
    """Refuse all but a key that was made with `--admin`, and this machine where no keys are asked for.

    A browser on this machine may be sent by a page from elsewhere, which it then says.
    """
    key: Key | None = getattr(request.state, "key", None)
    sent = request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if not (key.admin if key else is_local(request) and not sent):
        raise Refused("this needs an admin's API key; see `counterpoint keys add --admin`", 403, "not_admin")


def is_local(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False
