"""Direct preference optimisation: prefer the chosen response, by log-ratios to the base.

    loss = - log sigmoid(beta (log p(y+|x)/p0(y+|x) - log p(y-|x)/p0(y-|x))) + sft_weight * nll(y+)

(Rafailov et al. 2023, arXiv 2305.18290, eq. 7; the second term as in Pang et al. 2024, arXiv 2404.19733, eq. 1.)
Log-probabilities are sums over response tokens in nats; nll(y+) is the mean over all chosen tokens of a batch. p0 is
the base: the model with its adapter switched off. The surprising part: without the second term, both responses may
grow unlikely together, and small models then fall silent.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from counterpoint.artifacts import make_once
from counterpoint.data.examples import Pair, of_dimension, pairs
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
from counterpoint.types import Comparison, CounterpointError


@dataclass(frozen=True)
class DpoConfig:
    """How to learn one dimension from comparisons; `beta` is how dearly a step away from the base is paid for.

    The other fields are those of `SftConfig`. A pair costs several times as much as an
    example of SFT: two responses, by two models.
    """

    model: str
    dimension: str
    beta: float = 0.1
    sft_weight: float = 1.0
    steps: int = 50
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
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


def train_dpo(
    config: DpoConfig,
    comparisons: Sequence[Comparison],
    out: Path,
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train an expert on the comparisons of `config.dimension` and write it to `out`, as `train_sft` does.

    A pair of which either side is longer than `max_length` is left out and counted. Raises CounterpointError where no
    comparison is on that dimension, and for a `beta` or `sft_weight` that is out of range.
    """
    _check(config)
    tokenizer = load_tokenizer(config.model)
    kept, dropped = keep_short(pairs(of_dimension(comparisons, config.dimension), tokenizer), config)

    def make(scratch: Path) -> None:
        with seeded(config.seed):
            trainer = dpo_trainer(config, kept, base_model(config, model), tokenizer, scratch / "work")
            losses = run(trainer, scratch / "work", progress)
            save(trainer.model, None if config.lora_rank else tokenizer, scratch)
        write_record(scratch, losses, dropped)

    return result(out, make_once(out, config, inputs_of(config, kept), make))


def check_beta(beta: float) -> None:
    """Refuse a beta with which the loss does not prefer the chosen response."""
    if not 0 < beta < math.inf:
        raise CounterpointError(f"beta is {beta}; it must be more than 0, such as 0.1")


def _check(config: DpoConfig) -> None:
    check_beta(config.beta)
    if not 0 <= config.sft_weight < math.inf:
        raise CounterpointError(f"sft_weight is {config.sft_weight}; it must be at least 0")


def dpo_trainer(config: DpoConfig, rows: Sequence[Pair], base: Any, tokenizer: Any, work: Path) -> Any:
    """TRL's trainer on our token ids. It changes `base`; dropout is off unless `lora_dropout` asks for it."""
    order = batch_order([row.length for row in rows], config.batch * config.accumulate, config.steps, config.seed)
    columns = {
        "prompt_ids": [list(row.prompt_ids) for row in rows],
        "chosen_ids": [list(row.chosen_ids) for row in rows],
        "rejected_ids": [list(row.rejected_ids) for row in rows],
    }
    losses = {"sigmoid": 1.0, "sft": config.sft_weight} if config.sft_weight else {"sigmoid": 1.0}
    return Dpo(
        model=base,
        ref_model=None if config.lora_rank else copy.deepcopy(base),
        peft_config=lora(config, "CAUSAL_LM"),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns).select(order),
        args=arguments(
            config,
            work,
            DPOConfig,
            beta=config.beta,
            loss_type=list(losses),
            loss_weights=list(losses.values()),
            max_length=None,
            disable_dropout=config.lora_dropout == 0.0,
        ),
    )


class Dpo(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer without tokenising by rules of its own, reporting its use over the network, and model cards."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None: ...

    def create_model_card(self, *_: Any, **__: Any) -> None: ...
