"""Supervised fine-tuning: imitate responses.

    loss = - sum_t m_t log p(y_t | x, y_<t) / sum_t m_t

with m_t = 1 on the tokens of responses, over all rows of a batch: a long response counts for more than a short one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from counterpoint.artifacts import make_once
from counterpoint.data.examples import Example
from counterpoint.models.load import load_tokenizer
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

IGNORED = -100


@dataclass(frozen=True)
class SftConfig:
    """How to imitate. Experts of one seed start from the same random LoRA factor A, which helps when they are mixed.

    `lora_rank = 0` trains all parameters; `accumulate` batches make one step; `checkpoint_every = 0` writes none;
    lengths are in tokens, `warmup` in steps; after it, `schedule` takes the learning rate down (or keeps it).
    """

    model: str
    steps: int = 50
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 2e-3
    seed: int = 0
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: str | tuple[str, ...] = "all-linear"
    lora_dropout: float = 0.0
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "cosine"
    max_length: int = 1024
    checkpoint_every: int = 0
    bf16: bool = False
    activation_checkpointing: bool = False


def train_sft(
    config: SftConfig,
    examples: Sequence[Example],
    out: Path,
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train an expert on examples and write it to `out`: a PEFT adapter, or a whole model where `lora_rank` is 0.

    Pass `model` where the base is loaded already; it is copied. A killed run resumes from its newest checkpoint and
    ends with the same bits; a finished one with the same configuration, base and examples is not done again.
    Raises CounterpointError where there is nothing to train on. Longer examples are left out and counted, never cut.
    """
    kept, dropped = keep_short(examples, config)
    inputs = inputs_of(config, kept)

    def make(scratch: Path) -> None:
        with seeded(config.seed):
            trained, losses = _fit(config, kept, base_model(config, model), scratch / "work", progress)
            save(trained, None if config.lora_rank else load_tokenizer(config.model), scratch)
        write_record(scratch, losses, dropped)

    return result(out, make_once(out, config, inputs, make))


def _fit(
    config: SftConfig, examples: Sequence[Example], base: Any, work: Path, progress: Progress | None
) -> tuple[Any, tuple[float, ...]]:
    adapter = lora(config, "CAUSAL_LM")
    model = base if adapter is None else get_peft_model(base, adapter)
    order = batch_order([e.length for e in examples], config.batch * config.accumulate, config.steps, config.seed)
    rows = [_row(e) for e in examples]
    trainer = Trainer(
        model=model,
        args=arguments(config, work),
        train_dataset=[rows[i] for i in order],
        data_collator=collate,
    )
    losses = run(trainer, work, progress)
    return trainer.model, losses


def _row(example: Example) -> dict[str, list[int]]:
    return {
        "input_ids": [*example.prompt_ids, *example.response_ids],
        "labels": [*[IGNORED] * len(example.prompt_ids), *example.response_ids],
    }


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Pad on the right to `[B, T]`. Which token pads does not matter: nothing attends to it and no label is on it."""
    ids_BT = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    labels_BT = pad_sequence([torch.tensor(row["labels"]) for row in rows], batch_first=True, padding_value=IGNORED)
    mask_BT = pad_sequence([torch.ones(len(row["labels"]), dtype=torch.long) for row in rows], batch_first=True)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT, "use_cache": False}
