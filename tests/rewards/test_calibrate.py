import dataclasses
import json
import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from counterpoint.rewards.calibrate import ZScore, bt_reward, fit_zscore, profile_weights, scalarise
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
