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

FAMILIES = ("llama",)


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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
        found = [name for name, there in present.items() if there]
        raise CounterpointError(f"device {text!r} is not on this machine; there is: {', '.join(found)}") from None
    return device


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model folder or id, with a pad token (the end-of-text token where it has none)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CounterpointError(f"{name}: no tokenizer could be loaded: {_first_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise CounterpointError(f"{name}: the tokenizer has no end-of-text token, so no response could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_family(name: str) -> int:
    """The longest sequence of a model, in tokens, from its config; CounterpointError for an unsupported family."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from None
    if config.model_type not in FAMILIES:
        raise CounterpointError(
            f"{name}: model type {config.model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    return int(config.max_position_embeddings)


def load_model(name: str, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """The causal language model of a folder or id, in evaluation mode, or which family is supported."""
    check_family(name)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device)
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loaded(name, error) from None
    return model.eval()


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
