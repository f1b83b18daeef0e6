"""What every endpoint needs of the server: its band, its engine's thread, its settings and its people."""

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from counterpoint.decode.band import Band
from counterpoint.profiles import parse_profile
from counterpoint.serve.settings import Settings
from counterpoint.serve.wanted import Asked, asked
from counterpoint.serve.wire import Body
from counterpoint.serve.worker import Worker
from counterpoint.types import Profile


@dataclass
class State:
    band: Band
    worker: Worker
    settings: Settings
    store: Any = None

    def limit(self, wanted: int | None) -> int:
        return min(wanted or self.settings.default_max_tokens, self.settings.max_tokens)

    def owner(self, request: Request, body: Body) -> str:
        return f"{owner_of(request)}/{body.user or ''}"

    async def asked(self, request: Request, body: Body) -> Asked:
        return asked(self.band, body.model, body.profile, body.strength, (None, None), self.default)

    @property
    def default(self) -> tuple[Profile | None, str]:
        text = self.settings.profile
        return parse_profile(text, self.band.dimensions) if text else None, self.settings.method


def state_of(request: Request) -> State:
    state: State = request.app.state.counterpoint
    return state


def owner_of(request: Request) -> str:
    """The id of the API key that a request came with, or "local"."""
    owner: str = getattr(request.state, "owner", "local")
    return owner
