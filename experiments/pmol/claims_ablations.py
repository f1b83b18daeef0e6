"""What another group loss claims: every variant of PMoL against PMoL."""

from collections.abc import Mapping
from typing import Any

from experiments.pmol.claims_mixing import table as table
from experiments.pmol.world_table import WAYS, Seeds

from counterpoint.evaluate.claims import Claim


def claims(found: Mapping[str, Any]) -> list[Claim]:
    """That PMoL earns more than each; `found` has PMoL among them."""
    of = Seeds.read(found)
    return [of.earns_more("pmol", name, way) for way in WAYS for name in of.z if name != "pmol"]
