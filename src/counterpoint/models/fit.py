"""Does an expert fit a base? Answered from configs, adapters and tokenizers; no model's weights are loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from counterpoint.models.adapter import CONFIG, read_adapter, read_config
from counterpoint.models.bank import LoraBank
from counterpoint.models.load import check_family, load_tokenizer
from counterpoint.types import CounterpointError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
IDS_NAMED = 3


@dataclass(frozen=True)
class Source:
    """What an expert is made of: a PEFT adapter's folder, or a whole model's folder or hub id."""

    kind: Literal["adapter", "model"]
    path: str


def find_expert(name: str) -> Source:
    """What there is at a path: an adapter, a whole model, or a folder that holds one of them. Else it is a hub id.

    Raises CounterpointError for a folder that is not there, and for one that holds none or several, which it names.
    """
    folder = Path(name)
    if not folder.is_dir():
        if is_path(name):
            raise CounterpointError(f"{name}: there is no such folder")
        return Source("model", name)
    if found := _here(folder):
        return found
    inside = [found for path in sorted(folder.iterdir()) if path.is_dir() and (found := _here(path))]
    if len(inside) == 1:
        return inside[0]
    if inside:
        there = ", ".join(source.path for source in inside)
        raise CounterpointError(f"{folder}: holds several experts; name one of them: {there}")
    raise CounterpointError(f"{folder}: holds neither an adapter ({CONFIG}) nor a model (config.json)")


def is_path(name: str) -> bool:
    """Whether a name cannot be a hub id, which is `model` or `owner/model`, or lies in a folder that is there."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or ("/" in name and Path(name).parent.is_dir())


def _here(folder: Path) -> Source | None:
    if (folder / CONFIG).exists():
        return Source("adapter", str(folder))
    return Source("model", str(folder)) if (folder / "config.json").exists() else None


def check_expert(base: str, source: Source) -> list[str]:
    """Refuse an expert that does not fit the base; what looks odd but may be right is returned as notes."""
    if source.kind == "adapter":
        return check_adapter(base, Path(source.path))
    check_model(base, source.path)
    return []


def check_adapter(base: str, folder: Path) -> list[str]:
    """Refuse an adapter whose factors do not fit the base's layers, or whose tokenizer is another.

    The base is built without weights, so that this costs no memory. Returns notes.
    """
    LoraBank(skeleton(base)).add(folder.name, read_adapter(folder))
    notes = []
    named = read_config(folder).get("base_model_name_or_path")
    if named and not same_model(named, base):
        notes.append(f"{folder / CONFIG}: it names another base, {named!r}; its factors fit {base!r} all the same")
    if any((folder / file).exists() for file in TOKENIZER_FILES):
        own, ours = load_tokenizer(str(folder)), load_tokenizer(base)
        check_tokenizer(str(folder), own, base, ours)
        if own.chat_template and own.chat_template != ours.chat_template:
            notes.append(f"{folder}: its tokenizer has another chat template; prompts are rendered by the base's")
    return notes


def skeleton(name: str) -> Any:
    """The model of a folder or id as shapes alone, on the meta device."""
    check_family(name)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))


def same_model(one: str, other: str) -> bool:
    """Whether two names lead to one folder, or are one hub id."""
    return one == other or (Path(one).is_dir() and Path(one).resolve() == Path(other).resolve())


def check_model(base: str, model: str) -> Any:
    """Refuse a whole model that cannot be mixed with the base token by token; its tokenizer.

    Both must give every id the same meaning, end a response with the same tokens and know every id. A head that is
    padded beyond the tokenizer's ids is no hindrance.
    """
    for name in (base, model):
        check_family(name)
    ours, own = load_tokenizer(base), load_tokenizer(model)
    check_tokenizer(model, own, base, ours)
    ends, expected = (end_tokens(configured_ends(name), tokenizer) for name, tokenizer in ((model, own), (base, ours)))
    if ends != expected:
        raise CounterpointError(
            f"{model}: ends a response with the tokens {sorted(ends)}, the base {base} with {sorted(expected)}; give "
            "both the same eos_token_id in generation_config.json"
        )
    for name in (base, model):
        rows = int(AutoConfig.from_pretrained(name).get_text_config().vocab_size)
        if rows < vocabulary(ours):
            raise CounterpointError(f"{name}: its vocabulary has {rows} ids, its tokenizer {vocabulary(ours)}")
    return own


def check_tokenizer(name: str, tokenizer: Any, base: str, base_tokenizer: Any) -> None:
    """Refuse a tokenizer that is not, id by id, the base's, or that ends a text with another token."""
    wrong = list(differing_ids(tokenizer, base_tokenizer))
    if wrong:
        first = "; ".join(f"id {i} is {token!r}, in the base {ours!r}" for i, token, ours in wrong[:IDS_NAMED])
        raise CounterpointError(
            f"{name}: its tokenizer is not that of the base {base}: ids that differ: {len(wrong)}, first {first}"
        )
    if tokenizer.eos_token_id != base_tokenizer.eos_token_id:
        raise CounterpointError(
            f"{name}: its tokenizer ends a text with {tokenizer.eos_token!r}, that of the base {base} with "
            f"{base_tokenizer.eos_token!r}; they must be the same"
        )


def differing_ids(one: Any, other: Any) -> Iterator[tuple[int, str | None, str | None]]:
    """Ids that two tokenizers read differently, in order, with what each reads there; None is nothing."""
    tokens, others = ({i: token for token, i in tokenizer.get_vocab().items()} for tokenizer in (one, other))
    for i in sorted(tokens.keys() | others.keys()):
        if tokens.get(i) != others.get(i):
            yield i, tokens.get(i), others.get(i)


def vocabulary(tokenizer: Any) -> int:
    """How many logits have a meaning: one more than the tokenizer's largest id."""
    largest: int = max(tokenizer.get_vocab().values())
    return largest + 1


def end_tokens(configured: int | list[int] | None, tokenizer: Any) -> set[int]:
    """Every token that ends a response: the tokenizer's and the generation config's."""
    more = configured if isinstance(configured, list) else [configured]
    return {token for token in (tokenizer.eos_token_id, *more) if token is not None}


def configured_ends(name: str) -> int | list[int] | None:
    """The `eos_token_id` that a model of this folder or id would be loaded with."""
    try:
        generation = GenerationConfig.from_pretrained(name)
    except OSError:  # without that file a model is loaded with its config's
        generation = AutoConfig.from_pretrained(name).get_text_config()
    ends: int | list[int] | None = generation.eos_token_id
    return ends
