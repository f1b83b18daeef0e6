import numpy as np
import pytest

from counterpoint.evaluate.accuracy import by_prompt, length_accuracy, measure_reward
from counterpoint.testing import LetterReward
from counterpoint.types import Comparison


def pair(prompt: str, chosen: str, rejected: str) -> Comparison:
    return Comparison(prompt, chosen, rejected, "toy")


def test_each_prompt_counts_the_same() -> None:
    comparisons = [pair("p", "a", "b"), pair("q", "a", "b"), pair("p", "c", "d"), pair("p", "e", "f")]
    # p: 1, 0, 0, mean 1/3; q: 1: the mean of both is 2/3, where that of all pairs is 1/2
    assert by_prompt([1.0, 1.0, 0.0, 0.0], comparisons, seed=0).value == pytest.approx(2 / 3)


def test_length_learns_its_direction_and_a_tie_is_half() -> None:
    longer = [pair("p", "a b", "a"), pair("q", "a b c", "a")]
    unseen = [pair("r", "a b", "a"), pair("s", "a", "a b"), pair("t", "a", "b")]
    np.testing.assert_array_equal(length_accuracy(longer, unseen), [1.0, 0.0, 0.5])
    shorter = [pair("p", "a", "a b"), pair("q", "a", "a b c")]
    np.testing.assert_array_equal(length_accuracy(shorter, unseen), [0.0, 1.0, 0.5])


def test_regression_a_reward_that_tells_nothing_apart_is_half_right_as_length_is() -> None:
    """A tie counted as wrong for the reward, and as half for length."""
    same = [pair("p", "x y", "x z"), pair("q", "x", "y")]
    quality = measure_reward(LetterReward("a"), "toy", [pair("r", "x y", "x")], same, seed=0)
    assert (quality.accuracy.value, quality.by_length.value) == (0.5, 0.5)


def test_a_reward_beside_length_by_hand() -> None:
    seen = [pair("p", "a a", "b")]
    unseen = [pair("q", "a", "b b"), pair("r", "aa a", "b"), pair("r", "b", "a a")]
    # the letter is right on q and on half of r; longer is wrong on q and right on half of r
    quality = measure_reward(LetterReward("a"), "toy", seen, unseen, seed=0)
    assert (quality.pairs, quality.accuracy.value, quality.by_length.value) == (3, 0.75, 0.25)
