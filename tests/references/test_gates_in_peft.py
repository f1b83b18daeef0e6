"""Gates against PEFT's own: Arrow with the same adapters, X-LoRA with the same classifier, one expert as plain LoRA."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import ArrowConfig, PeftModel, XLoraConfig, create_arrow_model, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM

from counterpoint.compose.weighers.arrow import arrow_scores, prototype
from counterpoint.compose.weighers.gate import GUIDE, Gate, GateExpert
from counterpoint.decode.rows import Rows
from counterpoint.models.adapter import PREFIX, read_adapter
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE, Kind, RowGates
from counterpoint.models.load import quiet
from counterpoint.testing import pico_adapter

NAMES = ("one", "two", "three")
IDS = tuple(range(40, 60))
POWER_ITERATIONS = 15
"""Of PEFT's prototypes."""


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, band_folder_of: Callable[[str], Path]) -> Path:
    return band_folder_of(request.param) / "base"


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of one rank, as PEFT's Arrow needs them, and of unlike scales."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: pico_adapter(folder / name, base, seed=i, rank=3, alpha=3 + 3 * i) for i, name in enumerate(NAMES)}


def base_model(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base).eval()


@torch.no_grad()
def logits(model: Any, ids: Sequence[int] = IDS) -> Tensor:
    out: Tensor = model(input_ids=torch.tensor([list(ids)])).logits
    return out


@pytest.fixture(scope="module")
def uniform(base: Path, adapters: dict[str, Path]) -> Tensor:
    """The mean of the deltas: PEFT's `cat`, which has no cross terms (its `linear` has)."""
    first, *others = adapters
    with quiet():
        peft = PeftModel.from_pretrained(base_model(base), adapters[first], adapter_name=first)
        for name in others:
            peft.load_adapter(adapters[name], adapter_name=name)
        peft.add_weighted_adapter(list(adapters), [1 / len(adapters)] * len(adapters), "mean", combination_type="cat")
    peft.set_adapter("mean")
    return logits(peft)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def bank_of(base: Path, adapters: Mapping[str, Path]) -> LoraBank:
    bank = LoraBank(base_model(base))
    for name, folder in adapters.items():
        bank.add(name, read_adapter(folder))
    return bank


def gate_of(kind: Kind, names: Sequence[str], modules: Sequence[str], **more: Any) -> Gate:
    entries = [GateExpert(name=name, dimension=name, hash="of the band") for name in names]
    return Gate(kind=kind, experts=entries, modules=list(modules), **more)


@torch.no_grad()
def ours(bank: LoraBank, gate: Gate, learned: Mapping[str, Tensor]) -> Tensor:
    bank.add_router(gate.kind, gate.router(learned))
    rows = bank.gate([{GATE + gate.kind: 1.0}])
    if isinstance(rows, RowGates) and rows.guided:
        trunk: Any = bank.model.base_model
        rows = rows.heard(trunk(torch.tensor([IDS]))[0])
    with bank.gated(rows):
        return logits(bank.model)


# Arrow


def arrow_in_peft(base: Path, adapters: Mapping[str, Path], top_k: int, temperature: float, seed: int = 0) -> Any:
    config = ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=seed)
    with quiet():
        model = create_arrow_model(base_model(base), [str(folder) for folder in adapters.values()], config).eval()
    logits(model)  # prototypes are made in the first forward
    return model


def arrows(model: Any) -> dict[str, Any]:
    """The arrow of each layer, by our names of modules."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    return {name.removeprefix(PREFIX): layer.lora_arrow["arrow_router"] for name, layer in layers.items()}


@pytest.mark.parametrize(("top_k", "temperature"), [(2, 1.0), (3, 0.2)])
def test_arrow_equals_pefts_given_the_same_prototypes(
    base: Path, adapters: dict[str, Path], top_k: int, temperature: float
) -> None:
    bank = bank_of(base, adapters)
    modules = sorted(bank.experts["one"].factors)
    rows = arrow_scores([bank.experts[name] for name in NAMES], modules)
    peft = arrow_in_peft(base, adapters, top_k, temperature)
    assert arrows(peft).keys() == rows.keys()
    for module, arrow in arrows(peft).items():
        arrow.prototypes = rows[module]
    made = ours(bank, gate_of("arrow", NAMES, modules, top_k=top_k, temperature=temperature), rows)
    assert_close(made, logits(peft))
    assert (made - logits(base_model(base))).abs().max() > 0.1


def test_prototypes_are_what_pefts_power_iteration_comes_near(base: Path, adapters: dict[str, Path]) -> None:
    """After n rounds of v <- D^T D v the tangent of the angle to ours is at most (s_2 / s_1)^(2 n) of the first."""
    bank, peft = bank_of(base, adapters), arrow_in_peft(base, adapters, 3, 1.0, seed=7)
    for module, arrow in arrows(peft).items():
        for found, name in zip(arrow.prototypes, NAMES, strict=True):
            a, b = bank.experts[name].factors[module]
            v, s = prototype(a, b), torch.linalg.svdvals(bank.experts[name].delta(module))
            start = torch.randn(a.shape[1], generator=torch.Generator().manual_seed(7))
            bound = tangent(start, v) * (s[1] / s[0]) ** (2 * POWER_ITERATIONS)
            assert tangent(found, v) <= bound + 1e-3


def tangent(one: Tensor, other: Tensor) -> float:
    cosine = abs(float(torch.cosine_similarity(one.double(), other.double(), dim=0)))
    return math.sqrt(max(1 - cosine**2, 0.0)) / cosine


# X-LoRA, which PEFT cannot load over adapters of GPT-2

XLORA = pytest.mark.parametrize("base", ["llama", "qwen3"], indirect=True)


def xlora_in_peft(base: Path, adapters: Mapping[str, Path], **classifier: Any) -> Any:
    model = base_model(base)
    model.config.use_cache = False  # with a cache PEFT refuses the model
    config = XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=model.config.hidden_size,
        adapters={str(i): str(folder) for i, folder in enumerate(adapters.values())},
        xlora_dropout_p=0.0,
        **classifier,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(model, config).eval()


def same_in_ours(peft: Any, scale: float) -> tuple[Gate, dict[str, Tensor]]:
    """PEFT's classifier, made more decided, as a gate of ours: layers in the order in which it counts them."""
    classifier, plain = peft.base_model.internal_xlora_classifier, peft.base_model.lora_model.model
    with torch.no_grad():
        for parameter in classifier.layers.parameters():
            parameter.mul_(scale)
    config = classifier.config
    modules = [name for name, layer in plain.named_modules() if isinstance(layer, LoraLayer)]
    gate = gate_of(
        "x-lora", NAMES, modules, depth=config.xlora_depth, width=config.xlora_size, layerwise=config.layerwise_scalings
    )
    return gate, {f"{GUIDE}layers.{name}": part.clone() for name, part in classifier.layers.state_dict().items()}


@XLORA
@pytest.mark.parametrize(("depth", "layerwise"), [(1, True), (3, False)])
def test_xlora_equals_pefts_given_the_same_classifier(
    base: Path, adapters: dict[str, Path], depth: int, layerwise: bool, uniform: Tensor
) -> None:
    peft = xlora_in_peft(base, adapters, xlora_depth=depth, xlora_size=16, layerwise_scalings=layerwise)
    made = ours(bank_of(base, adapters), *same_in_ours(peft, scale=4.0))
    assert_close(made, logits(peft))
    assert (made - uniform).abs().max() > 0.02


@XLORA
def test_xlora_decodes_with_a_cache_what_peft_generates_without(base: Path, adapters: dict[str, Path]) -> None:
    """Token for token: in PEFT every step is two forwards over all that was said."""
    peft = xlora_in_peft(base, adapters, xlora_depth=1, layerwise_scalings=True)
    bank, (gate, learned) = bank_of(base, adapters), same_in_ours(peft, scale=4.0)
    prompt = torch.tensor([IDS])
    generated = peft.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0
    )[0, len(IDS) :].tolist()
    bank.add_router(gate.kind, gate.router(learned))
    rows, tokens = Rows(bank.model, bank), [IDS[-1]]
    rows.join([IDS], [{GATE + gate.kind: 1.0}])
    while len(tokens) <= len(generated):
        tokens.append(int(rows.step(tokens[-1:])[0].argmax()))
    assert tokens[1:] == generated


@XLORA
def test_a_classifier_of_zeros_is_the_uniform_merge(base: Path, adapters: dict[str, Path], uniform: Tensor) -> None:
    peft = xlora_in_peft(base, adapters, xlora_depth=1)
    made = ours(bank_of(base, adapters), *same_in_ours(peft, scale=0.0))
    assert_close(made, logits(peft))
    assert_close(made, uniform)


# Every kind


def random_rows(bank: LoraBank, kind: Kind, experts: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    if kind == "x-lora":
        model: Any = bank.model
        hidden = model.config.hidden_size
        return {
            f"{GUIDE}layers.0.weight": torch.randn(experts, hidden, generator=generator),
            f"{GUIDE}layers.0.bias": torch.randn(experts, generator=generator),
        }
    factors = bank.experts["one"].factors
    return {module: torch.randn(experts, a.shape[1], generator=generator) for module, (a, _) in factors.items()}


@pytest.mark.parametrize("kind", ["pmol", "loramoe", "x-lora", "arrow", "phatgoose"])
def test_a_gate_of_one_expert_is_that_adapter_in_peft(base: Path, adapters: dict[str, Path], kind: Kind) -> None:
    """An empty expert would be a second one, so that PMoL is here without."""
    bank = bank_of(base, adapters)
    gate = gate_of(kind, ["two"], sorted(bank.experts["one"].factors))
    made = ours(bank, gate, random_rows(bank, kind, experts=1))
    assert_close(made, logits(PeftModel.from_pretrained(base_model(base), adapters["two"])))


@pytest.mark.parametrize("base", ["llama"], indirect=True)
@pytest.mark.parametrize("kind", ["pmol", "loramoe", "x-lora", "arrow", "phatgoose"])
def test_shares_that_are_all_the_same_are_pefts_merge(
    base: Path, adapters: dict[str, Path], kind: Kind, uniform: Tensor
) -> None:
    """Dense, with rows of zeros; an Arrow at an endless temperature."""
    bank = bank_of(base, adapters)
    gate = gate_of(kind, NAMES, sorted(bank.experts["one"].factors), temperature=1e9 if kind == "arrow" else 1.0)
    rows = random_rows(bank, kind, experts=3)
    made = ours(bank, gate, rows if kind == "arrow" else {name: 0 * part for name, part in rows.items()})
    assert_close(made, uniform)
