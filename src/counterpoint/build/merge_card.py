"""The README.md beside a merge: what was merged, how far it was found to be right, and how it is loaded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {out})
tokenizer = AutoTokenizer.from_pretrained({base})"""

LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({out})
tokenizer = AutoTokenizer.from_pretrained({out})"""


def card(
    out: str, bases: Sequence[str], weights: Mapping[str, Mapping[str, float]], said: Sequence[str], adapter: bool
) -> str:
    """The card as Markdown, with the front matter of the hub; `said` are paragraphs on the method and the check."""
    load = (LOAD_ADAPTER if adapter else LOAD_MODEL).format(base=json.dumps(bases[0]), out=json.dumps(out))
    kind = "LoRA adapter" if adapter else "model"
    return "\n\n".join([
        front_matter(bases, adapter),
        f"# {Path(out).name}",
        f"A {kind} of {', '.join(f'`{base}`' for base in bases)}, merged by Counterpoint.",
        table(weights),
        *said,
        f"```python\n{load}\n```\n",
    ])  # fmt: skip


def front_matter(bases: Sequence[str], adapter: bool) -> str:
    """What the hub reads."""
    lines = ["base_model:", *(f"- {json.dumps(base)}" for base in bases)]
    tags = ["merge", "counterpoint", *(["lora"] if adapter else [])]
    library = "peft" if adapter else "transformers"
    return "\n".join(["---", *lines, f"library_name: {library}", "tags:", *(f"- {tag}" for tag in tags), "---"])


def table(weights: Mapping[str, Mapping[str, float]]) -> str:
    """A row per expert and range of layers."""
    rows = [f"| {where} | {name} | {c:g} |" for where, part in weights.items() for name, c in part.items()]
    return "\n".join(["| layers | expert | coefficient |", "|---|---|---|", *rows])
