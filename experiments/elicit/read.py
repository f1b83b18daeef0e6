"""What sentences are read as: labelled ones, half of them for the threshold and half held out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from counterpoint.data.world import AXES
from counterpoint.data.world import DIMENSIONS as WORLD
from counterpoint.profiles.sentence import Embed, positive, read_sentence, similarities, split
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


def count(one: Labelled, embed: Embed) -> Count:
    profile = read_sentence(one.text, BANDS[one.band], embed).profile
    heard, wanted = set(profile.weights if profile else ()), set(one.wanted)
    return Count(len(heard & wanted), len(heard - wanted), len(wanted - heard))


def fit_threshold(rows: Sequence[Labelled], embed: Embed) -> tuple[float, float]:
    """Threshold and scale of the likeliest logistic curve from a sentence's largest similarity to whether it asks for
    anything, with a weak prior on its steepness."""
    top_N = np.array(
        [similarities([positive(c) for c in split(row.text)], BANDS[row.band], embed).max(axis=1).max() for row in rows]
    )
    asks_N = np.array([bool(row.wanted) for row in rows])

    def loss(x: np.ndarray) -> float:
        p_N = np.clip(expit((top_N - x[0]) / np.exp(x[1])), 1e-9, 1 - 1e-9)
        return float(-np.log(np.where(asks_N, p_N, 1 - p_N)).sum() + (x[1] - np.log(0.05)) ** 2)

    threshold, log_scale = minimize(loss, np.array([0.15, np.log(0.05)]), method="Nelder-Mead").x
    return float(threshold), float(np.exp(log_scale))


def precision_recall(counts: Sequence[Count], share_N: np.ndarray) -> tuple[float, float]:
    """Over sentences weighed by `share_N`: of what was heard, and of what was asked for, how much is right."""
    right, wrong, missed = (share_N @ [getattr(c, name) for c in counts] for name in ("right", "wrong", "missed"))
    return float(right / max(right + wrong, 1e-12)), float(right / max(right + missed, 1e-12))
