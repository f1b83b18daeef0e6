"""What is learned from real text, for one seed: a base that has read some, and every method from the same pairs.

    pmol                a gate and two new experts for each preference, by DPO on all pairs
    pmol-no-group-loss  nothing ties experts to preferences
    pmol-no-empty       no expert that adds nothing
    pmol-router         a gate over the experts, which stay as they are
    one-lora, full      one adapter of as many parameters as pmol, or all parameters, by DPO on all pairs
    experts             one LoRA for each preference, by DPO on its own pairs

All see `steps * batch` pairs; the experts share the steps, so that what is learned over them has seen twice as many.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.pmol.texts_data import SOURCES, Texts
from torch import nn

from counterpoint.compose.weighers.gate import GateExpert, hash_adapter
from counterpoint.data.examples import example
from counterpoint.models.adapter import read_adapter
from counterpoint.models.load import load_model, load_tokenizer
from counterpoint.train.dpo import DpoConfig, train_dpo
from counterpoint.train.gate import GateConfig, train_gate
from counterpoint.train.sft import SftConfig, train_sft

DIMENSIONS = tuple(SOURCES)
RANK, PER_GROUP = 4, 2
"""Of PMoL's experts; a preference's own expert has the rank of its group."""
GATES: dict[str, dict[str, Any]] = {
    "pmol": {},
    "pmol-no-group-loss": {"balance": 0.0},
    "pmol-no-empty": {"empty": False},
    "pmol-router": {"learn": "router"},
}
EXPERTS, ONE_LORA, WHOLE = "experts", "one-lora", "full"
LEARNED = (EXPERTS, *GATES, ONE_LORA, WHOLE)


@dataclass(frozen=True)
class Effort:
    """How much every method learns: `steps` of `batch` pairs. The base reads `reading` steps of single answers."""

    steps: int = 42
    batch: int = 16
    reading: int = 100


@dataclass(frozen=True)
class Learner:
    """One seed: the texts, what the base grew from, and the folder of its artefacts."""

    texts: Texts
    stories: str
    out: Path
    seed: int
    effort: Effort

    @property
    def base(self) -> str:
        return str(self.out / "base")

    def expert(self, dimension: str, folder: str = EXPERTS) -> Path:
        return self.out / folder / dimension


def learn_base(of: Learner) -> None:
    """All parameters imitate the chosen answers of the part that nothing else reads."""
    tokenizer = load_tokenizer(of.stories)
    examples = [example(c.prompt, c.chosen, tokenizer) for c in of.texts.parts["read"]]
    config = SftConfig(
        of.stories, steps=of.effort.reading, batch=of.effort.batch, learning_rate=1e-3, lora_rank=0, warmup=10,
        seed=of.seed,
    )  # fmt: skip
    train_sft(config, examples, Path(of.base))


def learn(of: Learner, name: str, rate: float, folder: str) -> Path:
    """Train what a method needs into a folder of this name; what is there already is not trained again."""
    out = of.out / folder
    if name in GATES:
        learn_gate(of, name, rate, out)
    elif name == EXPERTS:
        for dimension in DIMENSIONS:
            learn_pairs(of, dimension, of.effort.steps // len(DIMENSIONS), rate, PER_GROUP * RANK, out / dimension)
    else:
        learn_pairs(of, None, of.effort.steps, rate, 0 if name == WHOLE else equal_rank(of.stories), out)
    return out


def learn_gate(of: Learner, name: str, rate: float, out: Path) -> None:
    """PMoL or a variant; `pmol-router` is over the experts, which must be there."""
    config = GateConfig(
        of.base, DIMENSIONS, per_group=PER_GROUP, steps=of.effort.steps, batch=of.effort.batch, learning_rate=rate,
        lora_rank=RANK, lora_alpha=2 * RANK, seed=of.seed, **GATES[name],
    )  # fmt: skip
    folders = [of.expert(dimension) for dimension in DIMENSIONS] if name == "pmol-router" else []
    given = [
        (GateExpert(name=folder.name, dimension=folder.name, hash=hash_adapter(folder)), read_adapter(folder))
        for folder in folders
    ]
    train_gate(config, of.texts.parts["train"], out, given)


def learn_pairs(of: Learner, dimension: str | None, steps: int, rate: float, rank: int, out: Path) -> None:
    """DPO on one preference's pairs, or on all; rank 0 trains all parameters."""
    mixed = [replace(c, dimension="mix") for c in of.texts.parts["train"]]
    config = DpoConfig(
        of.base, dimension or "mix", steps=max(1, steps), batch=of.effort.batch, learning_rate=rate, lora_rank=rank,
        lora_alpha=2 * rank or 16, seed=of.seed,
    )  # fmt: skip
    train_dpo(config, of.texts.parts["train"] if dimension else mixed, out)


def equal_rank(stories: str) -> int:
    """The rank at which one adapter has as many parameters as PMoL: its experts, and the rows of its routers."""
    count = PER_GROUP * len(DIMENSIONS)
    sizes = list(linear_sizes(stories).values())
    rows = (count + 1) * sum(into for _, into in sizes)
    return round(count * RANK + rows / sum(out + into for out, into in sizes))


def linear_sizes(stories: str) -> Mapping[str, tuple[int, int]]:
    """Outputs and inputs of every linear layer that is adapted."""
    model = load_model(stories)
    head = model.get_output_embeddings()
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head
    }
