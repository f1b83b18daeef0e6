"""What the mixing table claims: PMoL against every other way, as asked for nothing and as asked for one preference."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from experiments.pmol.setting import DIMENSIONS
from experiments.pmol.world_table import Seeds, own, rows

from counterpoint.evaluate.bootstrap import paired_difference
from counterpoint.evaluate.claims import Claim

GATES = ("pmol", "pmol-told", "pmol-router", "pmol-from-experts")
ALIKE = ("base", "one-lora", "full", "soup@1")
"""What each of those is held against. Asked for one preference, all that needs the experts alone is that expert."""
PLAIN = (*ALIKE, "mixture-prob", "mixture-log", "x-lora", "arrow")
RIVALS = (
    *(("pmol", other) for other in ("pmol-no-group-loss", "pmol-no-empty", "pmol-sft", "loramoe")),
    *(("pmol-told", other) for other in ("pmol", "pmol-untold", "pmol-router", "pmol-from-experts")),
    *(("pmol-router", "pmol"), ("pmol-from-experts", "pmol"), ("one-lora", "full")),
    *(("built-pmol-router", other) for other in ("base", "built-soup@1", "pmol-router")),
)
BUILT = ("built-mixture-prob@1", "built-mixture-log@1", "built-x-lora", "built-arrow")
PAIRS = {
    "asked for nothing": (
        *((gate, other) for gate in GATES for other in PLAIN),
        *RIVALS,
        *(("built-pmol-router", other) for other in BUILT),
    ),
    "asked for one": (*((gate, other) for gate in GATES for other in ALIKE), *RIVALS),
}
STEERED = (
    *("pmol", "pmol-told", "pmol-untold", "pmol-no-group-loss", "pmol-sft", "loramoe"),
    *("pmol-router", "pmol-from-experts", "soup@1", "built-pmol-router", "built-soup@1"),
)


def claims(found: Mapping[str, Any]) -> list[Claim]:
    """What earns more than what in either way of asking, and whether asking pays."""
    of = Seeds.read(found)
    rivals = [of.earns_more(a, b, way) for way, pairs in PAIRS.items() for a, b in pairs]
    return [*rivals, *(steering(of, name) for name in STEERED)]


def steering(of: Seeds, name: str) -> Claim:
    """That who asks for a preference gets more of it than who asks for nothing."""
    z_SPRD = of.z[name]
    gained = [own(z_SPRD, d, d + 1) - own(z_SPRD, d, 0) for d in range(len(DIMENSIONS))]
    gain_P = np.mean(gained, axis=0)
    difference = paired_difference(gain_P, np.zeros_like(gain_P), seed=0)
    text = f"{name} gives who asks for a preference more of it than who asks for nothing"
    return of.claim(text, f"{name}, asked for one", f"{name}, asked for nothing", difference, len(gain_P))


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """Rewards, whether answers are right, how far they are from the base, and whom gates let speak."""
    table = rows(Seeds.read(found))
    parts = found["seeds"]
    for name, row in table.items():
        for key in ("correct", "nats_per_token_from_base"):
            row[key] = round(float(np.mean([part["methods"][name][key] for part in parts])), 3)
        if name in parts[0]["routing"]:
            row["routing"] = routing([part["routing"][name] for part in parts])
    return table


def routing(of_seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds: the mass of each group and what is left to nobody, by whose data it is."""
    return {
        "own": round(float(np.mean([of["own"] for of in of_seeds])), 3),
        **{
            name: {
                key: np.mean([of[name][key] for of in of_seeds], axis=0).round(3).tolist()
                for key in ("mass", "empty", "entropy")
            }
            for name in DIMENSIONS
        },
    }
