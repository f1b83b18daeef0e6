from pathlib import Path
from typing import Any

import pytest
import torch

from counterpoint.compose.weighers.gate import GUIDE, Gate, GateExpert
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.gates import Kind, shares
from counterpoint.models.load import load_model
from counterpoint.testing import pico_model
from counterpoint.train.gate_start import check_given, new_entries, new_factors, target_modules, untrained
from counterpoint.types import CounterpointError

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load_model(str(base))


@pytest.mark.parametrize(
    ("targets", "count"),
    [("all-linear", 14), (("q_proj", "down_proj"), 4), (("layers.1.mlp.up_proj",), 1), (r".*\.0\..*_proj", 7)],
)
def test_targets_are_named_as_in_peft(model: Any, targets: str | tuple[str, ...], count: int) -> None:
    found = target_modules(model, targets)
    assert len(set(found)) == len(found) == count
    assert "lm_head" not in found


@pytest.mark.parametrize(
    ("targets", "named"), [(("q_proj", "c_attn"), "c_attn"), (("lm_head",), "lm_head"), ("q_proj", "q_proj")]
)
def test_a_target_that_is_no_layer_is_named(model: Any, targets: str | tuple[str, ...], named: str) -> None:
    """A text is a pattern for a whole name, and the output layer is read apart from the rest."""
    with pytest.raises(CounterpointError, match=f"lora_targets: '{named}' is no linear layer .*; there are: q_proj, "):
        target_modules(model, targets)


def test_no_target_is_refused(model: Any) -> None:
    """A gate in no layer once failed in its first step."""
    with pytest.raises(CounterpointError, match="lora_targets is empty; expected 'all-linear', or names as in q_proj"):
        target_modules(model, ())


def test_gpt2_has_layers_too() -> None:
    model = pico_model(family="gpt2")
    found = target_modules(model, "all-linear")
    assert len(found) == 8
    assert new_factors(model, found[:1], 3).factors[found[0]][1].shape == (96, 3), "c_attn holds its weight transposed"


def test_a_new_expert_does_nothing(model: Any) -> None:
    factors = new_factors(model, [Q, V], 3)
    assert all(not factors.delta(module).any() for module in (Q, V))
    a_RI, _ = factors.factors[Q]
    assert 0.5 < a_RI.abs().max() * 32**0.5 <= 1, "uniform up to 1 / sqrt(I), by Kaiming with a = sqrt(5)"
    assert [(e.name, e.dimension) for e in new_entries(("a", "b"), 2)] == [
        ("a-0", "a"), ("a-1", "a"), ("b-0", "b"), ("b-1", "b"),
    ]  # fmt: skip


def test_a_guide_starts_at_the_mean_of_the_experts(model: Any) -> None:
    gate = Gate(kind="x-lora", experts=new_entries(("a", "b"), 2), modules=[Q, V], depth=2, width=8, layerwise=True)
    router = gate.router(untrained(gate, model))
    assert router.guide is not None
    score_BTLK = router.guide(torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0)))
    assert score_BTLK.shape == (1, 3, 2, 4)
    assert torch.equal(shares(score_BTLK, router.rule), torch.full((1, 3, 2, 4), 0.25))


def test_rows_are_one_for_each_expert_and_the_empty_one(model: Any) -> None:
    kinds: list[tuple[Kind, bool, int]] = [("pmol", True, 3), ("pmol", False, 2), ("loramoe", False, 2)]
    for kind, empty, rows in kinds:
        gate = Gate(kind=kind, experts=new_entries(("a", "b"), 1), modules=[Q], empty=empty)
        assert untrained(gate, model)[Q].shape == (rows, 32)
    guided = Gate(kind="x-lora", experts=new_entries(("a",), 1), modules=[Q])
    assert all(name.startswith(GUIDE) for name in untrained(guided, model))


def given(name: str, dimension: str, *modules: str) -> tuple[GateExpert, LoraFactors]:
    factors = {module: (torch.zeros(1, 32), torch.zeros(8, 1)) for module in modules}
    return GateExpert(name=name, dimension=dimension), LoraFactors(factors)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (given("y", "kind", Q), "expert 'y' is for 'kind', of which there is no data; the data are on: a, b"),
        (given("y", "b", V), f"must adapt the same layers, and of 'x' and 'y' one alone adapts '{Q}'"),
    ],
)
def test_experts_that_do_not_fit_are_named(model: Any, second: Any, message: str) -> None:
    with pytest.raises(CounterpointError, match=message):
        check_given([given("x", "a", Q), second], ("a", "b"), model)


def test_an_expert_of_the_output_layer_is_refused(model: Any) -> None:
    with pytest.raises(CounterpointError, match="expert 'x' adapts the output layer 'lm_head', which a gate cannot"):
        check_given([given("x", "a", Q, "lm_head")], ("a",), model)
