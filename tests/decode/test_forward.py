"""Our own forward against the modules that it stands for: the same logits, through joins, steps and leaves."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from counterpoint.decode.forward import FAMILIES, fits
from counterpoint.decode.rows import Rows
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.testing import PECULIAR, pico_model

BIASES = {"attention_bias": True, "mlp_bias": True}
SCALED = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}


def rows_of(model: Any, own_forward: bool) -> Rows:
    bank = LoraBank(model)
    for seed in range(3):
        bank.add(f"e{seed}", everywhere(model, seed))
    rows = Rows(model, bank)
    assert rows.own_forward
    rows.own_forward = own_forward
    return rows


def everywhere(model: Any, seed: int) -> LoraFactors:
    """Random factors of rank 2 on every linear layer but the last."""
    generator = torch.Generator().manual_seed(seed)

    def factors(layer: torch.nn.Linear) -> tuple[Tensor, Tensor]:
        a_RI = 0.2 * torch.randn(2, layer.in_features, generator=generator)
        return a_RI, 0.2 * torch.randn(layer.out_features, 2, generator=generator)

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    return LoraFactors({name: factors(layer) for name, layer in layers.items() if name != "lm_head"})


def spoken(rows: Rows) -> list[Tensor]:
    """Logits of every step while rows of unlike lengths and gates join and leave."""
    generator = torch.Generator().manual_seed(3)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, 290, (count,), generator=generator).tolist()

    logits, live = [], 0
    for lengths in ((12, 5), (3, 30), (1, 9, 17)):
        rows.join([tokens(n) for n in lengths], [{f"e{n % 3}": 1.0, "e0": 0.5} if n > 3 else {} for n in lengths])
        live += len(lengths)
        logits += [rows.step(tokens(live)) for _ in range(3)]
        rows.keep([*range(live - 2), live - 1])
        live -= 1
    return logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.15)])
def test_against_the_modules(family: str, dtype: torch.dtype, tolerance: float) -> None:
    ours = spoken(rows_of(pico_model(seed=2, family=family).to(dtype), own_forward=True))
    theirs = spoken(rows_of(pico_model(seed=2, family=family).to(dtype), own_forward=False))
    for own, reference in zip(ours, theirs, strict=True):
        assert reference.std() > 0.3
        torch.testing.assert_close(own.log_softmax(-1), reference.log_softmax(-1), atol=tolerance, rtol=0)


@pytest.mark.parametrize("options", [BIASES, SCALED, {"kv_heads": 4}, {"kv_heads": 1}], ids=str)
def test_llamas_of_other_makes_against_the_modules(options: dict[str, Any]) -> None:
    model = pico_model(seed=2, **options)
    if "attention_bias" in options:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    ours = spoken(rows_of(model, own_forward=True))
    rows = rows_of_again(model)
    for own, reference in zip(ours, spoken(rows), strict=True):
        torch.testing.assert_close(own, reference, atol=1e-4, rtol=0)


def rows_of_again(model: Any) -> Rows:
    """The same model through its modules: its layers are given back first."""
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ == "BankLinear":
            model.set_submodule(name, layer.base)
    return rows_of(model, own_forward=False)


def test_which_models_it_fits() -> None:
    assert all(fits(pico_model(family=family).config) for family in FAMILIES)
    assert not any(fits(pico_model(family=family).config) for family in set(PECULIAR) - set(FAMILIES))
    assert not fits(LlamaConfig(hidden_act="gelu"))
