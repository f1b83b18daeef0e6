"""How what was learned answers: for data on each preference, a band and a plan."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from experiments.pmol.texts_learn import DIMENSIONS, EXPERTS, GATES, ONE_LORA, WHOLE, Learner
from torch import Tensor

from counterpoint.compose.mixture import mix_log, mix_prob
from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.weighers.gate import open_gate
from counterpoint.decode.band import Band
from counterpoint.types import Profile

COMBINED = ("soup", "mixture-prob", "mixture-log")
STEERED, OWN = "pmol, steered", "own expert"
WAYS = ("base", *GATES, ONE_LORA, WHOLE, *COMBINED, STEERED, OWN)
"""The last two are told which preference the data is on; all others are asked for nothing."""


@dataclass(frozen=True)
class Served:
    """A band, and the plan by which it answers data on each preference."""

    band: Band
    plans: dict[str, Plan]


def serve(of: Learner, way: str, folder: Path | None = None) -> Served:
    """A way of answering by what was learned in its folder, which has its name unless another is given."""
    if way in ("base", WHOLE):
        model = of.base if way == "base" else folder or of.out / way
        return Served(Band.assemble(model, {}), dict.fromkeys(DIMENSIONS, Plan((Row(),))))
    if way == ONE_LORA:
        band = Band.assemble(of.base, {way: folder or of.out / way})
        return Served(band, dict.fromkeys(DIMENSIONS, Plan((Row({way: 1.0}),))))
    band = over_experts(of, folder if way == OWN and folder else of.out / EXPERTS)
    if way in GATES or way == STEERED:
        return of_gate(of, band, folder or of.out / way.partition(",")[0], steered=way == STEERED)
    alike = Profile(dict.fromkeys(DIMENSIONS, 1.0))
    if way == OWN:
        return Served(band, {name: band.plan(Profile({name: 1.0}), "soup") for name in DIMENSIONS})
    return Served(band, dict.fromkeys(DIMENSIONS, band.plan(alike, way)))


def over_experts(of: Learner, experts: Path) -> Band:
    return Band.assemble(of.base, {name: experts / name for name in DIMENSIONS})


def of_gate(of: Learner, band: Band, folder: Path, steered: bool) -> Served:
    """A gate as it was routed, or asked for the preference that the data is on."""
    band.take_gate(open_gate(folder, {name: of.expert(name) for name in DIMENSIONS}))
    return Served(band, {name: band.plan(Profile({name: 1.0}) if steered else None, "pmol") for name in DIMENSIONS})


class Planned:
    """What a plan makes of a band's model, called as `sequence_logp` calls a model; its logits are log-probabilities.

    Every row of the plan is a forward of the same tokens; no row may be of a whole model.
    """

    def __init__(self, band: Band, plan: Plan) -> None:
        self.band = band
        self.plan = plan
        self.device = band.model.device

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        logp_BTKV = torch.stack([self._row(row, inputs) for row in self.plan.rows], dim=-2)
        mix = mix_prob if self.plan.space == "prob" else mix_log
        return SimpleNamespace(logits=mix(logp_BTKV, torch.tensor(self.plan.coefficients)))

    def _row(self, row: Row, inputs: dict[str, Any]) -> Tensor:
        bank = self.band.bank
        with bank.gated(bank.gate([row.gate])):
            logits_BTV: Tensor = self.band.model(**inputs).logits
        return torch.log_softmax(logits_BTV.float(), dim=-1)
