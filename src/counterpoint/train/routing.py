"""Training through the bank: what decodes is what learns, the stacked factors and the routers' rows of a gate.

A Hugging Face trainer computes its loss inside the gate's context, and a gate's own loss is added to it. Only what
learns is checkpointed. The reference of a pair loss is the base, a twin that shares its parameters.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from counterpoint.models.bank import LoraBank, Seen
from counterpoint.models.gates import GATE, RowGates
from counterpoint.train.dpo import Dpo

CHECKPOINT = "learned.safetensors"

OwnLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss on shares `[B, T, J, K]`, the group `[B]` of each row's data, and the mask `[B, T]` of its response."""


class Learner:
    """What a router of a bank learns. `scale` is alpha/r, which is outside of `B` while it is trained.

    The parameters are put into the model as `learned`, where a trainer finds them; all others are frozen.
    """

    def __init__(self, bank: LoraBank, name: str, experts: bool, scale: float = 1.0, own_loss: OwnLoss | None = None):
        self.bank = bank
        self.name = name
        self.scale = scale
        self.own_loss = own_loss
        self.reference: Any = None
        self.gate = bank.gate([{GATE + name: scale}])
        bank.model.requires_grad_(False)
        self.parameters = bank.learn(name, experts)
        bank.model.learned = nn.ParameterList(self.parameters)

    @contextmanager
    def listening(self, inputs: dict[str, Any]) -> Iterator[list[Seen]]:
        """Gate the forwards inside the block, and collect what the router makes of every token."""
        gate, context = self.gate, self.bank.context
        if isinstance(gate, RowGates) and gate.guided:
            gate = gate.heard(self._base_hidden(inputs))
        seen: list[Seen] = []
        with self.bank.gated(gate):
            context.seen = seen
            try:
                yield seen
            finally:
                context.seen = None

    @torch.no_grad()
    def _base_hidden(self, inputs: dict[str, Any]) -> Tensor:
        trunk: Any = self.bank.model.base_model
        read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        hidden_BTI: Tensor = trunk(**read, use_cache=False)[0]
        return hidden_BTI


def all_shares(seen: Sequence[Seen]) -> Tensor:
    """The shares of all layers side by side, `[B, T, J, K]`."""
    return torch.cat([one.share_BTJK for one in seen], dim=-2)


class _Routed:
    """A trainer's loss in a gate's context; to be mixed into one."""

    learner: Learner

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        group_B = inputs.pop("group")
        mask_BT = inputs["completion_mask"] if "completion_mask" in inputs else inputs["labels"] >= 0
        with self.learner.listening(inputs) as seen:
            loss = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]
        if self.learner.own_loss is None:
            return loss
        group_B = group_B.repeat(len(mask_BT) // len(group_B))  # of pairs, the chosen and then the rejected
        return loss + self.learner.own_loss(all_shares(seen), group_B, mask_BT)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        parts = {f"p{i}": p.detach().contiguous() for i, p in enumerate(self.learner.parameters)}
        save_file(parts, Path(output_dir) / CHECKPOINT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        parts = load_file(Path(resume_from_checkpoint) / CHECKPOINT)
        with torch.no_grad():
            for i, parameter in enumerate(self.learner.parameters):
                parameter.copy_(parts[f"p{i}"])


class RoutedSft(_Routed, Trainer):  # type: ignore[misc]
    """Imitation through a gate."""


class RoutedPairs(_Routed, Dpo):
    """Any pair loss of TRL's trainer through a gate."""
