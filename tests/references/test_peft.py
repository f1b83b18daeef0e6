"""Counterpoint against PEFT, in every family: what PEFT writes is read exactly, and the reverse."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from counterpoint.compose import soup
from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import merge_into, read_adapter, write_adapter
from counterpoint.models.bank import LoraBank
from counterpoint.models.load import FAMILIES, quiet
from counterpoint.types import Weighting

EXPERTS = ("terse", "warm", "exact")
IDS = tuple(range(40, 60))


@pytest.fixture(scope="module", params=FAMILIES)
def band_folder(request: pytest.FixtureRequest, band_folder_of: Callable[[str], Path]) -> Path:
    return band_folder_of(request.param)


def base_model(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    return model


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    out: Tensor = model(torch.tensor([IDS])).logits
    return out


@pytest.mark.parametrize("name", EXPERTS)
def test_each_expert_generates_as_in_peft_token_for_token(band: Band, band_folder: Path, name: str) -> None:
    peft = PeftModel.from_pretrained(base_model(band_folder), band_folder / "experts" / name)
    prompt = torch.tensor([IDS])
    expected = peft.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False, pad_token_id=0
    )[0, len(IDS) :].tolist()
    request = Request(Plan((Row({name: 1.0}),)), (IDS,), Sampling(temperature=0, max_tokens=40))
    tokens = list(band.engine.run([request])[0].tokens)
    assert tokens == [token for token in expected if token != 2]
    assert len(tokens) > 5


@pytest.mark.parametrize("names", [("terse", "warm"), ("warm", "terse")])
def test_soup_equals_peft_cat(band: Band, band_folder: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    """PEFT's `cat` is exact for plain LoRA (it drops rsLoRA's scale, so both are written plain first)."""
    for name in names:
        adapter = read_adapter(band_folder / "experts" / name)
        write_adapter(tmp_path / name, adapter, "base", fan_in_fan_out=band.model.config.model_type == "gpt2")
    peft = PeftModel.from_pretrained(base_model(band_folder), tmp_path / names[0], adapter_name=names[0])
    peft.load_adapter(tmp_path / names[1], adapter_name=names[1])
    peft.add_weighted_adapter(list(names), [0.7, 0.3], "both", combination_type="cat")
    peft.set_adapter("both")
    merged = soup.merge(band.bank.experts, Weighting(names, (0.7, 0.3)))
    bank = LoraBank(model := base_model(band_folder))
    bank.add("soup", merged)
    with bank.gated(bank.gate([{"soup": 1.0}])):
        torch.testing.assert_close(logits(model), logits(peft), atol=1e-4, rtol=0)


def test_soup_equals_averaging_full_weights(band: Band, band_folder: Path) -> None:
    """Each expert merged by PEFT into full weights, then the weights averaged: the definition of a soup."""
    w = (0.2, 0.5, 0.3)
    averaged: dict[str, Tensor] = {}
    for name, share in zip(EXPERTS, w, strict=True):
        full = PeftModel.from_pretrained(base_model(band_folder), band_folder / "experts" / name).merge_and_unload()
        for key, tensor in full.state_dict().items():
            averaged[key] = averaged.get(key, torch.zeros_like(tensor)) + share * tensor
    reference = base_model(band_folder)
    reference.load_state_dict(averaged)
    ours = base_model(band_folder)
    merge_into(ours, soup.merge(band.bank.experts, Weighting(EXPERTS, w)))
    torch.testing.assert_close(logits(ours), logits(reference), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", EXPERTS)
def test_round_trip_through_peft(band: Band, band_folder: Path, tmp_path: Path, name: str) -> None:
    """An adapter written here loads in PEFT with the same logits, and reading it back gives the same bits."""
    adapter = read_adapter(band_folder / "experts" / name)
    gpt2 = band.model.config.model_type == "gpt2"
    write_adapter(tmp_path / "written", adapter, str(band_folder / "base"), fan_in_fan_out=gpt2)
    ours = PeftModel.from_pretrained(base_model(band_folder), tmp_path / "written")
    theirs = PeftModel.from_pretrained(base_model(band_folder), band_folder / "experts" / name)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-4, rtol=0)
    again = read_adapter(tmp_path / "written")
    for module, pair in adapter.factors.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, again.factors[module], strict=True))


@pytest.mark.parametrize("how", ["eva", "mica", "orthogonal", "gaussian"])
def test_adapters_of_an_initialisation_that_leaves_the_base(
    band_folder_of: Callable[[str], Path], tmp_path: Path, how: str
) -> None:
    """EVA spreads ranks and alphas over the layers; all are trained away from their start before they are written."""
    folder = band_folder_of("llama")
    more = {"eva_config": EvaConfig(rho=2.0)} if how == "eva" else {}
    config = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights=how, **more)
    generator = torch.Generator().manual_seed(0)
    with quiet(), torch.random.fork_rng(devices=[]):
        peft = get_peft_model(base_model(folder), config, low_cpu_mem_usage=how == "eva")
        if how == "eva":
            ids = [torch.randint(3, 290, (4, 20), generator=generator) for _ in range(30)]
            batches = [{"input_ids": i, "attention_mask": torch.ones_like(i)} for i in ids]
            initialize_lora_eva_weights(peft, dataloader=batches, show_progress_bar=False)
    for key, parameter in peft.named_parameters():
        if "lora_" in key:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    peft.save_pretrained(tmp_path)
    adapter = read_adapter(tmp_path)
    assert (len({a.shape[0] for a, _ in adapter.factors.values()}) > 1) == (how == "eva")
    merge_into(ours := base_model(folder), adapter)
    assert (logits(ours) - logits(base_model(folder))).abs().max() > 0.1
    torch.testing.assert_close(logits(ours), logits(peft.eval()), atol=1e-4, rtol=0)
