"""The exact merge: what each module gets, and weights that differ from layer to layer."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterpoint.compose.layers import Span, by_layer, check_layers, layer_of, read_layers
from counterpoint.compose.soup import by_module, merge, merge_by_module
from counterpoint.models.adapter import LoraFactors
from counterpoint.types import CounterpointError, Weighting

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.up_proj")


def expert(seed: int, rank: int = 2, modules: tuple[str, ...] = MODULES, out: int = 6, into: int = 5) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors({
        module: (torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator))
        for module in modules
    })  # fmt: skip


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_experts_without_weight_take_no_rank() -> None:
    experts = {"a": expert(1), "b": expert(2, rank=3), "c": expert(3)}
    merged = merge(experts, Weighting(("a", "b", "c"), (0.5, 0.0, 0.5), strength=2.0))
    assert {len(a) for a, _ in merged.factors.values()} == {4}
    close(merged.delta(MODULES[0]), experts["a"].delta(MODULES[0]) + experts["c"].delta(MODULES[0]))


def test_each_layer_gets_its_own_weights() -> None:
    experts = {"a": expert(1), "b": expert(2, rank=3)}
    at = by_layer([Span(0, 0, {"a": 1.0}), Span(1, 1, {"a": 0.25, "b": -0.5})], rest={"b": 2.0})
    merged = merge_by_module(experts, at)
    close(merged.delta(MODULES[0]), experts["a"].delta(MODULES[0]))
    close(merged.delta(MODULES[1]), 0.25 * experts["a"].delta(MODULES[1]) - 0.5 * experts["b"].delta(MODULES[1]))
    close(merged.delta(MODULES[2]), 2 * experts["b"].delta(MODULES[2]))


def test_a_weighting_that_is_the_same_in_every_layer_is_the_weighting() -> None:
    experts = {"a": expert(1), "b": expert(2, rank=3, modules=MODULES[:2])}
    weighting = Weighting(("a", "b"), (0.3, 0.7), strength=1.5)
    spans = [Span(layer, layer, weighting.coefficients) for layer in range(3)]
    layered, plain = merge_by_module(experts, by_layer(spans, None)), merge(experts, weighting)
    assert layered.factors.keys() == plain.factors.keys() == set(MODULES)
    for module in MODULES:
        assert torch.equal(layered.delta(module), plain.delta(module))


def test_a_module_that_nothing_is_said_of() -> None:
    at = by_layer([Span(0, 1, {"a": 1.0})], rest=None)
    with pytest.raises(CounterpointError, match=r"of 'model.layers.2.mlp.up_proj', whose layer 2 is in no range"):
        at(MODULES[2])
    with pytest.raises(CounterpointError, match="of 'lm_head', which is of no layer"):
        at("lm_head")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.mlp.up_proj", 12),
        ("transformer.h.3.attn.c_attn", 3),
        ("h.0.mlp.c_fc.weight", 0),
        ("lm_head", None),
        ("model.embed_tokens", None),
    ],
)
def test_the_layer_of_a_module(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


def test_a_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text(json.dumps({"4 - 7": "a=1", "0-3": {"a": 1}, "8": {"b": 1}}))
    spans = read_layers(path)
    assert [str(span) for span in spans] == ["0-3", "4-7", "8"]
    assert spans[1] == Span(4, 7, "a=1")
    check_layers(spans, 9)
    with pytest.raises(CounterpointError, match="range 8 ends after the model's last layer, 7"):
        check_layers(spans, 8)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"0-3": {}, "3-5": {}}, "layer 3 is in the ranges 0-3 and 3-5"),
        ({"5-2": {}}, "'5-2' is no range of layers"),
        ({"first": {}}, "'first' is no range of layers"),
        ({}, "expected ranges of layers"),
        ([1], "expected ranges of layers"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, table: object, says: str) -> None:
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(table))
    with pytest.raises(CounterpointError, match=says):
        read_layers(path)


def test_deltas_of_unlike_shapes_are_refused_by_name() -> None:
    experts = {"a": expert(1), "b": expert(2, into=7)}
    with pytest.raises(CounterpointError, match="of 'a' 6 x 5, of 'b' 6 x 7"):
        list(by_module(experts, lambda module: {"a": 0.5, "b": 0.5}))
