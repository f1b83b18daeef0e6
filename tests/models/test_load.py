"""Which models are loaded, and what is said of the others: each from its config.json alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterpoint.models.load import FAMILIES, check_family, load_model
from counterpoint.testing import PECULIAR, pico_model, save_pico
from counterpoint.types import CounterpointError

TOO = "it reads more than text; use a model of text alone"
ENCODER = "it reads its prompt with an encoder; use a model that is a decoder alone"
LINEAR = "linear attention has no cache of keys and values that rows could share"

OTHER_KINDS = {
    "t5": ENCODER,
    "bart": ENCODER,
    "whisper": ENCODER,
    "gemma3": TOO,
    "llama4": TOO,
    "qwen2_vl": TOO,
    "llava": TOO,
    "mamba": LINEAR,
    "mamba2": LINEAR,
    "rwkv": LINEAR,
    "xlstm": LINEAR,
    "jamba": LINEAR,
    "zamba2": LINEAR,
    "falcon_h1": LINEAR,
    "qwen3_next": LINEAR,
    "recurrent_gemma": LINEAR,
    "phi3": f"supported are {', '.join(FAMILIES)}",
    "gpt_oss": f"supported are {', '.join(FAMILIES)}",
    "bert": f"supported are {', '.join(FAMILIES)}",
}


def written(folder: Path, **fields: Any) -> str:
    (folder / "config.json").write_text(json.dumps(fields))
    return str(folder)


def refused(name: str) -> str:
    with pytest.raises(CounterpointError) as caught:
        load_model(name)
    return str(caught.value)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_kind_of_model_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name = written(tmp_path, model_type=kind)
    assert refused(name) == f"{name}: model type {kind!r} is not supported: {OTHER_KINDS[kind]}"


def test_a_gpt2_that_reads_an_encoder_is_refused(tmp_path: Path) -> None:
    assert ENCODER in refused(written(tmp_path, model_type="gpt2", add_cross_attention=True))


def test_a_model_that_transformers_does_not_know(tmp_path: Path) -> None:
    message = refused(written(tmp_path, model_type="of_the_future"))
    assert message.startswith(f"{tmp_path}: no model could be loaded: ")
    assert "of_the_future" in message


QUANTISED = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8"},
}


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_weights_are_refused_by_name(tmp_path: Path, method: str) -> None:
    message = refused(written(tmp_path, model_type="llama", quantization_config=QUANTISED[method]))
    assert message.startswith(f"{tmp_path}: this llama model is not supported: its weights are quantised ({method}), ")
    assert message.endswith("load the base that is not quantised")


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_attention_to_what_comes_after_is_refused_by_name(tmp_path: Path, family: str) -> None:
    message = refused(written(tmp_path, model_type=family, use_bidirectional_attention=True))
    assert "use_bidirectional_attention is set" in message


NTK = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 64, "long_factor": [2.0] * 64, "rope_theta": 10000.0}
LONG["original_max_position_embeddings"] = 1024


@pytest.mark.parametrize("rope", [NTK, LONG], ids=["dynamic", "longrope"])
def test_positions_that_depend_on_the_longest_row_are_refused_by_name(tmp_path: Path, rope: dict[str, Any]) -> None:
    message = refused(written(tmp_path, model_type="llama", rope_parameters=rope))
    assert f"rope_type {rope['rope_type']!r} turns a row by the length of the longest row beside it" in message


def test_such_positions_in_one_kind_of_layer_are_refused_too(tmp_path: Path) -> None:
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    rope = {"sliding_attention": plain, "full_attention": NTK}
    assert "rope_type 'dynamic'" in refused(written(tmp_path, model_type="gemma3_text", rope_parameters=rope))


@pytest.mark.parametrize("rope", ["default", "linear", "llama3", "yarn"])
def test_positions_of_their_own_are_taken(tmp_path: Path, rope: str) -> None:
    known = {"rope_type": rope, "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if rope == "llama3" else {}
    parameters = {"rope_type": rope, "rope_theta": 10000.0} if rope == "default" else known | more
    name = written(tmp_path, model_type="llama", max_position_embeddings=128, rope_parameters=parameters)
    assert check_family(name) == 128


def test_a_strange_type_of_layer_is_refused_by_name(tmp_path: Path) -> None:
    types = ["full_attention", "chunked_attention"]
    message = refused(written(tmp_path, model_type="qwen3", num_hidden_layers=2, layer_types=types))
    assert "layers of the type 'chunked_attention'; expected full_attention or sliding_attention" in message


def test_sliding_layers_without_a_window_are_refused(tmp_path: Path) -> None:
    types = ["full_attention", "sliding_attention"]
    message = refused(written(tmp_path, model_type="qwen2", num_hidden_layers=2, layer_types=types))
    assert "it has layers of the type 'sliding_attention', but no sliding_window" in message


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_tells_its_longest_sequence(tmp_path: Path, family: str) -> None:
    save_pico(tmp_path, family=family, positions=96)
    assert check_family(str(tmp_path)) == 96


def test_there_is_a_pico_model_of_each_family() -> None:
    assert tuple(PECULIAR) == FAMILIES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_is_loaded_as_asked(tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_model(str(save_pico(tmp_path, seed=3)), dtype)
    assert not model.training
    for name, tensor in pico_model(3).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(dtype))


def test_regression_a_missing_parameter_is_not_made_up(tmp_path: Path) -> None:
    """Transformers fills it with random numbers and only warns."""
    save_pico(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert refused(str(tmp_path)).startswith(f"{tmp_path}: the parameter 'lm_head.weight' is missing (1 in all); ")
