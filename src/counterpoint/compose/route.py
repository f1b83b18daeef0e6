"""Whole-model space: the one expert that the weighting favours answers alone."""

from counterpoint.compose.plan import Plan, Row
from counterpoint.types import Weighting


def favourite(weighting: Weighting) -> str:
    """The expert of the largest weight; of equals, the one named first."""
    return max(zip(weighting.experts, weighting.w, strict=True), key=lambda pair: pair[1])[0]


def plan(weighting: Weighting) -> Plan:
    """One row through the favourite, its delta multiplied by the strength."""
    return Plan((Row({favourite(weighting): weighting.strength}),))
