import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit

from counterpoint.profiles.elicit import (
    Belief,
    Evidence,
    believe,
    best_of,
    compared,
    draw,
    how_sure,
    laplace,
    next_pair,
    profile_of,
    settled,
    unsure,
)
from counterpoint.types import CounterpointError

FOUR = ("a", "b", "c", "d")


def evidence(d_ND: np.ndarray, noise: float = 0.0, sd: float = 1.0) -> Evidence:
    size, ones_N = d_ND.shape[1], np.ones(len(d_ND))
    return Evidence(d_ND, ones_N, ones_N, np.zeros(size), sd**2 * np.eye(size), noise)


def choices_of(w_D: np.ndarray, n: int, seed: int = 0, flip: float = 0.0) -> np.ndarray:
    """Differences, chosen minus rejected, of random pairs."""
    generator = np.random.default_rng(seed)
    d_ND = generator.normal(size=(n, len(w_D)))
    first_N = (generator.random(n) < expit(d_ND @ w_D)) != (generator.random(n) < flip)
    return np.where(first_N[:, None], d_ND, -d_ND)


def test_laplace_by_hand() -> None:
    # Four choices of difference 1: 4 (1 - sigmoid(w)) = w / s^2. At w = ln 3, sigmoid = 3/4, so s^2 = ln 3.
    # Curvature: 4 (3/4)(1/4) + 1 / ln 3 = 0.75 + 0.91024 = 1.66024, variance 1 / 1.66024 = 0.60232.
    mode_D, covariance_DD = laplace(evidence(np.ones((4, 1)), sd=math.sqrt(math.log(3))))
    assert mode_D[0] == pytest.approx(math.log(3), abs=1e-3)
    assert covariance_DD[0, 0] == pytest.approx(0.60232, abs=1e-3)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_posterior_is_that_of_a_fine_grid(noise: float) -> None:
    d_ND = choices_of(np.array([2.0, -1.0]), 20, flip=noise)
    belief = believe(d_ND, unsure("ab", noise=noise))
    axis = np.linspace(-6, 6, 241)
    w_SD = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density_S = np.exp(-(w_SD**2).sum(axis=1) / 2) * np.prod(noise + (1 - 2 * noise) * expit(w_SD @ d_ND.T), axis=1)
    density_S /= density_S.sum()
    mean_D = density_S @ w_SD
    spread_D = np.sqrt(density_S @ (w_SD - mean_D) ** 2)
    assert np.abs(belief.mean_D - mean_D).max() < 0.1
    assert np.sqrt(np.diag(belief.covariance_DD)) == pytest.approx(spread_D, rel=0.1)
    assert belief.draws_SD.mean(axis=0) == pytest.approx(belief.mean_D, abs=0.05)


def test_many_choices_recover_the_weights() -> None:
    truth_D = np.array([2.0, 1.0, -0.5])
    belief = believe(choices_of(truth_D, 1000), unsure("abc", sd=10, noise=0.0))
    assert (np.abs(belief.mean_D - truth_D) < 4 * np.sqrt(np.diag(belief.covariance_DD))).all()
    assert np.sqrt(np.diag(belief.covariance_DD)).max() < 0.2


def test_uncertainty_shrinks_with_choices() -> None:
    d_ND = choices_of(np.array([1.0, 1.0, 0.0, -1.0]), 160)
    volumes = [np.linalg.det(believe(d_ND[:n], unsure(FOUR)).covariance_DD) for n in (0, 10, 40, 160)]
    assert volumes == sorted(volumes, reverse=True)
    assert volumes[-1] < 0.01 * volumes[0]


def test_no_choices_leave_the_prior() -> None:
    before = unsure(FOUR, np.array([1.0, 0.0, 0.0, 0.0]), sd=0.5)
    assert believe(np.zeros((0, 4)), before) is before


def test_a_tie_says_that_the_difference_is_small() -> None:
    d_1D = np.array([[3.0, 0.0]])
    tie = believe(d_1D, unsure("ab"), shares_N=np.array([0.5]))
    assert abs(tie.mean_D[0]) < 0.1
    assert tie.covariance_DD[0, 0] < 0.7
    assert tie.covariance_DD[1, 1] == pytest.approx(1.0, abs=0.15)


def test_choosing_the_second_is_choosing_the_first_turned_round() -> None:
    d_ND = choices_of(np.array([1.0, 0.5]), 12)
    first, second = believe(d_ND, unsure("ab")), believe(-d_ND, unsure("ab"), shares_N=np.zeros(12))
    assert second.mean_D == pytest.approx(first.mean_D, abs=1e-9)


def test_a_choice_counted_twice_is_two_choices() -> None:
    d_ND = choices_of(np.array([1.0, 0.5]), 6)
    counted = believe(d_ND, unsure("ab"), counts_N=np.full(6, 2.0))
    assert counted.mean_D == pytest.approx(believe(np.tile(d_ND, (2, 1)), unsure("ab")).mean_D, abs=1e-6)


def test_order_does_not_matter_and_chance_has_no_part() -> None:
    d_ND = choices_of(np.array([1.0, 0.5]), 15)
    one, other = believe(d_ND, unsure("ab")), believe(d_ND[::-1], unsure("ab"))
    assert other.mean_D == pytest.approx(one.mean_D, abs=1e-6)
    assert np.array_equal(believe(d_ND, unsure("ab")).draws_SD, one.draws_SD)


def test_one_slip_moves_a_belief_that_reckons_with_noise_less() -> None:
    d_ND = np.vstack([np.tile([2.0, 0.0], (8, 1)), [[-6.0, 0.0]]])
    strict, lenient = believe(d_ND, unsure("ab", noise=0.0)), believe(d_ND, unsure("ab", noise=0.1))
    assert lenient.mean_D[0] > strict.mean_D[0] + 0.2


def test_separable_choices_with_huge_rewards_stay_finite() -> None:
    belief = believe(1e4 * choices_of(np.array([2.0, 1.0]), 10), unsure("ab", noise=0.0))
    assert np.isfinite(belief.mean_D).all()
    assert np.isfinite(belief.draws_SD).all()


def test_regression_a_belief_that_few_points_carry_has_a_profile() -> None:
    """Their covariance was singular."""
    truth_D = np.array([3.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0])
    profile = profile_of(believe(1e4 * choices_of(truth_D, 200), unsure("abcdefgh", noise=0.0)))
    assert profile is not None
    assert profile.weights["a"] > profile.weights["e"] > profile.weights["h"]


def test_opposites_share_nothing_a_wish_for_one_is_all_its_own() -> None:
    # only the difference of a and b is told: the mean halves it, the non-negative weights do not
    d_ND = np.tile([1.0, -1.0, 0.0], (20, 1))
    belief = believe(d_ND, unsure("abc"))
    assert belief.mean_D[1] < -0.5
    profile = profile_of(belief)
    assert profile is not None
    assert profile.weights["b"] == 0.0
    assert profile.weights["a"] > belief.mean_D[0] + 0.3


def test_choices_against_everything_give_no_profile() -> None:
    against = Belief(("a", "b"), np.array([-1.0, -2.0]), np.eye(2), np.zeros((4, 2)))
    assert profile_of(against) is None


def test_a_pair_is_of_two_and_shows_what_is_plausibly_best() -> None:
    belief = believe(choices_of(np.array([3.0, 0.0, 0.0, 0.0]), 60), unsure(FOUR, sd=2))
    z_ND = np.random.default_rng(1).normal(size=(200, 4))
    generator = np.random.default_rng(2)
    shown = [next_pair(belief, z_ND, generator, draws) for draws in (2, 32) for _ in range(20)]
    assert all(first != second for first, second in shown)
    assert z_ND[np.array(shown).ravel(), 0].min() > np.quantile(z_ND[:, 0], 0.8)


def test_a_pair_where_every_draw_agrees_is_the_best_two() -> None:
    z_ND = np.array([[0.0], [2.0], [1.0], [-1.0]])
    certain = Belief(("a",), np.array([1.0]), np.eye(1), np.ones((8, 1)))
    assert next_pair(certain, z_ND, np.random.default_rng(0)) == (1, 2)


def test_sureness_by_hand() -> None:
    # utilities of both candidates under three draws: (1, 0), (2, 0), (0, 3); the mean (1, 1) ties and takes the first
    draws_SD = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    belief = Belief(("a", "b"), draws_SD.mean(axis=0), np.eye(2), draws_SD)
    sure = how_sure(belief, np.eye(2), tolerance=1.5)
    assert sure.chosen == 0
    assert [sure.best, sure.good, sure.regret] == pytest.approx([2 / 3, 2 / 3, 1.0])
    other = how_sure(belief, np.eye(2), chosen=1, tolerance=1.5)
    assert [other.best, other.good, other.regret] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert settled(sure, delta=0.4)
    assert not settled(sure, delta=0.3)


def test_it_learns_faster_than_random_pairs() -> None:
    # 24 people: the standard error of the difference is about 0.1, the difference about 0.4
    regrets = {draws: np.mean([regret(seed, draws) for seed in range(24)]) for draws in (0, 32)}
    assert regrets[32] < 0.7 * regrets[0]


def regret(seed: int, draws: int) -> float:
    """In logits, after 12 choices; no draws stand for random pairs."""
    generator = np.random.default_rng(seed)
    z_ND, w_D = generator.normal(size=(100, 4)), generator.normal(size=4)
    u_N, rows, belief = z_ND @ w_D, [], unsure(FOUR, noise=0.0)
    before = belief
    for _ in range(12):
        pair = next_pair(belief, z_ND, generator, draws) if draws else generator.choice(100, 2, replace=False)
        first, second = pair
        sign = 1 if generator.random() < expit(u_N[first] - u_N[second]) else -1
        rows.append(sign * (z_ND[first] - z_ND[second]))
        belief = believe(np.array(rows), before)
    return float(u_N.max() - u_N[best_of(belief, z_ND)])


def test_draws_are_of_the_belief() -> None:
    belief = believe(choices_of(np.array([1.0, -1.0]), 30), unsure("ab"))
    w_SD = draw(belief, 4000, np.random.default_rng(0))
    assert w_SD.mean(axis=0) == pytest.approx(belief.mean_D, abs=0.06)
    assert np.cov(w_SD.T) == pytest.approx(belief.covariance_DD, abs=0.06)


def test_ratings_become_comparisons() -> None:
    # ratings 5, 3, 3 of z = 2, 1, 0: the first beats both others, which tie; three pairs of 2/3 are two choices
    d_PD, shares_P, counts_P = compared(np.array([[2.0], [1.0], [0.0]]), np.array([5, 3, 3]))
    assert d_PD.tolist() == [[1.0], [2.0], [1.0]]
    assert shares_P.tolist() == [1.0, 1.0, 0.5]
    assert counts_P.sum() == pytest.approx(2.0)
    assert believe(d_PD, unsure("a"), shares_N=shares_P, counts_N=counts_P).choices == 2


def test_ratings_point_where_they_should() -> None:
    z_ND = np.random.default_rng(0).normal(size=(20, 2))
    d_PD, shares_P, counts_P = compared(z_ND, np.round(z_ND[:, 0]))
    belief = believe(d_PD, unsure("ab"), shares_N=shares_P, counts_N=counts_P)
    assert belief.mean_D[0] > max(1.0, 2 * abs(belief.mean_D[1]))


def test_bad_input_is_named() -> None:
    two = unsure("ab")
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: believe(np.ones((2, 3)), two), "by 2 dimensions (a, b), found shape (2, 3)"),
        (lambda: believe(np.full((1, 2), np.inf), two), "not finite"),
        (lambda: believe(np.ones((2, 2)), two, shares_N=np.ones(3)), "expected 2 shares"),
        (lambda: believe(np.ones((2, 2)), two, shares_N=np.array([0, 2])), "shares from 0 to 1"),
        (lambda: believe(np.ones((1, 2)), two, counts_N=np.array([-1])), "counts of 0 or more"),
        (lambda: unsure("ab", noise=0.5), "found noise=0.5"),
        (lambda: unsure("ab", sd=0), "found sd=0"),
    ]
    for call, message in calls:
        with pytest.raises(CounterpointError, match=re.escape(message)):
            call()
