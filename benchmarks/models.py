"""What is measured: a random Llama of 135 M parameters and rank-16 adapters on all its projections.

The shape of the smallest Llamas in use: 30 layers of 576, 9 heads of which 3 carry keys and values, 49,152 tokens, the
output layer tied to the embedding. Speed does not depend on what the parameters are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from counterpoint.models.adapter import LoraFactors, write_adapter
from counterpoint.models.load import quiet

RANK = 16
PROMPT = 64
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTERS = 6


def prepare(folder: Path) -> Path:
    """Write the base and its adapters, unless they are there."""
    base = folder / "base"
    if not (base / "model.safetensors").exists():
        config = LlamaConfig(
            hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            vocab_size=49152, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
            pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        with quiet():
            LlamaForCausalLM(config).save_pretrained(base)
    model = None
    for index in range(ADAPTERS):
        if not (adapter_folder(folder, index) / "adapter_model.safetensors").exists():
            model = model or load(folder, torch.float32)
            write_adapter(adapter_folder(folder, index), random_adapter(linear_shapes(model), index), str(base))
    return folder


def adapter_folder(folder: Path, index: int) -> Path:
    return folder / f"adapter{index}"


def load(folder: Path, dtype: torch.dtype) -> Any:
    """A fresh copy of the base."""
    with quiet():
        return LlamaForCausalLM.from_pretrained(folder / "base", dtype=dtype).eval()


def random_adapter(shapes: Mapping[str, tuple[int, int]], seed: int) -> LoraFactors:
    """An adapter of layers with so many outputs and inputs."""
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors({
        name: (
            torch.randn(RANK, into, generator=generator) / into**0.5,
            0.02 * torch.randn(out, RANK, generator=generator),
        )
        for name, (out, into) in shapes.items()
    })  # fmt: skip


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the layers that an adapter is for."""
    layers = {name: layer for name, layer in model.named_modules() if name.endswith(PROJECTIONS)}
    return {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}


def shapes_of(adapter: LoraFactors) -> dict[str, tuple[int, int]]:
    return {name: (len(b), a.shape[1]) for name, (a, b) in adapter.factors.items()}


def random_prompts(count: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(300, 2000, (PROMPT,), generator=generator).tolist()) for _ in range(count)]
