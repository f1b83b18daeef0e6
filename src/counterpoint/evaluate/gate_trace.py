"""Which experts of a gate worked on which token of a response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE
from counterpoint.train.routing import all_shares, listening


@dataclass(frozen=True)
class GroupShares:
    """By response token, each group's share of what the token was drawn from, `share_TG`: its experts' sum.

    They are means over the layers that the router is in; what is missing from 1 went to nobody.
    """

    groups: tuple[str, ...]
    share_TG: list[list[float]]


def group_shares(
    bank: LoraBank, gate: Mapping[str, float], context: Sequence[int], response: Sequence[int]
) -> GroupShares:
    """What the router that `gate` asks for made of a response; one forward, of prompt and response together."""
    router = bank.routers[next(key.removeprefix(GATE) for key in gate if key.startswith(GATE))]
    groups = tuple(dict.fromkeys(router.groups))
    mine_KG = torch.tensor([[own == group for group in groups] for own in router.groups]).float()
    ids_1T = torch.tensor([[*context, *response]], device=next(bank.model.parameters()).device)
    inputs = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
    with torch.no_grad(), listening(bank, bank.gate([gate]), inputs) as seen:
        bank.model(**inputs)
    drawn_from = slice(len(context) - 1, len(context) + len(response) - 1)
    share_TG = all_shares(seen)[0, drawn_from].mean(-2).float().cpu() @ mine_KG
    return GroupShares(groups, share_TG.tolist())
