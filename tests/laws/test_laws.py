"""The laws that every cell of (granularity x space) keeps, over random experts of unlike ranks and scales.

Each holds for every family of models (fixture `band`), and those on distributions also in half precision.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from counterpoint.compose import mixture, moe, route, soup
from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.load import FAMILIES
from counterpoint.types import Weighting

TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.15}
"""On log-probabilities, by the type of the model's numbers: 24, 11 and 8 bits of mantissa."""

in_any_type = pytest.mark.parametrize("band", [*FAMILIES, "llama-float16", "llama-bfloat16"], indirect=True)
"""For laws on distributions. Those on drawn tokens hold in float32 alone: elsewhere rounding moves a draw."""

EXPERTS = ("terse", "warm", "exact")
CONTEXTS = ("Tell me of the owl and the bee.", "Hi", "What is the colour of the sky, and who would you ask?")
WEIGHTS = [(0.2, 0.5, 0.3), (0.6, 0.4, 0.0), (1 / 3, 1 / 3, 1 / 3)]


def soup_plan(band: Band, weighting: Weighting) -> Plan:
    name = f"soup {weighting}"
    if name not in band.bank.experts:
        band.bank.add(name, soup.merge(band.bank.experts, weighting))
    return Plan((Row({name: 1.0}),))


CELLS: dict[str, Callable[[Band, Weighting], Plan]] = {
    "soup": soup_plan,
    "moe": lambda _, w: moe.plan(w),
    "mixture-prob": lambda _, w: mixture.plan_prob(w),
    "mixture-log": lambda _, w: mixture.plan_log(w),
    "route": lambda _, w: route.plan(w),
}
cells = pytest.mark.parametrize("cell", CELLS)
blends = pytest.mark.parametrize("cell", [name for name in CELLS if name != "route"])


def logp(band: Band, plan: Plan) -> Tensor:
    """Next-token log-probabilities `[contexts, V]` of a plan."""
    requests = [Request(plan, (tuple(band.tokenizer(text)["input_ids"]),) * len(plan.rows)) for text in CONTEXTS]
    return band.engine.next_distributions(requests)


def expert_alone(band: Band, name: str) -> Tensor:
    return logp(band, Plan((Row({name: 1.0}),)))


def assert_equal(band: Band, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE[band.model.dtype], rtol=0)


def test_experts_differ_so_that_the_laws_can_fail(band: Band) -> None:
    everyone = [logp(band, Plan((Row(),))), *(expert_alone(band, name) for name in EXPERTS)]
    for i, one in enumerate(everyone):
        for other in everyone[:i]:
            assert (one - other).abs().max() > 0.1


@in_any_type
@cells
@pytest.mark.parametrize("vertex", range(3))
def test_vertex(band: Band, cell: str, vertex: int) -> None:
    one_hot = tuple(float(k == vertex) for k in range(3))
    assert_equal(band, logp(band, CELLS[cell](band, Weighting(EXPERTS, one_hot))), expert_alone(band, EXPERTS[vertex]))


@in_any_type
@cells
@pytest.mark.parametrize("w", WEIGHTS)
def test_consensus(band: Band, cell: str, w: tuple[float, ...]) -> None:
    twins = ("twin1", "twin2", "twin3")
    for twin in twins:
        band.bank.add(twin, band.bank.experts["warm"])
    assert_equal(band, logp(band, CELLS[cell](band, Weighting(twins, w))), expert_alone(band, "warm"))


@in_any_type
@cells
@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_permutation(band: Band, cell: str, order: Sequence[int]) -> None:
    w = (0.2, 0.5, 0.3)
    shuffled = Weighting(tuple(EXPERTS[k] for k in order), tuple(w[k] for k in order))
    assert_equal(band, logp(band, CELLS[cell](band, shuffled)), logp(band, CELLS[cell](band, Weighting(EXPERTS, w))))


@in_any_type
@cells
@pytest.mark.parametrize("w", WEIGHTS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_simplex(band: Band, cell: str, w: tuple[float, ...], strength: float) -> None:
    total = logp(band, CELLS[cell](band, Weighting(EXPERTS, w, strength))).double().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@in_any_type
@cells
def test_strength_zero_is_the_base(band: Band, cell: str) -> None:
    plan = CELLS[cell](band, Weighting(EXPERTS, WEIGHTS[0], 0.0))
    assert_equal(band, logp(band, plan), logp(band, Plan((Row(),))))


@in_any_type
@pytest.mark.parametrize("w", WEIGHTS)
@pytest.mark.parametrize("strength", [0.3, 1.0, 1.7])
def test_linearity(band: Band, w: tuple[float, ...], strength: float) -> None:
    weighting = Weighting(EXPERTS, w, strength)
    merged = logp(band, soup_plan(band, weighting))
    assert_equal(band, merged, logp(band, moe.plan(weighting)))
    assert_equal(band, merged, logp(band, soup.plan(weighting)))


@in_any_type
@pytest.mark.parametrize("cell", ["mixture-prob", "mixture-log"])
@pytest.mark.parametrize("w", [(0.2, 0.5, 0.3), (0.9, 0.05, 0.05)])
def test_selection(band: Band, cell: str, w: tuple[float, ...]) -> None:
    weighting = Weighting(EXPERTS, w)
    chosen = route.favourite(weighting)
    one_hot = Weighting(EXPERTS, tuple(float(name == chosen) for name in EXPERTS))
    assert_equal(band, logp(band, CELLS[cell](band, one_hot)), logp(band, route.plan(weighting)))


@pytest.mark.parametrize("mix", [mixture.mix_prob, mixture.mix_log])
def test_selection_per_token(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    logp_TKV = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    chosen_T = torch.tensor([2, 0, 1, 1, 2])
    w_TK = torch.nn.functional.one_hot(chosen_T, 3).float()
    torch.testing.assert_close(mix(logp_TKV, w_TK), logp_TKV[torch.arange(5), chosen_T])


@pytest.mark.parametrize("mix", [mixture.mix_prob, mixture.mix_log])
def test_broadcast_of_a_mixture_over_prompts_and_tokens(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    logp_BTKV = torch.randn(4, 5, 3, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    w_K = torch.tensor([0.2, 0.5, 0.3])
    repeated = mix(logp_BTKV, w_K.expand(4, 5, 3))
    for b in range(4):
        for t in range(5):
            torch.testing.assert_close(repeated[b, t], mix(logp_BTKV[b, t], w_K))


@in_any_type
def test_broadcast_of_a_gate_over_tokens(band: Band) -> None:
    ids = torch.tensor([band.tokenizer(CONTEXTS[0])["input_ids"]])
    per_row = band.bank.gate([moe.plan(Weighting(EXPERTS, WEIGHTS[0])).rows[0].gate])
    assert isinstance(per_row, torch.Tensor)
    per_token = per_row.expand(1, ids.shape[1], 3)
    with torch.no_grad():
        with band.bank.gated(per_row):
            expected = band.model(ids).logits
        with band.bank.gated(per_token):
            assert_equal(band, band.model(ids).logits, expected)


@blends
def test_dose(band: Band, cell: str) -> None:
    """What expert `warm` prefers to the base is said more, the stronger its part: E_p[log p_warm - log p_base] rises.

    For the mixtures this is a theorem; soups and gates keep it here up to strength 1.
    """
    favour = expert_alone(band, "warm") - logp(band, Plan((Row(),)))
    doses = [
        (logp(band, CELLS[cell](band, Weighting(("warm",), (1.0,), strength))).exp() * favour).sum(-1)
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for less, more in pairwise(doses):
        assert (more - less > 0).all()


@pytest.mark.parametrize("cell", ["mixture-prob", "mixture-log"])
def test_dose_of_one_among_others(band: Band, cell: str) -> None:
    favour = expert_alone(band, "warm") - expert_alone(band, "exact")
    doses = [
        (logp(band, CELLS[cell](band, Weighting(("warm", "exact"), (w, 1 - w)))).exp() * favour).sum(-1)
        for w in (0.0, 0.3, 0.6, 1.0)
    ]
    for less, more in pairwise(doses):
        assert (more - less > 0).all()


def mixed_requests(band: Band) -> list[Request]:
    """Requests of every cell, profile, length and sampling that one batch may hold."""
    samplings = [
        Sampling(temperature=0, max_tokens=9),
        Sampling(seed=3, max_tokens=14),
        Sampling(seed=4, temperature=0.7, top_k=20, max_tokens=6),
        Sampling(seed=5, top_p=0.8, min_p=0.01, max_tokens=11),
        Sampling(seed=6, repetition_penalty=1.3, max_tokens=12),
        Sampling(seed=7, max_tokens=20, stop=("e",)),
    ]
    requests = []
    for index, (cell, make) in enumerate(CELLS.items()):
        for shift in range(3):
            plan = make(band, Weighting(EXPERTS, WEIGHTS[shift], 0.9))
            ids = tuple(band.tokenizer(CONTEXTS[(index + shift) % 3])["input_ids"])
            contexts = tuple(
                ids + tuple(band.tokenizer(" " + "so " * row)["input_ids"][1:]) for row in range(len(plan.rows))
            )
            requests.append(Request(plan, contexts, samplings[(index * 3 + shift) % len(samplings)]))
        assert cell
    return requests


def test_batch(band: Band, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = mixed_requests(band)
    together = band.engine.run(requests)
    alone = [band.engine.run([request])[0] for request in requests]
    assert together == alone
    monkeypatch.setattr(band.engine, "max_rows", 7)
    assert band.engine.run(list(reversed(requests))) == list(reversed(alone)), "joining late and leaving early"


@in_any_type
def test_batch_distributions(band: Band) -> None:
    requests = mixed_requests(band)
    together = band.engine.next_distributions(requests)
    for request, row in zip(requests, together, strict=True):
        assert_equal(band, band.engine.next_distributions([request])[0], row)


def test_padding_and_cache_against_a_full_recompute(band: Band) -> None:
    """Greedy tokens of cached batched decoding have the log-probabilities of uncached, unpadded forwards."""
    requests = [replace(r, sampling=Sampling(temperature=0, max_tokens=8)) for r in mixed_requests(band)]
    for request, completion in zip(requests, band.engine.run(requests), strict=True):
        for t, token in enumerate(completion.tokens):
            said = completion.tokens[:t]
            grown = replace(request, contexts=tuple((*context, *said) for context in request.contexts))
            logp_V = full_recompute(band, grown)
            assert logp_V[token] >= logp_V.max() - TOLERANCE[torch.float32]


def full_recompute(band: Band, request: Request) -> Tensor:
    """The reference: one plain forward per row on weights with the deltas added, then the mixture's formula.

    It is the model's own forward, with the attention and the masks that transformers gives it, and no cache.
    """
    rows = []
    for row, context in zip(request.plan.rows, request.contexts, strict=True):
        with added(band, row), torch.no_grad():
            rows.append(band.model(torch.tensor([context])).logits[0, -1].float().log_softmax(-1))
    c_K, logp_KV = torch.tensor(request.plan.coefficients), torch.stack(rows)
    if request.plan.space == "prob":
        return (c_K[:, None] * logp_KV.exp()).sum(0).log()
    return (c_K[:, None] * logp_KV).sum(0).log_softmax(-1)


class added:
    """Adds a row's deltas to the weights of the plain model, and takes them away again."""

    def __init__(self, band: Band, row: Row) -> None:
        band.bank.unwrap()
        self.model = band.model
        self.saved: dict[str, Tensor] = {}
        self.terms = [
            (module, c * adapter.delta(module))
            for name, c in row.gate.items()
            for adapter in [band.bank.experts[name]]
            for module in adapter.factors
        ]

    def __enter__(self) -> None:
        with torch.no_grad():
            for module, delta_OI in self.terms:
                layer = self.model.get_submodule(module)
                self.saved.setdefault(module, layer.weight.clone())
                layer.weight += delta_OI.T if isinstance(layer, Conv1D) else delta_OI

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for module, weight in self.saved.items():
                self.model.get_submodule(module).weight.copy_(weight)


@in_any_type
@cells
def test_next_distribution_against_a_full_recompute(band: Band, cell: str) -> None:
    plan = CELLS[cell](band, Weighting(EXPERTS, WEIGHTS[0], 0.9))
    actual = logp(band, plan)
    for text, logp_V in zip(CONTEXTS, actual, strict=True):
        request = Request(plan, (tuple(band.tokenizer(text)["input_ids"]),) * len(plan.rows))
        assert_equal(band, logp_V, full_recompute(band, request))


@in_any_type
def test_log_mixture_beyond_its_experts(band: Band) -> None:
    """At strength 2 the log mixture is p_0 (p_1/p_0)^2, which a convex mixture cannot reach."""
    actual = logp(band, mixture.plan_log(Weighting(("warm",), (1.0,), 2.0)))
    base, warm = logp(band, Plan((Row(),))), expert_alone(band, "warm")
    assert_equal(band, actual, (base + 2 * (warm - base)).log_softmax(-1))


@in_any_type
def test_chunked_prefill_equals_one_prefill(band: Band, monkeypatch: pytest.MonkeyPatch) -> None:
    request = mixed_requests(band)[6]
    whole = band.engine.next_distributions([request])
    monkeypatch.setattr(band.engine.model, "chunk", 5)
    assert_equal(band, band.engine.next_distributions([request]), whole)


def test_noise_depends_on_seed_and_position_only(band: Band) -> None:
    short = replace(mixed_requests(band)[1], sampling=Sampling(seed=9, max_tokens=5))
    long = replace(short, sampling=Sampling(seed=9, max_tokens=12))
    one, other = band.engine.run([short, long])
    assert one.tokens == other.tokens[: len(one.tokens)]
    assert len(other.tokens) > len(one.tokens) or other.finish == "stop"


def test_soup_merge_of_unlike_modules_is_the_sum_of_deltas(band: Band) -> None:
    """`exact` adapts one layer of attention and one of the MLP: elsewhere the soup holds the other two alone.

    Ranks are 4 and 2, and of `exact` 5 in attention and 3 in the MLP: 4 + 2, 4 + 2 + 5 and 4 + 2 + 3.
    """
    weighting = Weighting(EXPERTS, (0.2, 0.5, 0.3), 1.5)
    merged: LoraFactors = soup.merge(band.bank.experts, weighting)
    assert {a.shape[0] for a, _ in merged.factors.values()} == {6, 11, 9}
    for module in merged.factors:
        expected = sum(
            c * band.bank.experts[name].delta(module)
            for name, c in weighting.coefficients.items()
            if module in band.bank.experts[name].factors
        )
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(merged.delta(module), expected, atol=1e-6, rtol=1e-5)


def test_mixtures_by_hand() -> None:
    """p = (1/2, 1/2) and q = (1/5, 4/5), w = (1/2, 1/2).

    Probability: ((.5+.2)/2, (.5+.8)/2) = (.35, .65). Log: sqrt(.5*.2) : sqrt(.5*.8) = .31623 : .63246 = 1/3 : 2/3.
    """
    logp_KV = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()
    half = torch.tensor([0.5, 0.5])
    torch.testing.assert_close(mixture.mix_prob(logp_KV, half).exp(), torch.tensor([0.35, 0.65]))
    torch.testing.assert_close(mixture.mix_log(logp_KV, half).exp(), torch.tensor([1 / 3, 2 / 3]))


def test_a_zero_coefficient_silences_an_expert_that_rules_tokens_out() -> None:
    logp_KV = torch.tensor([[math.log(0.5), math.log(0.5)], [-math.inf, 0.0]])
    mixed = mixture.mix_log(logp_KV, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(mixed.exp(), torch.tensor([0.5, 0.5]))
