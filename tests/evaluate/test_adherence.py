import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from counterpoint.evaluate.adherence import adherence, largest_drops, rank_correlation, slopes


def test_rank_correlation_by_hand() -> None:
    # ranks 1 2 3 4 against 1 3 2 4: sum of squared differences 2, rho = 1 - 6 * 2 / (4 * 15) = 0.8
    correlation = rank_correlation([0, 1, 2, 5], [[0.1, 0.4, 0.3, 0.9]])
    assert correlation == pytest.approx([0.8])


def test_rank_correlation_and_slope_equal_scipy() -> None:
    generator = np.random.default_rng(0)
    setting = np.sort(generator.uniform(size=6))
    mean = generator.integers(0, 4, size=(20, 6)).astype(float)
    correlation = rank_correlation(setting, mean)
    assert correlation == pytest.approx([spearmanr(setting, row).statistic for row in mean])
    assert slopes(setting, mean) == pytest.approx([linregress(setting, row).slope for row in mean])


def test_largest_drop_by_hand() -> None:
    # steps +1, -0.5, -0.25, +2: the deepest fall is 0.5; a rising row falls by nothing
    assert largest_drops([[0.0, 1.0, 0.5, 0.25, 2.25], [0.0, 1.0, 2.0, 3.0, 4.0]]).tolist() == [0.5, 0]


def test_a_rising_response() -> None:
    noise = np.random.default_rng(0).normal(size=40)
    setting = np.array([0.0, 0.5, 1.0, 2.0])
    result = adherence(setting, 3 * setting[:, None] + noise, seed=0, resamples=200)
    assert result.correlation is not None
    assert result.correlation.to_dict() == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert [*result.slope.to_dict().values()] == pytest.approx([3, 3, 3])
    assert result.largest_drop.value == 0


def test_a_flat_response_has_no_correlation() -> None:
    # The same scores at every setting, summed in the same way: equal up to rounding, and rounding is no ranking
    score = np.repeat(np.random.default_rng(0).normal(size=(1, 33)), 3, axis=0)
    result = adherence([0, 1, 2], score, seed=0, resamples=100)
    assert result.correlation is None
    assert result.slope.value == pytest.approx(0)


def test_settings_must_rise() -> None:
    with pytest.raises(ValueError, match=r"strictly rising, got \[0.0, 0.0\]"):
        adherence([0, 0], np.zeros((2, 5)), seed=0)
    with pytest.raises(ValueError, match=r"shape \[2, P\]"):
        adherence([0, 1], np.zeros((3, 5)), seed=0)
