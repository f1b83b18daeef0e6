import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from counterpoint.profiles import infer_profile
from counterpoint.types import CounterpointError


def test_one_dimension_by_hand() -> None:
    # Four choices of difference 1: 4 (1 - sigmoid(w)) = w / s^2. At w = ln 3, sigmoid = 3/4, so s^2 = ln 3.
    # Curvature: 4 (3/4)(1/4) + 1 / ln 3 = 0.75 + 0.91024 = 1.66024, standard error 1.66024 ** -0.5 = 0.77609.
    fit = infer_profile(np.ones((4, 1)), np.zeros((4, 1)), ["a"], prior_sd=math.sqrt(math.log(3)))
    assert fit.profile.weights["a"] == pytest.approx(math.log(3), abs=1e-5)
    assert fit.standard_errors["a"] == pytest.approx(0.77609, abs=1e-5)
    assert fit.choices == 4


def test_a_disliked_dimension_gets_zero() -> None:
    fit = infer_profile(np.tile([1.0, -1.0], (6, 1)), np.zeros((6, 2)), ["a", "b"])
    assert fit.profile.weights["b"] == 0.0
    assert fit.profile.weights["a"] > 0.5


def test_recovers_the_weights_within_its_errors() -> None:
    rng = np.random.default_rng(0)
    truth_D = np.array([2.0, 1.0, 0.5])
    first_ND, second_ND = rng.normal(size=(2, 3000, 3))
    wins_N = rng.random(3000) < 1 / (1 + np.exp(-(first_ND - second_ND) @ truth_D))
    chosen_ND = np.where(wins_N[:, None], first_ND, second_ND)
    rejected_ND = np.where(wins_N[:, None], second_ND, first_ND)
    fit = infer_profile(chosen_ND, rejected_ND, ["a", "b", "c"], prior_sd=10)
    errors_D = np.array(list(fit.standard_errors.values()))
    assert (np.abs(np.array(list(fit.profile.weights.values())) - truth_D) < 3 * errors_D).all()
    assert (errors_D < 0.1).all()


def test_few_choices_stay_uncertain() -> None:
    few = infer_profile(np.ones((1, 1)), np.zeros((1, 1)), ["a"])
    many = infer_profile(np.ones((30, 1)), np.zeros((30, 1)), ["a"])
    assert few.standard_errors["a"] > many.standard_errors["a"]
    assert few.profile.weights["a"] < many.profile.weights["a"]


def test_bad_input_is_named() -> None:
    one, zero = np.ones((2, 2)), np.zeros((2, 2))
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: infer_profile(zero, one, ["a", "b"]), "the 2 choices speak for none of a, b"),
        (lambda: infer_profile(one, one, ["a", "b"]), "speak for none"),
        (lambda: infer_profile(one, zero, ["a"]), "found shapes (2, 2) and (2, 2)"),
        (lambda: infer_profile(np.ones((0, 1)), np.ones((0, 1)), ["a"]), "found shapes (0, 1) and (0, 1)"),
        (lambda: infer_profile(one * np.inf, zero, ["a", "b"]), "not finite"),
        (lambda: infer_profile(one, zero, ["a", "b"], prior_sd=0), "found prior_sd=0"),
    ]
    for call, message in calls:
        with pytest.raises(CounterpointError, match=re.escape(message)):
            call()
