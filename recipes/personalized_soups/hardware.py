"""Memory that a run needs, from the sizes of the policy's model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from recipes.personalized_soups.settings import Settings, Shape
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from counterpoint.models.load import quiet

GIB = 2**30
HALF, ADAM = 2, 16
"""Bytes of a parameter in bfloat16; and of one that is learned in float32, with its gradient and Adam's two moments."""


@dataclass(frozen=True)
class Line:
    """A number and how it comes about."""

    what: str
    how: str
    number: str


def config_of(settings: Settings) -> Any:
    """The policy's own configuration where it is a folder here, else that of the section `[shape]`."""
    folder = Path(settings.models.policy)
    return AutoConfig.from_pretrained(folder) if folder.is_dir() else llama(settings.shape)


def llama(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
    )  # fmt: skip


def parameters(config: Any) -> int:
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())


def factors(config: Any, rank: int, targets: str | Sequence[str]) -> int:
    """Parameters of a LoRA adapter."""
    modules = targets if isinstance(targets, str) else list(targets)
    with quiet(), torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=rank, target_modules=modules))
    return int(model.get_nb_trainable_parameters()[0])


def kept_of_a_token(config: Any) -> int:
    """Bytes that a backward pass in bfloat16 keeps of a token, by what transformers' Llama saves for LoRA in q and v.

    24 x width + 6 x feed_forward in each block, as counted by hooks on saved tensors.
    """
    return int(config.num_hidden_layers * (24 * config.hidden_size + 6 * config.intermediate_size))


def cached_of_a_token(config: Any) -> int:
    """Bytes of a token's keys and values in bfloat16."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * HALF * config.num_hidden_layers * config.num_key_value_heads * width)


def memory_of(settings: Settings) -> list[Line]:
    """GPU memory by what is held at once, and disk. Workspace and what the allocator wastes come on top."""
    config, c, r, how = config_of(settings), settings.policy, settings.reward, settings.evaluation
    kept, cached, prompt = kept_of_a_token(config), cached_of_a_token(config), settings.shape.prompt_tokens
    n, policy, reward = parameters(config), *(factors(config, x.lora_rank, x.lora_targets) for x in (c, r))
    rows, long, tokens = c.prompts_per_iteration * c.samples, prompt + c.max_tokens, 2 * r.batch * r.max_length
    entering = HALF * config.num_hidden_layers * config.hidden_size  # what checkpoints of activations keep of a token
    ppo = {"base": HALF * n, "reward model": HALF * n, f"adapter and Adam {policy / 1e6:.1f}e6 x 16 B": ADAM * policy}
    at_once = c.at_once or c.minibatch
    experts = len(settings.preferences.names) + len(settings.preferences.novel)
    return [
        held("training of a reward model", {
            f"base {n / 1e9:.2f}e9 x 2 B": HALF * n, f"adapter and Adam {reward / 1e6:.1f}e6 x 16 B": ADAM * reward,
            f"activations of {tokens} tokens": tokens * (entering if r.activation_checkpointing else kept),
        }),
        held("its accuracy, on the host and then on the GPU", {f"base in float32 {n / 1e9:.2f}e9 x 4 B": 4 * n}),
        held("PPO while it answers", {**ppo, f"cache of {rows} x {long} tokens": rows * long * cached}),
        held("PPO while it learns", {
            **ppo, f"activations of {at_once} x {long} tokens": at_once * long * kept,
            f"logits 3 x 4 B x {at_once} x {c.max_tokens} x {config.vocab_size}":
                3 * 4 * at_once * c.max_tokens * config.vocab_size,
        }),
        held("answers", {
            "base": HALF * n,
            f"cache of {how.rows} x {prompt + how.max_tokens} tokens": how.rows * (prompt + how.max_tokens) * cached,
        }),
        held("disk", {
            "base and reward base": 2 * HALF * n,
            f"{2 * experts + 5} adapters in float32": 4 * ((experts + 3) * policy + (experts + 2) * reward),
        }),
    ]  # fmt: skip


def held(what: str, parts: Mapping[str, float]) -> Line:
    """What is held at once, in bytes by what it is."""
    said = " + ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    return Line(what, said, f"{sum(parts.values()) / GIB:.1f} GiB")
