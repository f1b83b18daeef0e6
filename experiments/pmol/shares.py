"""Whom a trained gate lets speak: its shares over held-out responses that serve one preference."""

from collections.abc import Sequence
from typing import Any

import torch
from experiments.pmol.setting import DIMENSIONS, World
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from counterpoint.data.examples import Example, example, of_dimension
from counterpoint.decode.band import Band
from counterpoint.models.gates import GATE
from counterpoint.train.routing import all_shares


def routing(of: World, band: Band, kind: str) -> dict[str, Any]:
    """For the chosen responses of each preference: the mass of every group, what is left to the empty expert, and the
    entropy of both together in nats. Means over response tokens, layers and responses."""
    found = {name: _of_preference(of, band, kind, name) for name in DIMENSIONS}
    own = [found[name]["mass"][index] for index, name in enumerate(DIMENSIONS)]
    return {**found, "own": round(sum(own) / len(own), 4)}


def _of_preference(of: World, band: Band, kind: str, name: str) -> dict[str, Any]:
    pairs = of_dimension(of.watched, name)
    share_NK = response_shares(band, kind, [example(c.prompt, c.chosen, band.tokenizer) for c in pairs])
    groups = band.gate(kind).groups
    mass = [share_NK[:, [group == one for group in groups]].sum(1).mean() for one in DIMENSIONS]
    empty_N1 = 1 - share_NK.sum(1, keepdim=True)
    whole_NE = torch.cat([share_NK, empty_N1], 1).clamp_min(1e-9)
    entropy = -(whole_NE * whole_NE.log()).sum(1).mean()
    return {
        "mass": [round(float(part), 4) for part in mass],
        "empty": round(float(empty_N1.mean()), 4),
        "entropy": round(float(entropy), 4),
    }


@torch.no_grad()
def response_shares(band: Band, kind: str, examples: Sequence[Example]) -> Tensor:
    """The share of each expert at every response token and layer, `[N, K]`; a gate that a guide makes is refused."""
    ids_BT = pad_sequence([torch.tensor([*e.prompt_ids, *e.response_ids]) for e in examples], batch_first=True)
    position_T = torch.arange(ids_BT.shape[1])
    start_B1, end_B1 = torch.tensor([[len(e.prompt_ids), e.length] for e in examples]).T[:, :, None]
    context, gate = band.bank.context, band.bank.gate([{GATE + kind: 1.0}])
    with band.bank.gated(gate):
        context.seen = []
        try:
            band.model(input_ids=ids_BT, attention_mask=(position_T < end_B1).long())
            share_BTJK = all_shares(context.seen)
        finally:
            context.seen = None
    in_response_BT = (position_T >= start_B1) & (position_T < end_B1)
    return share_BTJK[in_response_BT].flatten(0, 1)
