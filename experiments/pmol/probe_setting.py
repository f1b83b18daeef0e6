"""What the probes' gates learn, and the texts that they are shown."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments.pmol.scaling_worlds import topic_of

from counterpoint.artifacts import publish
from counterpoint.compose.weighers.gate import FILE, GateExpert, open_gate
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.examples import Example, example, of_dimension
from counterpoint.data.world import FACTS, MAX_DEGREE, answer, questions
from counterpoint.decode.band import Band
from counterpoint.models.adapter import read_adapter
from counterpoint.models.load import load_model
from counterpoint.train.gate import GateConfig, Given, keep_gate, new_learner, train_gate
from counterpoint.train.run import seeded
from counterpoint.types import Comparison, Message

NAMES = ("concise", "friendly", "knowledgeable")
Data = Literal["shared", "own"]
TOPICS = sorted({fact.topic for fact in FACTS})
OWNER: Mapping[str, str] = {topic: NAMES[i % len(NAMES)] for i, topic in enumerate(TOPICS)}
"""Whose topic each is where preferences have their own: four each."""
PAIRS, STEPS, BATCH = 400, 60, 16


@dataclass(frozen=True)
class Text:
    """A test question's place, the owner of its topic, and the preference in whose manner it is answered."""

    question: int
    owner: str
    manner: str
    example: Example


def learned_pairs(build: Path, data: Data, seed: int) -> list[Comparison]:
    """As many comparisons of every preference, of its own topics alone or of all."""
    found = read_comparisons(build / "comparisons.jsonl").comparisons
    drawn: list[Comparison] = []
    for name in NAMES:
        of = of_dimension(found, name)
        mine = [c for c in of if data == "shared" or OWNER[topic_of(c.prompt)] == name]
        drawn += random.Random(seed).sample(mine, min(PAIRS, len(mine)))
    return drawn


def gate_config(build: Path, seed: int, dimensions: Sequence[str], balance: float, router: bool = False) -> GateConfig:
    """A PMoL as it is by default; with `router` that alone is learned, over experts that are given."""
    return GateConfig(
        model=str(build / "band" / "base"), dimensions=tuple(dimensions), balance=balance, steps=STEPS, batch=BATCH,
        learn="router" if router else "all", seed=seed,
    )  # fmt: skip


def given_experts(build: Path) -> list[Given]:
    """The demo's own experts, each trained alone on its preference and on all topics."""
    folders = {name: build / "band" / "experts" / name for name in NAMES}
    return [(GateExpert(name=name, dimension=name), read_adapter(folder)) for name, folder in folders.items()]


def trained(config: GateConfig, comparisons: Sequence[Comparison], out: Path, experts: Sequence[Given] = ()) -> Band:
    """The base with a gate that learned from comparisons."""
    train_gate(config, comparisons, out, experts)
    return _with_gate(config, out)


def untrained(config: GateConfig, out: Path) -> Band:
    """The base with a gate as it is before the first step."""
    if not (out / FILE).exists():
        with seeded(config.seed), publish(out) as staging:
            keep_gate(config, new_learner(config, load_model(config.model), ()), (), staging)
    return _with_gate(config, out)


def _with_gate(config: GateConfig, folder: Path) -> Band:
    band = Band.assemble(config.model, {})
    band.take_gate(open_gate(folder, {}))
    return band


def shown(band: Band, seed: int) -> list[Text]:
    """Every test question, answered in the manner of every preference at its highest degree."""
    draw = random.Random(seed)
    texts = []
    for number, question in enumerate(questions("test")):
        for manner in NAMES:
            said = answer(question.fact, {manner: MAX_DEGREE[manner]}, draw)
            read = example((Message("user", question.text),), said, band.tokenizer)
            texts.append(Text(number, OWNER[question.fact.topic], manner, read))
    return texts


def renamed(comparisons: Sequence[Comparison], name: str) -> list[Comparison]:
    """The comparisons as those of another preference."""
    return [replace(c, dimension=name) for c in comparisons]
