"""What every endpoint needs of the server: its band, its engine's thread, its settings and its people."""

import time
from dataclasses import dataclass, field

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from counterpoint.decode.band import Band
from counterpoint.profiles import parse_profile
from counterpoint.serve.answers import Answers
from counterpoint.serve.errors import Refused
from counterpoint.serve.learning import Learner
from counterpoint.serve.scorers import Scorers
from counterpoint.serve.settings import Settings
from counterpoint.serve.store import Store, User
from counterpoint.serve.tokens import Names
from counterpoint.serve.wanted import Asked, asked
from counterpoint.serve.wire import Body
from counterpoint.serve.worker import Worker
from counterpoint.types import Profile


@dataclass
class State:
    """One server; `answers` are those that feedback may be about."""

    band: Band
    worker: Worker
    settings: Settings
    store: Store
    answers: Answers = field(default_factory=Answers)
    began: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.scorers = Scorers(self.band.folder)
        self.learner = Learner(self.band, self.store, self.scorers, self.settings.zones)
        self.names = Names(self.band.tokenizer)

    @property
    def default(self) -> tuple[Profile | None, str]:
        text = self.settings.profile
        return parse_profile(text, self.band.dimensions) if text else None, self.settings.method

    def limit(self, wanted: int | None) -> int:
        """How many tokens an answer may have: what was asked for, and no more than the operator allows."""
        return min(wanted or self.settings.default_max_tokens, self.settings.max_tokens)

    async def asked(self, owner: str, body: Body) -> Asked:
        """Whose wishes a request carries: its own, or those of the person that it names.

        Raises `Refused` with 404 for an unknown person where the server is strict.
        """
        user = await self.user(owner, body.user) if body.user else None
        stored = user.current if user else None
        strengths, known = self.band.file.strengths, self.band.dimensions
        return asked(known, body.model, body.profile, body.strength, body.user, stored, self.default, strengths)

    async def user(self, owner: str, name: str) -> User | None:
        found = await run_in_threadpool(self.store.user, owner, name)
        if found is None and self.settings.strict_users:
            raise Refused(f"there is no user {name!r}; set a profile first", 404, "user_not_found", "user")
        return found


def state_of(request: Request) -> State:
    state: State = request.app.state.counterpoint
    return state


def owner_of(request: Request) -> str:
    """The id of the API key that a request came with, or "local"."""
    owner: str = getattr(request.state, "owner", "local")
    return owner
