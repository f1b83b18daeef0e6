import json

import numpy as np
import pytest

from counterpoint.evaluate.bootstrap import (
    Interval,
    mean_interval,
    mean_intervals,
    paired_difference,
    resample_counts,
    statistic_interval,
)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_every_resample_draws_as_many_prompts_as_there_are() -> None:
    counts = resample_counts(7, 50, seed=1)
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert np.array_equal(counts, resample_counts(7, 50, seed=1))
    assert not np.array_equal(counts, resample_counts(7, 50, seed=2))


def test_two_prompts_by_hand() -> None:
    # Prompts 0 and 1: a resample is (0,0), (0,1), (1,0) or (1,1), so its mean is 0, 1/2 or 1 with chances 1/4, 1/2,
    # 1/4. The 2.5 and 97.5 percentiles are therefore 0 and 1.
    assert mean_interval([0.0, 1.0], seed=0) == Interval(0.5, 0.0, 1.0)


def test_the_width_is_that_of_the_normal_approximation() -> None:
    # 400 coin flips: standard error 0.5 / 20 = 0.025, so the interval is 2 * 1.96 * 0.025 = 0.098 wide
    interval = mean_interval([0.0, 1.0] * 200, seed=0, resamples=5000)
    assert width(interval) == pytest.approx(0.098, abs=0.006)
    assert interval.value == 0.5


def test_coverage_of_a_known_mean() -> None:
    # 300 samples of 40 normal prompts around 2: about 94 % of the intervals should hold it; chance moves that by 1.4
    generator = np.random.default_rng(0)
    samples = generator.normal(2, 1, size=(300, 40))
    hits = [i.low <= 2 <= i.high for i in mean_intervals(samples, seed=1, resamples=1000)]
    assert 0.90 <= np.mean(hits) <= 0.98


def test_profiles_of_a_prompt_move_together() -> None:
    # 8 profiles share their prompt's difficulty entirely: the honest width is that of 50 trials, sqrt(8) = 2.83 times
    # the width that 400 independent ones would have.
    difficulty = np.random.default_rng(0).normal(size=50)
    stat_PR = np.repeat(difficulty[:, None], 8, axis=1)
    by_prompt = mean_interval(stat_PR.mean(axis=1), seed=0)
    as_if_independent = mean_interval(stat_PR.ravel(), seed=0)
    assert width(by_prompt) / width(as_if_independent) == pytest.approx(8**0.5, rel=0.1)


def test_statistics_share_their_resamples() -> None:
    a = np.random.default_rng(0).normal(size=30)
    first, second = mean_intervals(np.stack([a, 1 - a]), seed=3)
    assert first.low == pytest.approx(1 - second.high)
    assert mean_interval(a, seed=3) == first


def test_a_paired_difference_is_narrower_than_two_apart() -> None:
    generator = np.random.default_rng(0)
    prompt = generator.normal(size=60)
    a, b = prompt + 0.3 + 0.1 * generator.normal(size=60), prompt
    paired = paired_difference(a, b, seed=0)
    assert paired.low > 0
    assert width(paired) < 0.3 * width(mean_interval(a, seed=0))
    with pytest.raises(ValueError, match="the same prompts"):
        paired_difference(a, b[:-1], seed=0)


def test_a_mean_as_a_general_statistic() -> None:
    a = np.random.default_rng(0).normal(size=20)
    general = statistic_interval(lambda weight: float(weight @ a), 20, seed=5, resamples=300)
    direct = mean_interval(a, seed=5, resamples=300)
    assert [*general.to_dict().values()] == pytest.approx([*direct.to_dict().values()])


def test_rounding_does_not_lift_an_interval_off_zero() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17 in floating point, and a claim that holds because of it holds by accident."""
    assert mean_interval([0.1 + 0.2 - 0.3] * 4, seed=0) == Interval(0.0, 0.0, 0.0)


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 prompts, got 1"):
        mean_interval([0.5], seed=0)
    with pytest.raises(ValueError, match=r"shape \[N, P\]"):
        mean_intervals([0.5, 0.5], seed=0)
    with pytest.raises(ValueError, match="at least 1 resample"):
        resample_counts(3, 0, seed=0)
    with pytest.raises(ValueError, match="finite"):
        Interval(float("nan"), 0.0, 1.0)


def test_an_interval_is_plain_json() -> None:
    assert json.loads(json.dumps(mean_interval([1.0, 1.0], seed=0).to_dict())) == {"value": 1, "low": 1, "high": 1}
