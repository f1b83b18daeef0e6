"""Three preferences in real text, each from a collection of its own, cut into parts that share no conversation.

    helpful, harmless    people's choices between two answers (HH-RLHF, arXiv 2204.05862); the last question alone
    empathetic           what a listener said to a person's story, over how that person went on
                         (EmpatheticDialogues, arXiv 1811.00207)

EmpatheticDialogues has no rejected answers. One from another conversation would be told by its topic alone, which no
judge of the answer could tell without the story, and which says nothing of empathy. The speaker's own next turn is of
the same conversation and topic, in the same manner of speaking; it tells more of the story where the listener answers
to it. All prompts are written alike, so that a router has only what is said to go by.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from experiments.rewards.sources import Row, harmless, helpful, plain, read_lines
from experiments.rewards.split import is_usable, unseen

from counterpoint.rewards.bradley_terry import short_enough
from counterpoint.types import Comparison

PARTS = {"judge": 0.30, "read": 0.08, "train": 0.42, "tune": 0.08, "test": 0.12}
"""Shares of the conversations: what rewards are learned from, what the base imitates, and what the policies see."""
MOST = {"judge": 1000, "read": 400, "train": 400, "tune": 80, "test": 120}
FEW = {"judge": 100, "read": 8, "train": 12, "tune": 4, "test": 6}
"""Pairs of one preference; a few, to see that all runs."""
LONGEST = {"judge": 400, "read": 192, "train": 160, "tune": 224, "test": 224}
"""Tokens of stories260k, of about 1.6 characters each, in a prompt and its longer answer; short ones train faster."""


@dataclass(frozen=True)
class Texts:
    """The comparisons of each part, over all preferences, and how many of each preference it has."""

    parts: dict[str, tuple[Comparison, ...]]

    def of(self, part: str, dimension: str) -> list[Comparison]:
        return [c for c in self.parts[part] if c.dimension == dimension]

    def counts(self) -> dict[str, dict[str, int]]:
        return {part: {name: len(self.of(part, name)) for name in SOURCES} for part in PARTS}


def empathetic(data: Path) -> Iterator[Row]:
    """Dialogues begin with the speaker; its second turn is the third of all."""
    for name in ("valid", "test"):
        for line in read_lines(data / "empathetic_dialogues" / f"{name}_dialogues.jsonl.gz"):
            if len(line["turns"]) >= 3:
                story, heard, told = line["turns"][:3]
                yield Row(Comparison(f"Human: {story}\n\nAssistant:", heard, told, "empathetic"), plain(story))


SOURCES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "helpful": helpful,
    "harmless": harmless,
    "empathetic": empathetic,
}


def read_texts(data: Path, tokenizer: Any, most: Mapping[str, int], seed: int = 0) -> Texts:
    """At most so many pairs of each preference in every part; a conversation is in one part, whatever reads it."""
    parts: dict[str, list[Comparison]] = {part: [] for part in PARTS}
    for rows in SOURCES.values():
        of_part = apart([row for row in rows(data) if is_usable(row.comparison)])
        for part, own in of_part.items():
            parts[part] += drawn(fitting(own, tokenizer, LONGEST[part]), most[part], seed)
    return Texts({part: tuple(own) for part, own in parts.items()})


def part_of(source: str) -> str:
    """A part, drawn by the source's own hash."""
    draw = int.from_bytes(hashlib.sha256(f"pmol {source}".encode()).digest()[:8]) / 2**64
    ends = np.cumsum(list(PARTS.values()))
    return list(PARTS)[min(int(np.searchsorted(ends, draw, side="right")), len(PARTS) - 1)]


def apart(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by part; two conversations can lead to the same answer, and then only the later part keeps it."""
    parts = {part: [row for row in rows if part_of(row.source) == part] for part in PARTS}
    names = list(PARTS)
    return {
        part: unseen(own, [row for later in names[names.index(part) + 1 :] for row in parts[later]])
        for part, own in parts.items()
    }


def fitting(rows: Sequence[Row], tokenizer: Any, longest: int) -> list[Comparison]:
    return short_enough([row.comparison for row in rows], tokenizer, longest)[0]


def drawn(comparisons: Sequence[Comparison], most: int, seed: int) -> list[Comparison]:
    """At most `most` of them, in their order."""
    if len(comparisons) <= most:
        return list(comparisons)
    generator = np.random.default_rng(seed)
    return [comparisons[i] for i in sorted(generator.choice(len(comparisons), most, replace=False))]
