"""Parameter space: one adapter whose delta is the weighted sum of the experts' deltas.

    W = W0 + strength * sum_k w_k s_k B_k A_k        (Personalized Soups, arXiv 2310.11564; Rewarded Soups)

Deltas are averaged, not factors: ranks are concatenated, A = [A_1; ...; A_K] and B = [c_1 B_1, ..., c_K B_K], which is
exact. The published code averages A and B entry by entry, which is not the average of the updates; that and other
merges which are not exact are in `compose/inexact.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from counterpoint.compose.plan import Plan, Row
from counterpoint.models.adapter import LoraFactors
from counterpoint.types import CounterpointError, Weighting

Coefficients: TypeAlias = Callable[[str], Mapping[str, float]]
"""What multiplies each expert's delta in the module of a name."""

Part: TypeAlias = tuple[float, Tensor, Tensor]
"""What one expert brings to a module: its coefficient, `A_RI` and `B_OR`."""

Pair: TypeAlias = tuple[Tensor, Tensor]


def merge(experts: Mapping[str, LoraFactors], weighting: Weighting) -> LoraFactors:
    """The merged adapter; per module its rank is the sum of the ranks of the experts that have a weight."""
    return merge_by_module(experts, lambda module: weighting.coefficients)


def merge_by_module(experts: Mapping[str, LoraFactors], at: Coefficients) -> LoraFactors:
    """`merge` with coefficients of each module's own, such as a layer's."""
    return LoraFactors({module: concatenated(parts) for module, parts in by_module(experts, at)})


def by_module(experts: Mapping[str, LoraFactors], at: Coefficients) -> Iterator[tuple[str, list[Part]]]:
    """Each module that something is added to, by name, and what adds to it.

    An expert of coefficient 0, or without factors for a module, brings nothing to it. Raises CounterpointError for
    deltas of unlike shapes.
    """
    for module in sorted({module for expert in experts.values() for module in expert.factors}):
        found = {
            name: (c, *experts[name].factors[module])
            for name, c in at(module).items()
            if c and module in experts[name].factors
        }
        _check_shapes(module, found)
        if found:
            yield module, list(found.values())


def concatenated(parts: Sequence[Part]) -> Pair:
    """Factors whose product is sum_k c_k B_k A_k: `[sum R_k, I]` and `[O, sum R_k]`."""
    return torch.cat([a for _, a, _ in parts]), torch.cat([b * c for c, _, b in parts], dim=1)


def plan(weighting: Weighting) -> Plan:
    """One row whose gate is strength * w: what the merged adapter gives (law `linearity`), without merging it."""
    return Plan((Row(weighting.coefficients),))


def _check_shapes(module: str, found: Mapping[str, Part]) -> None:
    shapes = {name: (len(b), a.shape[1]) for name, (_, a, b) in found.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"of {name!r} {out} x {into}" for name, (out, into) in shapes.items())
        raise CounterpointError(f"module {module!r}: the deltas differ in shape ({said}); they are of different bases")
