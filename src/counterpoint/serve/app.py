"""The application: every route, what stands before them, and what begins and ends with the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from structlog.typing import FilteringBoundLogger

from counterpoint.decode.band import Band
from counterpoint.serve import chat, completions, elicit, errors, models, operations, people, playground
from counterpoint.serve.app_state import State
from counterpoint.serve.auth import Guard, KnownKeys
from counterpoint.serve.bodies import WholeBody
from counterpoint.serve.drain import Doors
from counterpoint.serve.hold import hold
from counterpoint.serve.keys import Keys
from counterpoint.serve.logs import silence
from counterpoint.serve.operations import Operations
from counterpoint.serve.replies import ERRORS
from counterpoint.serve.seen import Watch
from counterpoint.serve.settings import Settings
from counterpoint.serve.store import Store
from counterpoint.serve.worker import Worker

ROUTERS = (
    chat.router,
    completions.router,
    models.router,
    people.router,
    elicit.router,
    operations.router,
    playground.router,
)
HEADERS = ("X-Counterpoint-Weights", "X-Request-Id", "Retry-After")
"""Those that a page of another origin may read, where it may ask at all."""


def create_app(band: Band, store: Store, settings: Settings, log: FilteringBoundLogger | None = None) -> FastAPI:
    """The server of a band and its people; without a `log` it says nothing.

    Raises CounterpointError for settings that do not fit the band, which is held to them from now on.
    """
    hold(band, settings)
    worker = Worker(band, settings.max_waiting)
    beside = Operations(band, worker, store.database, settings, log or silence())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    app = FastAPI(
        title="Counterpoint",
        version=version("counterpoint"),
        lifespan=lifespan,
        middleware=layers(beside, KnownKeys(Keys(store.database)), settings),
        docs_url=None,  # its page is fetched from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.counterpoint = State(band, worker, settings, store)
    app.state.operations = beside
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router, responses=ERRORS)
    return app


def layers(beside: Operations, keys: KnownKeys, settings: Settings) -> list[Middleware]:
    """What a request comes through, from the outside: nobody's body is read before their key."""
    found = [
        Middleware(Watch, beside.ended),
        Middleware(Doors, beside.drain),
        Middleware(Guard, keys, beside.limits, settings),
        Middleware(WholeBody, settings.max_body, settings.body_s),
    ]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=HEADERS,
        )
        found.insert(1, cors)
    return found
