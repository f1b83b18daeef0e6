"""Mixtures of distributions known in part: laws on random ones, and constants worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from counterpoint.compose.mixture import (
    credit,
    mix_log,
    mix_partial_log,
    mix_prob,
    spread_tail,
    without_silent,
)
from counterpoint.types import CounterpointError

NONE = -math.inf


def random_logp(seed: int, experts: int = 3, vocabulary: int = 40) -> Tensor:
    """Distributions as unlike as those of language models."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(experts, vocabulary, generator=generator)).log_softmax(-1)


def top(logp_KV: Tensor, n: int) -> Tensor:
    """What an endpoint that reports its `n` likeliest tokens tells, `[K, V + 1]`: the last column is the rest."""
    kept_KV = logp_KV.topk(n).indices
    reported_KV = torch.full_like(logp_KV, NONE).scatter(-1, kept_KV, logp_KV.gather(-1, kept_KV))
    rest_K1 = (1 - reported_KV.exp().sum(-1, keepdim=True)).clamp(min=1e-12).log()
    return torch.cat([reported_KV, rest_K1], dim=-1)


def total_variation(p_V: Tensor, q_V: Tensor) -> float:
    return float((p_V - q_V).abs().sum()) / 2


def drawn_from(logp_W: Tensor) -> Tensor:
    """What is sampled: the reported tokens, renormalised."""
    return logp_W[:-1].softmax(-1)


# What was not reported


def test_a_tail_is_spread_evenly_by_hand() -> None:
    """0.2 is left for two of four tokens: 0.1 each. A row that reports all has nothing to spread.

    Of the last, 0.4 is left for two, but the least likely that was reported has 0.1, and none that was not has more.
    """
    rows = [[0.5, 0.0, 0.3, 0.0, 0.2], [0.1, 0.2, 0.3, 0.4, 0.0], [0.5, 0.0, 0.1, 0.0, 0.4]]
    expected = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.1, 0.1]])
    torch.testing.assert_close(spread_tail(torch.tensor(rows).log()).exp(), expected)


@pytest.mark.parametrize("n", [1, 5, 39])
def test_a_spread_distribution_keeps_what_was_reported_and_adds_no_mass(n: int) -> None:
    logp_KV = random_logp(n)
    spread_KV = spread_tail(top(logp_KV, n))
    assert (spread_KV.exp().sum(-1) < 1 + 1e-5).all()
    assert (spread_KV.isfinite()).all()
    kept_KV = logp_KV.topk(n).indices
    torch.testing.assert_close(spread_KV.gather(-1, kept_KV), logp_KV.gather(-1, kept_KV))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n", [1, 5, 20])
def test_in_probability_space_what_is_drawn_is_no_further_than_the_lost_mass(seed: int, n: int) -> None:
    logp_KV, w_K = random_logp(seed), torch.tensor([0.2, 0.5, 0.3])
    ours_W = mix_prob(top(logp_KV, n), w_K)
    lost = float(ours_W[-1].exp())
    assert 0 < lost < 1
    assert total_variation(mix_prob(logp_KV, w_K).exp(), drawn_from(ours_W)) <= lost + 1e-6


def test_the_lost_mass_by_hand_in_probability_space() -> None:
    """.5 * .4 + .5 * .2 = .3, and of the first token .5 * .6 + 0 = .3."""
    rows = torch.tensor([[0.6, 0.0, 0.0, 0.4], [0.0, 0.8, 0.0, 0.2]]).log()
    torch.testing.assert_close(mix_prob(rows, torch.tensor([0.5, 0.5])).exp(), torch.tensor([0.3, 0.4, 0.0, 0.3]))


def test_the_lost_mass_by_hand_in_log_space() -> None:
    """Tails of .4 and .2 over two tokens each: sqrt(.6 .1), sqrt(.2 .8), sqrt(.2 .1) = .24495, .4, .14142 of .78637."""
    rows = torch.tensor([[0.6, 0.0, 0.0, 0.4], [0.0, 0.8, 0.0, 0.2]]).log()
    mixed_W = mix_partial_log(rows, torch.tensor([0.5, 0.5])).exp()
    torch.testing.assert_close(mixed_W, torch.tensor([0.31149, 0.50867, 0.0, 0.17984]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("c", [(0.2, 0.5, 0.3), (1.0, 1.5, -0.8), (0.0, 2.0, 0.0)])
def test_with_all_reported_a_partial_mixture_is_the_whole_one(c: tuple[float, ...]) -> None:
    logp_KV, c_K = random_logp(3), torch.tensor(c)
    mixed_W = mix_partial_log(torch.cat([logp_KV, torch.full((3, 1), NONE)], dim=-1), c_K)
    torch.testing.assert_close(mixed_W[:-1], mix_log(logp_KV, c_K))
    assert mixed_W[-1] == NONE


@pytest.mark.parametrize("seed", range(5))
def test_a_partial_mixture_sums_to_one_and_says_only_what_someone_reported(seed: int) -> None:
    reported_KW = top(random_logp(seed), 5)
    mixed_W = mix_partial_log(reported_KW, torch.tensor([1.0, 0.9, -0.4]))
    torch.testing.assert_close(mixed_W.exp().sum(), torch.tensor(1.0))
    assert torch.equal(mixed_W[:-1] == NONE, (reported_KW[:, :-1] == NONE).all(0))


@pytest.mark.parametrize("seed", range(5))
def test_the_more_is_reported_the_closer_a_log_mixture_comes(seed: int) -> None:
    """Nothing bounds the distance by the lost mass here: a tail that is unlike an even one is mixed as an even one."""
    logp_KV, c_K = random_logp(seed), torch.tensor([0.3, 0.4, 0.3])
    whole_V = mix_log(logp_KV, c_K).exp()
    far, near, at = (total_variation(whole_V, drawn_from(mix_partial_log(top(logp_KV, n), c_K))) for n in (2, 10, 40))
    assert far > 1.2 * near > 1e-3 > at


# Who has fallen silent


def test_the_others_keep_the_positive_sum_by_hand() -> None:
    """Of 1, 2, 1 without the first: 2, 1 times 4 / 3. Of 1, 1, -1 without the second: 2, -1, the strength as it was."""
    c = torch.tensor([[1.0, 2.0, 1.0], [1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [0.2, 0.3, 0.5]])
    silent = torch.tensor([[True, False, False], [False, True, False], [False, False, True], [False, False, False]])
    expected = torch.tensor([[0.0, 8 / 3, 4 / 3], [2.0, 0.0, -1.0], [1.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    torch.testing.assert_close(without_silent(c, silent), expected)


def test_regression_a_request_that_lost_nothing_is_left_alone() -> None:
    """Its coefficients may sum to 0, and its companion's loss is not its own."""
    c = torch.tensor([[1.0, -1.0], [0.5, 0.5]])
    left = without_silent(c, torch.tensor([[False, False], [False, True]]))
    torch.testing.assert_close(left, torch.tensor([[1.0, -1.0], [1.0, 0.0]]))


@pytest.mark.parametrize("space", ["prob", "log"])
def test_without_a_silent_expert_the_mixture_is_that_of_the_others(space: str) -> None:
    logp_KV, w_K = random_logp(1), torch.tensor([0.2, 0.5, 0.3])
    logp_KV[1] = NONE
    left_K = without_silent(w_K, torch.tensor([False, True, False]))
    mix = mix_prob if space == "prob" else mix_log
    torch.testing.assert_close(mix(logp_KV, left_K), mix(logp_KV[[0, 2]], torch.tensor([0.4, 0.6])))
    partial_KW = torch.cat([logp_KV, torch.full((3, 1), NONE)], dim=-1)
    torch.testing.assert_close(mix_partial_log(partial_KW, left_K)[:-1], mix_log(logp_KV, left_K))


def test_all_silent_is_an_error() -> None:
    with pytest.raises(CounterpointError, match="see to their endpoints"):
        without_silent(torch.tensor([[0.4, 0.6], [0.0, 1.0]]), torch.tensor([[False, False], [False, True]]))


# Whose token it was


@pytest.mark.parametrize("seed", range(5))
def test_responsibilities_sum_to_one_and_are_the_derivative_of_the_weights(seed: int) -> None:
    """d log sum_k c_k p_k / d log c_k = c_k p_k / sum_j c_j p_j."""
    logp_KV, token = random_logp(seed), torch.tensor(seed)
    log_c_K = torch.tensor([0.2, 0.5, 0.3]).log().requires_grad_()
    (expected_K,) = torch.autograd.grad(mix_prob(logp_KV, log_c_K.exp())[token], log_c_K)
    c_K = log_c_K.detach().exp()
    found_K = credit(logp_KV, c_K, mix_prob(logp_KV, c_K), token, "prob")
    torch.testing.assert_close(found_K, expected_K)
    torch.testing.assert_close(found_K.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("c", [(0.2, 0.5, 0.3), (1.0, 1.5, -0.8)])
@pytest.mark.parametrize("partly", [False, True])
def test_pulls_are_the_derivative_by_the_logarithm_of_a_coefficient(c: tuple[float, ...], partly: bool) -> None:
    """d log p(token) / d log c_k = c_k * d log p(token) / d c_k, also of what was not reported, as it was mixed."""
    whole_KV = random_logp(9)
    logp_KV = spread_tail(top(whole_KV, 5)) if partly else whole_KV
    token = whole_KV[0].argmax()
    c_K = torch.tensor(c).requires_grad_()
    (slope_K,) = torch.autograd.grad(mix_log(logp_KV, c_K)[token], c_K)
    found_K = credit(logp_KV, c_K.detach(), mix_log(logp_KV, c_K.detach()), token, "log")
    torch.testing.assert_close(found_K, c_K.detach() * slope_K, atol=1e-5, rtol=1e-4)


def test_a_pull_by_hand() -> None:
    """p = (1/2, 1/2) of q = (2/3, 1/3) and its mirror: log q(0) - mean log q = log(2/3) - log(2/9) / 2 = log(2) / 2."""
    logp_KV = torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]).log()
    c_K = torch.tensor([0.5, 0.5])
    found_K = credit(logp_KV, c_K, mix_log(logp_KV, c_K), torch.tensor(0), "log")
    torch.testing.assert_close(found_K, torch.tensor([math.log(2) / 4, -math.log(2) / 4]))


def test_who_has_no_weight_has_no_credit_even_where_it_rules_a_token_out() -> None:
    logp_KV = torch.tensor([[1.0, 0.0], [0.25, 0.75]]).log()
    c_K = torch.tensor([0.0, 1.0])
    assert credit(logp_KV, c_K, logp_KV[1], torch.tensor(1), "prob").tolist() == [0.0, 1.0]
    pull_K = credit(logp_KV, c_K, logp_KV[1], torch.tensor(1), "log")
    # log .75 - (.25 log .25 + .75 log .75) = .25 log 3
    torch.testing.assert_close(pull_K, torch.tensor([0.0, math.log(3) / 4]))
