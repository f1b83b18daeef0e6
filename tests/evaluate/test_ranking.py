import math

import numpy as np
import pytest

from counterpoint.evaluate.ranking import (
    Flips,
    difficulty,
    dpo_loss,
    flips,
    ideal_accuracy,
    ideal_margin,
    ranked_right,
    ranked_right_per_token,
    ranking,
    rewarded_right,
    threshold_loss,
)


def random_logps(pairs: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    chosen, rejected, ref_chosen, ref_rejected = np.random.default_rng(0).normal(-40, 8, size=(4, pairs))
    return chosen, rejected, ref_chosen, ref_rejected


def test_ranking_and_reward_are_not_the_same() -> None:
    # The policy still prefers the rejected one (-30 < -20) although it moved towards the chosen one (+10 against 0)
    assert ranked_right([-30.0], [-20.0]).tolist() == [False]
    assert rewarded_right([-30.0], [-20.0], [-40.0], [-20.0]).tolist() == [True]
    assert ranked_right([-20.0], [-20.0]).tolist() == [True]
    assert rewarded_right([-20.0], [-20.0], [-20.0], [-20.0]).tolist() == [False]


def test_per_token_ranking_by_hand() -> None:
    # -30 over 10 tokens is -3 a token, -20 over 5 is -4: wrong in sum, right per token
    assert ranked_right_per_token([-30.0], [-20.0], [10], [5]).tolist() == [True]
    with pytest.raises(ValueError, match="at least one token"):
        ranked_right_per_token([-30.0], [-20.0], [10], [0])


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
def test_theorem_4_1_is_an_equivalence(beta: float) -> None:
    chosen, rejected, ref_chosen, ref_rejected = random_logps()
    learnt = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
    below = learnt <= threshold_loss(difficulty(ref_chosen, ref_rejected), beta)
    assert np.array_equal(below, ranked_right(chosen, rejected))
    assert 0.4 < below.mean() < 0.6


def test_a_low_loss_keeps_what_the_reference_has_right() -> None:
    chosen, rejected, ref_chosen, ref_rejected = random_logps()
    learnt = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.1)
    kept = ranked_right(ref_chosen, ref_rejected) & (learnt <= 0.6)
    assert kept.any()
    assert ranked_right(chosen, rejected)[kept].all()


def test_threshold_loss_by_hand() -> None:
    # log(1 + e^-1) = 0.31326, log(1 + e^-2) = 0.12693, log(1 + e^-5) = 0.0067153
    assert threshold_loss([10.0, 20.0, 50.0], 0.1) == pytest.approx([0.31326, 0.12693, 0.0067153], rel=1e-4)
    assert threshold_loss([-1e4], 1.0) == pytest.approx([1e4])


def test_ideal_margin_by_hand() -> None:
    # -100 - (-120) + logit(0.5) / 0.1 = 20; with alpha = 0.25: 20 + log(1/3) / 0.1 = 20 - 10.986 = 9.014
    assert ideal_margin([-100.0, -100.0], [-120.0, -120.0], [0.5, 0.25], 0.1) == pytest.approx([20, 9.0139], rel=1e-4)


def test_the_ratio_of_probabilities_is_no_ratio_of_logs() -> None:
    """Dividing -100 by -120 gives 0.83 < 1, so the loser would win; the true ratio is e^20."""
    assert ideal_accuracy([-100.0], [-120.0], [0.5], 1.0) == 1.0


def test_a_unanimous_pair_is_nearly_certain_and_not_infinitely_so() -> None:
    # logit(1 - 1e-3) = log(999) = 6.9068
    margin = ideal_margin([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.999], 1.0)
    assert margin == pytest.approx([math.log(999), -math.log(999), math.log(999)])


def test_limits_of_the_ideal_accuracy() -> None:
    _, _, ref_chosen, ref_rejected = random_logps()
    alpha = np.random.default_rng(1).uniform(0.51, 1, size=ref_chosen.size)
    assert ideal_accuracy(ref_chosen, ref_rejected, alpha, 1e-9) == 1.0
    reference = ranked_right(ref_chosen, ref_rejected).mean()
    assert ideal_accuracy(ref_chosen, ref_rejected, alpha, 1e12) == reference
    assert ideal_accuracy(ref_chosen + 7, ref_rejected + 7, alpha, 0.5) == pytest.approx(
        ideal_accuracy(ref_chosen, ref_rejected, alpha, 0.5)
    )


def test_gradient_descent_on_soft_labels_reaches_the_ideal() -> None:
    # One free logit gap g per pair: dL/dg = -beta (alpha - sigmoid(beta (g - g_ref))) vanishes at the ideal margin
    generator = np.random.default_rng(2)
    ref_gap, alpha, beta = generator.normal(0, 3, size=200), generator.uniform(0.05, 0.95, size=200), 0.5
    gap = ref_gap.copy()
    for _ in range(4000):
        gap += beta * (alpha - 1 / (1 + np.exp(-beta * (gap - ref_gap))))
    zero = np.zeros_like(gap)
    assert gap == pytest.approx(ideal_margin(ref_gap, zero, alpha, beta), abs=1e-6)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive"):
        ideal_margin([0.0], [0.0], [0.5], 0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ideal_margin([0.0], [0.0], [1.5], 1.0)


def test_flips_by_hand() -> None:
    before, after = [True, False, True, False, False], [True, True, False, False, False]
    assert flips(before, after) == Flips(stayed_right=1, became_right=1, became_wrong=1, stayed_wrong=2)
    with pytest.raises(ValueError, match="the same pairs"):
        flips(before, after[:-1])


def test_everything_at_once() -> None:
    # Three pairs; reference gaps -30, -1, +2; policy gaps -10, +1, +2.
    # alpha 1 adds 6.9068 / beta: 690, 69, 6.9, 1.38, 0.69 over the grid, so the ideal is right for
    #   beta 0.01: 3 of 3, 0.1: 3, 1: 2 (-30 + 6.9 < 0), 5: 2 (-1 + 1.38 > 0), 10: 1 (-1 + 0.69 < 0, 2 holds)
    result = ranking(
        [-40.0, -20.0, -10.0],
        [-30.0, -21.0, -12.0],
        [-50.0, -21.0, -10.0],
        [-20.0, -20.0, -12.0],
        lengths_P2=[[20, 10], [10, 10], [10, 10]],
    )
    assert result.pairs == 3
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.per_token == 1.0
    assert result.reference_accuracy == pytest.approx(1 / 3)
    assert result.reward_accuracy == pytest.approx(2 / 3)
    assert [result.ideal.low, result.ideal.median, result.ideal.high] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [result.gap.low, result.gap.median, result.gap.high] == pytest.approx([-1 / 3, 0, 1 / 3])
    assert result.flips == Flips(1, 1, 0, 1)
    with pytest.raises(ValueError, match="at least one pair"):
        ranking([], [], [], [])
    with pytest.raises(ValueError, match="one length"):
        ranking([0.0], [0.0], [0.0, 0.0], [0.0])
