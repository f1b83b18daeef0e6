"""The laws of gates: a router's rows are random, and every token of every layer has shares of its own.

The identity tests are numbered I1 to I8 (the permutation of candidates is of routers of prompts; I5 is its like here).
Each gate is held to a reference that knows no bank: the model's own modules, with each expert's delta added to what
they give, one expert after another.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from counterpoint.compose import soup
from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.weighers.arrow import arrow_scores
from counterpoint.compose.weighers.gate import GUIDE, Gate, GateExpert, Opened
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank_layers import Seen
from counterpoint.models.gates import GATE, RULES, Guide, RowGates, Rule, shares
from counterpoint.types import Completion, Profile, Trace, Weighting

TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.15}
"""On log-probabilities, by the type of the model's numbers."""

GATES: dict[str, dict[str, Any]] = {
    "pmol": {"kind": "pmol", "empty": True},
    "pmol without an empty expert": {"kind": "pmol"},
    "loramoe": {"kind": "loramoe"},
    "x-lora": {"kind": "x-lora", "depth": 2, "width": 16, "layerwise": True},
    "x-lora of one map": {"kind": "x-lora"},
    "arrow": {"kind": "arrow", "top_k": 2, "temperature": 0.2},
    "phatgoose": {"kind": "phatgoose", "top_k": 2},
}
ONE_OF_A_KIND = ("pmol", "loramoe", "x-lora", "arrow", "phatgoose")
WITH_EMPTY = ("pmol",)
gates = pytest.mark.parametrize("name", GATES)
whole_gates = pytest.mark.parametrize("name", [name for name in GATES if name not in WITH_EMPTY])
"""Those whose shares sum to 1."""

two_families = pytest.mark.parametrize("band", ["llama", "gpt2"], indirect=True)
more_families = pytest.mark.parametrize("band", ["llama", "qwen3", "gemma2", "gpt2"], indirect=True)
"""What differs more between families than the sum of a layer: their attention and its cache."""
in_llama = pytest.mark.parametrize("band", ["llama"], indirect=True)

EXPERTS = ("terse", "warm", "third")
GROUPS = ("terse", "warm", "exact")
CONTEXTS = ("Tell me of the owl.", "Hi", "What is the colour of the sky?")
SKEWED = Profile({"terse": 0.2, "warm": 0.5, "exact": 0.3})
PROFILES = (None, SKEWED, Profile({"terse": 0.6, "exact": 0.4}, 0.8), Profile({"warm": 1.0}))


def random_expert(like: LoraFactors, rank: int, seed: int) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(
        {
            module: (
                0.15 * torch.randn(rank, a.shape[1], generator=generator),
                0.15 * torch.randn(len(b), rank, generator=generator),
            )
            for module, (a, b) in like.factors.items()
        }
    )


def a_gate(
    band: Band, name: str, experts: Sequence[str] = EXPERTS, groups: Sequence[str] = GROUPS, **more: Any
) -> Gate:
    """A gate of a row of `GATES` over experts of the bank."""
    if "third" not in band.bank.experts:
        band.bank.add("third", random_expert(band.bank.experts["terse"], rank=3, seed=14))
    entries = [GateExpert(name=e, dimension=g, hash="of the band") for e, g in zip(experts, groups, strict=True)]
    options = GATES[name] | more
    if options.get("top_k"):
        options["top_k"] = min(options["top_k"], len(experts))
    return Gate(experts=entries, modules=sorted(band.bank.experts["terse"].factors), **options)


def learned(band: Band, gate: Gate, seed: int = 5) -> dict[str, Tensor]:
    """What a gate has learned: random rows or a random guide, and for an Arrow what it makes of its experts."""
    factors = [band.bank.experts[expert.name] for expert in gate.experts]
    if gate.kind == "arrow":
        return dict(arrow_scores(factors, gate.modules))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if gate.kind == "x-lora":
            layers = len(gate.modules) if gate.layerwise else 1
            guide = Guide(band.model.config.hidden_size, len(factors), layers, gate.depth, gate.width)
            return {GUIDE + name: 4 * part for name, part in guide.state_dict().items()}
        reads = {module: a.shape[1] for module, (a, _) in factors[0].factors.items()}
        return {module: 0.5 * torch.randn(len(factors) + gate.empty, reads[module]) for module in gate.modules}


@dataclass
class Case:
    """A band with one more gate, beside the tests' own, and what that gate was made of."""

    band: Band
    gate: Gate
    learned: Mapping[str, Tensor]

    def logp(self, profile: Profile | None = None) -> Tensor:
        """Next-token log-probabilities `[contexts, V]`."""
        return self.of_plan(self.band.plan(profile, self.gate.kind))

    def of_plan(self, plan: Plan) -> Tensor:
        requests = [self.band.request(text, plan, Sampling()) for text in CONTEXTS]
        return self.band.engine.next_distributions(requests)

    def alone(self, expert: str, strength: float = 1.0) -> Tensor:
        return self.of_plan(Plan((Row({expert: strength}),)))

    def assert_equal(self, actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected, atol=TOLERANCE[self.band.model.dtype], rtol=0)


def case(band: Band, gate: Gate, made: Mapping[str, Tensor] | None = None) -> Case:
    apart = Band(band.file, band.model, band.tokenizer, band.bank, {})
    made = learned(band, gate) if made is None else made
    apart.take_gate(Opened(gate, gate.router(made), {}))
    return Case(apart, gate, made)


def of(band: Band, name: str, **more: Any) -> Case:
    return case(band, a_gate(band, name, **more))


# The reference


def reference_shares(gate: Gate, score_TE: Tensor, w_K: Tensor) -> Tensor:
    """The formula as it is written: g_i = (1 - w_empty) r_i w_i / sum_j r_j w_j, over the best of r w alone."""
    z_TE = (score_TE.abs() if gate.kind == "arrow" else score_TE).double() / gate.temperature
    e_TE = (z_TE - z_TE.max(-1, keepdim=True).values).exp()
    w_empty_T1 = (e_TE / e_TE.sum(-1, keepdim=True))[:, -1:] * gate.empty
    rw_TK = e_TE[:, : len(w_K)] * w_K
    least_T1 = rw_TK.sort(descending=True).values[:, (gate.top_k or len(w_K)) - 1, None]
    kept_TK = rw_TK * (rw_TK >= least_T1)
    return ((1 - w_empty_T1) * kept_TK / kept_TK.sum(-1, keepdim=True)).float()


def reference_scores(made: Case, module: str, x_TI: Tensor, hidden_TI: Tensor | None) -> Tensor:
    gate, rows = made.gate, made.learned
    if hidden_TI is not None:
        for i in range(gate.depth):
            part = f"{GUIDE}layers.{2 * i}."
            hidden_TI = functional.linear(
                hidden_TI.relu() if i else hidden_TI, rows[part + "weight"], rows[part + "bias"]
            )
        width = len(gate.experts)
        first = gate.modules.index(module) * width if gate.layerwise else 0
        return hidden_TI[:, first : first + width]
    if gate.kind == "phatgoose":
        size = x_TI.shape[1:]
        return (
            functional.layer_norm(x_TI, size)
            @ functional.layer_norm(rows[module], size, eps=1e-12).T
            / math.sqrt(*size)
        )
    return x_TI @ rows[module].T


@contextmanager
def added_by_hand(made: Case, profile: Profile | None, hidden_TI: Tensor | None) -> Iterator[None]:
    """Every expert's delta, by its share of each token, is added to what the plain model's layers give."""
    experts = [made.band.bank.experts[expert.name] for expert in made.gate.experts]
    weights = dict.fromkeys(made.gate.groups, 1.0) if profile is None else profile.weights
    w_K = torch.tensor([weights.get(group, 0.0) for group in made.gate.groups])

    def hook(module: str) -> Callable[[Any, tuple[Tensor], Tensor], Tensor]:
        def add(_: Any, given: tuple[Tensor], y_1TO: Tensor) -> Tensor:
            x_TI = given[0][0]
            share_TK = reference_shares(made.gate, reference_scores(made, module, x_TI, hidden_TI), w_K)
            deltas = (share_TK[:, k, None] * (x_TI @ own.delta(module).T) for k, own in enumerate(experts))
            return y_1TO + (1.0 if profile is None else profile.strength) * sum(deltas)

        return add

    hooks = [made.band.model.get_submodule(m).register_forward_hook(hook(m)) for m in made.gate.modules]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@torch.no_grad()
def reference_logp(made: Case, profile: Profile | None, ids: Sequence[int]) -> Tensor:
    """`[T, V]` from whole forwards of one prompt alone, without a cache and without the bank."""
    made.band.bank.unwrap()
    ids_1T = torch.tensor([list(ids)])
    hidden_TI = made.band.model.base_model(ids_1T)[0][0] if made.gate.kind == "x-lora" else None
    with added_by_hand(made, profile, hidden_TI):
        logp_TV: Tensor = made.band.model(ids_1T).logits[0].log_softmax(-1)
    return logp_TV


def prompt_of(band: Band, text: str) -> tuple[int, ...]:
    return band.request(text, Plan((Row(),)), Sampling()).contexts[0]


@two_families
@gates
def test_a_gate_is_the_sum_of_its_experts_by_its_shares(band: Band, name: str) -> None:
    made = of(band, name)
    profiles = (None, PROFILES[2])
    said = [made.logp(profile) for profile in profiles]
    for profile, logp_PV in zip(profiles, said, strict=True):
        for text, logp_V in zip(CONTEXTS[:2], logp_PV[:2], strict=True):
            made.assert_equal(logp_V, reference_logp(made, profile, prompt_of(band, text))[-1])


@in_llama
@gates
def test_the_gates_matter_so_that_the_laws_can_fail(band: Band, name: str) -> None:
    made = of(band, name)
    even = Plan((Row(dict.fromkeys(EXPERTS, 1 / 3)),))
    others = [made.of_plan(Plan((Row(),))), made.of_plan(even), made.logp(SKEWED), *map(made.alone, EXPERTS)]
    for other in others:
        assert (made.logp() - other).abs().max() > 0.02


# I1 to I6: what a gate must not change


@two_families
@gates
def test_i1_a_strength_of_0_and_experts_of_nothing_are_the_base(band: Band, name: str) -> None:
    made = of(band, name)
    base = made.of_plan(Plan((Row(),)))
    made.assert_equal(made.logp(replace(SKEWED, strength=0.0)), base)
    nothing = LoraFactors({m: (a, torch.zeros_like(b)) for m, (a, b) in band.bank.experts["warm"].factors.items()})
    for expert in ("none1", "none2", "none3"):
        band.bank.add(expert, nothing)
    made.assert_equal(of(band, name, experts=("none1", "none2", "none3")).logp(), base)


@pytest.mark.parametrize("band", ["gpt2", "llama-bfloat16"], indirect=True)
@whole_gates
def test_i2_vertex_a_weight_on_one_group_is_its_expert(band: Band, name: str) -> None:
    made = of(band, name)
    for expert, group in zip(EXPERTS, GROUPS, strict=True):
        made.assert_equal(made.logp(Profile({group: 0.7})), made.alone(expert))


@two_families
@whole_gates
def test_i2_vertex_a_gate_of_one_expert_is_that_expert(band: Band, name: str) -> None:
    made = of(band, name, experts=("warm",), groups=("warm",))
    made.assert_equal(made.logp(), made.alone("warm"))


@in_llama
def test_i2_vertex_a_guide_that_is_sure_is_its_expert(band: Band) -> None:
    gate = a_gate(band, "x-lora of one map")
    sure = learned(band, gate)
    sure[f"{GUIDE}layers.0.bias"] = torch.tensor([0.0, 1e4, 0.0])
    made = case(band, gate, sure)
    made.assert_equal(made.logp(), made.alone("warm"))


@two_families
@gates
def test_i3_even_shares_are_the_mean_of_the_deltas(band: Band, name: str) -> None:
    """Of rows and a guide of zeros, or at an endless temperature; an empty expert has its even share too."""
    gate = a_gate(band, name, top_k=None, temperature=1e9 if name == "arrow" else 1.0)
    made = case(band, gate, {k: part if name == "arrow" else 0 * part for k, part in learned(band, gate).items()})
    strength = 3 / 4 if name in WITH_EMPTY else 1.0
    band.bank.add("mean", soup.merge(band.bank.experts, Weighting(EXPERTS, (1 / 3,) * 3, strength)))
    made.assert_equal(made.logp(), made.alone("mean"))


@two_families
@gates
def test_i4_consensus_to_identical_experts_weights_are_nothing(band: Band, name: str) -> None:
    """Where shares sum to 1 they are that expert; with an empty expert, what is left to it is what the router said."""
    twins = ("twin1", "twin2", "twin3")
    for twin in twins:
        band.bank.add(twin, band.bank.experts["warm"])
    made = of(band, name, experts=twins)
    expected = made.logp() if name in WITH_EMPTY else made.alone("warm")
    for profile in PROFILES:
        if profile is None or profile.strength == 1:
            made.assert_equal(made.logp(profile), expected)
    if name in WITH_EMPTY:
        assert (made.logp() - made.alone("warm")).abs().max() > 0.02


@two_families
@gates
def test_i5_permuting_experts_with_their_rows_changes_nothing(band: Band, name: str) -> None:
    made, order = of(band, name), (2, 0, 1)
    names, groups = ([of_k[k] for k in order] for of_k in (EXPERTS, GROUPS))
    gate = a_gate(band, name, experts=names, groups=groups)
    shuffled = {key: permuted(part, order, gate, key) for key, part in made.learned.items()}
    expected = [made.logp(profile) for profile in PROFILES]
    other = case(band, gate, shuffled)
    for profile, logp in zip(PROFILES, expected, strict=True):
        other.assert_equal(other.logp(profile), logp)


def permuted(part: Tensor, order: Sequence[int], gate: Gate, key: str) -> Tensor:
    """The rows of experts in another order; of a guide those of its last map, and in each of its layers."""
    if gate.kind != "x-lora":
        return part[[*order, 3] if gate.empty else list(order)]
    last = f"{GUIDE}layers.{2 * (gate.depth - 1)}."
    return part.view(-1, 3, *part.shape[1:])[:, list(order)].flatten(0, 1) if key.startswith(last) else part


RULES_OF_SOFTMAX = [rule for rule in RULES.values() if not rule.absolute]
scores = torch.Generator().manual_seed(3)
SCORE_NE = 2 * torch.randn(50, 4, generator=scores)
SHIFT_N1 = 3 * torch.randn(50, 1, generator=scores)
LOG_W = torch.tensor([0.2, 0.5, 0.2, 0.1]).log()


def log_w_of(rule: Rule) -> Tensor:
    return LOG_W[:3] if rule.empty else LOG_W


@pytest.mark.parametrize("rule", RULES_OF_SOFTMAX)
def test_i6_a_constant_added_to_the_scores_of_a_token_changes_nothing(rule: Rule) -> None:
    for log_w in (None, log_w_of(rule)):
        torch.testing.assert_close(shares(SCORE_NE + SHIFT_N1, rule, log_w), shares(SCORE_NE, rule, log_w))


@pytest.mark.parametrize("rule", [RULES["arrow"], replace(RULES["loramoe"], sigmoid=True)])
def test_i6_is_not_for_scores_whose_zero_means_something(rule: Rule) -> None:
    """An Arrow takes the size of a score, and PHATGOOSE in training each score by itself."""
    assert (shares(SCORE_NE + SHIFT_N1, rule) - shares(SCORE_NE, rule)).abs().max() > 0.2


@two_families
@pytest.mark.parametrize("name", ["pmol", "loramoe", "x-lora"])
def test_i6_a_vector_added_to_all_rows_changes_nothing(band: Band, name: str) -> None:
    """u . x is then added to every score of a token; of a guide, a constant to what it says of each layer."""
    made = of(band, name)
    last = f"{GUIDE}layers.2.bias"
    moved = {
        key: part + 0.7 if key == last else part + part[:1] if name != "x-lora" else part
        for key, part in made.learned.items()
    }
    expected = made.logp(SKEWED)
    made.assert_equal(case(band, made.gate, moved).logp(SKEWED), expected)


# I7 and I8: batches, padding and caches


@torch.no_grad()
def heard(
    made: Case, ids_BT: Tensor, mask_BT: Tensor, rows: Sequence[Mapping[str, float]]
) -> tuple[Tensor, list[Seen]]:
    """Logits of the model's own forward, and what its routed layers made of every token."""
    bank = made.band.bank
    gate = bank.gate(rows)
    if isinstance(gate, RowGates) and gate.guided:
        gate = gate.heard(made.band.model.base_model(ids_BT, attention_mask=mask_BT)[0])
    seen: list[Seen] = []
    with bank.gated(gate):
        bank.context.seen = seen
        logits = made.band.model(ids_BT, attention_mask=mask_BT).logits
        bank.context.seen = None
    return logits, seen


@two_families
@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_i7_padding_changes_no_token_and_no_share(band: Band, name: str) -> None:
    made = of(band, name)
    row = {GATE + made.gate.kind: 1.0, **SKEWED.weights}
    short, long = (list(prompt_of(band, text)) for text in CONTEXTS[1:])
    ids_BT = torch.tensor([short + [0] * (len(long) - len(short)), long])
    mask_BT = torch.arange(len(long)) < torch.tensor([[len(short)], [len(long)]])
    logits, seen = heard(made, ids_BT, mask_BT.long(), [row, row])
    for b, ids in enumerate((short, long)):
        alone, seen_alone = heard(made, torch.tensor([ids]), torch.ones(1, len(ids)), [row])
        made.assert_equal(logits[b, : len(ids)], alone[0])
        for layer, layer_alone in zip(seen, seen_alone, strict=True):
            made.assert_equal(layer.share_BTJK[b, : len(ids)], layer_alone.share_BTJK[0])


def trace_of(completion: Completion) -> Trace:
    assert completion.trace is not None
    return completion.trace


def everything(band: Band) -> tuple[Band, list[Case]]:
    """One band with a gate of every kind."""
    cases = [of(band, name) for name in ONE_OF_A_KIND]
    together = Band(band.file, band.model, band.tokenizer, band.bank, {})
    for one in cases:
        together.take_gate(Opened(one.gate, one.gate.router(one.learned), {}))
    return together, cases


SAMPLINGS = (
    Sampling(temperature=0, max_tokens=7),
    Sampling(seed=3, max_tokens=9),
    Sampling(seed=4, temperature=0.7, top_k=20, max_tokens=5),
    Sampling(seed=5, repetition_penalty=1.3, max_tokens=8),
)


def requests_of(band: Band, methods: Sequence[str], profiles: Sequence[Profile | None] = PROFILES) -> list[Request]:
    """Every method for every profile that one batch may hold, of unlike prompts, lengths and sampling."""
    return [
        band.request(CONTEXTS[i % 3], band.plan(profile, method), SAMPLINGS[i % 4], "token")
        for i, (method, profile) in enumerate(product(methods, profiles))
    ]


MIXED = (*ONE_OF_A_KIND, "soup", "mixture-prob", "base")


@in_llama
def test_i8_batch_gates_of_all_kinds_beside_other_methods(band: Band, monkeypatch: pytest.MonkeyPatch) -> None:
    together, _ = everything(band)
    requests = requests_of(together, MIXED, PROFILES[1:3])
    at_once = together.run(requests)
    alone = [together.run([request])[0] for request in requests]
    assert [one.tokens for one in at_once] == [one.tokens for one in alone]
    for one, other in zip(at_once, alone, strict=True):
        torch.testing.assert_close(trace_of(one).logp_T, trace_of(other).logp_T, atol=1e-4, rtol=0)
    monkeypatch.setattr(together.engine, "max_rows", 7)
    late = together.run(list(reversed(requests)))
    assert [one.tokens for one in late] == [one.tokens for one in reversed(alone)], "joining late and leaving early"


@in_llama
@gates
def test_i8_two_in_a_batch_are_two_batches_of_one(band: Band, name: str) -> None:
    made = of(band, name)
    row = {GATE + made.gate.kind: 1.0}
    ids_BT = torch.tensor([prompt_of(band, CONTEXTS[0]), prompt_of(band, CONTEXTS[0])[::-1]])
    both, _ = heard(made, ids_BT, torch.ones_like(ids_BT), [row, row])
    for b in range(2):
        made.assert_equal(both[b], heard(made, ids_BT[b : b + 1], torch.ones(1, ids_BT.shape[1]), [row])[0][0])


@more_families
def test_a_cached_decode_is_a_full_recompute(band: Band) -> None:
    """Every token of a batched, cached decode has the probability that whole forwards without a bank give it.

    So also for X-LoRA, whose guide reads the base's hidden states of every token: a cache of the base's own.
    """
    together, cases = everything(band)
    profiles = (None, PROFILES[2])
    of_kind: dict[str, Case] = {one.gate.kind: one for one in cases}
    asked = list(product(ONE_OF_A_KIND, profiles))
    requests = [
        replace(r, sampling=Sampling(seed=i, max_tokens=8))
        for i, r in enumerate(requests_of(together, ONE_OF_A_KIND, profiles))
    ]
    for (kind, profile), request, completion in zip(asked, requests, together.run(requests), strict=True):
        trace = trace_of(completion)
        logp_TV = reference_logp(of_kind[kind], profile, [*request.contexts[0], *trace.tokens[:-1]])
        said_T = logp_TV[-len(trace.tokens) :].gather(1, torch.tensor(trace.tokens)[:, None])[:, 0]
        of_kind[kind].assert_equal(trace.logp_T, said_T)


@two_families
@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_prefill_in_chunks_is_one_prefill(band: Band, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = of(band, name)
    whole = made.logp(SKEWED)
    monkeypatch.setattr(made.band.engine.model, "chunk", 5)
    made.assert_equal(made.logp(SKEWED), whole)


@in_llama
def test_a_row_that_joins_after_a_guided_one_has_left_finds_no_trace_of_it(band: Band) -> None:
    """The base's cache of a guide is moved and cleared with the other one."""
    made = of(band, "x-lora")
    requests = requests_of(made.band, ["x-lora"] * 4, [None])
    made.band.engine.max_rows = 2
    for one, other in zip(made.band.run(requests), [made.band.run([r])[0] for r in requests], strict=True):
        assert one.tokens == other.tokens


# Steering


@two_families
@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_weights_that_are_even_change_nothing_and_their_scale_never_does(band: Band, name: str) -> None:
    made = of(band, name)
    gate = GATE + made.gate.kind
    even = Plan((Row({gate: 1.0, **dict.fromkeys(GROUPS, 0.3)}),))
    made.assert_equal(made.of_plan(even), made.logp())
    tenfold = Plan((Row({gate: 1.0, **{group: 10 * w for group, w in SKEWED.weights.items()}}),))
    made.assert_equal(made.of_plan(tenfold), made.logp(SKEWED))


@in_llama
@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_weight_on_one_group_selects_it_and_leaves_the_empty_expert_as_routed(band: Band, name: str) -> None:
    """Of groups (terse, terse, exact), what serves the second is told nothing of the first two."""
    made = of(band, name, groups=("terse", "terse", "exact"), top_k=None)
    ids = torch.tensor([prompt_of(band, CONTEXTS[0])])
    gate, one = {GATE + made.gate.kind: 1.0}, torch.ones_like(ids)
    routed = heard(made, ids, one, [gate])[1]
    steered = heard(made, ids, one, [{**gate, "terse": 2.0}])[1]
    assert steered[0].share_BTJK[..., 2].max() == 0
    before, after = routed[0].share_BTJK, steered[0].share_BTJK
    torch.testing.assert_close(after.sum(-1), before.sum(-1))
    torch.testing.assert_close(after[..., 0] / after[..., 1], before[..., 0] / before[..., 1])


@pytest.mark.parametrize("rule", RULES.values())
def test_dose_the_share_of_a_group_rises_with_its_weight(rule: Rule) -> None:
    """Of softmax(z + log w) the derivative by log w_k is g_k (1 - g_k); among the top k it may stay at 0."""
    weights = [torch.tensor([w, 1.0, 1.0, 1.0])[: 3 if rule.empty else 4].log() for w in (0.0, 0.25, 1.0, 4.0, 40.0)]
    for less, more in pairwise(shares(SCORE_NE, rule, log_w)[:, 0] for log_w in weights):
        assert (more >= less).all()
        assert (more > less).any()


def test_log_weights_on_the_routers_own_logits_would_move_the_empty_expert() -> None:
    """Three experts of 0.28 each and an empty one of 0.16, and no preference: weights of 1/3.

    Added to the router's logits, the empty expert gets .16 / (.16 + .84/3) = .16/.44 = .364. Ours keeps .16.
    """
    score_E = torch.tensor([0.28, 0.28, 0.28, 0.16]).log()
    log_w_K = torch.tensor([1 / 3, 1 / 3, 1 / 3]).log()
    naive_E = torch.softmax(score_E + torch.cat([log_w_K, torch.zeros(1)]), dim=-1)
    assert naive_E[-1].item() == pytest.approx(4 / 11)
    torch.testing.assert_close(shares(score_E, RULES["pmol"], log_w_K), torch.full((3,), 0.28))


def test_shares_by_hand() -> None:
    """r = (.5, .25, .25) beside an empty expert of .2, and weights (1, 2, 0): .8 (.5, .5, 0) / 1 = (.4, .4, 0)."""
    score_E = torch.tensor([0.4, 0.2, 0.2, 0.2]).log()
    torch.testing.assert_close(
        shares(score_E, RULES["pmol"], torch.tensor([1.0, 2.0, 0.0]).log()), torch.tensor([0.4, 0.4, 0.0])
    )


@pytest.mark.parametrize("rule", [*RULES.values(), replace(RULES["x-lora"], top_k=2)])
def test_simplex_the_shares_of_each_token_sum_to_what_the_empty_expert_leaves(rule: Rule) -> None:
    score_BTE = SCORE_NE.view(5, 10, 4)
    left = 1 - torch.softmax(score_BTE, dim=-1)[..., -1] if rule.empty else torch.ones(5, 10)
    for log_w in (None, log_w_of(rule)):
        torch.testing.assert_close(shares(score_BTE, rule, log_w).sum(-1), left)


def test_regression_x_loras_top_k_softmax_over_all_that_is_kept() -> None:
    """Published X-LoRA takes one softmax over the kept scores of all tokens: of two tokens each gets about half."""
    score_BTK = torch.tensor([[[2.0, 1.0, -1.0], [0.5, 1.5, 0.0]]])
    kept = score_BTK.masked_fill(score_BTK < score_BTK.topk(2).values[..., -1:], -math.inf)
    at_once = torch.softmax(kept.flatten(), dim=0).view_as(kept)
    assert at_once.sum(-1).max() < 0.7
    torch.testing.assert_close(shares(score_BTK, Rule(top_k=2)).sum(-1), torch.ones(1, 2))


@two_families
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_broadcast_a_guide_that_always_says_the_same_is_a_constant_gate(band: Band, strength: float) -> None:
    gate, bias = a_gate(band, "x-lora of one map"), torch.tensor([0.5, -1.0, 0.25])
    weight = torch.zeros(3, band.model.config.hidden_size)
    made = case(band, gate, {f"{GUIDE}layers.0.weight": weight, f"{GUIDE}layers.0.bias": bias})
    w_K = torch.softmax(bias + torch.tensor(list(SKEWED.weights.values())).log(), dim=0)
    constant = Plan((Row({e: strength * w for e, w in zip(EXPERTS, w_K.tolist(), strict=True)}),))
    made.assert_equal(made.logp(replace(SKEWED, strength=strength)), made.of_plan(constant))


@two_families
def test_broadcast_a_router_that_does_not_care_is_the_profile_in_what_it_leaves(band: Band) -> None:
    """Of rows of zeros the empty expert has 1/4 of every token, and the soup of the profile the rest."""
    gate = a_gate(band, "pmol")
    made = case(band, gate, {module: 0 * rows for module, rows in learned(band, gate).items()})
    constant = Plan((Row({e: 3 / 4 * w for e, w in zip(EXPERTS, SKEWED.weights.values(), strict=True)}),))
    made.assert_equal(made.logp(SKEWED), made.of_plan(constant))
