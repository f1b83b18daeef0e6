"""Whom a trained gate lets speak over given texts: the shares of its experts, the empty one's last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from counterpoint.data.examples import Example, example
from counterpoint.decode.band import Band
from counterpoint.models.gates import GATE
from counterpoint.train.routing import all_shares
from counterpoint.types import Comparison

BATCH = 64


@dataclass(frozen=True)
class Shares:
    """The mean share of each of K experts and of none, over the tokens of a prompt and of a response, `[N, J, K + 1]`
    of J layers. `groups` names the group of each of the K, `modules` are the layers."""

    prompt_NJE: Tensor
    response_NJE: Tensor
    groups: tuple[str, ...]
    modules: tuple[str, ...]

    def mass(self, names: Sequence[str]) -> Tensor:
        """The share of each group in a response, the mean over layers, `[N, G]`."""
        mean_NE = self.response_NJE.mean(1)
        return torch.stack(
            [mean_NE[:, [k for k, group in enumerate(self.groups) if group == name]].sum(1) for name in names], 1
        )

    @property
    def empty_N(self) -> Tensor:
        """The share of the empty expert in a response."""
        return self.response_NJE[..., -1].mean(1)


def shares_over(band: Band, kind: str, examples: Sequence[Example]) -> Shares:
    """The shares of a band's gate over texts that it reads; a gate that a guide makes is not heard."""
    parts = [_batch(band, kind, examples[start : start + BATCH]) for start in range(0, len(examples), BATCH)]
    modules = parts[0][2]
    prompt_NJE, response_NJE = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return Shares(prompt_NJE, response_NJE, band.gate(kind).groups, modules)


@torch.no_grad()
def _batch(band: Band, kind: str, examples: Sequence[Example]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    ids_BT = pad_sequence([torch.tensor([*e.prompt_ids, *e.response_ids]) for e in examples], batch_first=True)
    position_T = torch.arange(ids_BT.shape[1])
    start_B1, end_B1 = torch.tensor([[len(e.prompt_ids), e.length] for e in examples]).T[:, :, None]
    context = band.bank.context
    with band.bank.gated(band.bank.gate([{GATE + kind: 1.0}])):
        context.seen = []
        try:
            band.model(input_ids=ids_BT, attention_mask=(position_T < end_B1).long())
            share_BTJK = all_shares(context.seen)
            modules = tuple(module for one in context.seen for module in one.modules)
        finally:
            context.seen = None
    share_BTJE = torch.cat([share_BTJK, 1 - share_BTJK.sum(-1, keepdim=True)], -1)
    is_prompt_BT = position_T < start_B1
    is_response_BT = (position_T >= start_B1) & (position_T < end_B1)
    return _mean(share_BTJE, is_prompt_BT), _mean(share_BTJE, is_response_BT), modules


def _mean(share_BTJE: Tensor, mask_BT: Tensor) -> Tensor:
    mask = mask_BT.to(share_BTJE)[..., None, None]
    return (share_BTJE * mask).sum(1) / mask.sum(1)


def group_table(band: Band, kind: str, pairs: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """For the chosen responses of each preference: the mass of every group, and what is left to the empty expert."""
    names = list(pairs)
    found: dict[str, Any] = {}
    for name, of in pairs.items():
        shares = shares_over(band, kind, [example(c.prompt, c.chosen, band.tokenizer) for c in of])
        mass = shares.mass(names).mean(0)
        found[name] = {"mass": [round(float(m), 4) for m in mass], "empty": round(float(shares.empty_N.mean()), 4)}
    return found
