"""A real server of the pico band on a free port of loopback, in a thread of the tests' own process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from counterpoint.decode.band import Band
from counterpoint.serve.app import create_app
from counterpoint.serve.app_state import State
from counterpoint.serve.database import open_database
from counterpoint.serve.settings import Settings
from counterpoint.serve.store import Store


@dataclass(frozen=True)
class Served:
    """A server that runs: its address, its inside, and a client of it."""

    url: str
    state: State
    http: httpx2.Client

    @property
    def band(self) -> Band:
        return self.state.band


@contextmanager
def served(folder: Path, database: Path, **settings: Any) -> Iterator[Served]:
    """Serve the band of a folder until the block ends."""
    chosen = Settings(port=0, database=f"sqlite:///{database}", **settings)
    opened = open_database(chosen.database)
    app = create_app(Band.load(folder), Store(opened, chosen.keep_texts), chosen)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "the server ended as it began"
        url = "http://{}:{}".format(*server.servers[0].sockets[0].getsockname()[:2])
        with httpx2.Client(base_url=url, timeout=30) as http:
            yield Served(url, app.state.counterpoint, http)
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


@pytest.fixture(scope="session")
def serve(band_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[Served]]:
    """`with serve(strict_users=True) as server:` serves the pico band, or `folder`, with these settings."""

    def with_settings(folder: Path | None = None, **settings: Any) -> AbstractContextManager[Served]:
        return served(folder or band_folder, tmp_path_factory.mktemp("people") / "people.db", **settings)

    return with_settings


@pytest.fixture(scope="session")
def server(serve: Callable[..., AbstractContextManager[Served]]) -> Iterator[Served]:
    """One server of the pico band for all tests that change nothing in it but their own users."""
    with serve() as running:
        yield running
