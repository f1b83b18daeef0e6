"""The ways of answering that are held against each other, with so many preferences and one seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.pmol.scaling_answers import PlanOf, earned, plainly, told
from experiments.pmol.scaling_train import Lesson, learn
from experiments.pmol.scaling_worlds import World

from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.weighers.gate import open_gate
from counterpoint.decode.band import Band
from counterpoint.types import Profile

STRENGTHS = (1.0, 1.5, 2.0, 4.0)
"""What serves all at once is tried at these: each of the K equal experts of a soup has 1/K of it."""
TUNE = 40
"""Training prompts on which anything is chosen."""
TRAINED = ("pmol", "lora", "full")
COMBINED = ("soup", "mixture-prob", "mixture-log")
TELLABLE = ("pmol", *COMBINED)
ONCE = ("base", "full", "mixture-prob")
"""What has no strength, or none above 1."""


@dataclass(frozen=True)
class Stand:
    """Where a seed is measured: its world, the learning rates, and the folders of what is trained and answered."""

    world: World
    model: Any
    seed: int
    rates: Mapping[str, float]
    out: Path

    def lesson(self, kind: str, names: Sequence[str]) -> Path:
        """Train it, unless it is there."""
        lesson = Lesson(kind, tuple(names), self.rates[kind], self.seed)
        return learn(lesson, self.world, self.model, self.out / "trained")

    def band(self, names: Sequence[str]) -> Band:
        """The experts of these preferences, with the gate and the one adapter that learned them together."""
        experts = {name: self.lesson("expert", [name]) for name in names}
        band = Band.assemble(self.world.task.model, {**experts, "lora": self.lesson("lora", names)})
        band.take_gate(open_gate(self.lesson("pmol", names), {}))
        return band

    def tuned(self, band: Band, plan: PlanOf, names: Sequence[str], title: str) -> float:
        """What a plan earns on training prompts, plainly asked."""
        asked = plainly(self.world, names, self.world.task.train_prompts)[:TUNE]
        file = self.out / "tuning" / f"{title}.json"
        return float(earned(self.world, band, plan, asked, self.world.tries, self.seed, file).mean())


def plan_of(band: Band, way: str, names: Sequence[str], strength: float, profile: Profile | None) -> Plan:
    """How a way answers a profile at a strength; nobody in particular wants all of `names` alike."""
    if way in ("base", "full"):
        return Plan((Row(),))
    if way == "lora":
        return Plan((Row({way: strength}),))
    wanted = dict.fromkeys(names, 1.0) if profile is None else profile.weights
    return band.plan(Profile(wanted, strength), way)


def measured(stand: Stand, names: Sequence[str]) -> dict[str, Any]:
    """By way of answering: the reward `[P]` when asked plainly, at strength 1 and at the best, and when told."""
    band, full = stand.band(names), Band.assemble(stand.lesson("full", names), {})
    found: dict[str, Any] = {}
    for way in ("base", *TRAINED, *COMBINED):
        speaks = full if way == "full" else band
        best = 1.0 if way in ONCE else best_strength(stand, speaks, way, names)
        found[way] = {"strength": best, "plain": said(stand, speaks, way, names, 1.0)}
        found[way]["best"] = said(stand, speaks, way, names, best) if best != 1 else found[way]["plain"]
        if way in TELLABLE:
            found[way]["told"] = said(stand, speaks, way, names, None)
    return found


def said(stand: Stand, band: Band, way: str, names: Sequence[str], strength: float | None) -> list[float]:
    """What answers to test prompts earn, `[P]`: to nobody in particular at a strength, or to who is told apart."""
    ask, world = (told if strength is None else plainly), stand.world
    how = "told" if strength is None else f"{strength:g}"
    plan = partial(plan_of, band, way, names, strength or 1.0)
    file = stand.out / "said" / f"{len(names)}-{way}-{how}.json"
    reward_P = earned(world, band, plan, ask(world, names, world.task.test_prompts), world.draws, stand.seed, file)
    found: list[float] = reward_P.round(4).tolist()
    return found


def best_strength(stand: Stand, band: Band, way: str, names: Sequence[str]) -> float:
    """The strength that earns most on training prompts; of equals the smallest."""

    def earns(strength: float) -> float:
        plan = partial(plan_of, band, way, names, strength)
        return stand.tuned(band, plan, names, f"{len(names)}-{way}@{strength:g}")

    return max(STRENGTHS, key=earns)
