"""Reward models: one number for how good a response is on one dimension, learned from comparisons.

    loss = - log sigmoid(r(x, y+) - r(x, y-))

(Bradley and Terry 1952; Ouyang et al. 2022, arXiv 2203.02155, eq. 1, with one pair per prompt.) r is a linear head on
the last token's hidden state. The surprising part: only differences are learned, so scores of two models, or of one
model on two prompts, have no common zero or unit; calibrate before they are added up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from counterpoint.artifacts import make_once, write_json
from counterpoint.data.examples import Pair, of_dimension, pairs
from counterpoint.models.load import check_family
from counterpoint.rewards.bradley_terry import FILE, classifier, reward_tokenizer
from counterpoint.train.batches import batch_order
from counterpoint.train.run import (
    Progress,
    RunConfig,
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
from counterpoint.types import Comparison


@dataclass(frozen=True)
class RewardModelConfig:
    """How to learn to judge one dimension. All parameters are trained, unless `lora_rank` asks for an adapter.

    The other fields are those of `SftConfig`; a batch is of pairs.
    """

    model: str
    dimension: str
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


def train_reward_model(
    config: RewardModelConfig,
    comparisons: Sequence[Comparison],
    out: Path,
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a reward model on the comparisons of `config.dimension`, for `BradleyTerryReward.load(out)`.

    `model` may be the causal language model that is loaded already; its body is copied. Resuming, dropping and errors
    are as in `train_dpo`; pairs longer than the model's positions are left out and counted too.
    """
    tokenizer = reward_tokenizer(config.model)
    longest = min(config.max_length, check_family(config.model))
    rows = pairs(of_dimension(comparisons, config.dimension), tokenizer)
    kept, dropped = keep_short(rows, replace(config, max_length=longest))
    return fit_reward(config, kept, dropped, {"dimension": config.dimension}, out, model, progress)


def fit_reward(
    config: RunConfig,
    kept: Sequence[Pair],
    dropped: int,
    record: Mapping[str, Any],
    out: Path,
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a classifier with one label on pairs of token ids into `out`; `reward.json` holds `record` and the base."""
    tokenizer = reward_tokenizer(config.model)

    def make(scratch: Path) -> None:
        with seeded(config.seed):
            judge = classifier(base_model(config, model), tokenizer.pad_token_id)
            trainer = _trainer(config, kept, judge, tokenizer, scratch / "work")
            losses = run(trainer, scratch / "work", progress)
            save(trainer.model, tokenizer, scratch)
        write_json(scratch / FILE, {**record, "base": config.model})
        write_record(scratch, losses, dropped)

    return result(out, make_once(out, config, inputs_of(config, kept), make))


def _trainer(config: RunConfig, rows: Sequence[Pair], judge: Any, tokenizer: Any, work: Path) -> Any:
    order = batch_order([row.length for row in rows], config.batch * config.accumulate, config.steps, config.seed)
    columns = {
        "chosen_ids": [[*row.prompt_ids, *row.chosen_ids] for row in rows],
        "rejected_ids": [[*row.prompt_ids, *row.rejected_ids] for row in rows],
    }
    return _Reward(
        model=judge,
        peft_config=lora(config, "SEQ_CLS"),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns).select(order),
        args=arguments(config, work, RewardConfig, max_length=None, disable_dropout=config.lora_dropout == 0.0),
    )


class _Reward(RewardTrainer):  # type: ignore[misc]
    """TRL's trainer without its report over the network and its model cards."""

    def _send_telemetry(self) -> None: ...

    def create_model_card(self, *_: Any, **__: Any) -> None: ...
