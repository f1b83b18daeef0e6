"""Their side of `benchmarks.pmol`: a plain loop over experts, PEFT's Arrow and X-LoRA, and its LoRA in training."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import ArrowConfig, LoraConfig, XLoraConfig, create_arrow_model, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import linear, softmax

from benchmarks.models import PROJECTIONS, adapter_folder, load, random_prompts
from counterpoint.models.adapter import read_adapter
from counterpoint.models.load import quiet


class PMoLLinear(nn.Module):
    """PMoL as one writes it down: the experts of a layer one after the other, the empty one left out."""

    def __init__(self, base: nn.Module, router_EI: Tensor, experts: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.base, self.router_EI, self.experts = base, router_EI, experts

    def forward(self, x: Tensor) -> Tensor:
        share_BTE = softmax(linear(x, self.router_EI), dim=-1)
        y: Tensor = self.base(x)
        for k, (a_RI, b_OR) in enumerate(self.experts):
            y = y + share_BTE[..., k, None] * linear(linear(x, a_RI), b_OR)
        return y


def looped(folder: Path, dtype: torch.dtype, scores: Mapping[str, Tensor], experts: int) -> Any:
    """The base with such layers in place of those that the experts adapt."""
    model = load(folder, dtype)
    adapters = [read_adapter(adapter_folder(folder, index)).factors for index in range(experts)]
    for module in adapters[0]:
        own = [(a.to(dtype), b.to(dtype)) for a, b in (adapter[module] for adapter in adapters)]
        model.set_submodule(module, PMoLLinear(model.get_submodule(module), scores[module].to(dtype), own))
    return model


def peft_arrow(folder: Path, dtype: torch.dtype, experts: int, top_k: int) -> Any:
    paths = [str(adapter_folder(folder, index)) for index in range(experts)]
    with quiet():
        return create_arrow_model(load(folder, dtype), paths, ArrowConfig(top_k=top_k)).eval()


def peft_x_lora(folder: Path, dtype: torch.dtype, experts: int) -> Any:
    """X-LoRA with one linear map as its classifier; PEFT has it refuse a cache."""
    model = load(folder, dtype)
    model.config.use_cache = False
    adapters = {str(index): str(adapter_folder(folder, index)) for index in range(experts)}
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=model.config.hidden_size, xlora_depth=1, adapters=adapters)
    with quiet():
        return get_peft_model(model, config).eval()


def peft_lora(folder: Path, dtype: torch.dtype, rank: int) -> Any:
    """One LoRA on all projections, to be trained."""
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS))
    with quiet():
        return get_peft_model(load(folder, dtype), config)


@torch.no_grad()
def prefill(model: Any, tokens: int) -> float:
    """Tokens per second of one forward, with logits of the last token alone."""
    ids_BT = torch.tensor([sum(random_prompts(tokens // 64), ())])
    start = time.perf_counter()
    model(input_ids=ids_BT, logits_to_keep=1)
    return tokens / (time.perf_counter() - start)


@torch.no_grad()
def greedy(model: Any, requests: int, tokens: int) -> float:
    """Tokens per second over all requests after the prefill."""
    ids_BT = torch.tensor(random_prompts(requests))
    out = model(input_ids=ids_BT, use_cache=True, logits_to_keep=1)
    start = time.perf_counter()
    for _ in range(tokens):
        next_B1 = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(input_ids=next_B1, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
    return tokens * requests / (time.perf_counter() - start)


@torch.no_grad()
def greedy_anew(model: Any, tokens: int) -> float:
    """Tokens per second of one request, all of it computed anew for each token."""
    ids_BT = torch.tensor(random_prompts(1))
    start = time.perf_counter()
    for _ in range(tokens):
        next_B1 = model(input_ids=ids_BT, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
        ids_BT = torch.cat([ids_BT, next_B1], dim=1)
    return tokens / (time.perf_counter() - start)
