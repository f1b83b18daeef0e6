"""Which pairs are trained on, which set the temperature and which measure: by source, the same for every method."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from experiments.rewards.sources import Row, plain

from counterpoint.rewards.bradley_terry import short_enough
from counterpoint.types import Comparison

PARTS = {"train": 0.7, "calibrate": 0.1, "test": 0.2}


@dataclass(frozen=True)
class Split:
    """The pairs of one dimension, the sources of its test pairs, and what became of all that were read."""

    train: tuple[Comparison, ...]
    calibrate: tuple[Comparison, ...]
    test: tuple[Comparison, ...]
    sources: tuple[str, ...]
    counts: Mapping[str, int]


def part_of(source: str) -> str:
    """A part, drawn by the source's own hash: the same in every dimension, and whatever else is read."""
    draw = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) / 2**64
    return "train" if draw < PARTS["train"] else "calibrate" if draw < PARTS["train"] + PARTS["calibrate"] else "test"


def split(rows: Iterable[Row], tokenizer: Any, longest: int, most: Mapping[str, int], seed: int) -> Split:
    """Leave out what cannot be used, split by source, and draw `most` pairs of each part.

    Left out are empty and equal responses; pairs of more than `longest` tokens, from every part; and pairs that share
    a response with a part that measures, since two sources can lead to the same text.
    """
    read = list(rows)
    usable = [row for row in read if is_usable(row.comparison)]
    fits = set(short_enough([row.comparison for row in usable], tokenizer, longest)[0])
    short = [row for row in usable if row.comparison in fits]
    parts = {name: [row for row in short if part_of(row.source) == name] for name in PARTS}
    apart = {name: unseen(own, [r for n in later(name) for r in parts[n]]) for name, own in parts.items()}
    generator = np.random.default_rng(seed)
    drawn = {name: draw(own, most[name], generator) for name, own in apart.items()}
    left = sum(map(len, apart.values()))
    counts = {
        "read": len(read), "unusable": len(read) - len(usable), "too_long": len(usable) - len(short),
        "shared": len(short) - left, "not_drawn": left - sum(map(len, drawn.values())),
        **{name: len(own) for name, own in drawn.items()},
    }  # fmt: skip
    train, calibrate, test = (tuple(row.comparison for row in drawn[name]) for name in PARTS)
    return Split(train, calibrate, test, tuple(row.source for row in drawn["test"]), counts)


def is_usable(comparison: Comparison) -> bool:
    """Whether both responses are there, and their words are not the same."""
    chosen, rejected = comparison.chosen, comparison.rejected
    return bool(chosen.strip() and rejected.strip()) and plain(chosen) != plain(rejected)


def later(part: str) -> list[str]:
    """The parts after this one, which measure what it is used for."""
    names = list(PARTS)
    return names[names.index(part) + 1 :]


def unseen(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """The rows that share no response with `others`."""
    theirs = {plain(text) for row in others for text in (row.comparison.chosen, row.comparison.rejected)}
    return [r for r in rows if theirs.isdisjoint({plain(r.comparison.chosen), plain(r.comparison.rejected)})]


def draw(rows: Sequence[Row], most: int, generator: np.random.Generator) -> list[Row]:
    """At most `most` rows, in their order."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i] for i in sorted(generator.choice(len(rows), most, replace=False))]
