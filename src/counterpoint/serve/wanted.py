"""Who asks, and how their answer is made: a model name, the body and a stored person become a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from counterpoint.compose.plan import Plan
from counterpoint.compose.weighers.gate import KINDS
from counterpoint.decode.band import METHODS, Band
from counterpoint.profiles import format_profile, parse_profile, unknown_name
from counterpoint.profiles.bounds import acting, coefficients
from counterpoint.serve.errors import Broken, Refused
from counterpoint.serve.store import Version, strength_for
from counterpoint.serve.worker import Worker
from counterpoint.types import CounterpointError, Profile

Source = Literal["request", "model", "user", "default"]
DEFAULT = "default"
"""The model name that asks for the server's method, or a person's own."""


@dataclass(frozen=True)
class Asked:
    """A method and a profile, and where the profile came from; `user` is whose it is, where it was stored so."""

    method: str
    profile: Profile | None
    source: Source
    user: str | None = None


def parse_model(name: str, known: tuple[str, ...], method: str) -> tuple[str, Profile | None]:
    """Read `METHOD`, `METHOD:PROFILE` or `default`; `method` is the default's.

    Entries of a profile may be divided by semicolons, for those who cannot send a comma. Raises `Refused` with 404 for
    an unknown method.
    """
    said, colon, profile = name.partition(":")
    if said not in (DEFAULT, *METHODS):
        raise Refused(
            f"model {name!r}: {unknown_name('method', said, (*METHODS, DEFAULT))}; a model is METHOD or "
            f"METHOD:PROFILE, such as 'soup:{known[0] if known else ''}'", 404, "model_not_found", "model",
        )  # fmt: skip
    read = parse_profile(profile.replace(";", ","), known) if colon else None
    return method if said == DEFAULT else said, read


def check_method(name: str) -> None:
    """Raise `Refused` for a method that there is not; what a stranger made up must not become a label of a figure."""
    if name not in METHODS:
        raise Refused(unknown_name("method", name, METHODS), param="method")


def asked(
    known: tuple[str, ...],
    model: str,
    profile: str | Mapping[str, float] | None,
    strength: float | None,
    user: str | None,
    stored: Version | None,
    default: tuple[Profile | None, str],
    strengths: Mapping[str, float],
) -> Asked:
    """The body's profile wins over the model name's, that over the stored person's, and that over the default.

    `strength` wins over the strength of whichever it is. The stored person's method is for the model `default`, and
    where their profile was learned its strength is what did best with the method (`strengths`).
    """
    method, named = parse_model(model, known, (stored and stored.method) or default[1])
    given = None if profile is None else parse_profile(profile, known)
    of_user = replace(stored.profile, strength=strength_for(stored, method, strengths)) if stored else None
    found: list[tuple[Source, Profile | None]] = [("request", given), ("model", named), ("user", of_user)]
    source, wanted = next((pair for pair in found if pair[1] is not None), ("default", default[0]))
    if source == "user" and wanted:
        _check_stored(user, wanted, known)
    if strength is not None:
        if wanted is None:
            raise Refused("strength says how much of a profile; give a profile as well", param="strength")
        wanted = parse_profile(replace(wanted, strength=strength), known)
    return Asked(method, wanted, source, user if source == "user" and strength is None else None)


def _check_stored(user: str | None, profile: Profile, known: tuple[str, ...]) -> None:
    """A band may have lost a dimension since a person's profile was stored."""
    gone = [name for name in profile.weights if name not in known]
    if gone:
        raise Refused(
            f"the stored profile of user {user!r} names {', '.join(gone)}, which this band does not have; set it "
            f"anew, or give a profile. Known: {', '.join(known)}", 409, "profile_outdated", "user",
        )  # fmt: skip


async def plan_of(worker: Worker, asked: Asked) -> Plan:
    """The plan; controllers and gates may be read only now, which must not happen during a step.

    Raises CounterpointError for a profile that the method cannot serve, `Refused` with 409 for one that was stored so.
    """
    band = worker.band
    try:
        if asked.method in ("mope", *KINDS):
            return await worker.call(lambda: read_plan(band, asked.profile, asked.method))
        return band.plan(asked.profile, asked.method)
    except CounterpointError as error:
        if asked.user is None or isinstance(error, Refused):
            raise
        said = f"the stored profile of user {asked.user!r}: {error}"
        raise Refused(said, 409, "profile_outdated", "user") from None


def read_plan(band: Band, profile: Profile | None, method: str) -> Plan:
    """The plan, once what it needs of the band's folder has been read; not to be called during a step.

    Raises `Broken` where that cannot be read, CounterpointError for a profile that the method cannot serve.
    """
    try:
        if method == "mope":
            band.controller  # noqa: B018 (reads it)
        elif method in band.gates:
            band.gate(method)
    except CounterpointError as error:
        raise Broken(str(error)) from error
    return band.plan(profile, method)


def effective(band: Band, asked: Asked, plan: Plan) -> dict[str, Any]:
    """What a reply says of how it was made: the coefficients in force are what reached the model."""
    given = None if asked.method == "base" else band.in_force(asked.profile)
    held = {} if asked.method == "base" else acting(asked.profile, band.bounds)
    return {
        "method": asked.method,
        "profile": format_profile(asked.profile) if asked.profile else None,
        "strength": given.strength if given else 0.0,
        "weights": _alone(band, plan) if asked.method in ("route", "best-expert") else coefficients(given),
        "source": asked.source,
        "bounds": {name: {"asked": a, "in_force": found} for name, (a, found) in held.items()},
    }


def _alone(band: Band, plan: Plan) -> dict[str, float]:
    """Of a method that takes one expert for the whole profile: that expert's dimension."""
    dimension = {expert.name: expert.dimension for expert in band.experts}
    return {dimension[name]: strength for name, strength in plan.rows[0].gate.items()}


def header(weights: Mapping[str, float]) -> str:
    """Weights in force as a header's value."""
    return ", ".join(f"{name}={weight:.6g}" for name, weight in weights.items())
