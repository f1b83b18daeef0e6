"""A zone of tolerance: below what is adequate nothing pleases, above what is desired more adds nothing.

From the service research that two papers on personalised wireless networks use (arXiv 2306.04887 and 2307.03867), moved
here to rewards of responses. Their exact forms are not known to us: the ramp and the fit below are our own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.profiles.parse import unknown_name
from counterpoint.types import CounterpointError

RATINGS = (-1, 0, 1)
"""Thumb down, neutral, thumb up."""
LEAST = 1e-3
"""The smallest width of a zone and spread of ratings, in standard deviations of what was rated."""


@dataclass(frozen=True)
class Zone:
    """On one dimension, in units of its reward: `adequate` is where a person begins to be pleased, from `desired` on
    they are. `spread` is how much their ratings waver."""

    adequate: float
    desired: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not -np.inf < self.adequate <= self.desired < np.inf or not 0 <= self.spread < np.inf:
            raise CounterpointError(
                f"found a zone from {self.adequate} to {self.desired} of spread {self.spread}; expected finite "
                "numbers, adequate at most desired, and a spread of 0 or more"
            )


def parse_zones(text: str, known: Sequence[str]) -> dict[str, Zone]:
    """Read `"concise=0:1, friendly=-0.5:0.5"`: of each dimension what is adequate and what is desired.

    No text is no zones. Raises CounterpointError for anything else.
    """
    zones: dict[str, Zone] = {}
    for entry in text.split(",") if text.strip() else []:
        name, _, ends = map(str.strip, entry.partition("="))
        if name not in known:
            raise CounterpointError(f"zones {text!r}: {unknown_name('dimension', name, known)}")
        if name in zones:
            raise CounterpointError(f"zones {text!r}: {name!r} is given twice; name it once")
        try:
            adequate, desired = map(float, ends.split(":"))
        except ValueError:
            raise CounterpointError(
                f"zones {text!r}: found {entry.strip()!r}; expected NAME=ADEQUATE:DESIRED, such as '{name}=0:1'"
            ) from None
        try:
            zones[name] = Zone(adequate, desired)
        except CounterpointError as error:
            raise CounterpointError(f"zones {text!r}: {name}: {error}") from None
    return zones


def format_zones(zones: Mapping[str, Zone]) -> str:
    """Zones as `parse_zones` reads them back, without their spread."""
    return ", ".join(f"{name}={zone.adequate!r}:{zone.desired!r}" for name, zone in zones.items())


def satisfaction(z: np.ndarray, zone: Zone) -> np.ndarray:
    """How much of a dimension's wish is met: 0 up to `adequate`, 1 from `desired` on, a straight line between.

    S(z) = clip((z - a) / (d - a), 0, 1);   a = d: S(z) = 1 where z >= d, else 0
    """
    z = np.asarray(z, dtype=float)
    if zone.adequate == zone.desired:
        return np.asarray((z >= zone.desired).astype(float))
    return np.asarray(np.clip((z - zone.adequate) / (zone.desired - zone.adequate), 0, 1))


def satisfactions(z_ND: np.ndarray, zones: Sequence[Zone]) -> np.ndarray:
    """Rewards as features of a utility `sum_d w_d S_d(z_d)`, which is what `elicit.believe` then learns `w` of."""
    columns = [satisfaction(z_N, zone) for z_N, zone in zip(np.asarray(z_ND).T, zones, strict=True)]
    return np.stack(columns, axis=1)


def fit_zone(z_N: np.ndarray, ratings_N: np.ndarray) -> Zone:
    """The zone that best explains ratings of responses: -1 thumb down, 0 neutral, 1 thumb up.

        r = z + s e,  e ~ N(0, 1):   down where r < a,  up where r > d,  neutral between

    Ordered probit (McKelvey and Zavoina 1975) with its two cut points as the zone; `s` is the `spread`. Maximum
    likelihood with weak normal priors, in standard deviations of `z_N`: on the cut points around the mean (sd 2) and
    on `log s` (sd 2), since ratings that part perfectly have no finite optimum. Raises CounterpointError for other
    ratings, for values that are not finite, and where all responses score alike.
    """
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    z_N, ratings_N = _checked(z_N, ratings_N)
    unit_N = (z_N - z_N.mean()) / z_N.std()
    down_N, neutral_N, up_N = (ratings_N == rating for rating in RATINGS)

    def loss(x: np.ndarray) -> float:
        low, high, s = x[0], x[0] + LEAST + np.exp(x[1]), LEAST + np.exp(x[2])
        below_N, above_N = log_ndtr((low - unit_N) / s), log_ndtr((unit_N - high) / s)
        with np.errstate(divide="ignore"):  # a cut far from a response leaves nothing between
            between_N = np.log(np.maximum(-np.expm1(np.logaddexp(below_N, above_N)), np.finfo(float).tiny))
        said = below_N[down_N].sum() + between_N[neutral_N].sum() + above_N[up_N].sum()
        return float(-said + (low**2 + high**2 + x[2] ** 2) / 8)

    best = minimize(loss, np.array([-0.5, 0.0, -0.5]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    low, width, s = best.x[0], LEAST + np.exp(best.x[1]), LEAST + np.exp(best.x[2])
    adequate = z_N.mean() + z_N.std() * low
    return Zone(float(adequate), float(adequate + z_N.std() * width), float(z_N.std() * s))


def _checked(z_N: np.ndarray, ratings_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z_N, ratings_N = np.asarray(z_N, dtype=float), np.asarray(ratings_N)
    if z_N.ndim != 1 or z_N.shape != ratings_N.shape or not len(z_N):
        raise CounterpointError(f"expected a rating for each score, found shapes {z_N.shape} and {ratings_N.shape}")
    if not np.isin(ratings_N, RATINGS).all():
        other = ratings_N[~np.isin(ratings_N, RATINGS)][0]
        raise CounterpointError(f"found the rating {other}, expected -1 (down), 0 (neutral) or 1 (up)")
    if not np.isfinite(z_N).all():
        raise CounterpointError("a score of a rated response is not finite; leave it out")
    if np.ptp(z_N) == 0:
        raise CounterpointError(f"all {len(z_N)} rated responses score {z_N[0]:g}; a zone needs responses that differ")
    return z_N, ratings_N
