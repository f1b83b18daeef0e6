"""Two preferences that are alike in part: what do their groups, the empty expert and the answers do?

Three preferences are learned from the same questions: concise, friendly and a twin, of whose pairs a known part are
pairs on friendliness and the others on expertise. With all of them, friendly has two names. Where a router cannot tell
whose pair a token is of, the expert-group soft loss is least at the mean of the D of all whose it may be.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from experiments.pmol.probe_answers import rewards_of
from experiments.pmol.probe_setting import NAMES, gate_config, learned_pairs, renamed, shown, trained
from experiments.pmol.probe_shares import shares_over

from counterpoint.artifacts import read_json, write_json
from counterpoint.data.examples import of_dimension
from counterpoint.decode.band import Band
from counterpoint.types import Comparison, Profile

PARTS = (0.0, 0.5, 1.0)
"""How much of the twin's pairs are on friendliness."""
GROUPS = ("concise", "friendly", "twin")
ASKED: dict[str, Profile | None] = {"plain": None, **{name: Profile({name: 1.0}) for name in GROUPS}}


def overlap(build: Path, seed: int, out: Path, quick: bool) -> dict[str, Any]:
    """By the part in common: the routing of answers in each manner, and what answers to everyone earn."""
    found = {}
    for part in PARTS[::2] if quick else PARTS:
        kept = out / f"{part:g}.json"
        if not kept.exists():
            write_json(kept, _of_part(build, seed, part, out / f"gate-{part:g}"))
        found[f"{part:g}"] = read_json(kept)
    return found


def _of_part(build: Path, seed: int, part: float, out: Path) -> dict[str, Any]:
    comparisons = learned_pairs(build, "shared", seed)
    twin = twins(comparisons, part)
    own = [c for name in GROUPS[:2] for c in of_dimension(comparisons, name)]
    band = trained(gate_config(build, seed, GROUPS, 0.1), [*own, *twin], out)
    return {"routing": routing(band, seed), "rewards": rewards(band, build, seed)}


def twins(comparisons: Sequence[Comparison], part: float) -> list[Comparison]:
    """As many comparisons as another preference has: the first of friendliness and the rest of expertise."""
    friendly, knowing = (of_dimension(comparisons, name) for name in ("friendly", "knowledgeable"))
    cut = round(part * len(friendly))
    return renamed([*friendly[:cut], *knowing[cut:]], "twin")


def routing(band: Band, seed: int) -> dict[str, Any]:
    """Of answers in each manner: the mass of each group and of the empty expert, by question."""
    texts = shown(band, seed)
    shares = shares_over(band, "pmol", [text.example for text in texts])
    mass_NG = shares.mass(GROUPS).numpy()
    found = {}
    for manner in NAMES:
        of = [n for n, text in enumerate(texts) if text.manner == manner]
        columns = {name: mass_NG[of, g] for g, name in enumerate(GROUPS)} | {"empty": shares.empty_N[of].numpy()}
        found[manner] = {name: column.round(4).tolist() for name, column in columns.items()}
    return found


def rewards(band: Band, build: Path, seed: int) -> dict[str, Any]:
    """Of who is asked as routed, and of who wants one group alone: the reward of each manner by question."""
    earned = rewards_of(band, build, seed, list(ASKED.values()))
    return {
        title: dict(zip(NAMES, np.round(z_PD, 4).T.tolist(), strict=True))
        for title, z_PD in zip(ASKED, earned, strict=True)
    }
