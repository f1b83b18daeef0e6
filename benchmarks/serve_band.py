"""The bands that are served: four random experts, a gate and a controller, over a random base of either shape.

Token i is the word "wi", so that a text tells which tokens were said.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.models import linear_shapes, prepare, random_adapter, shapes_of
from benchmarks.mope import random_controller
from benchmarks.ours import names
from benchmarks.pmol import random_router
from counterpoint.compose.weighers.controller import Controller, write_controller
from counterpoint.compose.weighers.gate import gate_over, hash_adapter, write_gate
from counterpoint.models.adapter import read_adapter, write_adapter
from counterpoint.models.band_file import add_expert, new_band
from counterpoint.models.load import quiet
from counterpoint.types import Dimension, Expert

EXPERTS = names(4)
SPECIAL = ("<pad>", "<s>", "</s>")
TEMPLATE = "{{ bos_token }}{% for m in messages %} {{ m['content'] }}{% endfor %}"
SMALL = LlamaConfig(
    hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=2048, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    initializer_range=0.2,
)  # fmt: skip


def small_band(folder: Path) -> Path:
    """Over a base of one million parameters, where what is not the model takes most of the time."""
    return _made(folder / "small-band", lambda base: LlamaForCausalLM(SMALL).save_pretrained(base))


def large_band(folder: Path) -> Path:
    """Over the base of `benchmarks.models`, of 135 M parameters."""

    def write(base: Path) -> None:
        base.mkdir(parents=True)
        for name in ("model.safetensors", "config.json", "generation_config.json"):
            shutil.copyfile(prepare(folder) / "base" / name, base / name)

    return _made(folder / "large-band", write)


def word(token: int) -> str:
    return SPECIAL[token] if token < len(SPECIAL) else f"w{token}"


def _made(folder: Path, write_base: Any) -> Path:
    if (folder / "controller").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    with quiet():
        write_base(folder / "base")
        model = LlamaForCausalLM.from_pretrained(folder / "base")
    _write_tokenizer(folder / "base", model.config.vocab_size)
    _add_experts(folder, model)
    _add_gate(folder)
    controller = Controller(experts=list(EXPERTS), dimensions=list(EXPERTS))
    size = sum(parameter.numel() for parameter in model.parameters())
    write_controller(folder / "controller", controller, random_controller(model, size // 20, EXPERTS))
    return folder


def _write_tokenizer(base: Path, vocabulary: int) -> None:
    backend = Tokenizer(models.WordLevel({word(token): token for token in range(vocabulary)}, unk_token=SPECIAL[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad, begin, end = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, bos_token=begin, eos_token=end, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base)


def _add_experts(folder: Path, model: Any) -> None:
    new_band(folder, str(folder / "base"), [Dimension(name) for name in EXPERTS])
    for index, name in enumerate(EXPERTS):
        made = folder / "made" / name
        write_adapter(made, random_adapter(linear_shapes(model), index), str(folder / "base"))
        add_expert(folder, made, Expert(name, name))
    shutil.rmtree(folder / "made")


def _add_gate(folder: Path) -> None:
    places = {name: folder / "experts" / name for name in EXPERTS}
    factors = {name: read_adapter(place) for name, place in places.items()}
    hashes = {name: hash_adapter(place) for name, place in places.items()}
    gate = gate_over("pmol", [Expert(name, name) for name in EXPERTS], factors, hashes)
    scores = random_router(shapes_of(factors[EXPERTS[0]]), "pmol").scores
    write_gate(folder / "gates" / "pmol", gate, scores, {}, str(folder / "base"))
