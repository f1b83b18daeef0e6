import numpy as np
import pytest

from counterpoint.evaluate.pareto import front, hypervolume, hypervolume_interval


def test_front_by_hand() -> None:
    # (1, 1) is beaten by (2, 1); the two (0, 3) are equal, so neither beats the other
    assert front([[2, 1], [1, 1], [0, 3], [0, 3]]).tolist() == [True, False, True, True]


def test_front_equals_two_loops() -> None:
    points = np.random.default_rng(0).integers(0, 4, size=(30, 3)).astype(float)
    expected = [not any((b >= a).all() and (b > a).any() for b in points) for a in points]
    assert front(points).tolist() == expected


def test_hypervolume_by_hand() -> None:
    # rectangles 2 x 1 and 1 x 3 from the origin, overlapping in 1 x 1: 2 + 3 - 1 = 4
    assert hypervolume([[2, 1], [1, 3]], [0, 0]) == pytest.approx(4)
    assert hypervolume([[2, 1], [1, 3], [1, 1]], [0, 0]) == pytest.approx(4)
    # from (-1, 0): 3 x 1 and 2 x 3, overlapping in 2 x 1: 3 + 6 - 2 = 7
    assert hypervolume([[2, 1], [1, 3]], [-1, 0]) == pytest.approx(7)


def test_a_point_below_the_reference_adds_nothing() -> None:
    assert hypervolume([[2, 1], [9, -1]], [0, 0]) == pytest.approx(2)


def test_hypervolume_interval_of_one_point() -> None:
    # One point with the second coordinate fixed at 2: the volume is twice the mean of the first
    first = np.random.default_rng(0).uniform(1, 3, size=40)
    scores = np.stack([first, np.full(40, 2.0)], axis=-1)[None]
    interval = hypervolume_interval(scores, [0, 0], seed=0, resamples=500)
    assert interval.value == pytest.approx(2 * first.mean())
    standard_error = first.std() / np.sqrt(40)
    assert interval.high - interval.low == pytest.approx(2 * 2 * 1.96 * standard_error, rel=0.15)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="points have 2 objectives, the reference point has 3"):
        hypervolume([[1, 2]], [0, 0, 0])
    with pytest.raises(ValueError, match="at least one point"):
        front(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="finite"):
        front([[np.nan, 1]])
    with pytest.raises(ValueError, match=r"\[N, P, K\]"):
        hypervolume_interval(np.zeros((3, 2)), [0, 0], seed=0)
