"""What sentences are read as: labelled ones, half of them for the threshold and half held out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from counterpoint.data.world import AXES
from counterpoint.data.world import DIMENSIONS as WORLD
from counterpoint.profiles.sentence import THRESHOLD, Embed, read_sentence
from counterpoint.types import Dimension

POLES = {name: axis[0] for axis in AXES for name in axis}
BANDS = {
    "world": tuple(Dimension(d.name, d.description, d.request, POLES[d.name]) for d in WORLD),
    "assistant": (
        Dimension("formal", "Writes in a formal, professional tone.", "Please be formal.", "tone"),
        Dimension("casual", "Writes casually, with everyday slang.", "Please be casual.", "tone"),
        Dimension("humorous", "Makes the reader laugh with jokes and wit.", "Please be funny."),
        Dimension("stepwise", "Explains one step after the other.", "Please go step by step."),
        Dimension("careful", "Warns of risks and says what is uncertain.", "Please be careful."),
    ),
}
"""The dimensions that sentences are read for: those of the embedded world, and an assistant's."""

THRESHOLDS = [round(0.01 * step, 2) for step in range(5, 35)]


@dataclass(frozen=True)
class Labelled:
    """A sentence, the dimensions of `band` that it asks for, and which half it is in."""

    text: str
    band: str
    wanted: tuple[str, ...]
    half: str


@dataclass(frozen=True)
class Count:
    """Dimensions of one sentence: rightly heard, heard though not asked for, and missed."""

    right: int
    wrong: int
    missed: int


def read_labelled(path: Path) -> list[Labelled]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Labelled(row["text"], row["band"], tuple(row["wanted"]), row["half"]) for row in rows]


def count(one: Labelled, embed: Embed, threshold: float = THRESHOLD) -> Count:
    profile = read_sentence(one.text, BANDS[one.band], embed, threshold).profile
    heard, wanted = set(profile.weights if profile else ()), set(one.wanted)
    return Count(len(heard & wanted), len(heard - wanted), len(wanted - heard))


def remembering(embed: Embed) -> Embed:
    """The same, each text once: a threshold's search reads every sentence many times."""
    known: dict[str, np.ndarray] = {}

    def recalled(texts: Sequence[str]) -> np.ndarray:
        unknown = [text for text in dict.fromkeys(texts) if text not in known]
        if unknown:
            known.update(zip(unknown, embed(unknown), strict=True))
        return np.stack([known[text] for text in texts])

    return recalled


def best_threshold(rows: Sequence[Labelled], embed: Embed) -> float:
    """The threshold of the highest F1, in steps of 0.01."""
    return max(THRESHOLDS, key=lambda threshold: f1([count(row, embed, threshold) for row in rows]))


def f1(counts: Sequence[Count]) -> float:
    """`2 right / (2 right + wrong + missed)`, over all sentences."""
    right, wrong, missed = (sum(getattr(c, name) for c in counts) for name in ("right", "wrong", "missed"))
    return float(2 * right / (2 * right + wrong + missed))
