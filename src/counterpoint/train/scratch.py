"""A tiny Llama and its tokenizer from nothing: what the embedded world is learned by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from counterpoint.artifacts import publish
from counterpoint.models.load import quiet

SPECIAL = ("<pad>", "<s>", "</s>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class ScratchConfig:
    """Shape of the model; the vocabulary is an upper bound, since a small text has fewer words."""

    hidden: int = 128
    intermediate: int = 352
    layers: int = 3
    heads: int = 4
    vocabulary: int = 1280
    positions: int = 256
    seed: int = 0


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Byte-level BPE with a chat template.

    A text is tokenised as if a space stood before it, so that its first word is the same token as elsewhere.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    pad, bos, eos, *roles = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, bos_token=bos, eos_token=eos, additional_special_tokens=roles
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(config: ScratchConfig, texts: Sequence[str], out: Path) -> None:
    """Write an untrained model with a tokenizer made from `texts`, as a Hugging Face folder."""
    tokenizer = train_tokenizer(texts, config.vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=config.hidden, intermediate_size=config.intermediate,
                num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.heads,
                max_position_embeddings=config.positions, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip
    with publish(out) as staging, quiet():
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
