"""One reward model for K dimensions, learned from pairs alone: one body, K linear heads.

    loss = 1/K sum_k mean over the pairs of dimension k of - log sigmoid(r_k(x, y+) - r_k(x, y-))

(Bradley and Terry 1952, per head; K heads on one body as in MiCRo, arXiv 2505.24846, without its router, since here
each pair names its dimension.) A pair says nothing of the other dimensions, so it trains its own head and the body.
Every step holds equally many pairs of each dimension, however many there are to draw from. The surprising part: to
train, K heads cost as much as K models of the same number of steps; what they save is space, and passes when scoring.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import Trainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from counterpoint.artifacts import make_once, write_json
from counterpoint.data.examples import Pair, of_dimension, pairs
from counterpoint.models.load import check_family
from counterpoint.rewards.bradley_terry import FILE, classifier, reward_tokenizer
from counterpoint.train.batches import batch_order
from counterpoint.train.run import (
    Progress,
    Schedule,
    TrainResult,
    arguments,
    base_model,
    inputs_of,
    keep_short,
    lora,
    result,
    run,
    save,
    seeded,
    write_record,
)
from counterpoint.types import Comparison, CounterpointError


@dataclass(frozen=True)
class KHeadConfig:
    """How to learn to judge several dimensions with one model; `batch` is pairs of each dimension.

    A step sees `batch * accumulate` pairs of every dimension. The other fields are those of `RewardModelConfig`.
    """

    model: str
    dimensions: tuple[str, ...]
    steps: int = 40
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    seed: int = 0
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_targets: str | tuple[str, ...] = "all-linear"
    lora_dropout: float = 0.0
    warmup: int = 4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "cosine"
    max_length: int = 1024
    checkpoint_every: int = 0
    bf16: bool = False
    activation_checkpointing: bool = False


def k_head_loss(chosen_PK: Tensor, rejected_PK: Tensor, head_P: Tensor) -> Tensor:
    """The mean Bradley-Terry loss of pairs, each by the scores of its own head."""
    margin_P = (chosen_PK - rejected_PK).gather(1, head_P[:, None])[:, 0]
    return -logsigmoid(margin_P).mean()


def train_k_head(
    config: KHeadConfig,
    comparisons: Sequence[Comparison],
    out: Path,
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one reward model on the comparisons of all `config.dimensions`, for `KHeadReward.load(out)`.

    `model`, resuming, dropping and errors are as in `train_reward_model`.
    """
    tokenizer = reward_tokenizer(config.model)
    rows_K, dropped = _rows(config, comparisons, tokenizer)
    inputs = inputs_of(config, [row for rows in rows_K for row in rows])
    inputs["pairs"] = " ".join(str(len(rows)) for rows in rows_K)  # where one dimension's rows end and the next's begin

    def make(scratch: Path) -> None:
        with seeded(config.seed):
            judge = classifier(base_model(config, model), tokenizer.pad_token_id, len(config.dimensions))
            trainer = _trainer(config, rows_K, judge, tokenizer, scratch / "work")
            losses = run(trainer, scratch / "work", progress)
            save(trainer.model, tokenizer, scratch)
        write_json(scratch / FILE, {"dimensions": config.dimensions, "base": config.model})
        write_record(scratch, losses, dropped)

    return result(out, make_once(out, config, inputs, make))


def _rows(config: KHeadConfig, comparisons: Sequence[Comparison], tokenizer: Any) -> tuple[list[list[Pair]], int]:
    if not config.dimensions or len(set(config.dimensions)) < len(config.dimensions):
        raise CounterpointError(f"dimensions are {config.dimensions}; expected one or more, each once")
    limited = replace(config, max_length=min(config.max_length, check_family(config.model)))
    own = [pairs(of_dimension(comparisons, name), tokenizer) for name in config.dimensions]
    kept = [keep_short(rows, limited) for rows in own]
    return [rows for rows, _ in kept], sum(dropped for _, dropped in kept)


def _trainer(config: KHeadConfig, rows_K: Sequence[Sequence[Pair]], judge: Any, tokenizer: Any, work: Path) -> Any:
    adapter = lora(config, "SEQ_CLS")
    each = replace(config, accumulate=config.accumulate * len(config.dimensions))
    collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
    return _KHeadTrainer(
        model=judge if adapter is None else get_peft_model(judge, adapter),
        args=arguments(each, work, remove_unused_columns=False),
        train_dataset=_in_turn(config, rows_K),
        data_collator=lambda rows: {**collate(rows), "head": torch.tensor([row["head"] for row in rows])},
    )


def _in_turn(config: KHeadConfig, rows_K: Sequence[Sequence[Pair]]) -> list[dict[str, Any]]:
    """All that the run sees, in order: in each step, the batches of the first dimension, then of the second, ..."""
    size = config.batch * config.accumulate
    order_K = [batch_order([row.length for row in rows], size, config.steps, config.seed) for rows in rows_K]
    tables_K = [[_columns(row, head) for row in rows] for head, rows in enumerate(rows_K)]
    return [
        table[i]
        for step in range(config.steps)
        for table, order in zip(tables_K, order_K, strict=True)
        for i in order[step * size : (step + 1) * size]
    ]


def _columns(row: Pair, head: int) -> dict[str, Any]:
    return {
        "chosen_ids": [*row.prompt_ids, *row.chosen_ids],
        "rejected_ids": [*row.prompt_ids, *row.rejected_ids],
        "head": head,
    }


class _KHeadTrainer(Trainer):  # type: ignore[misc]
    """Plain, since TRL's trainer of reward models refuses one with more than one label."""

    loss_is_scaled_for_ga = False  # so that a step's loss is the mean over its batches, that is, over dimensions

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        scores_XK = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        chosen_PK, rejected_PK = scores_XK.logits.chunk(2)
        return k_head_loss(chosen_PK, rejected_PK, inputs["head"])
