"""Are checkpoints of one architecture and one vocabulary, so that their tensors mean the same? Else refused by name."""

import filecmp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from counterpoint.artifacts import read_json
from counterpoint.models.checkpoint import Checkpoint
from counterpoint.types import CounterpointError

CONFIG = "config.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt",
)  # fmt: skip
NAMED = 3

# Fields that say where a model came from or how it is run, not what its tensors mean.
INERT = {
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "initializer_range", "pad_token_id",
    "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "chunk_size_feed_forward",
    "output_attentions", "output_hidden_states", "return_dict", "is_encoder_decoder", "problem_type",
    "task_specific_params", "id2label", "label2id", "architectures", "bos_token_id", "eos_token_id",
}  # fmt: skip


def check_alike(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints that differ from the first in config, tensors or tokenizer."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        _check_config(first.folder, other.folder)
        _check_tensors(first, other)
        _check_tokenizer(first.folder, other.folder)


def read_model_config(folder: Path) -> dict[str, Any]:
    """A model's config, which must be a mapping and of no quantised model."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise CounterpointError(f"{folder / CONFIG}: expected a mapping, found {type(config).__name__}")
    if config.get("quantization_config"):
        raise CounterpointError(
            f"{folder / CONFIG}: the model is quantised (quantization_config), and its tensors are codes that cannot "
            "be added; merge the models that it was made from"
        )
    return config


def _check_config(first: Path, other: Path) -> None:
    one, two = read_model_config(first), read_model_config(other)
    if not _unlike(one, two):
        return
    # Unlike files may say the same: another version of transformers writes other defaults and other names.
    filled, others = _filled_config(first), _filled_config(other)
    if fields := _unlike(filled, others):
        said = "; ".join(f"{f} is {others.get(f)!r}, there {filled.get(f)!r}" for f in fields[:NAMED])
        raise CounterpointError(
            f"{other / CONFIG}: not the architecture of {first}: {said}; merge models that were tuned from one model"
        )


def _filled_config(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig  # heavy, and seldom needed

    try:
        filled: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    except (OSError, ValueError) as error:
        raise CounterpointError(f"{folder / CONFIG}: {str(error).splitlines()[0]}") from None
    return filled


def _unlike(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return [field for field in sorted((one.keys() | two.keys()) - INERT) if one.get(field) != two.get(field)]


def _check_tensors(first: Checkpoint, other: Checkpoint) -> None:
    for holder, lacking in ((first, other), (other, first)):
        if missing := sorted(holder.specs.keys() - lacking.specs.keys()):
            raise CounterpointError(
                f"{lacking.folder}: lacks {len(missing)} tensors of {holder.folder}: {', '.join(missing[:NAMED])}; "
                "save both with save_pretrained of one version, which leaves out the same tied ones"
            )
    for name, spec in first.specs.items():
        if spec.shape != other.specs[name].shape:
            raise CounterpointError(
                f"{other.folder}: tensor {name!r} has the shape {other.specs[name].shape}, in {first.folder} "
                f"{spec.shape}; merge models that were tuned from one model"
            )


def _check_tokenizer(first: Path, other: Path) -> None:
    """Files of the same bytes are the same tokenizer; unlike ones are loaded and compared id by id.

    What ends a text may differ, as between a model and the one that was taught to chat: the first's is carried over.
    """
    mine, yours = ({file for file in TOKENIZER if (folder / file).exists()} for folder in (first, other))
    if not mine or not yours or (mine == yours and not filecmp.cmpfiles(first, other, mine, shallow=False)[1]):
        return
    from counterpoint.models.fit import differing_ids  # loads transformers, and is seldom needed
    from counterpoint.models.load import load_tokenizer

    if wrong := list(differing_ids(load_tokenizer(str(other)), load_tokenizer(str(first)))):
        said = "; ".join(f"id {i} is {token!r}, there {theirs!r}" for i, token, theirs in wrong[:NAMED])
        raise CounterpointError(
            f"{other}: its tokenizer is not that of {first}: ids that differ: {len(wrong)}, first {said}"
        )
