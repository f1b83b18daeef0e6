"""Training through the bank: what decodes is what learns, the stacked factors and the routers' rows of a gate.

A Hugging Face trainer computes its loss inside the gate's context, and a gate's own loss is added to it. Only what
learns is checkpointed. The reference of a pair loss is the base, a twin that shares its parameters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from counterpoint.data.examples import Pair
from counterpoint.models.bank import LoraBank
from counterpoint.models.bank_layers import Seen
from counterpoint.models.gates import GATE, AnyGates, RowGates
from counterpoint.train.dpo import Dpo
from counterpoint.train.gate_log import Tally, means, tally
from counterpoint.train.run import RunConfig, arguments
from counterpoint.train.sft import IGNORED, collate

CHECKPOINT = "learned.safetensors"
LOGGED = 20
"""About how many steps of a run say what the routers do."""
MEASURED = 32
"""Of so many chosen responses on each dimension `routing.json` says how they were routed."""

OwnLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss on shares `[B, T, J, K]`, what is of each row of data (its dimension's number), and a mask `[B, T]`."""


class Learner:
    """What a router of a bank learns, and with `experts` its experts. `scale` is alpha/r, which is outside of `B`.

    The parameters, in float32, are put into the model as `learned`, where a trainer finds them; all others are frozen.
    `reference` is what a pair loss compares with, and `dimensions` are those of the data, by whose number a row of a
    batch says its own. A share `told` of the rows is gated as for a person who wants that dimension alone.
    """

    def __init__(
        self,
        bank: LoraBank,
        name: str,
        experts: bool,
        scale: float = 1.0,
        own_loss: OwnLoss | None = None,
        reference: Any = None,
        dimensions: Sequence[str] = (),
        told: float = 0.0,
    ) -> None:
        self.bank = bank
        self.name = name
        self.scale = scale
        self.own_loss = own_loss
        self.reference = reference
        self.dimensions = tuple(dimensions)
        self.told = told
        self.gate = bank.gate([{GATE + name: scale}])
        bank.model.requires_grad_(False)
        self.parameters = bank.learn(name, experts)
        bank.model.learned = nn.ParameterList(self.parameters)

    @contextmanager
    def listening(self, inputs: Mapping[str, Any], whom: Sequence[str | None] = ()) -> Iterator[list[Seen]]:
        """`listening` with the learner's own gate; `whom` names the dimension that a row is told to serve, if any."""
        own, gate = {GATE + self.name: self.scale}, self.gate
        if any(whom):
            gate = self.bank.gate([own | ({name: 1.0} if name else {}) for name in whom])
        with listening(self.bank, gate, inputs) as seen:
            yield seen


@contextmanager
def listening(bank: LoraBank, gate: AnyGates | None, inputs: Mapping[str, Any]) -> Iterator[list[Seen]]:
    """Gate the forwards of `inputs` inside the block, and collect what the routers make of every token.

    A base in half precision is read under autocast, since what learns is in float32.
    """
    if isinstance(gate, RowGates) and gate.guided:
        gate = gate.heard(_base_hidden(bank.model, inputs))
    seen: list[Seen] = []
    with _autocast(bank.model), bank.gated(gate):
        bank.context.seen = seen
        try:
            yield seen
        finally:
            bank.context.seen = None


def _autocast(model: Any) -> AbstractContextManager[Any]:
    if model.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(model.device.type, model.dtype)


@torch.no_grad()
def _base_hidden(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    hidden_BTI: Tensor = model.base_model(**_read(inputs), use_cache=False)[0]
    return hidden_BTI


def _read(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def all_shares(seen: Sequence[Seen]) -> Tensor:
    """The shares of all layers side by side, `[B, T, J, K]`."""
    return torch.cat([one.share_BTJK for one in seen], dim=-2)


@torch.no_grad()
def measure(
    bank: LoraBank, gate: AnyGates | None, rows: Sequence[Pair], group: Sequence[int], dimensions: int, batch: int
) -> tuple[list[str], Tally]:
    """What the one router of a gate makes of chosen responses: its layers in the order of a forward, and the sums.

    `group` is the number of each row's dimension, of `dimensions`.
    """
    sums, layers = [], []
    model: Any = bank.model
    for start in range(0, len(rows), batch):
        part = imitation_rows(rows[start : start + batch], group[start : start + batch])
        inputs = {name: x.to(model.device) for name, x in _grouped(part).items() if isinstance(x, Tensor)}
        with listening(bank, gate, inputs) as seen:
            model.base_model(**_read(inputs), use_cache=False)
        layers = [module for one in seen for module in one.modules]
        sums.append(tally(all_shares(seen), inputs["group"], inputs["labels"] >= 0, dimensions))
    return layers, sum(sums[1:], start=sums[0])


def routing_table(
    bank: LoraBank,
    name: str,
    gate: AnyGates | None,
    rows: Sequence[Pair],
    group: Sequence[int],
    dimensions: Sequence[str],
    batch: int,
) -> dict[str, Any]:
    """`routing.json`: what the router `name`, which `gate` asks for, makes of the first chosen responses on each of
    `dimensions`, layer by layer in the order of a forward. `group` is the number of each row's dimension.
    """
    first = [n for d in range(len(dimensions)) for n in [n for n, i in enumerate(group) if i == d][:MEASURED]]
    data = ([rows[n] for n in first], [group[n] for n in first])
    layers, sums = measure(bank, gate, *data, len(dimensions), batch)
    groups = bank.routers[name].groups
    names = {"dimensions": list(dimensions), "groups": list(dict.fromkeys(groups))}
    return {"layers": layers, **names, **means(sums, groups)}


class _Routed:
    """A trainer's loss in a gate's context; to be mixed into one."""

    learner: Learner
    _tally: Tally | None = None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        group_B = inputs.pop("group")
        mask_BT = inputs["completion_mask"] if "completion_mask" in inputs else inputs["labels"] >= 0
        sides = len(mask_BT) // len(group_B)  # of pairs, the chosen and then the rejected
        group_B, told_B = group_B.repeat(sides), self._told(group_B).repeat(sides)
        names = self.learner.dimensions
        whom = [names[group] if told else None for group, told in zip(group_B.tolist(), told_B.tolist(), strict=True)]
        with self.learner.listening(inputs, whom) as seen:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if told_B.all():
            return loss
        routed = all_shares(seen)[~told_B], group_B[~told_B], mask_BT[~told_B]
        self._note(*routed)
        if self.learner.own_loss is None:
            return loss
        return loss + self._part_of_step(num_items_in_batch) * self.learner.own_loss(*routed)

    def _told(self, group_B: Tensor) -> Tensor:
        """Which rows are told whom they serve; drawn by seed and step, so that a resumed run draws them again."""
        trainer: Any = self
        generator = torch.Generator().manual_seed(trainer.args.seed * 2**32 + trainer.state.global_step)
        return (torch.rand(len(group_B), generator=generator) < self.learner.told).to(group_B.device)

    def _part_of_step(self, num_items_in_batch: Any) -> float:
        """What a mean over this batch counts for, where the trainer sums over the batches of a step."""
        trainer: Any = self
        summed = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        return 1 / trainer.current_gradient_accumulation_steps if summed else 1.0

    def _note(self, share_BTJK: Tensor, group_B: Tensor, mask_BT: Tensor) -> None:
        state = self.state  # type: ignore[attr-defined]
        if self.learner.dimensions and state.global_step % max(1, state.max_steps // LOGGED) == 0:
            own = tally(share_BTJK, group_B, mask_BT, len(self.learner.dimensions))
            self._tally = own if self._tally is None else self._tally + own

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if self._tally is not None:
            router = self.learner.bank.routers[self.learner.name]
            logs["routing"] = {name: x[0] for name, x in means(self._tally.over_layers, router.groups).items()}
            self._tally = None
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

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


def imitation_trainer(
    config: RunConfig, rows: Sequence[Pair], group: Sequence[int], learner: Learner, work: Path
) -> RoutedSft:
    """A trainer that imitates the chosen responses; `group` is the number of each row's dimension."""
    trainer = RoutedSft(
        model=learner.bank.model,
        args=arguments(config, work, remove_unused_columns=False),
        train_dataset=imitation_rows(rows, group),
        data_collator=_grouped,
    )
    trainer.learner = learner
    return trainer


def pair_trainer(
    config: RunConfig,
    rows: Sequence[Pair],
    group: Sequence[int],
    learner: Learner,
    tokenizer: Any,
    work: Path,
    losses: Mapping[str, float],
    beta: float,
) -> RoutedPairs:
    """A trainer by a weighted sum of TRL's `losses`; `group` is the number of each row's dimension."""
    columns = {
        "prompt_ids": [list(row.prompt_ids) for row in rows],
        "chosen_ids": [list(row.chosen_ids) for row in rows],
        "rejected_ids": [list(row.rejected_ids) for row in rows],
        "group": list(group),
    }
    own = {"loss_type": list(losses), "loss_weights": list(losses.values()), "beta": beta}
    trainer = RoutedPairs(
        model=learner.bank.model,
        ref_model=learner.reference,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns),
        data_collator=partial(_with_group, DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)),
        args=arguments(config, work, DPOConfig, max_length=None, remove_unused_columns=False, **own),
    )
    trainer.learner = learner
    return trainer


def imitation_rows(rows: Sequence[Pair], group: Sequence[int]) -> list[dict[str, Any]]:
    """The chosen responses as `collate` takes them, each with the number of its dimension."""
    return [
        {
            "input_ids": [*row.prompt_ids, *row.chosen_ids],
            "labels": [*[IGNORED] * len(row.prompt_ids), *row.chosen_ids],
            "group": number,
        }
        for row, number in zip(rows, group, strict=True)
    ]


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return _with_group(collate, rows)


def _with_group(collate_rows: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {**collate_rows(rows), "group": torch.tensor([row["group"] for row in rows])}
