"""Does adherence not fall as a weight or a strength rises? Means over the three preferences, and each by itself."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from experiments.pmol.doses import PAIRS, STEERED, STRENGTHS, WEIGHTS
from experiments.pmol.setting import DIMENSIONS
from experiments.pmol.world_table import COMMAND, REWARD

from counterpoint.evaluate.adherence import Adherence, adherence
from counterpoint.evaluate.bootstrap import Interval, mean_intervals
from counterpoint.evaluate.claims import Claim, make_claim
from counterpoint.evaluate.doses import FALL, dose_claims, dose_curve

Found = Mapping[str, Any]
DOSES = (0.0, *STRENGTHS)


def by_weight(found: Found, method: str) -> np.ndarray:
    """What is earned of each preference at every weight of it, the mean over seeds and its two rivals, `[D, S, P]`."""
    z_RPD = mean_z(found, method)
    curves: dict[str, list[np.ndarray]] = {name: [] for name in DIMENSIONS}
    for place, pair in enumerate(PAIRS):
        z_SPD = z_RPD[place * len(WEIGHTS) : (place + 1) * len(WEIGHTS)]
        for name, rising_SPD in zip(pair, (z_SPD, z_SPD[::-1]), strict=True):
            curves[name].append(rising_SPD[:, :, DIMENSIONS.index(name)])
    return np.array([np.mean(curves[name], axis=0) for name in DIMENSIONS])


def by_strength(found: Found, method: str) -> np.ndarray:
    """What is earned of each preference alone at every strength, the mean over seeds, `[D, S, P]`."""
    base_PD = mean_z(found, "base")[0]
    z_RPD = mean_z(found, method)[len(PAIRS) * len(WEIGHTS) :]
    z_DSPD = z_RPD.reshape(len(DIMENSIONS), len(STRENGTHS), *z_RPD.shape[1:])
    return np.array([[base_PD[:, d], *z_DSPD[d, :, :, d]] for d in range(len(DIMENSIONS))])


def mean_z(found: Found, method: str) -> np.ndarray:
    """The mean over seeds, `[R, P, D]`."""
    z_RPD: np.ndarray = np.mean([part["z"][method] for part in found["seeds"]], axis=0).swapaxes(0, 1)
    return z_RPD


def claims(found: Found) -> list[Claim]:
    """Of every method, by weight and by strength."""
    seeds = tuple(part["seed"] for part in found["seeds"])
    seconds = found["seconds"]
    made = [claim for method in STEERED for claim in of_weights(found, method, seeds, seconds)]
    for method in STEERED:
        score_SP = by_strength(found, method).mean(0)
        curve = dose_curve(f"{method} in the world", "wanted reward", DOSES, score_SP, seed=0)
        made += dose_claims(curve, seeds=seeds, command=COMMAND, seconds=seconds)
    return made


def of_weights(found: Found, method: str, seeds: tuple[int, ...], seconds: float) -> list[Claim]:
    """That reward rises with its weight on average, and that no step up costs `FALL` of it."""
    score_SP = by_weight(found, method).mean(0)
    follows = adherence(WEIGHTS, score_SP, seed=0)
    drop = follows.largest_drop
    spared = Interval(*(round(FALL - fall, 12) for fall in (drop.value, drop.high, drop.low)))
    more = f"world: more weight of a preference against another gives more of it by {method}, on average"
    falls = f"world: no step up in weight costs {FALL:g} of what is weighed by {method}"
    asked = ((more, f"{REWARD}, per unit of weight", follows.slope), (falls, REWARD, spared))
    return [
        make_claim(
            text, metric=metric, a=f"{method}, more weight", b=f"{method}, less weight", difference=difference,
            prompts=score_SP.shape[1], seeds=seeds, command=COMMAND, seconds=seconds,
        )
        for text, metric, difference in asked
    ]  # fmt: skip


def table(found: Found) -> dict[str, Any]:
    """By method: every curve, its slope and its largest fall."""
    return {
        method: {
            "by weight": curves(WEIGHTS, by_weight(found, method)),
            "by strength": curves(DOSES, by_strength(found, method)),
        }
        for method in STEERED
    }


def curves(doses: tuple[float, ...], score_DSP: np.ndarray) -> dict[str, Any]:
    named = dict(zip((*DIMENSIONS, "mean"), (*score_DSP, score_DSP.mean(0)), strict=True))
    return {
        name: {
            "means": [rounded(asdict(mean)) for mean in mean_intervals(score_SP, seed=0)],
            **follows(adherence(doses, score_SP, seed=0)),
        }
        for name, score_SP in named.items()
    }


def follows(found: Adherence) -> dict[str, Any]:
    return {"slope": rounded(asdict(found.slope)), "largest fall": rounded(asdict(found.largest_drop))}


def rounded(interval: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in interval.items()}
