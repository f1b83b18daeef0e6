"""What is refused of an adapter, by name, and scales against PEFT's own."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from counterpoint.models.adapter import (
    CONFIG,
    INERT,
    PREFIX,
    TENSORS,
    LoraFactors,
    merge_into,
    read_adapter,
    weight_OI,
    write_adapter,
)
from counterpoint.models.load import quiet
from counterpoint.testing import pico_adapter, pico_model, save_pico
from counterpoint.types import CounterpointError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pico(tmp_path_factory.mktemp("adapter") / "base", seed=2)


@pytest.fixture(scope="module")
def plain(base: Path) -> Path:
    return pico_adapter(base.parent / "plain", base, seed=3, rank=3, alpha=6)


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """An adapter folder to be spoilt."""
    for name in (CONFIG, TENSORS):
        (tmp_path / name).write_bytes((plain / name).read_bytes())
    return tmp_path


def set_fields(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))


def refused(folder: Path) -> str:
    with pytest.raises(CounterpointError) as caught:
        read_adapter(folder)
    return str(caught.value)


UNSUPPORTED: dict[str, Any] = {
    "use_dora": True,
    "lora_bias": True,
    "bias": "all",
    "modules_to_save": ["lm_head"],
    "trainable_token_indices": [5, 6],
    "layer_replication": [[0, 1], [0, 2]],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "use_qalora": True,
    "alora_invocation_tokens": [3],
    "loftq_config": {"loftq_bits": 4},
    "corda_config": {"corda_method": "ipm"},
    "lora_ga_config": {"direction": "ArB2r"},
    "velora_config": {"num_groups": 4},
    "monteclora_config": {"num_samples": 2},
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 3},
    "kasa_config": {"beta": 1e-4},
    "ensure_weight_tying": True,
    "a_field_of_the_future": 1,
}


def test_every_field_of_the_installed_peft_is_known() -> None:
    """A field that PEFT adds is refused whenever it is set; here is where one learns of it and decides."""
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields - INERT - set(UNSUPPORTED) == {"init_lora_weights"}
    assert set(UNSUPPORTED) - fields == {"a_field_of_the_future"}
    assert not INERT & set(UNSUPPORTED)


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_a_field_that_changes_the_layer_is_refused_by_name(copy: Path, field: str) -> None:
    set_fields(copy, **{field: UNSUPPORTED[field]})
    message = refused(copy)
    assert message.startswith(f"{copy / CONFIG}: {field}={UNSUPPORTED[field]!r} is not supported")


@pytest.mark.parametrize("field", UNSUPPORTED)
@pytest.mark.parametrize("off", [None, False, [], "none"])
def test_the_same_field_switched_off_is_read(copy: Path, field: str, off: Any) -> None:
    set_fields(copy, **{field: off})
    assert read_adapter(copy).factors


@pytest.mark.parametrize("how", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "from the future"])
def test_an_initialisation_that_changes_the_base_is_refused_by_name(copy: Path, how: str) -> None:
    set_fields(copy, init_lora_weights=how)
    assert f"init_lora_weights={how!r} changes the base" in refused(copy)


@pytest.mark.parametrize("how", [True, False, None, "gaussian", "orthogonal", "eva", "mica"])
def test_an_initialisation_that_leaves_the_base_is_read(copy: Path, how: Any) -> None:
    set_fields(copy, init_lora_weights=how)
    assert read_adapter(copy).factors


@pytest.mark.parametrize("kind", ["LOHA", "IA3", None])
def test_another_peft_type_is_refused_by_name(copy: Path, kind: str | None) -> None:
    set_fields(copy, peft_type=kind)
    assert f"peft_type is {kind!r}; only LORA" in refused(copy)


def test_a_config_that_is_no_object(copy: Path) -> None:
    (copy / CONFIG).write_text("[]")
    assert "expected a mapping, found list" in refused(copy)


def test_a_config_that_is_missing_or_broken(copy: Path) -> None:
    (copy / CONFIG).write_text('{"peft_type": ')
    assert refused(copy).startswith(f"{copy / CONFIG}: not valid JSON")
    (copy / CONFIG).unlink()
    assert refused(copy) == f"{copy / CONFIG}: there is no such file"


@pytest.mark.parametrize("alpha", [None, "wide"])
def test_regression_an_alpha_that_is_no_number_is_named(copy: Path, alpha: Any) -> None:
    set_fields(copy, lora_alpha=alpha)
    assert f"is {alpha!r}; lora_alpha must be a number" in refused(copy)
    config = json.loads((copy / CONFIG).read_text())
    del config["lora_alpha"]
    (copy / CONFIG).write_text(json.dumps(config))
    assert "is None; lora_alpha must be a number" in refused(copy)


def test_tensors_that_are_missing(copy: Path) -> None:
    (copy / TENSORS).unlink()
    assert refused(copy) == f"{copy / TENSORS}: there is no such file; adapters are read from safetensors only"


def corrupt(content: bytes) -> bytes:
    return b"\xff" * 64 + content[64:]


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("spoil", [corrupt, truncated, lambda _: b"", lambda _: b"PK\x03\x04 a pickle of old"])
def test_tensors_that_are_broken(copy: Path, spoil: Callable[[bytes], bytes]) -> None:
    (copy / TENSORS).write_bytes(spoil((copy / TENSORS).read_bytes()))
    assert refused(copy).startswith(f"{copy / TENSORS}: not a readable safetensors file: ")


Q = f"{PREFIX}model.layers.0.self_attn.q_proj"
STRANGE = {
    f"{PREFIX}model.embed_tokens.lora_embedding_A": (2, 9),
    f"{PREFIX}model.embed_tokens.lora_embedding_B": (9, 2),
    f"{Q}.lora_magnitude_vector": (4,),
    f"{Q}.lora_B.bias": (32,),
    f"{Q}.lora_A.other.weight": (3, 32),
    "lm_head.weight": (9, 4),
    "lora_A.weight": (2, 2),
}


@pytest.mark.parametrize("key", STRANGE)
def test_a_tensor_that_is_no_factor_of_a_linear_layer_is_refused_by_name(copy: Path, key: str) -> None:
    save_file(load_file(copy / TENSORS) | {key: torch.ones(STRANGE[key])}, copy / TENSORS)
    assert f"tensor {key!r} of shape {STRANGE[key]} is not the LoRA factor" in refused(copy)


def test_a_factor_of_a_convolution_is_refused(copy: Path) -> None:
    pair = {f"{Q}.lora_A.weight": torch.ones(3, 4, 2, 2), f"{Q}.lora_B.weight": torch.ones(4, 3, 1, 1)}
    save_file(pair, copy / TENSORS)
    assert "of shape (3, 4, 2, 2) is not the LoRA factor" in refused(copy)


def test_a_factor_without_its_other_half(copy: Path) -> None:
    tensors = load_file(copy / TENSORS)
    del tensors[f"{Q}.lora_B.weight"]
    save_file(tensors, copy / TENSORS)
    assert "'model.layers.0.self_attn.q_proj' needs factors A [r, in] and B [out, r] of one rank" in refused(copy)


def test_factors_of_two_ranks(copy: Path) -> None:
    tensors = load_file(copy / TENSORS)
    tensors[f"{Q}.lora_B.weight"] = torch.ones(32, 5)
    save_file(tensors, copy / TENSORS)
    assert "'model.layers.0.self_attn.q_proj' needs factors" in refused(copy)


PATTERNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}},
    "alphas": {"alpha_pattern": {"v_proj": 3, "layers.0.mlp.down_proj": 11}},
    "both": {
        "rank_pattern": {"q_proj": 2, "up_proj": 7},
        "alpha_pattern": {"up_proj": 5, r"layers\.[01]\.self_attn\.o_proj": 9},
    },
    "the first that fits": {"alpha_pattern": {"layers.1.self_attn.q_proj": 5, "q_proj": 7}},
    "in the other order": {"alpha_pattern": {"q_proj": 7, "layers.1.self_attn.q_proj": 5}},
    "rslora and patterns": {
        "rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 5, "up_proj": 3},
    },
}


@pytest.mark.parametrize("case", PATTERNS)
@pytest.mark.filterwarnings("ignore:.*rank_pattern.*rslora.*:UserWarning", "ignore:.*use_rslora.*:UserWarning")
def test_scales_against_pefts_own(base: Path, tmp_path: Path, case: str) -> None:
    """PEFT's `scaling` attribute of every module, times its own factors, is the delta that is read."""
    folder = pico_adapter(tmp_path / "a", base, seed=5, rank=4, alpha=6, **PATTERNS[case])
    with quiet():
        peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    adapter = read_adapter(folder)
    scales = set()
    for module in adapter.factors:
        layer: Any = peft.base_model.model.get_submodule(module)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        scales.add(layer.scaling["default"])
        torch.testing.assert_close(adapter.delta(module), layer.scaling["default"] * (b @ a).detach())
    assert len(adapter.factors) == 14
    assert len(scales) == {"plain": 1, "rslora": 1, "ranks": 3, "alphas": 3, "both": 4}.get(case, len(scales))


def test_scales_by_hand(base: Path, tmp_path: Path) -> None:
    """alpha 6, rank 4: 6 / 4 = 1.5 plain and 6 / sqrt 4 = 3 by rsLoRA."""
    for rslora, scale in ((False, 1.5), (True, 3.0)):
        folder = pico_adapter(tmp_path / str(rslora), base, seed=5, rank=4, alpha=6, rslora=rslora)
        written = load_file(folder / TENSORS)[f"{Q}.lora_B.weight"]
        torch.testing.assert_close(read_adapter(folder).factors["model.layers.0.self_attn.q_proj"][1], scale * written)


def test_what_is_written_has_the_scale_one(plain: Path, tmp_path: Path) -> None:
    adapter = read_adapter(plain)
    write_adapter(tmp_path / "w", adapter, "some/base")
    config = json.loads((tmp_path / "w" / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 3, "some/base")
    written = load_file(tmp_path / "w" / TENSORS)[f"{Q}.lora_B.weight"]
    assert torch.equal(written, adapter.factors[Q.removeprefix(PREFIX)][1])


def test_size_and_delta_by_hand() -> None:
    """A is 1 x 3 and B is 2 x 1: 5 numbers, and B A = ((1 * 2), (3 * 2)) in the middle column."""
    adapter = LoraFactors({"m": (torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[1.0], [3.0]]))})
    assert adapter.size == 5
    assert adapter.delta("m").tolist() == [[0.0, 2.0, 0.0], [0.0, 6.0, 0.0]]


def test_merging_adds_the_delta_and_nothing_else() -> None:
    """W = ones, delta = 2 in one place: 1 + 2 = 3 there; the bias stays."""
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.ones_(layer.weight)
    bias = layer.bias.clone()
    delta = LoraFactors({"0": (torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0], [0.0]]))})
    merge_into(torch.nn.Sequential(layer), delta)
    assert layer.weight.tolist() == [[1.0, 3.0], [1.0, 1.0]]
    assert torch.equal(layer.bias, bias)


def test_merging_turns_the_delta_of_a_layer_that_holds_its_weight_as_in_by_out() -> None:
    """W is 3 in x 2 out, all ones; delta = B A, 2 out x 3 in, has 4 from input 2 to output 0: W[2, 0] = 1 + 4."""
    layer = Conv1D(2, 3)
    torch.nn.init.ones_(layer.weight)
    delta = LoraFactors({"0": (torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[2.0], [0.0]]))})
    assert tuple(weight_OI(layer).shape) == (2, 3)
    merge_into(torch.nn.Sequential(layer), delta)
    assert layer.weight.tolist() == [[1.0, 1.0], [1.0, 1.0], [5.0, 1.0]]


def test_merging_into_a_weight_that_two_modules_share_is_refused() -> None:
    model = pico_model(family="gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pair = (torch.ones(1, 32), torch.ones(len(model.lm_head.weight), 1))
    inner = (torch.ones(1, 32), torch.ones(32, 1))
    with pytest.raises(CounterpointError, match="module 'lm_head' shares its weight with another"):
        merge_into(model, LoraFactors({"transformer.h.0.attn.c_proj": inner, "lm_head": pair}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_regression_an_adapter_that_is_not_finite_or_empty_is_refused(base: Path, tmp_path: Path) -> None:
    """0 times NaN is NaN: beside such an expert, those who never asked for it got no answer either."""
    folder = pico_adapter(tmp_path / "nan", base)
    tensors = load_file(folder / TENSORS)
    first = sorted(tensors)[0]
    save_file({**tensors, first: tensors[first] * float("nan")}, folder / TENSORS)
    with pytest.raises(CounterpointError, match=f"{re.escape(first)}.* is not finite everywhere"):
        read_adapter(folder)
    save_file({}, folder / TENSORS)
    with pytest.raises(CounterpointError, match="there are no LoRA factors in it"):
        read_adapter(folder)
