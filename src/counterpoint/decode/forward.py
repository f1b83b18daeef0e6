"""The forward of Llama-like models in fewer operations than their modules take.

A step of few tokens is bound by how many operations there are. The modules of transformers issue some 70 a layer; the
same function takes 30: RMSNorm is one, q and k are turned together, the heads that share keys and values become the
queries of one head, so that nothing is copied for them, and layers that read one input are one product
(`models/bank_layers.py`). The modules stay the reference: `tests/decode/test_forward.py` holds this to their logits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

Keep = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the new keys and values of a layer, `[B, H, T, d]`, and gives all that its queries read, `[B, H, S, d]`."""


def fits(config: Any) -> bool:
    """Whether `hidden_states` computes what this model's own modules do."""
    return config.model_type in FAMILIES and config.hidden_act == "silu"


def hidden_states(
    model: Any, ids_BT: Tensor, position_BT: Tensor, masks: Mapping[str, Tensor], keep: Sequence[Keep]
) -> Tensor:
    """The last hidden states `[B, T, I]`, for `model` with its bank's layers in place.

    `masks` are what is added to attention scores, `[B, 1, T, S]`, by kind of layer; `keep` is the cache, a layer each.
    """
    trunk = model.base_model
    x_BTI = trunk.embed_tokens(ids_BT)
    turn = _half_turn(*trunk.rotary_emb(x_BTI, position_ids=position_BT))
    shared = model.config.num_attention_heads // model.config.num_key_value_heads
    by_kind = {kind: mask.repeat(1, 1, shared, 1) for kind, mask in masks.items()}
    kinds = getattr(model.config, "layer_types", None) or ["every layer"] * len(keep)
    for layer, kind, keep_layer in zip(trunk.layers, kinds, keep, strict=True):
        mask = by_kind.get(kind, by_kind.get("every layer"))
        x_BTI = x_BTI + _attention(layer.self_attn, _norm(layer.input_layernorm, x_BTI), turn, mask, keep_layer)
        x_BTI = x_BTI + _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x_BTI))
    return _norm(trunk.norm, x_BTI)


def _attention(part: Any, x_BTI: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, keep: Keep) -> Tensor:
    batch, tokens, _ = x_BTI.shape
    kv_heads = part.config.num_key_value_heads
    qkv_BTHd = part.q_proj.group(x_BTI).view(batch, tokens, -1, part.head_dim)
    qk_BTHd, v_BTHd = qkv_BTHd[:, :, :-kv_heads], qkv_BTHd[:, :, -kv_heads:]
    if hasattr(part, "q_norm"):
        qk_BTHd = torch.cat(
            [_norm(part.q_norm, qk_BTHd[:, :, :-kv_heads]), _norm(part.k_norm, qk_BTHd[:, :, -kv_heads:])], 2
        )
    qk_BHTd = _turned(qk_BTHd, *turn).transpose(1, 2)
    k_BHSd, v_BHSd = keep(qk_BHTd[:, -kv_heads:], v_BTHd.transpose(1, 2))
    q_BHGd = qk_BHTd[:, :-kv_heads].reshape(batch, kv_heads, -1, part.head_dim)
    y_BHGd = scaled_dot_product_attention(q_BHGd, k_BHSd, v_BHSd, attn_mask=mask, scale=part.scaling)
    y_BTHd = y_BHGd.reshape(batch, -1, tokens, part.head_dim).transpose(1, 2)
    y: Tensor = part.o_proj(y_BTHd.reshape(batch, tokens, -1))
    return y


def _mlp(part: Any, x_BTI: Tensor) -> Tensor:
    gate, up = part.gate_proj.group(x_BTI).chunk(2, dim=-1)
    y: Tensor = part.down_proj(silu(gate) * up)
    return y


def _norm(part: Any, x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], part.weight, part.variance_epsilon)


def _half_turn(cos_BTd: Tensor, sin_BTd: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin for all heads, the first half of sin negated: then rotating halves is a roll of the last axis."""
    half = sin_BTd.shape[-1] // 2
    return cos_BTd[:, :, None], torch.cat([-sin_BTd[..., :half], sin_BTd[..., half:]], dim=-1)[:, :, None]


def _turned(x_BTHd: Tensor, cos_BT1d: Tensor, sin_BT1d: Tensor) -> Tensor:
    """Rotary positions (RoFormer, arXiv 2104.09864, equation 34), halves rotated as in Llama."""
    return torch.addcmul(x_BTHd * cos_BT1d, x_BTHd.roll(x_BTHd.shape[-1] // 2, dims=-1), sin_BT1d)
