"""The LoRA bank: what it refuses, what it stacks, and that it leaves the model as it found it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.models import product
from counterpoint.models.adapter import LoraFactors, merge_into, read_adapter
from counterpoint.models.bank import LoraBank, together
from counterpoint.models.bank_layers import BankGroup, BankLinear
from counterpoint.models.gates import RULES, Guide, Router
from counterpoint.models.load import load_model
from counterpoint.testing import pico_adapter, pico_model, save_pico
from counterpoint.types import CounterpointError

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
IDS = torch.tensor([[1, 50, 60, 70, 80]])


def factors(seed: int, rank: int = 2, modules: tuple[str, ...] = (Q, UP), spread: float = 0.2) -> LoraFactors:
    """A random adapter of two layers of a pico model: q_proj is 32 x 32 and up_proj 64 x 32."""
    generator = torch.Generator().manual_seed(seed)
    out = {Q: 32, UP: 64}
    return LoraFactors(
        {
            module: (
                spread * torch.randn(rank, 32, generator=generator),
                spread * torch.randn(out[module], rank, generator=generator),
            )
            for module in modules
        }
    )


@pytest.fixture
def bank() -> LoraBank:
    return LoraBank(pico_model(seed=4))


@torch.no_grad()
def logits(bank: LoraBank, gate: dict[str, float]) -> Tensor:
    with bank.gated(bank.gate([gate])):
        out: Tensor = bank.model(IDS).logits
    return out


@torch.no_grad()
def merged_logits(*adapters: LoraFactors) -> Tensor:
    model = pico_model(seed=4)
    for adapter in adapters:
        merge_into(model, adapter)
    out: Tensor = model(IDS).logits
    return out


def bank_layers(bank: LoraBank) -> dict[str, BankLinear]:
    return {name: layer for name, layer in bank.model.named_modules() if isinstance(layer, BankLinear)}


def group_of(bank: LoraBank, module: str) -> BankGroup:
    return bank_layers(bank)[module].group


# Refusals


def test_a_taken_name(bank: LoraBank) -> None:
    bank.add("terse", factors(0))
    with pytest.raises(CounterpointError, match="there is already an expert called 'terse'; remove it first"):
        bank.add("terse", factors(1))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 31), (32, 2), "module 'model.layers.0.self_attn.q_proj': its delta is 32 x 31, the base layer is 32 x 32"),
        ((2, 32), (33, 2), "its delta is 33 x 32, the base layer is 32 x 32; was it trained on another base?"),
    ],
)
def test_shapes_that_do_not_fit(bank: LoraBank, a: tuple[int, int], b: tuple[int, int], message: str) -> None:
    with pytest.raises(CounterpointError, match="expert 'odd'") as caught:
        bank.add("odd", LoraFactors({UP: factors(0).factors[UP], Q: (torch.ones(a), torch.ones(b))}))
    assert message in str(caught.value)
    assert "odd" not in bank.experts
    assert not bank_layers(bank), "a refused expert wraps no layer"


def test_a_module_that_the_base_does_not_have(bank: LoraBank) -> None:
    pair = (torch.ones(1, 32), torch.ones(32, 1))
    with pytest.raises(CounterpointError, match=r"expert 'odd': the base model has no module 'model\.layers\.7\.mlp'"):
        bank.add("odd", LoraFactors({"model.layers.7.mlp": pair}))
    with pytest.raises(CounterpointError, match=r"'model.embed_tokens' is a Embedding, not a linear layer"):
        bank.add("odd", LoraFactors({"model.embed_tokens": pair}))


def test_a_gate_for_an_unknown_expert(bank: LoraBank) -> None:
    with pytest.raises(CounterpointError, match="no expert called 'warm'; there are: none"):
        bank.gate([{"warm": 1.0}])
    bank.add("terse", factors(0))
    bank.add("exact", factors(1))
    with pytest.raises(CounterpointError, match="no expert called 'warm'; there are: terse, exact"):
        bank.gate([{"terse": 1.0}, {"warm": 0.5}])


def test_a_coefficient_of_zero_asks_for_nobody(bank: LoraBank) -> None:
    assert bank.gate([{"nobody": 0.0}, {}]) is None
    assert bank.gate([]) is None


# The gate and its context


def test_a_gate_by_hand(bank: LoraBank) -> None:
    """Experts are in the order in which they were added, and only those that some row wants."""
    for seed, name in enumerate(("a", "b", "c")):
        bank.add(name, factors(seed))
    gate = bank.gate([{"c": 0.5, "a": 2.0}, {}, {"c": -1.0}])
    assert isinstance(gate, Tensor)
    assert gate.tolist() == [[[2.0, 0.5]], [[0.0, 0.0]], [[0.0, -1.0]]]


def test_without_a_gate_it_is_the_base(bank: LoraBank) -> None:
    bank.add("a", factors(0))
    assert (logits(bank, {"a": 1.0}) - merged_logits()).abs().max() > 0.1
    with torch.no_grad():
        assert torch.equal(bank.model(IDS).logits, merged_logits())


def test_the_gate_context_is_cleared_after_a_forward(bank: LoraBank) -> None:
    bank.add("a", factors(0))
    gate = bank.gate([{"a": 1.0}])
    with bank.gated(gate):
        assert bank.context.gate is gate
    assert bank.context.gate is None


def test_the_gate_context_is_cleared_after_an_exception(bank: LoraBank) -> None:
    bank.add("a", factors(0))
    with pytest.raises(ZeroDivisionError), bank.gated(bank.gate([{"a": 1.0}])):
        raise ZeroDivisionError
    assert bank.context.gate is None
    with torch.no_grad():
        assert torch.equal(bank.model(IDS).logits, merged_logits())


def test_columns_do_not_outlive_their_gate(bank: LoraBank) -> None:
    """They are kept per layout for one forward: the same layout under another gate must not see them."""
    bank.add("a", factors(0))
    first = logits(bank, {"a": 1.0})
    assert (logits(bank, {"a": 0.25}) - first).abs().max() > 0.01
    assert torch.equal(logits(bank, {"a": 1.0}), first)


def test_experts_that_adapt_different_layers(bank: LoraBank) -> None:
    """Ranks differ, and each layer is adapted by one of them only."""
    q, up = factors(0, 3, (Q,)), factors(1, 5, (UP,))
    bank.add("q", q)
    bank.add("up", up)
    torch.testing.assert_close(logits(bank, {"q": 1.0, "up": 1.0}), merged_logits(q, up), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(bank, {"up": 1.0}), merged_logits(up), atol=1e-5, rtol=0)
    assert (group_of(bank, Q).layout, group_of(bank, UP).layout) == (((0, 3),), ((1, 5),))


# Many residents


def test_64_residents_with_4_active_stack_only_4(bank: LoraBank) -> None:
    """Ranks are 1 + k % 4; experts 3, 17, 40 and 61 have 4, 2, 1 and 2: a stacked width of 9."""
    for k in range(64):
        bank.add(f"e{k}", factors(k, rank=1 + k % 4))
    gates = [{f"e{k}": 1.0} for k in (61, 3, 40, 17, 3)]
    gate = bank.gate(gates)
    assert isinstance(gate, Tensor)
    assert gate.shape == (5, 1, 4)
    for group in (group_of(bank, Q), group_of(bank, UP)):
        assert group.layout == ((0, 4), (1, 2), (2, 1), (3, 2))
        assert group.A.weight_OI.shape == (9, 32)
        assert [lift.B.weight_OI.shape[1] for lift in group.lifts] == [9]
    with torch.no_grad(), bank.gated(gate):
        found = bank.model(IDS.expand(5, -1)).logits
    for row, k in enumerate((61, 3, 40, 17, 3)):
        torch.testing.assert_close(found[[row]], merged_logits(factors(k, 1 + k % 4)), atol=1e-5, rtol=0)


def stacked(bank: LoraBank, gate: dict[str, float]) -> Tensor:
    """The stacked factors A of one layer after a gate."""
    bank.gate([gate])
    return group_of(bank, Q).A.weight_OI


def test_the_stack_stays_while_the_wanted_experts_are_in_it(bank: LoraBank) -> None:
    """Three experts of rank 2 are 6 columns, also for one of them: the others get zero, and zero is exact."""
    for k in range(4):
        bank.add(f"e{k}", factors(k))
    before = stacked(bank, {"e0": 1.0, "e1": 1.0, "e2": 1.0})
    assert before.shape == (6, 32)
    gate = bank.gate([{"e2": 0.5}])
    assert isinstance(gate, Tensor)
    assert gate.tolist() == [[[0.0, 0.0, 0.5]]]
    assert group_of(bank, Q).A.weight_OI is before
    torch.testing.assert_close(logits(bank, {"e2": 1.0}), merged_logits(factors(2)), atol=1e-5, rtol=0)
    assert stacked(bank, {"e2": 1.0, "e3": 1.0}).shape == (4, 32), "a newcomer: only the wanted ones are stacked"


def test_the_stack_shrinks_when_more_than_half_are_idle(bank: LoraBank) -> None:
    """Of 20 experts of rank 2, 10 are half, and 9 are fewer."""
    for k in range(20):
        bank.add(f"e{k}", factors(k))
    everyone = {f"e{k}": 1.0 for k in range(20)}
    before = stacked(bank, everyone)
    assert stacked(bank, {f"e{k}": 1.0 for k in range(10)}) is before
    assert stacked(bank, {f"e{k}": 1.0 for k in range(9)}).shape == (18, 32)


def test_removing_an_idle_expert_drops_it_from_the_stack(bank: LoraBank) -> None:
    for k in range(3):
        bank.add(f"e{k}", factors(k))
    assert stacked(bank, {"e0": 1.0, "e1": 1.0}).shape == (4, 32)
    bank.remove("e1")
    assert stacked(bank, {"e0": 1.0}).shape == (2, 32)


def test_removing_a_stranger_leaves_the_stack(bank: LoraBank) -> None:
    for k in range(3):
        bank.add(f"e{k}", factors(k))
    before = stacked(bank, {"e0": 1.0})
    bank.remove("e2")
    assert stacked(bank, {"e0": 1.0}) is before


def test_removing_an_expert(bank: LoraBank) -> None:
    bank.add("a", factors(0))
    bank.add("b", factors(1))
    logits(bank, {"a": 1.0, "b": 1.0})
    bank.remove("a")
    with pytest.raises(CounterpointError, match="no expert called 'a'; there are: b"):
        bank.gate([{"a": 1.0}])
    torch.testing.assert_close(logits(bank, {"b": 1.0}), merged_logits(factors(1)), atol=1e-5, rtol=0)


def test_an_expert_of_a_name_that_was_removed_is_stacked_anew(bank: LoraBank) -> None:
    bank.add("a", factors(0))
    logits(bank, {"a": 1.0})
    bank.remove("a")
    bank.add("a", factors(9))
    torch.testing.assert_close(logits(bank, {"a": 1.0}), merged_logits(factors(9)), atol=1e-5, rtol=0)


# Unwrapping


def test_unwrap_gives_back_the_modules_and_the_logits_bit_for_bit() -> None:
    model = pico_model(seed=4)
    modules = dict(model.named_modules())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bank = LoraBank(model)
    bank.add("a", factors(0))
    logits(bank, {"a": 1.0})
    assert Q in bank_layers(bank)
    bank.unwrap()
    found = dict(model.named_modules())
    assert list(found) == list(modules)
    assert all(found[name] is modules[name] for name in modules)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, merged_logits())


def test_regression_after_unwrapping_a_gate_is_not_silently_the_base(bank: LoraBank) -> None:
    """The stack of the active experts was taken to be in place although no layer was wrapped any more."""
    bank.add("a", factors(0))
    before = logits(bank, {"a": 1.0})
    bank.unwrap()
    assert torch.equal(logits(bank, {"a": 1.0}), before)
    bank.unwrap()
    bank.add("b", factors(1))
    torch.testing.assert_close(
        logits(bank, {"a": 1.0, "b": 1.0}), merged_logits(factors(0), factors(1)), atol=1e-5, rtol=0
    )


def test_regression_a_second_bank_does_not_silently_do_nothing(bank: LoraBank) -> None:
    """Its layers were wrapped by the first, and so it left them as they were: the base answered."""
    bank.add("a", factors(0))
    logits(bank, {"a": 1.0})
    second = LoraBank(bank.model)
    second.add("b", factors(1))
    with pytest.raises(RuntimeError, match="this model is wrapped by another bank; unwrap that one first"):
        second.gate([{"b": 1.0}])
    bank.unwrap()
    torch.testing.assert_close(logits(second, {"b": 1.0}), merged_logits(factors(1)), atol=1e-5, rtol=0)


# GPT-2, whose layers hold their weights as [in, out], with q, k and v in one


FUSED, SQUARE = "transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_proj"


def test_conv1d_layers_take_experts() -> None:
    """`SQUARE` is 32 x 32, where a delta the wrong way round would fit as well."""
    generator = torch.Generator().manual_seed(0)
    pairs = {
        module: (torch.randn(2, 32, generator=generator), 0.2 * torch.randn(out, 2, generator=generator))
        for module, out in ((FUSED, 96), (SQUARE, 32))
    }
    bank = LoraBank(pico_model(4, "gpt2"))
    bank.add("a", LoraFactors(pairs))
    with torch.no_grad():
        model = pico_model(4, "gpt2")
        base = model(IDS).logits
        for module, (a, b) in pairs.items():
            model.get_submodule(module).weight += (b @ a).T
        expected = model(IDS).logits
    assert (expected - base).abs().max() > 0.1
    torch.testing.assert_close(logits(bank, {"a": 1.0}), expected, atol=1e-5, rtol=0)


def test_a_delta_the_wrong_way_round_is_refused() -> None:
    bank = LoraBank(pico_model(family="gpt2"))
    with pytest.raises(CounterpointError, match="its delta is 32 x 96, the base layer is 96 x 32"):
        bank.add("odd", LoraFactors({FUSED: (torch.ones(1, 96), torch.ones(32, 1))}))


# Half precision


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoraFactors, Path]:
    base = save_pico(tmp_path_factory.mktemp("half") / "base", seed=4)
    adapter = read_adapter(pico_adapter(base.parent / "a", base, seed=1))
    return adapter, base


def test_a_bf16_model_takes_prompts_and_experts(half: tuple[LoraFactors, Path]) -> None:
    """Prompts of unlike lengths: log-probabilities within .15 of float32, and all in float32."""
    adapter, base = half
    found, expected, unadapted = (
        engine_of(base, adapter, dtype).next_distributions([request({"a": share}, n) for n in (1, 9, 30)])
        for dtype, share in ((torch.bfloat16, 0.7), (torch.float32, 0.7), (torch.float32, 0.0))
    )
    assert (expected - unadapted).abs().max() > 1
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.15, rtol=0)
    torch.testing.assert_close(found.double().exp().sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_bf16_batch_decodes_as_each_alone(half: tuple[LoraFactors, Path]) -> None:
    """Identical requests in one batch get identical tokens, and gates and stacks have the model's type."""
    adapter, base = half
    engine = engine_of(base, adapter, torch.bfloat16)
    requests = [request({"a": 1.0}, 9), request({}, 4), request({"a": 1.0}, 9)]
    one, _, other = engine.run(requests)
    assert one == other
    assert len(one.tokens) == 12
    bank = engine.model.bank  # type: ignore[attr-defined]
    gate = bank.gate([{"a": 0.5}])
    assert gate.dtype == group_of(bank, Q).A.weight_OI.dtype == torch.bfloat16


def engine_of(base: Path, adapter: LoraFactors, dtype: torch.dtype) -> Engine:
    model = load_model(str(base), dtype)
    bank = LoraBank(model)
    bank.add("a", adapter)
    return Engine(Rows(model, bank), str, (), longest=64)


def request(gate: dict[str, float], length: int) -> Request:
    return Request(Plan((Row(gate),)), (tuple(range(40, 40 + length)),), Sampling(temperature=0, max_tokens=12))


# Layers that are computed together


def test_layers_that_read_one_input_are_one_group() -> None:
    names = together(pico_model())
    assert (Q, Q.replace("q_proj", "k_proj"), Q.replace("q_proj", "v_proj")) in names
    assert (UP.replace("up_proj", "gate_proj"), UP) in names
    assert (Q.replace("q_proj", "o_proj"),) in names
    assert ("lm_head",) in names


def test_the_weights_of_a_group_are_held_once(bank: LoraBank) -> None:
    bank.gate([{}])
    layer = bank_layers(bank)[UP]
    assert layer.base.weight.data_ptr() != layer.group.base.weight_OI.data_ptr()
    whole = layer.group.base.weight_OI.untyped_storage()
    assert layer.base.weight.untyped_storage().data_ptr() == whole.data_ptr()


@torch.no_grad()
def test_regression_a_group_does_not_answer_with_another_input_or_gate(bank: LoraBank) -> None:
    """What a group computed for one of its layers is for the others only as long as input and gate are the same."""
    bank.add("a", factors(0))
    gate, other = bank.gate([{"a": 1.0}]), bank.gate([{"a": 0.5}])
    up, down_input = bank_layers(bank)[UP], torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(2))
    same_numbers = down_input.clone()
    with bank.gated(gate):
        first = up(down_input)
        assert torch.equal(up(same_numbers), first)
        assert not torch.equal(up(2 * down_input), first)
        assert torch.equal(up(down_input), first)
    with bank.gated(other):
        assert not torch.equal(up(down_input), first)
    assert torch.equal(up(down_input), up.base(down_input))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.15)])
def test_the_layouts_of_large_layers_in_every_layer(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float
) -> None:
    """Pico layers are too small for them, so that no other test of the bank would reach them."""
    monkeypatch.setattr(product, "SMALL", 0)
    adapters = [factors(seed) for seed in range(2)]
    bank = LoraBank(pico_model(seed=4).to(dtype))
    for name, adapter in zip("ab", adapters, strict=True):
        bank.add(name, adapter)
    found = logits(bank, {"a": 1.0, "b": 1.0}).float().log_softmax(-1)
    torch.testing.assert_close(found, merged_logits(*adapters).log_softmax(-1), atol=tolerance, rtol=0)


# Routers


def pmol(seed: int = 7, experts: tuple[str, ...] = ("a", "b")) -> Router:
    """A router of two layers over experts of groups of their own."""
    generator = torch.Generator().manual_seed(seed)
    scores = {module: torch.randn(len(experts) + 1, 32, generator=generator) for module in (Q, UP)}
    return Router(RULES["pmol"], experts, experts, scores, (Q, UP))


@pytest.fixture
def routed(bank: LoraBank) -> LoraBank:
    for seed, name in enumerate("ab"):
        bank.add(name, factors(seed))
    bank.add_router("pmol", pmol())
    bank.gate([{"gate:pmol": 1.0}])
    return bank


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_factors_and_rows_are_held_once(routed: LoraBank) -> None:
    """What was given is the same numbers, as views of what a forward multiplies by."""
    for module in (Q, UP):
        group = group_of(routed, module)
        row_EI, score = routed.routers["pmol"].scores[module], group.routes["pmol"].score
        assert score is not None
        assert storage(row_EI) == storage(score.weight_OI)
        assert torch.equal(row_EI, pmol().scores[module])
        for seed, name in enumerate("ab"):
            a_RI, b_OR = routed.experts[name].factors[module]
            assert storage(a_RI) == storage(group.A.weight_OI)
            assert storage(b_OR) == storage(group.lifts[0].B.weight_OI)
            assert torch.equal(b_OR @ a_RI, factors(seed).delta(module))


def test_regression_an_expert_that_leaves_a_stack_does_not_keep_the_whole_of_it(bank: LoraBank) -> None:
    """One view left behind would hold ten experts, and users of unlike experts would fill the memory with stacks."""
    everyone = {f"e{k}": 1.0 for k in range(10)}
    for k, name in enumerate(everyone):
        bank.add(name, factors(k))
    bank.gate([everyone])
    bank.gate([{"e0": 1.0}])
    held = {
        part.untyped_storage() for expert in bank.experts.values() for pair in expert.factors.values() for part in pair
    }
    assert sum(storage.nbytes() for storage in held) == 4 * sum(expert.size for expert in bank.experts.values())
    assert torch.equal(bank.experts["e7"].delta(Q), factors(7).delta(Q))
    torch.testing.assert_close(logits(bank, {"e7": 1.0}), merged_logits(factors(7)), atol=1e-5, rtol=0)


def test_rows_outlive_another_stack(routed: LoraBank) -> None:
    before = logits(routed, {"gate:pmol": 1.0})
    for k in range(9):
        routed.add(f"e{k}", factors(k))
    assert (logits(routed, {f"e{k}": 0.1 for k in range(9)}) - before).abs().max() > 0.01
    torch.testing.assert_close(logits(routed, {"gate:pmol": 1.0}), before)


def test_rows_of_another_type_stay_what_they_are() -> None:
    bank = LoraBank(pico_model(seed=4).bfloat16())
    for seed, name in enumerate("ab"):
        bank.add(name, factors(seed))
    bank.add_router("pmol", pmol())
    bank.gate([{"gate:pmol": 1.0}])
    assert torch.equal(bank.routers["pmol"].scores[Q], pmol().scores[Q])
    torch.testing.assert_close(bank.scores("pmol")[Q], pmol().scores[Q].bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(("experts", "count"), [(False, 2), (True, 6)])
def test_only_what_learns_gets_a_gradient(routed: LoraBank, experts: bool, count: int) -> None:
    """In each of two groups of layers a router's rows, and with the experts A and B."""
    routed.model.requires_grad_(False)
    learned = routed.learn("pmol", experts)
    assert len(learned) == count
    with routed.gated(routed.gate([{"gate:pmol": 1.0}])):
        routed.model(IDS).logits.logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in learned)
    assert all(parameter.grad is None for parameter in routed.model.parameters())


def test_what_is_learned_is_read_as_it_is_now(routed: LoraBank) -> None:
    routed.learn("pmol", experts=True)
    score, group = group_of(routed, Q).routes["pmol"].score, group_of(routed, Q)
    assert score is not None
    with torch.no_grad():
        score.weight_OI.add_(1)
        group.A.weight_OI.mul_(2)
    torch.testing.assert_close(routed.scores("pmol")[Q], pmol().scores[Q] + 1)
    torch.testing.assert_close(routed.factors("b").delta(Q), 2 * factors(1).delta(Q))


def test_a_router_goes_with_its_expert(routed: LoraBank) -> None:
    routed.remove("b")
    with pytest.raises(CounterpointError, match="no gate called 'pmol'; there are: none"):
        routed.gate([{"gate:pmol": 1.0}])
    torch.testing.assert_close(logits(routed, {"a": 1.0}), merged_logits(factors(0)), atol=1e-5, rtol=0)


def test_a_router_in_place_of_another(routed: LoraBank) -> None:
    before = logits(routed, {"gate:pmol": 1.0})
    routed.add_router("pmol", pmol(seed=8))
    assert (logits(routed, {"gate:pmol": 1.0}) - before).abs().max() > 0.01
    assert torch.equal(routed.scores("pmol")[UP], pmol(seed=8).scores[UP])


@torch.no_grad()
def test_regression_a_router_in_place_of_another_leaves_a_gate_that_was_made_before(routed: LoraBank) -> None:
    """Requests under way had no gate at all until the next one was made, and so were answered by the base."""
    gate = routed.gate([{"gate:pmol": 1.0}])
    before = logits(routed, {"gate:pmol": 1.0})
    routed.add_router("pmol", pmol(seed=8))
    with routed.gated(gate):
        assert torch.equal(routed.model(IDS).logits, before)


def test_a_guide_of_another_base(bank: LoraBank) -> None:
    bank.add("a", factors(0))
    wide = Router(RULES["x-lora"], ("a",), ("a",), {}, (Q, UP), Guide(hidden=48, experts=1))
    with pytest.raises(CounterpointError, match="hidden states of 48 numbers, the base's have 32; was it trained on"):
        bank.add_router("x-lora", wide)
    assert not bank.routers


def test_routers_that_do_not_fit(bank: LoraBank) -> None:
    bank.add("a", factors(0))
    with pytest.raises(CounterpointError, match="gate 'pmol': there is no expert 'b'"):
        bank.add_router("pmol", pmol())
    bank.add("b", factors(1, modules=(Q,)))
    with pytest.raises(CounterpointError, match=f"module '{UP}': expert 'b' does not adapt it"):
        bank.add_router("pmol", pmol())
    assert not bank.routers


def test_an_expert_beside_a_routers_own_has_no_share(routed: LoraBank) -> None:
    """Once stacked with others, its columns are strangers to the router."""
    before = logits(routed, {"gate:pmol": 1.0})
    routed.add("c", factors(2))
    rows: list[dict[str, float]] = [{"gate:pmol": 1.0}, {"c": 1.0}, {"gate:pmol": 0.0}]
    with torch.no_grad(), routed.gated(routed.gate(rows)):
        found = routed.model(IDS.expand(3, -1)).logits
    torch.testing.assert_close(found[[0]], before, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[[1]], merged_logits(factors(2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[[2]], merged_logits(), atol=1e-5, rtol=0)
