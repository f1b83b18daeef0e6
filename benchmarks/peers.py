"""Their side, at its best settings: greedy loops without a sampler, with the cache that each has."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from benchmarks.models import adapter_folder, load, random_prompts
from counterpoint.models.adapter import merge_into, read_adapter
from counterpoint.models.load import quiet

Forward = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""(tokens `[B, T]`, cache or None) to (next-token log-probabilities `[V]`, cache)."""


def merged(folder: Path, dtype: torch.dtype, index: int) -> Any:
    """A Hugging Face model with one adapter merged into it."""
    model = load(folder, dtype)
    merge_into(model, read_adapter(adapter_folder(folder, index)))
    return model


def generate(model: Any, tokens: int) -> float:
    """Tokens per second of `generate`, with the prefill."""
    prompt = torch.tensor(random_prompts(1))
    start = time.perf_counter()
    model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
    )
    return tokens / (time.perf_counter() - start)


@torch.no_grad()
def decode(forward: Forward, tokens: int) -> float:
    """Tokens per second after the prefill."""
    logp_V, cache = forward(torch.tensor(random_prompts(1)), None)
    start = time.perf_counter()
    for _ in range(tokens):
        logp_V, cache = forward(logp_V.argmax().view(1, 1), cache)
    return tokens / (time.perf_counter() - start)


def in_turn_models(models: Sequence[Any]) -> Forward:
    """K separate models stepped in turn and averaged: how MOD does it."""

    def forward(ids_BT: Tensor, caches: Any) -> tuple[Tensor, Any]:
        outs = [
            model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
            for model, cache in zip(models, caches or [None] * len(models), strict=True)
        ]
        logp_KV = torch.stack([out.logits[0, -1].float().log_softmax(-1) for out in outs])
        return logp_KV.mean(0), [out.past_key_values for out in outs]

    return forward


def peft_model(folder: Path, dtype: torch.dtype, adapters: int) -> Any:
    with quiet():
        model = PeftModel.from_pretrained(load(folder, dtype), str(adapter_folder(folder, 0)), adapter_name="a0")
        for index in range(1, adapters):
            model.load_adapter(str(adapter_folder(folder, index)), adapter_name=f"a{index}")
    return model.eval()


def in_turn_adapters(model: Any, adapters: int) -> Forward:
    """One PEFT model whose adapters are made active and stepped in turn, a cache each, averaged as probabilities."""
    names = [f"a{index}" for index in range(adapters)]

    def forward(ids_BT: Tensor, caches: Any) -> tuple[Tensor, Any]:
        logps, after = [], []
        for name, cache in zip(names, caches or [None] * adapters, strict=True):
            model.set_adapter(name)
            out = model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logps.append(out.logits[0, -1].float().log_softmax(-1))
            after.append(out.past_key_values)
        return torch.stack(logps).logsumexp(0) - math.log(adapters), after

    return forward


def mixed_batch(model: Any, adapters: int) -> Forward:
    """PEFT's mixed batch: a row per adapter over one base, averaged."""
    names = [f"a{index}" for index in range(adapters)]

    def forward(ids_BT: Tensor, cache: Any) -> tuple[Tensor, Any]:
        out = model(
            input_ids=ids_BT.expand(adapters, -1), past_key_values=cache, use_cache=True, logits_to_keep=1,
            adapter_names=names,
        )  # fmt: skip
        return out.logits[:, -1].float().log_softmax(-1).mean(0), out.past_key_values

    return forward


def add_weighted(model: Any, kind: str, weights: Sequence[float], repeats: int = 3) -> float:
    """Milliseconds in which PEFT makes another profile its active adapter."""
    names = [f"a{index}" for index in range(len(weights))]
    took = []
    for index in range(repeats):
        start = time.perf_counter()
        model.add_weighted_adapter(names, list(weights), f"profile{index}", combination_type=kind)
        model.set_adapter(f"profile{index}")
        took.append(1e3 * (time.perf_counter() - start))
        model.set_adapter(names[0])
        model.delete_adapter(f"profile{index}")
    return statistics.median(took)
