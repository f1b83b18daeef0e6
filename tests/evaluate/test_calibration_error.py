import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from counterpoint.evaluate.bootstrap import Interval
from counterpoint.evaluate.calibration import brier, brier_score, calibration_error, confidence, means_by

ODDS = np.log([9, 4, 4, 1.5])  # confidences of 0.9, 0.8, 0.8 and 0.6


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def drawn(margins: int, truth: float, seed: int = 0) -> np.ndarray:
    """Margins whose favourite is chosen as often as `sigmoid(truth * |m|)` says."""
    rng = np.random.default_rng(seed)
    size_X = np.abs(rng.normal(size=margins)) * 2
    return np.where(rng.random(margins) < sigmoid(truth * size_X), size_X, -size_X)


def test_confidence_by_hand() -> None:
    confidence_X, right_X = confidence([ODDS[0], -ODDS[1], 0.0, 800.0, -800.0])
    np.testing.assert_allclose(confidence_X, [0.9, 0.8, 0.5, 1.0, 1.0])
    np.testing.assert_array_equal(right_X, [1.0, 0.0, 0.5, 1.0, 0.0])


def test_brier_by_hand() -> None:
    np.testing.assert_allclose(brier([ODDS[0], -ODDS[1], 0.0]), [0.01, 0.64, 0.25])
    # prompt a holds two pairs and counts once: ((0.01 + 0.64) / 2 + 0.25) / 2
    assert brier_score([ODDS[0], -ODDS[1], 0.0], "aab", seed=0).value == pytest.approx(0.2875)


def test_means_by_hand() -> None:
    np.testing.assert_array_equal(means_by(["b", "a", "b"], [1.0, 5.0, 2.0]), [1.5, 5.0])


def test_calibration_error_by_hand() -> None:
    # two bins, of 0.6 and 0.8, and of 0.8 and 0.9: equal confidences share a bin, so the first holds 0.6 alone
    # 0.6 wrong: |0 - 0.6| / 4; 0.9 and one 0.8 right, one 0.8 wrong: |2 - (0.9 + 0.8 + 0.8)| / 4
    margin_X = np.array([ODDS[0], ODDS[1], -ODDS[2], -ODDS[3]])
    assert calibration_error(margin_X, range(4), seed=0, bins=2).value == pytest.approx(0.6 / 4 + 0.5 / 4)
    # one bin: |2 - (0.9 + 0.8 + 0.8 + 0.6)| / 4
    assert calibration_error(margin_X, range(4), seed=0, bins=1).value == pytest.approx(1.1 / 4)


def test_the_favourites_view_is_that_of_both_orders() -> None:
    margin_X = drawn(400, truth=0.4)
    both_p = sigmoid(np.concatenate([margin_X, -margin_X]))
    both_y = np.repeat([1, 0], 400)
    frequency_B, mean_B = calibration_curve(both_y, both_p, n_bins=20, strategy="quantile")
    counts = np.histogram(both_p, np.quantile(both_p, np.linspace(0, 1, 21)))[0]
    expected = (counts * np.abs(frequency_B - mean_B)).sum() / 800
    found = calibration_error(margin_X, range(400), seed=0, bins=10).value
    assert found == pytest.approx(expected, abs=5e-3)  # the quantiles of 400 and of 800 values differ by a rank
    assert found > 0.1
    assert brier(margin_X).mean() == pytest.approx(brier_score_loss(both_y, both_p))


def test_chosen_always_first_would_call_a_calibrated_model_wrong() -> None:
    margin_X = drawn(4000, truth=1.0)
    chosen_first = np.abs(1 - sigmoid(margin_X)).mean()
    assert chosen_first > 0.25
    assert calibration_error(margin_X, range(4000), seed=0, resamples=1).value < 0.03


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_a_wrong_scale_is_an_error(scale: float) -> None:
    margin_X = drawn(4000, truth=1.0)
    right, wrong = (calibration_error(m, range(4000), seed=0, resamples=200) for m in (margin_X, scale * margin_X))
    assert wrong.low > right.high
    assert brier(scale * margin_X).mean() > brier(margin_X).mean()


def test_pairs_of_one_prompt_move_together() -> None:
    margin_X = drawn(200, truth=1.0)
    apart = calibration_error(margin_X, range(200), seed=0)
    copied = calibration_error(np.tile(margin_X, 5), [*range(200)] * 5, seed=0)
    assert copied == Interval(apart.value, apart.low, apart.high)
    ranks = np.random.default_rng(1).permutation(200)
    assert calibration_error(margin_X[ranks], range(200), seed=0).value == pytest.approx(apart.value)
