"""Sets of profiles: the corners of opposed poles, a lattice on the simplex, random people."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from counterpoint.types import CounterpointError, Profile


def corners(axes: Sequence[tuple[str, ...]]) -> list[Profile]:
    """One pole of every axis, equally weighted: 3 axes of 2 poles give 8 profiles, the last axis changing fastest.

    Raises CounterpointError for no axis, an axis without poles, or a pole that occurs twice.
    """
    if not axes or not all(axes):
        raise CounterpointError(f"corners: expected axes of one pole or more, found {axes!r}")
    _check_names([pole for axis in axes for pole in axis])
    return [Profile(dict.fromkeys(poles, 1.0)) for poles in product(*axes)]


def grid(dimensions: Sequence[str], steps: int) -> list[Profile]:
    """All weights that are multiples of 1/steps and sum to one: C(steps + D - 1, D - 1) profiles.

    `steps=1` gives the vertices. Raises CounterpointError for fewer than one step or a repeated dimension.
    """
    _check_names(dimensions)
    if steps < 1:
        raise CounterpointError(f"grid: found steps={steps}, expected 1 or more")
    return [
        Profile({name: count / steps for name, count in zip(dimensions, counts, strict=True)})
        for counts in _compositions(steps, len(dimensions))
    ]


def dirichlet(dimensions: Sequence[str], n: int, concentration: float, seed: int) -> list[Profile]:
    """`n` random people, `w ~ Dirichlet(concentration, ..., concentration)`.

    A concentration of 1 is uniform on the simplex, below 1 people want few things, above 1 a little of everything.
    Raises CounterpointError for a concentration that is not positive, a negative `n` or a repeated dimension.
    """
    _check_names(dimensions)
    if not 0 < concentration < float("inf"):
        raise CounterpointError(f"dirichlet: found concentration={concentration}, expected a positive number")
    if n < 0:
        raise CounterpointError(f"dirichlet: found n={n}, expected 0 or more")
    w_ND = np.random.default_rng(seed).dirichlet([concentration] * len(dimensions), size=n)
    return [Profile(dict(zip(dimensions, w_D, strict=True))) for w_D in w_ND.tolist()]


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise CounterpointError("expected at least one dimension, found none")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CounterpointError(f"each dimension may occur once, found twice: {', '.join(twice)}")
