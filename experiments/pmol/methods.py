"""The methods of the table: how each learns from the same pairs, and how it answers.

    pmol                a gate and two new experts for each preference, by DPO on all pairs
    pmol-told           the same, and half of the pairs are told whom they serve, as a profile will
    pmol-untold         pmol at the learning rate of pmol-told
    pmol-sft            pmol, which imitates the chosen responses alone
    pmol-no-group-loss  nothing ties experts to preferences
    pmol-no-empty       there is no expert that adds nothing
    loramoe             the same experts under LoRAMoE's gate and its own balancing loss
    pmol-router         a gate over the trained experts, which stay as they are
    pmol-from-experts   the same, and the experts move on
    x-lora              X-LoRA's gate over the trained experts, which stay as they are
    arrow               a gate made of the trained experts without any training
    one-lora, full      one adapter of as many parameters as pmol, or all parameters, by DPO on all pairs
    soup, mixture-*     the trained experts in the parts that are asked for, or in equal ones

The trained experts are one LoRA for each preference, by DPO on its own pairs, with as many pairs in all as one of the
other methods sees. What starts from them has therefore seen twice as many in the end. Names that start with `built-`
are over the experts of the demo's build instead, which imitated the best of many samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.pmol.setting import DIMENSIONS, World

from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.weighers.gate import GateExpert, hash_adapter, open_gate
from counterpoint.decode.band import Band
from counterpoint.models.adapter import read_adapter
from counterpoint.train.dpo import DpoConfig, train_dpo
from counterpoint.train.gate import GateConfig, Given, train_gate
from counterpoint.types import Comparison, Profile

EXPERTS, ONE_LORA, WHOLE, BUILT = "experts", "one-lora", "full", "built-"
COMBINED = ("soup", "mixture-prob", "mixture-log")
RANK, PER_GROUP = 8, 2


@dataclass(frozen=True)
class Variant:
    """A gate: what differs from the defaults of `GateConfig`, and whether it is over the trained experts.

    `rate_of` is the variant whose learning rate it takes; None: its own was sought.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    over_experts: bool = False
    rate_of: str | None = None

    @property
    def kind(self) -> str:
        return str(self.changes.get("kind", "pmol"))


GATES: dict[str, Variant] = {
    "pmol": Variant(),
    "pmol-told": Variant({"told": 0.5}),
    "pmol-untold": Variant(rate_of="pmol-told"),
    "pmol-sft": Variant({"loss": "sft"}),
    "pmol-no-group-loss": Variant({"balance": 0.0}, rate_of="pmol"),
    "pmol-no-empty": Variant({"empty": False}, rate_of="pmol"),
    "loramoe": Variant({"kind": "loramoe"}),
    "pmol-router": Variant({"learn": "router"}, over_experts=True),
    "pmol-from-experts": Variant(over_experts=True),
    "x-lora": Variant({"kind": "x-lora", "learn": "router"}, over_experts=True),
    "built-pmol-router": Variant({"learn": "router"}, over_experts=True, rate_of="pmol-router"),
    "built-x-lora": Variant({"kind": "x-lora", "learn": "router"}, over_experts=True, rate_of="x-lora"),
}

CHANGES: dict[str, dict[str, Any]] = {
    "ratio 0.01": {"soft": 0.01},
    "ratio 0.3": {"soft": 0.3},
    "ratio 1": {"soft": 1.0},
    "mass 0.1": {"target": "mass"},
    "loramoe 0.1": {"target": "loramoe"},
    "renormalised": {"renormalise": True},
    "balance 0.01": {"balance": 0.01},
    "balance 1": {"balance": 1.0},
}
ABLATIONS = {title: Variant(changes, rate_of="pmol") for title, changes in CHANGES.items()}
"""PMoL with another target of its group loss (`pmol` itself has ratio 0.1), another form, or more or less of it."""


@dataclass(frozen=True)
class Served:
    """A band and how it answers each who asks; who asks in vain gets the answer of the others."""

    band: Band
    plans: Sequence[Plan]


def learn_gate(of: World, variant: Variant, rate: float, experts: Path, out: Path) -> Path:
    """Train a gate."""
    config = GateConfig(
        model=of.base, dimensions=DIMENSIONS, per_group=PER_GROUP, steps=of.sizes.steps, batch=of.sizes.batch,
        learning_rate=rate, lora_rank=RANK, lora_alpha=2 * RANK, seed=of.seed, **variant.changes,
    )  # fmt: skip
    return train_gate(config, of.pairs, out, given(experts) if variant.over_experts else ()).folder


def given(experts: Path) -> list[Given]:
    """The trained experts, each for its own preference."""
    entries = [GateExpert(name=name, dimension=name, hash=hash_adapter(experts / name)) for name in DIMENSIONS]
    return [(entry, read_adapter(experts / entry.name)) for entry in entries]


def learn_experts(of: World, rate: float, out: Path) -> Path:
    """One adapter for each preference, which share the steps among them."""
    for name in DIMENSIONS:
        _dpo(of, of.pairs, name, max(1, of.sizes.steps // len(DIMENSIONS)), rate, RANK, out / name)
    return out


def learn_together(of: World, name: str, rate: float, experts: Path, out: Path) -> Path:
    """One adapter, or the whole model, for all preferences."""
    mixed = [replace(pair, dimension=name) for pair in of.pairs]
    rank = 0 if name == WHOLE else equal_rank(experts / DIMENSIONS[0])
    return _dpo(of, mixed, name, of.sizes.steps, rate, rank, out)


def _dpo(of: World, pairs: Sequence[Comparison], name: str, steps: int, rate: float, rank: int, out: Path) -> Path:
    config = DpoConfig(
        model=of.base, dimension=name, steps=steps, batch=of.sizes.batch, learning_rate=rate, lora_rank=rank,
        lora_alpha=2 * rank or 16, seed=of.seed,
    )  # fmt: skip
    return train_dpo(config, pairs, out).folder


def equal_rank(expert: Path) -> int:
    """The rank at which one adapter has as many parameters as PMoL: all its experts, and the rows of its routers."""
    sizes = [(a.shape[1], b.shape[0]) for a, b in read_adapter(expert).factors.values()]
    count = PER_GROUP * len(DIMENSIONS)
    rows = sum(into for into, _ in sizes) * (count + 1)
    return round(count * RANK + rows / sum(into + out for into, out in sizes))


def learn(of: World, name: str, rate: float, experts: Path, out: Path) -> Path:
    """Train what a method needs; what is there is not trained again."""
    if name in (ONE_LORA, WHOLE):
        return learn_together(of, name, rate, experts, out)
    return (
        learn_experts(of, rate, out)
        if name == EXPERTS
        else learn_gate(of, (GATES | ABLATIONS)[name], rate, experts, out)
    )


def serve_gate(of: World, gate: Path, experts: Path, asked: Sequence[Profile | None]) -> Served:
    """A trained gate."""
    band = over(of, experts)
    opened = open_gate(gate, {name: experts / name for name in DIMENSIONS})
    band.take_gate(opened)
    return Served(band, [band.plan(profile, opened.gate.kind) for profile in asked])


def serve_together(of: World, name: str, model: Path) -> Served:
    """One adapter or model for everybody."""
    band = Band.assemble(of.base, {name: model})
    return Served(band, [Plan((Row({name: 1.0}),))])


def serve_combined(
    of: World, method: str, experts: Path, asked: Sequence[Profile | None], strength: float | None
) -> Served:
    """The trained experts by a method of any band, at the profiles' own strengths or at one for all.

    Who asks for nothing gets equal parts.
    """
    band, alike = over(of, experts), Profile(dict.fromkeys(DIMENSIONS, 1.0))
    people = [profile or alike for profile in asked]
    if strength is not None:
        people = [replace(profile, strength=strength) for profile in people]
    return Served(band, [band.plan(profile, method) for profile in people])


def over(of: World, experts: Path) -> Band:
    """A band of the trained experts."""
    return Band.assemble(of.base, {name: experts / name for name in DIMENSIONS})


def serve(of: World, name: str, folder: Path, experts: Path, asked: Sequence[Profile | None]) -> Served:
    """How a trained method answers."""
    if name in (ONE_LORA, WHOLE):
        return serve_together(of, name, folder)
    if name == EXPERTS:
        return serve_combined(of, "soup", folder, asked, 1.0)
    return serve_gate(of, folder, experts, asked)
