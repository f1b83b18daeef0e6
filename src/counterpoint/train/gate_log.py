"""What routers make of data: who has which share of a token, by the dimension of the data, layer by layer.

    mass     [J, D, G]  the share of the experts of group G, in [0, 1]: their sum over a group
    empty    [J, D]     what is left to nobody; with `mass` it sums to 1, and without an empty expert it is 0
    entropy  [J, D]     in nats, of a token's shares over its K experts and the empty one; at most log(K + 1)

Each is the mean over the response tokens of the data on dimension D, in layer J. Where there is no data on a dimension
its numbers are None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROUTING = "routing.json"
DIGITS = 6


@dataclass(frozen=True)
class Tally:
    """Sums over tokens of the data on each dimension: of shares, of their entropy, and how many tokens there were."""

    share_JDK: Tensor
    entropy_JD: Tensor
    tokens_D: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.share_JDK + other.share_JDK, self.entropy_JD + other.entropy_JD, self.tokens_D + other.tokens_D
        )

    @property
    def over_layers(self) -> "Tally":
        """The mean over the layers, as that of one layer."""
        return Tally(self.share_JDK.mean(0, keepdim=True), self.entropy_JD.mean(0, keepdim=True), self.tokens_D)


def tally(share_BTJK: Tensor, dimension_B: Tensor, mask_BT: Tensor, dimensions: int) -> Tally:
    """The sums over the tokens of a batch where `mask` is 1; `dimension_B` is that of each row's data."""
    share = share_BTJK.detach()
    empty_BTJ = (1 - share.sum(-1)).clamp_min(0)
    entropy_BTJ = torch.special.entr(share).sum(-1) + torch.special.entr(empty_BTJ)
    counts_BTD = mask_BT[..., None].to(share) * torch.nn.functional.one_hot(dimension_B, dimensions)[:, None]
    return Tally(
        torch.einsum("btd,btjk->jdk", counts_BTD, share).double().cpu(),
        torch.einsum("btd,btj->jd", counts_BTD, entropy_BTJ).double().cpu(),
        counts_BTD.sum((0, 1)).double().cpu(),
    )


def means(sums: Tally, groups: Sequence[str]) -> dict[str, Any]:
    """`mass`, `empty` and `entropy` as lists. `groups` names that of each expert; G are they as they appear."""
    mine_KG = torch.tensor([[group == name for name in dict.fromkeys(groups)] for group in groups]).double()
    share_JDK = sums.share_JDK / sums.tokens_D[:, None]
    return {
        "mass": _listed((share_JDK @ mine_KG).tolist()),
        "empty": _listed((1 - share_JDK.sum(-1)).clamp_min(0).tolist()),
        "entropy": _listed((sums.entropy_JD / sums.tokens_D).tolist()),
    }


def routing_log(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of a trainer's log, the steps that say what the routers did: their number, and the means over the layers.

    Keys are in one order, whether the log was read from a checkpoint or not.
    """
    said = [(entry["step"], entry["routing"]) for entry in history if "routing" in entry]
    return [{"step": step, **{name: found[name] for name in ("mass", "empty", "entropy")}} for step, found in said]


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return [_listed(part) for part in value]
    return None if math.isnan(value) else round(value, DIGITS)
