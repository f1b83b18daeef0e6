"""PEFT LoRA adapters on disk: read what is exact, refuse the rest by name, write what PEFT reads back."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from counterpoint.artifacts import read_json, write_json
from counterpoint.types import CounterpointError

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"

PREFIX = "base_model.model."

# Fields that say where factors go or how they were trained: any value is right, since the tensors tell the rest.
# Factors are [r, in] and [out, r] whichever way round the base holds its weight, so `fan_in_fan_out` changes nothing.
INERT = {
    "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "alpha_pattern", "megatron_config",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Initialisations that leave the base as it was; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA write a changed base.
EXACT_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


@dataclass(frozen=True)
class LoraFactors:
    """One adapter: per module name the pair (`A_RI`, `B_OR`) with delta `B @ A`; the scale alpha/r is inside `B`."""

    factors: Mapping[str, tuple[Tensor, Tensor]]

    def delta(self, module: str) -> Tensor:
        """The update `[O, I]` of one module's weight."""
        a, b = self.factors[module]
        return b @ a

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(a.numel() + b.numel() for a, b in self.factors.values())


def read_adapter(folder: Path) -> LoraFactors:
    """Read a PEFT LoRA adapter, exactly.

    Ranks may differ per module (`rank_pattern`), as may alphas (`alpha_pattern`), and rsLoRA's alpha/sqrt(r) is
    honoured. Everything that changes the layer or the base is refused by name.
    """
    config = read_config(folder)
    _refuse_unsupported(folder / CONFIG, config)
    path = folder / TENSORS
    if not path.exists():
        raise CounterpointError(f"{path}: there is no such file; adapters are read from safetensors only")
    try:
        # Not mapped, since overwriting the file would end a process that uses it; `load` gives tensors in random order.
        tensors = dict(sorted(load(path.read_bytes()).items()))
    except SafetensorError as error:
        raise CounterpointError(f"{path}: not a readable safetensors file: {error}") from None
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, half = key.removeprefix(PREFIX).rpartition(".lora_")
        if half not in ("A.weight", "B.weight") or tensor.ndim != 2:
            raise CounterpointError(
                f"{path}: tensor {key!r} of shape {tuple(tensor.shape)} is not the LoRA factor of a linear layer"
            )
        if not tensor.isfinite().all():
            raise CounterpointError(f"{path}: tensor {key!r} is not finite everywhere; its training may have failed")
        halves.setdefault(module, {})[half[0]] = tensor
    if not halves:
        raise CounterpointError(f"{path}: there are no LoRA factors in it, so the adapter would do nothing")
    factors = {}
    for module, pair in halves.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise CounterpointError(f"{path}: module {module!r} needs factors A [r, in] and B [out, r] of one rank")
        factors[module] = (pair["A"], pair["B"] * _scale(folder / CONFIG, config, module, rank=pair["A"].shape[0]))
    return LoraFactors(factors)


def read_config(folder: Path) -> dict[str, Any]:
    """An adapter's config, which must be a mapping."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise CounterpointError(f"{folder / CONFIG}: expected a mapping, found {type(config).__name__}")
    return config


def write_adapter(folder: Path, adapter: LoraFactors, base: str, fan_in_fan_out: bool = False) -> None:
    """Write an ordinary PEFT adapter: alpha equals the rank everywhere, so that PEFT's own scale is one.

    `fan_in_fan_out` is for a base of `Conv1D` layers (GPT-2): PEFT reads either, and warns of the wrong one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranks = {module: a.shape[0] for module, (a, _) in adapter.factors.items()}
    r = max(ranks.values())
    tensors = {}
    for module, (a, b) in adapter.factors.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b.contiguous()
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    pattern = {module: rank for module, rank in ranks.items() if rank != r}
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": r, "lora_alpha": r,
        "rank_pattern": pattern, "alpha_pattern": pattern, "target_modules": sorted(ranks), "bias": "none",
        "fan_in_fan_out": fan_in_fan_out, "lora_dropout": 0.0, "inference_mode": True, "init_lora_weights": True,
    }  # fmt: skip
    write_json(folder / CONFIG, config)


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise CounterpointError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA adapters can be combined")
    if config.get("init_lora_weights") not in EXACT_INITIALISATIONS:
        raise CounterpointError(
            f"{path}: init_lora_weights={config['init_lora_weights']!r} changes the base model, so that its adapter "
            "does not fit the base alone; convert it with PEFT's `path_initial_model_for_weight_conversion` first"
        )
    for field, value in config.items():
        if field not in INERT and field != "init_lora_weights" and value and value != "none":
            raise CounterpointError(
                f"{path}: {field}={value!r} is not supported: it changes more than a linear layer's low-rank delta"
            )


def _scale(path: Path, config: dict[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CounterpointError(f"{path}: alpha_pattern is {patterns!r}; expected a mapping from module to alpha")
    if patterns:
        from peft.utils.other import get_pattern_key  # heavy, and needed for few adapters

        alpha = patterns.get(get_pattern_key(list(patterns), module), alpha)
    if not isinstance(alpha, int | float):
        raise CounterpointError(f"{path}: the alpha of module {module!r} is {alpha!r}; lora_alpha must be a number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def weight_OI(layer: torch.nn.Module) -> Tensor:
    """A layer's weight, or a view of it, as `[out, in]`: GPT-2's `Conv1D` holds it as `[in, out]`."""
    from transformers.pytorch_utils import Conv1D  # heavy, and of no use for reading adapters

    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(layer, Conv1D) else weight


def merge_into(model: torch.nn.Module, adapter: LoraFactors) -> None:
    """Add the adapter's deltas to the weights of `model`, in place.

    Raises CounterpointError, with the model as it was, for a weight that another module shares: a delta for an output
    layer that is tied to the embedding would change the embedding too.
    """
    layers = {module: model.get_submodule(module) for module in adapter.factors}
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for module, layer in layers.items():
        if owners[id(layer.weight)] > 1:
            raise CounterpointError(
                f"module {module!r} shares its weight with another, so the delta cannot be added to it alone; "
                "untie the two first (tie_word_embeddings)"
            )
    with torch.no_grad():
        for module, layer in layers.items():
            weight = weight_OI(layer)
            weight += adapter.delta(module).to(weight)
