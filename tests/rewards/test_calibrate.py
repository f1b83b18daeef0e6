import dataclasses
import json
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from counterpoint.rewards.calibrate import (
    Temperature,
    ZScore,
    bt_reward,
    fit_temperature,
    fit_zscore,
    profile_weights,
    scalarise,
    scale_of,
)
from counterpoint.types import CounterpointError, Profile


def test_zscore_by_hand() -> None:
    # 1, 3 has mean 2 and deviation 1; 10, 50 has mean 30 and deviation 20
    zscore = fit_zscore(np.array([[1.0, 10.0], [3.0, 50.0]]), ["a", "b"])
    assert zscore == ZScore(("a", "b"), (2.0, 30.0), (1.0, 20.0))
    np.testing.assert_allclose(zscore(np.array([[4.0, 20.0]])), [[2.0, -0.5]])
    assert ZScore(**{k: tuple(v) for k, v in json.loads(json.dumps(dataclasses.asdict(zscore))).items()}) == zscore


def test_a_unit_scale_does_not_depend_on_the_unit() -> None:
    rng = np.random.default_rng(0)
    scores_ND = rng.normal(size=(50, 2))
    scaled_ND = scores_ND * [1000, 0.01] + [5, -3]
    z_ND = fit_zscore(scores_ND, "ab")(scores_ND)
    np.testing.assert_allclose(z_ND, fit_zscore(scaled_ND, "ab")(scaled_ND), atol=1e-9)
    np.testing.assert_allclose(z_ND.std(axis=0), 1)


def test_bt_reward_by_hand() -> None:
    # sigmoid(ln 3) = 3 / 4, sigmoid(0) = 1 / 2; differences of a thousand do not overflow
    r_ND = np.array([[math.log(3) + 1, 5.0], [1000.0, -1000.0]])
    np.testing.assert_allclose(
        bt_reward(r_ND, np.array([[1.0, 5.0], [0.0, 0.0]])), [[0.75, 0.5], [1.0, 0.0]], atol=1e-15
    )


def test_scalarise_is_the_mean_over_the_selected() -> None:
    scores_ND = np.array([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0]])
    np.testing.assert_allclose(scalarise(scores_ND, np.array([[1, 0, 1], [0, 3, 1]])), [3.5, 3.0])
    np.testing.assert_allclose(scalarise(scores_ND, np.array([2, 2, 2])), [3.0, 3.0])


def test_profile_weights_follow_the_order_of_dimensions() -> None:
    profiles = [Profile({"b": 2.0}), Profile({"b": 1.0, "a": 3.0})]
    np.testing.assert_array_equal(profile_weights(profiles, ["a", "b"]), [[0, 2], [3, 1]])
    assert profile_weights([], ["a"]).shape == (0, 1)


def test_bad_input_is_named() -> None:
    one = np.ones((2, 2))
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: fit_zscore(np.array([[1.0, 0.1], [2.0, 0.1]]), "ab"), "'b': all 2 reference responses score 0.1"),
        (lambda: fit_zscore(np.array([[1.0, np.nan]]), "ab"), "dimension 'a': all 1 reference"),
        (lambda: fit_zscore(np.array([[1.0, np.nan], [2.0, 1]]), "ab"), "'b': a reference score is not finite"),
        (lambda: fit_zscore(one, "abc"), "expected scores of responses by 3 dimensions, found shape (2, 2)"),
        (lambda: fit_zscore(np.ones((0, 2)), "ab"), "found shape (0, 2)"),
        (lambda: ZScore(("a",), (0.0,), (1.0,))(one), "expected scores for a in the last axis, found shape (2, 2)"),
        (lambda: scalarise(one, np.array([[1, 1], [0, 0]])), "row 1: found weights [0.0, 0.0]"),
        (lambda: scalarise(one, np.array([[1, -1], [1, 1]])), "row 0: found weights [1.0, -1.0]"),
        (lambda: profile_weights([Profile({"c": 1})], ["a"]), "unknown dimension 'c'"),
    ]
    for call, message in calls:
        with pytest.raises(CounterpointError, match=re.escape(message)):
            call()


def drawn(pairs: int, truth: float) -> np.ndarray:
    """Margins of which the larger response is chosen as often as `sigmoid(truth * |m|)` says."""
    rng = np.random.default_rng(0)
    size_P = np.abs(rng.normal(size=pairs))
    return np.where(rng.random(pairs) < 1 / (1 + np.exp(-truth * size_P)), size_P, -size_P)


def test_scale_by_hand() -> None:
    # 3 pairs of margin 2, one of them wrong; t = 4/5. The loss is least where the mean of sigmoid over both targets
    # agrees: sigmoid(2 s) = (2 t + (1 - t)) / 3 = 0.6, since t asks for 0.8, 0.8 and, turned, 0.2; s = log(1.5) / 2
    assert scale_of(np.array([2.0, 2.0, -2.0])) == pytest.approx(math.log(1.5) / 2, rel=1e-6)
    # all right: sigmoid(3 s) = t = 11/12, s = log(11) / 3, and not infinite
    assert scale_of(np.full(10, 3.0)) == pytest.approx(math.log(11) / 3, rel=1e-6)


@pytest.mark.parametrize("truth", [0.3, 1.7, 20.0])
def test_the_scale_that_made_the_pairs_is_found(truth: float) -> None:
    assert scale_of(drawn(20_000, truth)) == pytest.approx(truth, rel=0.08)


def test_the_scale_is_that_of_a_logistic_regression() -> None:
    margin_P = drawn(300, 1.3)
    # Platt's targets as weights: each pair is chosen first with weight t, and second with 1 - t
    t = 301 / 302
    inputs, outcomes = np.tile(margin_P, 2)[:, None], np.repeat([1, 0], 300)
    model = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10)
    model.fit(inputs, outcomes, sample_weight=np.repeat([t, 1 - t], 300))
    assert scale_of(margin_P) == pytest.approx(model.coef_[0, 0], rel=1e-4)


def test_the_unit_of_a_reward_does_not_matter_after_its_temperature() -> None:
    margin_P = drawn(500, 1.0)
    small, large = (unit * margin_P * scale_of(unit * margin_P) for unit in (1e-4, 1e5))
    np.testing.assert_allclose(small, large, rtol=1e-5)


def test_a_reward_that_prefers_the_rejected_says_nothing() -> None:
    assert scale_of(-drawn(500, 1.0)) == 0.0


def test_temperature_per_dimension() -> None:
    temperature = fit_temperature({"a": drawn(500, 1.0), "b": 10 * drawn(500, 1.0)})
    assert temperature.dimensions == ("a", "b")
    assert temperature.scale[0] == pytest.approx(10 * temperature.scale[1], rel=1e-4)
    twice = Temperature(("a", "b"), (2.0, 0.5))
    np.testing.assert_allclose(twice(np.array([[3.0, 4.0]])), [[6.0, 2.0]])
    with pytest.raises(CounterpointError, match="expected scores for a, b in the last axis"):
        twice(np.zeros((2, 3)))


@pytest.mark.parametrize("margin_P", [np.zeros(3), np.array([]), np.array([1.0, np.nan])])
def test_margins_without_a_scale_are_refused(margin_P: np.ndarray) -> None:
    with pytest.raises(CounterpointError, match="dimension 'a': a scale needs finite margins that are not all 0"):
        fit_temperature({"a": margin_P})
