"""Activation space: the experts' deltas are mixed inside each layer of one forward.

    y = W0 x + strength * sum_k w_k s_k B_k (A_k x)

With a constant weighting this equals the soup (law `linearity`), and needs neither a merge nor a copy of the model.
"""

from counterpoint.compose.plan import Plan, Row
from counterpoint.types import Weighting


def plan(weighting: Weighting) -> Plan:
    """One row whose gate is strength * w."""
    return Plan((Row(weighting.coefficients),))
