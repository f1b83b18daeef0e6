"""Fronts: two dimensions that conflict, weighed from all of one to all of the other, by every way of combining.

`soup` and `moe` are one plan where weights are constant (law `linearity`), so they are answered once.
"""

from dataclasses import replace
from pathlib import Path

from experiments.mope.measure import measure
from experiments.mope.setting import Setting

from counterpoint.types import Profile

STEPS = 10
FRONTS = (("soup", "1"), ("soup", "best"), ("mixture-prob", "1"), ("mixture-log", "1"), ("mixture-log", "best"))
"""Methods, and their strengths: 1, or what was best for the build's profiles; mixture-prob cannot exceed 1."""
PAIRS = {
    "world": (("concise", "informative"), ("elementary", "knowledgeable"), ("concise", "friendly")),
    "stories": (("short", "dialogue"), ("short", "happy"), ("happy", "dialogue")),
}


def weighed(pair: tuple[str, str]) -> list[Profile]:
    """From all of the first dimension to all of the second."""
    first, second = pair
    return [Profile({first: 1 - step / STEPS, second: step / STEPS}) for step in range(STEPS + 1)]


def run_fronts(setting: Setting, out: Path) -> None:
    """Answer at every weight."""
    band = setting.band
    for pair in PAIRS[setting.name]:
        for method, at in FRONTS:
            strength = band.file.strengths[method] if at == "best" else 1.0
            served = [replace(profile, strength=strength) for profile in weighed(pair)]
            assert method != "soup" or band.plan(served[5], "soup") == band.plan(served[5], "moe")
            plans = [band.plan(profile, method) for profile in served]
            measure(setting, f"{'-'.join(pair)} {method}@{at}", plans, out / "fronts")
