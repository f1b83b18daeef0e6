"""How the server is: alive, ready, its figures; and reading the band anew."""

import time
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from structlog.typing import FilteringBoundLogger

from counterpoint.decode.band import Band
from counterpoint.serve.auth import check_admin, rates
from counterpoint.serve.database import Database, StoreDown
from counterpoint.serve.drain import Drain
from counterpoint.serve.errors import Refused
from counterpoint.serve.hold import refresh
from counterpoint.serve.limits import Limits
from counterpoint.serve.logs import line_of, trail
from counterpoint.serve.metrics import Metrics
from counterpoint.serve.seen import Seen
from counterpoint.serve.settings import Settings
from counterpoint.serve.worker import Worker
from counterpoint.types import CounterpointError


class Operations:
    """What runs beside the answers: the log, the figures, the rates, the end, and the band read anew."""

    def __init__(
        self, band: Band, worker: Worker, database: Database, settings: Settings, log: FilteringBoundLogger
    ) -> None:
        self.band = band
        self.worker = worker
        self.database = database
        self.settings = settings
        self.log = log
        self.drain = Drain()
        self.metrics = Metrics(worker, self.drain)
        self.limits = Limits(settings.requests_per_minute, settings.tokens_per_minute)

    def ended(self, seen: Seen) -> None:
        """Count a request that has ended, charge its key, and write its line."""
        seconds = time.monotonic() - seen.begun
        self.metrics.note(seen, seconds)
        if seen.streams:
            self.limits.spend(seen.owner, seen.prompt_tokens + seen.tokens, rates(seen.key)[1])
        line = line_of(seen, seconds) | (self._texts(seen) if self.settings.log_prompts else {})
        if seen.error:
            self.log.error("failed", **line, trail=trail(seen.error), **self._words(seen.error))
        elif seen.fault:
            self.log.warning("request", **line)
        elif seen.route in PROBES:
            self.log.debug("request", **line)
        else:
            self.log.info("request", **line)

    def _texts(self, seen: Seen) -> dict[str, object]:
        decode = self.band.engine.decode
        return {
            "owners": [stream.owner for stream in seen.streams],
            "prompts": [decode(stream.requests[0].contexts[0]) for stream in seen.streams],
            "answers": [done.text for stream in seen.streams for done in stream.completions.values()],
        }

    def _words(self, error: Exception) -> dict[str, str]:
        return {"error": str(error)} if self.settings.log_prompts else {}

    async def reload(self) -> None:
        """Read the band's folder anew between two steps. Raises CounterpointError, and nothing has changed then."""
        await self.worker.call(partial(refresh, self.band, self.settings))
        self.log.info("reloaded", experts=[expert.name for expert in self.band.experts])

    async def reload_if_possible(self) -> None:
        """As `reload`, for a signal, which nobody waits for: what is wrong is logged."""
        try:
            await self.reload()
        except CounterpointError as error:
            self.log.error("not reloaded", reason=str(error))


def operations_of(request: Request) -> Operations:
    operations: Operations = request.app.state.operations
    return operations


Here = Annotated[Operations, Depends(operations_of)]
router = APIRouter(tags=["operations"])
PROBES = {"/healthz", "/readyz", "/metrics"}


@router.get("/healthz", summary="Whether the server lives")
async def healthz(here: Here) -> Response:
    """200 while the engine's thread runs; else 503, and only a restart helps."""
    alive = here.worker.alive
    return JSONResponse({"alive": alive}, 200 if alive else 503)


@router.get("/readyz", summary="Whether requests should be sent here")
async def readyz(here: Here) -> Response:
    """200 where requests should be sent here; else 503, and which part is not ready."""
    parts = {
        "engine": "ok" if here.worker.alive else "stopped",
        "database": await _state_of(here.database),
        "server": "draining" if here.drain.begun else "ok",
    }
    ready = all(state == "ok" for state in parts.values())
    return JSONResponse({"ready": ready, **parts}, 200 if ready else 503)


async def _state_of(database: Database) -> str:
    try:
        await run_in_threadpool(database.check)
    except StoreDown:
        return "away"
    return "ok"


@router.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
async def metrics(here: Here) -> Response:
    """In their text format; 404 where the settings turn it off."""
    if not here.settings.metrics:
        raise Refused("this server serves no metrics", 404, "no_metrics")
    return Response(here.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.post("/v1/band/reload", summary="Read the band anew", dependencies=[Depends(check_admin)])
async def reload(here: Here) -> dict[str, list[str]]:
    """Read the band anew: experts that are new join, those that are gone leave once nobody uses them."""
    try:
        await here.reload()
    except Refused:
        raise
    except CounterpointError as error:
        raise Refused(f"the band was not reloaded, and goes on as it was: {error}", 409, "not_reloaded") from error
    return {"dimensions": list(here.band.dimensions), "experts": [expert.name for expert in here.band.experts]}
