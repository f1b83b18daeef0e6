"""The application: every route, and what begins and ends with the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from counterpoint.decode.band import Band
from counterpoint.serve import chat, errors
from counterpoint.serve.app_state import State
from counterpoint.serve.settings import Settings
from counterpoint.serve.worker import Worker


def create_app(band: Band, settings: Settings) -> FastAPI:
    """The server of a band."""
    worker = Worker(band, settings.max_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    app = FastAPI(title="Counterpoint", lifespan=lifespan)
    app.state.counterpoint = State(band, worker, settings)
    errors.install(app)
    app.include_router(chat.router)
    return app
