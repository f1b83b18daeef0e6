"""Load a causal language model and its tokenizer from a folder or a hub id."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from counterpoint.types import CounterpointError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2")
"""`model_type`s whose rows can share one cache and one forward (laws `batch` and `padding`, for each of them)."""

ATTENTION = {"full_attention", "sliding_attention"}
RECURRENT = {"linear_attention", "hybrid", "conv"}
RECURRENT_FAMILIES = {"rwkv", "xlstm"}
"""Those whose config names no types of layers."""
MOVING_ROTATIONS = {"dynamic", "longrope"}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_dtype(text: str) -> torch.dtype:
    """A data type by its name, or which there are."""
    if text not in DTYPES:
        raise CounterpointError(f"dtype {text!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[text]


def parse_device(text: str) -> torch.device:
    """A device that is there, or which are."""
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError):
        present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
        found = [name for name, there in present.items() if there]
        raise CounterpointError(f"device {text!r} is not on this machine; there is: {', '.join(found)}") from None
    return device


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model folder or id, with a pad token (the end-of-text token where it has none)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CounterpointError(f"{name}: no tokenizer could be loaded: {_first_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise CounterpointError(f"{name}: the tokenizer has no end-of-text token, so no response could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_family(name: str) -> int:
    """The longest sequence of a model, in tokens, from its config; CounterpointError says why it cannot be used."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from None
    if reason := _another_kind(config):
        raise CounterpointError(f"{name}: model type {config.model_type!r} is not supported: {reason}")
    if reason := _another_forward(config):
        raise CounterpointError(f"{name}: this {config.model_type} model is not supported: {reason}")
    return int(config.max_position_embeddings)


def _another_kind(config: Any) -> str | None:
    """What makes a model something else than a decoder of text in a family that is known here."""
    types = set(getattr(config, "layer_types", None) or ())
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        return "it reads its prompt with an encoder; use a model that is a decoder alone"
    if config.sub_configs:
        return "it reads more than text; use a model of text alone"
    if types & RECURRENT or config.model_type in RECURRENT_FAMILIES:
        return "linear attention has no cache of keys and values that rows could share"
    if config.model_type not in FAMILIES:
        return f"supported are {', '.join(FAMILIES)}"
    if strange := sorted(types - ATTENTION):
        return f"it has layers of the type {strange[0]!r}; expected {' or '.join(sorted(ATTENTION))}"
    return None


def _another_forward(config: Any) -> str | None:
    """What makes a model of a known family compute something that the rows or the bank would get wrong."""
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method", "an unknown method")
        return (
            f"its weights are quantised ({method}), and merging into quantised weights is not exact; "
            "load the base that is not quantised"
        )
    if getattr(config, "use_bidirectional_attention", False):
        return "use_bidirectional_attention is set, so that tokens see those after them; it does not write text"
    if moving := sorted(_rope_types(config) & MOVING_ROTATIONS):
        return f"rope_type {moving[0]!r} turns a row by the length of the longest row beside it"
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if slides and not getattr(config, "sliding_window", None):
        return "it has layers of the type 'sliding_attention', but no sliding_window"
    return None


def _rope_types(config: Any) -> set[str]:
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [part for part in rope.values() if isinstance(part, dict)]
    return {str(part.get("rope_type", "default")) for part in (rope, *by_layer_type)}


def load_model(name: str, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """The causal language model of a folder or id, in evaluation mode.

    Raises CounterpointError for a model that `check_family` refuses, and for one with parameters missing: transformers
    would make them up.
    """
    check_family(name)
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _not_loaded(name, error) from None
    if missing := sorted(info["missing_keys"]):
        raise CounterpointError(
            f"{name}: the parameter {missing[0]!r} is missing ({len(missing)} in all); a causal language model is "
            "needed, with all of its parameters"
        )
    return model.to(device).eval()


def _not_loaded(name: str, error: Exception) -> CounterpointError:
    where = "" if Path(name).is_dir() else " (there is no such folder; as a hub id it could not be fetched)"
    return CounterpointError(f"{name}: no model could be loaded{where}: {_first_line(error)}")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and no warning that PEFT or TRL use an old name of transformers, which no user can mend."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
