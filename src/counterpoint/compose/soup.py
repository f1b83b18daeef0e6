"""Parameter space: one adapter whose delta is the weighted sum of the experts' deltas.

    W = W0 + strength * sum_k w_k s_k B_k A_k        (Personalized Soups, arXiv 2310.11564; Rewarded Soups)

Deltas are averaged, not factors: ranks are concatenated, A = [A_1; ...; A_K] and B = [c_1 B_1, ..., c_K B_K], which is
exact. The published code averages A and B entry by entry, which is not the average of the updates.
"""

from collections.abc import Mapping

import torch

from counterpoint.compose.plan import Plan, Row
from counterpoint.models.adapter import LoraFactors
from counterpoint.types import Weighting


def merge(experts: Mapping[str, LoraFactors], weighting: Weighting) -> LoraFactors:
    """The merged adapter; per module its rank is the sum of the experts' ranks there."""
    scale = weighting.coefficients
    modules = sorted({module for name in scale for module in experts[name].factors})
    merged = {}
    for module in modules:
        pairs = [
            (a, b * scale[name])
            for name in scale
            for a, b in [experts[name].factors.get(module, (None, None))]
            if a is not None and b is not None
        ]
        merged[module] = (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1))
    return LoraFactors(merged)


def plan(weighting: Weighting) -> Plan:
    """One row whose gate is strength * w: what the merged adapter gives (law `linearity`), without merging it."""
    return Plan((Row(weighting.coefficients),))
