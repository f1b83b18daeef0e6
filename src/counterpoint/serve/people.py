"""`/v1/users`: the people of a key, their profiles and all that is stored of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, unquote

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from pydantic import model_validator
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match
from starlette.types import Scope

from counterpoint.profiles import parse_profile
from counterpoint.profiles.parse import names_strength
from counterpoint.serve.app_state import owner_of, state_of
from counterpoint.serve.errors import Refused
from counterpoint.serve.store import Store, User, Version
from counterpoint.serve.unserved import only_served, whole_characters
from counterpoint.serve.wanted import Asked, check_method, plan_of
from counterpoint.serve.wire import Asking
from counterpoint.types import Profile

T = TypeVar("T")
STRONGEST = 100.0
"""Of what is stored: far beyond what serves anybody, and far below where numbers overflow."""


class UserRoute(APIRoute):
    """A route that is matched before `%2F` becomes a slash, so that a person may be called `github/1`.

    Else `/v1/users/x/history` could be the history of `x` or the person `x/history`.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        raw = scope.get("raw_path")
        match, child = super().matches({**scope, "path": raw.decode("latin-1") if raw else quote(scope["path"])})
        if match is not Match.NONE:
            child["path_params"] = {key: unquote(value) for key, value in child["path_params"].items()}
        return match, child


router = APIRouter(route_class=UserRoute, tags=["people"])

Limit = Annotated[int, Query(ge=1, le=1000)]


RESETS = ("strength", "method")
"""Fields of a profile's body in which null is not as good as nothing."""


class ProfileBody(Asking):
    """A profile as text, such as `concise=0.7, friendly`, or as weights by dimension.

    A strength or method that is left out stays as it was set before; null resets it.
    """

    profile: str | dict[str, float]
    strength: float | None = None
    method: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _served(cls, body: Any) -> Any:
        read = only_served(whole_characters(body), cls.model_fields)
        resets = [name for name in RESETS if isinstance(body, Mapping) and name in body and body[name] is None]
        return {**read, **dict.fromkeys(resets)} if resets else read


@router.get("/v1/users")
def users(request: Request, after: str = "", limit: Limit = 100) -> dict[str, Any]:
    """People by name, from the one after `after`."""
    found, more = store_of(request).users(owner_of(request), after, limit)
    return {"data": [user_json(user) for user in found], "has_more": more}


@router.get("/v1/users/{user}")
def read(request: Request, user: str) -> dict[str, Any]:
    """One person and the profile in force."""
    return user_json(known_user(store_of(request), owner_of(request), user))


@router.put("/v1/users/{user}/profile")
async def put_profile(request: Request, user: str, body: ProfileBody) -> dict[str, Any]:
    """Set a person's profile; an unknown person is made. What was before stays in the history."""
    state, owner = state_of(request), owner_of(request)
    known = await run_in_threadpool(state.store.user, owner, user)
    before = known.current if known else None
    profile, method = read_profile(body, before, state.band.dimensions), method_of(body, before)
    await plan_of(state.worker, Asked(method or state.default[1], profile, "request"))
    return user_json(await run_in_threadpool(state.store.set_profile, owner, user, profile, "set", method))


@router.get("/v1/users/{user}/history")
def history(request: Request, user: str) -> dict[str, Any]:
    """Every version of a person's profile, newest first."""
    versions = store_of(request).history(owner_of(request), user)
    return {"data": [version_json(version) for version in _known(versions, user)]}


@router.get("/v1/users/{user}/export")
def export(request: Request, user: str) -> dict[str, Any]:
    """Everything stored of a person."""
    return _known(store_of(request).export(owner_of(request), user), user)


@router.delete("/v1/users/{user}")
def delete(request: Request, user: str) -> dict[str, Any]:
    """Remove everything stored of a person."""
    _known(store_of(request).delete(owner_of(request), user) or None, user)
    return {"deleted": True, "user": user}


def store_of(request: Request) -> Store:
    store: Store = state_of(request).store
    return store


def read_profile(body: ProfileBody, before: Version | None, known: tuple[str, ...]) -> Profile:
    """The profile of a body; its `strength` wins over the profile's own, and that over the one that was set before.

    Raises CounterpointError for a strength that no model survives.
    """
    profile, strength = parse_profile(body.profile, known), body.strength
    if not (body.model_fields_set & {"strength"} or names_strength(body.profile)) and before:
        strength = before.strength
    if strength is not None:
        profile = parse_profile(replace(profile, strength=strength), known)
    if profile.strength > STRONGEST:
        raise Refused(f"strength is {profile.strength:g}; expected at most {STRONGEST:g}", param="strength")
    return profile


def method_of(body: ProfileBody, before: Version | None) -> str | None:
    """The method of a body, or what was set before."""
    if body.method is not None:
        check_method(body.method)
    return before.method if before and "method" not in body.model_fields_set else body.method


def known_user(store: Store, owner: str, name: str) -> User:
    """A person of an owner. Raises `Refused` with 404, the same for one that is unknown and another owner's."""
    return _known(store.user(owner, name), name)


def _known(found: T | None, name: str) -> T:
    if found is None:
        raise Refused(f"there is no user {name!r}", 404, "user_not_found", "user")
    return found


def user_json(user: User) -> dict[str, Any]:
    """A person as replies say them; what belongs to a profile is null where none was ever set.

    So is the strength of one that was learned: it is what did best with the method that serves it. `choices` count
    all that they said, ratings as well.
    """
    current = user.current
    return {
        "user": user.name,
        "profile": dict(current.profile.weights) if current else None,
        "strength": current.strength if current else None,
        "method": current.method if current else None,
        "source": current.source if current else None,
        "updated": current.created if current else None,
        "versions": user.versions,
        "choices": user.choices,
    }


def version_json(version: Version) -> dict[str, Any]:
    return {
        "profile": dict(version.profile.weights),
        "strength": version.strength,
        "method": version.method,
        "source": version.source,
        "created": version.created,
    }
