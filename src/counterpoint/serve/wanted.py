"""Who asks, and how their answer is made: a model name, the body and a stored person become a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from counterpoint.compose.plan import Plan
from counterpoint.compose.weighers.gate import KINDS
from counterpoint.decode.band import METHODS, Band
from counterpoint.profiles import format_profile, parse_profile
from counterpoint.profiles.bounds import acting, coefficients
from counterpoint.serve.errors import Refused
from counterpoint.serve.worker import Worker
from counterpoint.types import Profile

Source = Literal["request", "model", "user", "default"]
DEFAULT = "default"
"""The model name that asks for the server's method, or a person's own."""


@dataclass(frozen=True)
class Asked:
    """A method and a profile, and where the profile came from."""

    method: str
    profile: Profile | None
    source: Source


def parse_model(name: str, known: tuple[str, ...], method: str) -> tuple[str, Profile | None]:
    """Read `METHOD`, `METHOD:PROFILE` or `default`. Raises `Refused` with 404 for an unknown method."""
    said, colon, profile = name.partition(":")
    if said not in (DEFAULT, *METHODS):
        raise Refused(
            f"unknown model {name!r}; a model is METHOD or METHOD:PROFILE, such as 'soup:{known[0] if known else ''}'; "
            f"methods: {', '.join(METHODS)}", 404, "model_not_found", "model",
        )  # fmt: skip
    return method if said == DEFAULT else said, parse_profile(profile, known) if colon else None


def asked(
    band: Band,
    model: str,
    profile: str | Mapping[str, float] | None,
    strength: float | None,
    stored: tuple[Profile | None, str | None],
    default: tuple[Profile | None, str],
) -> Asked:
    """The body's profile wins over the model name's, that over the stored person's, and that over the default.

    `strength` wins over the strength of whichever it is. The stored person's method is for the model `default`.
    """
    method, named = parse_model(model, band.dimensions, default[1])
    if model == DEFAULT and stored[1]:
        method = stored[1]
    given = None if profile is None else parse_profile(profile, band.dimensions)
    found: list[tuple[Source, Profile | None]] = [
        ("request", given), ("model", named), ("user", stored[0]), ("default", default[0])
    ]  # fmt: skip
    source, wanted = next(((s, p) for s, p in found if p is not None), ("default", None))
    if strength is not None:
        if wanted is None:
            raise Refused("strength says how much of a profile; give a profile as well", param="strength")
        wanted = parse_profile(replace(wanted, strength=strength), band.dimensions)
    return Asked(method, wanted, source)


async def plan_of(worker: Worker, asked: Asked) -> Plan:
    """The plan; controllers and gates may be read only now, which must not happen during a step."""
    band = worker.band
    if asked.method in ("mope", *KINDS):
        return await worker.call(lambda: band.plan(asked.profile, asked.method))
    return band.plan(asked.profile, asked.method)


def told(band: Band, asked: Asked) -> dict[str, Any]:
    """What a reply says of how it was made: the coefficients in force are what reached the model."""
    given = None if asked.method == "base" else band.in_force(asked.profile)
    held = {} if asked.method == "base" else acting(asked.profile, band.bounds)
    return {
        "method": asked.method,
        "profile": format_profile(asked.profile) if asked.profile else None,
        "strength": given.strength if given else 0.0,
        "weights": coefficients(given),
        "source": asked.source,
        "bounds": {name: {"asked": a, "in_force": found} for name, (a, found) in held.items()},
    }


def header(weights: Mapping[str, float]) -> str:
    """Weights in force as a header's value."""
    return ", ".join(f"{name}={weight:.6g}" for name, weight in weights.items())
