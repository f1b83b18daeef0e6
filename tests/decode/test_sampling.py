"""Sampling against transformers' own warpers, and drawn frequencies against the exact distribution."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from counterpoint.compose.plan import Plan, Row, Space
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling, keep_likely, noise, penalise, sample
from counterpoint.testing import ScriptedLM
from counterpoint.types import CounterpointError

NO_IDS: Any = torch.zeros(1, 1, dtype=torch.long)
SETTINGS: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 1e-6},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"min_p": 0.001},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 9, "top_p": 0.7},
    {"top_k": 9, "min_p": 0.1},
    {"top_p": 0.8, "min_p": 0.05},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.02},
]
TEMPERATURES = [0.3, 1.0, 1.7]


def random_logits(rows: int = 6, vocabulary: int = 40, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def reference(
    logits_BV: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Probabilities by transformers' warpers, in the order in which its `generate` applies them."""
    warpers: Any = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    p_BV: Tensor = warpers(NO_IDS, logits_BV).softmax(-1)
    return p_BV


def ours(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities by `keep_likely`, which `sample` calls after the temperature."""
    logp_BV = torch.log_softmax(logits_BV / sampling.temperature, -1)
    return keep_likely(logp_BV, [sampling] * len(logits_BV)).softmax(-1)


def drawn_from(logp_V: Tensor, sampling: Sampling, points: int = 4000) -> Tensor:
    """The distribution that `sample` draws from, read off at evenly spaced uniform numbers."""
    uniform = [(i + 0.5) / points for i in range(points)]
    tokens = sample(logp_V.expand(points, -1), [sampling] * points, uniform)
    return torch.bincount(torch.tensor(tokens), minlength=logp_V.shape[-1]) / points


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_each_filter_alone_and_combined_against_transformers(settings: dict[str, Any], temperature: float) -> None:
    logits_BV = random_logits()
    expected = reference(logits_BV, temperature, **settings)
    torch.testing.assert_close(ours(logits_BV, Sampling(temperature=temperature, **settings)), expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_what_is_drawn_against_transformers(settings: dict[str, Any], temperature: float) -> None:
    """4000 evenly spaced points of the CDF give each token its probability up to one point at either end."""
    logits_V = random_logits(rows=1, seed=1)
    expected = reference(logits_V, temperature, **settings)[0]
    found = drawn_from(logits_V.log_softmax(-1)[0], Sampling(temperature=temperature, **settings))
    torch.testing.assert_close(found, expected, atol=1.01 / 4000, rtol=0)
    assert found[expected == 0].sum() == 0


def test_settings_of_one_row_do_not_leak_into_another() -> None:
    logits_BV = random_logits(rows=len(SETTINGS))
    samplings = [Sampling(**settings) for settings in SETTINGS]
    together = keep_likely(logits_BV.log_softmax(-1), samplings)
    for row, sampling in enumerate(samplings):
        alone = keep_likely(logits_BV[[row]].log_softmax(-1), [sampling])
        assert torch.equal(together[[row]], alone)


def test_a_row_without_filters_beside_rows_with_them_keeps_its_bits() -> None:
    logp_BV = random_logits(rows=2).log_softmax(-1)
    assert torch.equal(keep_likely(logp_BV, [Sampling(), Sampling(top_k=3, top_p=0.5, min_p=0.1)])[0], logp_BV[0])


def test_of_tied_tokens_top_k_keeps_exactly_k_by_id() -> None:
    """transformers keeps every token that ties with the k-th; here k is k, and the smaller ids are kept."""
    logp_QV = torch.tensor([[0.1, 0.2, 0.2, 0.2, 0.3]]).log()
    assert keep_likely(logp_QV, [Sampling(top_k=3)]).isfinite().tolist() == [[False, True, True, False, True]]
    tied = TopKLogitsWarper(3)(NO_IDS, logp_QV)
    assert tied.isfinite().tolist() == [[False, True, True, True, True]]


def test_of_tied_tokens_top_p_keeps_as_much_as_transformers() -> None:
    """p = .4, .2, .2, .2 and top-p .5: .4 is too little, so one more of .2 is kept, by us the first."""
    logp_QV = torch.tensor([[0.2, 0.4, 0.2, 0.2]]).log()
    kept = keep_likely(logp_QV, [Sampling(top_p=0.5)]).exp()
    theirs = TopPLogitsWarper(0.5)(NO_IDS, logp_QV).exp()
    torch.testing.assert_close(kept, torch.tensor([[0.2, 0.4, 0.0, 0.0]]))
    torch.testing.assert_close(kept.sort().values, theirs.sort().values)


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9])
def test_top_p_on_many_ties_against_transformers(top_p: float) -> None:
    logits_BV = torch.randint(0, 4, (20, 30), generator=torch.Generator().manual_seed(3)).float()
    kept = ours(logits_BV, Sampling(top_p=top_p)).sort().values
    torch.testing.assert_close(kept, reference(logits_BV, top_p=top_p).sort().values)


@pytest.mark.parametrize("settings", [{"top_k": 300}, {"top_p": 0.9}, {"top_p": 0.999}, {"top_k": 700, "top_p": 0.99}])
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_filters_of_a_large_vocabulary_against_transformers(settings: dict[str, Any], spread: float) -> None:
    """From a flat distribution, of which nearly all is kept, to a steep one that a short head is enough for."""
    logits_BV = spread * random_logits(rows=3, vocabulary=5000, seed=4)
    torch.testing.assert_close(ours(logits_BV, Sampling(**settings)), reference(logits_BV, **settings))


def test_tied_tokens_at_the_border_of_min_p_all_stay() -> None:
    """.4 * .5 = .2: tokens of exactly .2 stay, as in transformers."""
    logp_QV = torch.tensor([[0.5, 0.25, 0.25, 0.125]]).log()
    assert keep_likely(logp_QV, [Sampling(min_p=0.5)]).isfinite().tolist() == [[True, True, True, False]]
    assert MinPLogitsWarper(0.5)(NO_IDS, logp_QV).isfinite().tolist() == [[True, True, True, False]]


def test_min_p_acts_on_what_top_k_left() -> None:
    """It is relative to the best token, which top-k never drops: of .6 .3 .1, k = 2 and min-p .6 leave .6."""
    logp_QV = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert keep_likely(logp_QV, [Sampling(top_k=2, min_p=0.6)]).isfinite().tolist() == [[True, False, False]]


def mask(seen: Sequence[Sequence[int]], logits_BV: Tensor) -> Tensor:
    """Which tokens each row has seen, `[B, V]`."""
    seen_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
    for row, tokens in enumerate(seen):
        seen_BV[row, list(tokens)] = True
    return seen_BV


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.5])
def test_repetition_penalty_against_transformers(penalty: float) -> None:
    logits_BV = random_logits(rows=2)
    seen = [[3, 5, 5, 7], [1, 1, 1, 39]]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(seen), logits_BV.clone())
    torch.testing.assert_close(penalise(logits_BV, mask(seen, logits_BV), [penalty, penalty]), expected)


def test_repetition_penalty_by_hand() -> None:
    """Seen 0 and 2, penalty 2: 3 / 2 = 1.5 and -1 * 2 = -2; what was not seen stays, and so does the input."""
    logits_BV = torch.tensor([[3.0, 3.0, -1.0], [3.0, 3.0, -1.0]])
    expected = torch.tensor([[1.5, 3.0, -2.0], [3.0, 3.0, -1.0]])
    assert torch.equal(penalise(logits_BV, mask([[0, 2], []], logits_BV), [2.0, 9.0]), expected)
    assert logits_BV[0, 0] == 3


def test_greedy_takes_the_likeliest_and_of_equals_the_first() -> None:
    logp_QV = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]]).log()
    assert sample(logp_QV, [Sampling(temperature=0)] * 2, [0.99, 0.99]) == [1, 0]


def test_temperature_zero_beside_others_in_one_batch() -> None:
    """The second row draws by u = .99 from (.2, .5, .3): beyond .2 + .5, so token 2."""
    logp_QV = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.4, 0.2, 0.4]]).log()
    samplings = [Sampling(temperature=0), Sampling(), Sampling(temperature=0, top_k=2, top_p=0.5, min_p=0.1)]
    for u in (0.0, 0.5, 0.99):
        tokens = sample(logp_QV, samplings, [u, 0.99, u])
        assert tokens == [1, 2, 0]


@pytest.mark.parametrize("temperature", [1e-4, 1e-38, 1e-45, 1e-300])
def test_regression_a_tiny_temperature_is_greedy(temperature: float) -> None:
    """Dividing before the largest is taken away overflowed: every logit became -inf, and the token lay outside."""
    logp_QV = torch.tensor([[0.2, 0.5, 0.3]]).log()
    for u in (0.0, 0.5, 1 - 2**-53):
        assert sample(logp_QV, [Sampling(temperature=temperature)], [u]) == [1]


BY_HAND = [(0.0, 1), (0.2499, 1), (0.2501, 2), (0.7499, 2), (0.7501, 4), (1 - 2**-53, 4)]


@pytest.mark.parametrize(("u", "token"), BY_HAND)
def test_inverse_cdf_by_hand(u: float, token: int) -> None:
    """p = 0, 1/4, 1/2, 0, 1/4, 0: the CDF is 0, .25, .75, .75, 1, 1, and impossible tokens are never drawn."""
    logp_QV = torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25, 0.0]]).log()
    assert sample(logp_QV, [Sampling()], [u]) == [token]


@pytest.mark.parametrize("vocabulary", [40, 256, 300, 1024])
def test_what_is_drawn_is_the_inverse_of_the_whole_cdf(vocabulary: int) -> None:
    """Whatever of it is summed first: vocabularies of less than a block, of blocks, and of blocks and a rest."""
    p_QV = random_logits(500, vocabulary, seed=4).double().softmax(-1)
    p_QV[:, :30] = 0
    p_QV[:, -5:] = 0
    uniform = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cdf_QV = p_QV.cumsum(-1)
    expected = torch.searchsorted(cdf_QV, uniform[:, None] * cdf_QV[:, -1:], right=True).squeeze(-1)
    margin = (cdf_QV - uniform[:, None] * cdf_QV[:, -1:]).abs().amin(-1)
    drawn = torch.tensor(sample(p_QV.log().float(), [Sampling()] * 500, uniform.tolist()))
    assert (drawn == expected)[margin > 1e-6].all()
    assert (margin > 1e-6).sum() > 490


@pytest.mark.parametrize("vocabulary", [256, 300])
def test_rounding_never_leads_to_a_token_that_is_ruled_out(vocabulary: int) -> None:
    """The largest uniform number there is, and tokens at the end of a block and of the vocabulary that cannot be."""
    logp_QV = random_logits(50, vocabulary, seed=5)
    logp_QV[:, vocabulary - 40 :] = -math.inf
    logp_QV[:, 200:230] = -math.inf
    drawn = sample(logp_QV, [Sampling()] * 50, [1 - 2**-53] * 50)
    assert (logp_QV[torch.arange(50), drawn] > -math.inf).all()


def test_noise_is_a_function_of_seed_and_position_alone() -> None:
    long = noise(7, 500)
    state = torch.get_rng_state()
    torch.rand(3)
    for positions in (1, 2, 15, 16, 17, 100, 499):
        assert noise(7, positions) == long[:positions]
    torch.set_rng_state(state)
    assert noise(7, 500) == long
    assert not set(noise(8, 500)) & set(long)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_of_neighbouring_seeds_is_uniform() -> None:
    """Prompt i of a batch has seed + i: the first numbers of 4000 neighbours are uniform over 20 bins."""
    first = torch.tensor([noise(seed, 1)[0] for seed in range(4000)])
    assert chisquare(torch.histc(first, bins=20, min=0, max=1).numpy()).pvalue > 0.001


DRAWS = 4000


def p_of(tokens: Sequence[int], p_V: Tensor) -> float:
    """p-value of a chi-square test; the smallest expected count here is 36. Impossible tokens: none."""
    counts_V = torch.bincount(torch.tensor(tokens), minlength=len(p_V)).double()
    assert counts_V[p_V == 0].sum() == 0
    possible = p_V > 0
    expected = p_V[possible].double() / p_V.double().sum() * len(tokens)
    return float(chisquare(counts_V[possible].numpy(), expected.numpy()).pvalue)


TABLES = {
    "one": [0.50, 0.20, 0.15, 0.10, 0.05],
    "other": [0.05, 0.15, 0.10, 0.40, 0.30],
}
ONE, OTHER = torch.tensor(TABLES["one"]), torch.tensor(TABLES["other"])


def draw(plan: Plan, **settings: Any) -> list[int]:
    """The first token of 4000 requests, which differ in their seed only."""
    model = ScriptedLM(5, lambda gate, _: [math.log(p) + 3 for p in TABLES[gate]])
    engine = Engine(model, lambda _: "", end_tokens=(), longest=8, max_rows=1000)
    contexts = ((1,),) * len(plan.rows)
    requests = [Request(plan, contexts, Sampling(max_tokens=1, seed=seed, **settings)) for seed in range(DRAWS)]
    return [completion.tokens[0] for completion in engine.run(requests)]


def mixed(space: Space, coefficients: tuple[float, float]) -> Plan:
    return Plan((Row({"one": 1.0}), Row({"other": 1.0})), coefficients, space)


SINGLE = Plan((Row({"one": 1.0}),))
FREQUENCIES: dict[str, tuple[Plan, dict[str, Any], Tensor]] = {
    "plain": (SINGLE, {}, ONE),
    # sqrt: temperature 2 halves log-probabilities
    "temperature": (SINGLE, {"temperature": 2.0}, ONE.sqrt()),
    # .5 + .2 < .8 <= .5 + .2 + .15
    "top-p": (SINGLE, {"top_p": 0.8}, torch.tensor([0.50, 0.20, 0.15, 0.0, 0.0])),
    "prob": (mixed("prob", (0.3, 0.7)), {}, 0.3 * ONE + 0.7 * OTHER),
    "log": (mixed("log", (0.3, 0.7)), {}, ONE**0.3 * OTHER**0.7),
    "log beyond": (mixed("log", (-0.5, 1.5)), {}, OTHER**1.5 / ONE**0.5),
}


@pytest.mark.parametrize("case", FREQUENCIES)
def test_frequencies_against_the_exact_distribution(case: str) -> None:
    plan, settings, p_V = FREQUENCIES[case]
    assert p_of(draw(plan, **settings), p_V) > 0.001


def test_the_frequency_test_can_fail() -> None:
    tokens = draw(mixed("prob", (0.3, 0.7)))
    assert p_of(tokens, 0.35 * ONE + 0.65 * OTHER) < 0.001
    assert p_of(tokens, ONE**0.3 * OTHER**0.7) < 0.001


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
        ("top_k", -1), ("top_k", 2.5), ("top_k", True),
        ("top_p", 0.0), ("top_p", 1.01), ("top_p", math.nan),
        ("min_p", -0.01), ("min_p", 1.5), ("min_p", math.nan),
        ("repetition_penalty", 0.0), ("repetition_penalty", -1.0), ("repetition_penalty", math.inf),
        ("max_tokens", 0), ("max_tokens", 3.5),
        ("stop", ("end", "")), ("stop", (3,)),
        ("seed", 2**64), ("seed", -(2**63) - 1), ("seed", 1.5),
        ("presence_penalty", 2.1), ("presence_penalty", math.nan), ("frequency_penalty", -2.1),
        ("logit_bias", ((-1, 0.0),)), ("logit_bias", ((1, 101.0),)), ("logit_bias", ((1.5, 1.0),)),
        ("logit_bias", ((1, math.nan),)),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(CounterpointError, match=rf"^{field} is .*; it must be "):
        Sampling(**{field: value})


def test_regression_a_stop_string_given_bare_is_no_list_of_its_letters() -> None:
    with pytest.raises(CounterpointError, match="stop is 'end'; it must be a tuple"):
        Sampling(stop="end")  # type: ignore[arg-type]


def test_settings_at_their_limits_are_taken() -> None:
    Sampling(temperature=0, top_k=0, top_p=1, min_p=1, max_tokens=1, stop=(), seed=2**64 - 1)
    assert len(noise(2**64 - 1, 1)) == len(noise(-(2**63), 1)) == 1
