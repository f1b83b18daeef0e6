"""The README.md beside a merge: what was merged, how far it was found to be right, and how it is loaded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {out})
tokenizer = AutoTokenizer.from_pretrained({base})"""

LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({out})
tokenizer = AutoTokenizer.from_pretrained({out})"""


class Merge(Protocol):
    """What a card is written of: the merge of adapters, or that of whole models."""

    @property
    def out(self) -> str: ...
    @property
    def bases(self) -> Sequence[str]: ...
    @property
    def library(self) -> str: ...
    @property
    def weights(self) -> Mapping[str, Mapping[str, float]]: ...
    def how(self) -> str: ...
    def found(self) -> str: ...


def card(merged: Merge) -> str:
    """The card as Markdown, with the front matter of the hub."""
    adapter = merged.library == "peft"
    kind = "LoRA adapter" if adapter else "model"
    load = (LOAD_ADAPTER if adapter else LOAD_MODEL).format(
        base=json.dumps(merged.bases[0]), out=json.dumps(merged.out)
    )
    return "\n\n".join([
        front_matter(merged.bases, merged.library),
        f"# {Path(merged.out).name}",
        f"A {kind} of {', '.join(f'`{base}`' for base in merged.bases)}, merged by Counterpoint.",
        table(merged.weights),
        merged.how(),
        merged.found(),
        f"```python\n{load}\n```\n",
    ])  # fmt: skip


def front_matter(bases: Sequence[str], library: str) -> str:
    """What the hub reads."""
    lines = ["base_model:", *(f"- {json.dumps(base)}" for base in bases)]
    tags = ["merge", "counterpoint", *(["lora"] if library == "peft" else [])]
    return "\n".join(["---", *lines, f"library_name: {library}", "tags:", *(f"- {tag}" for tag in tags), "---"])


def table(weights: Mapping[str, Mapping[str, float]]) -> str:
    """A row per expert and range of layers."""
    rows = [f"| {where} | {name} | {c:g} |" for where, part in weights.items() for name, c in part.items()]
    return "\n".join(["| layers | expert | coefficient |", "|---|---|---|", *rows])
