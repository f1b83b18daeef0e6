import re
from collections.abc import Callable

import numpy as np
import pytest

from counterpoint.profiles import corners, dirichlet, grid
from counterpoint.types import CounterpointError

AXES = [("easy", "expert"), ("brief", "full"), ("warm", "cold")]


def test_three_axes_have_eight_corners() -> None:
    profiles = corners(AXES)
    assert len(profiles) == 8
    assert profiles[0].weights == {"easy": 1.0, "brief": 1.0, "warm": 1.0}
    assert profiles[1].weights == {"easy": 1.0, "brief": 1.0, "cold": 1.0}
    assert profiles[7].weights == {"expert": 1.0, "full": 1.0, "cold": 1.0}


def test_grid_lists_the_lattice_once() -> None:
    # C(2 + 3 - 1, 3 - 1) = 6 points
    points = [tuple(profile.weights.values()) for profile in grid(["a", "b", "c"], steps=2)]
    assert points == [(1, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 1, 0), (0, 0.5, 0.5), (0, 0, 1)]


def test_dirichlet_is_on_the_simplex_and_repeatable() -> None:
    profiles = dirichlet(["a", "b", "c"], 4000, 1.0, seed=3)
    w_ND = np.array([list(profile.weights.values()) for profile in profiles])
    assert profiles == dirichlet(["a", "b", "c"], 4000, 1.0, seed=3)
    np.testing.assert_allclose(w_ND.sum(axis=1), 1)
    # the uniform distribution on the simplex has mean 1/3 and variance (1/3)(2/3)/4 = 1/18
    np.testing.assert_allclose(w_ND.mean(axis=0), 1 / 3, atol=0.015)
    np.testing.assert_allclose(w_ND.var(axis=0), 1 / 18, atol=0.005)


def test_bad_arguments_are_named() -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: corners([]), "expected axes of one pole or more, found []"),
        (lambda: corners([("a", "b"), ()]), "expected axes of one pole or more"),
        (lambda: corners([("a", "b"), ("b", "c")]), "found twice: b"),
        (lambda: grid(["a", "b"], 0), "found steps=0, expected 1 or more"),
        (lambda: grid([], 1), "expected at least one dimension"),
        (lambda: dirichlet(["a", "a"], 1, 1.0, 0), "found twice: a"),
        (lambda: dirichlet(["a"], -1, 1.0, 0), "found n=-1, expected 0 or more"),
        (lambda: dirichlet(["a"], 1, float("nan"), 0), "found concentration=nan, expected a positive number"),
    ]
    for call, message in calls:
        with pytest.raises(CounterpointError, match=re.escape(message)):
            call()
