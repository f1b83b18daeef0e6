"""How a Hugging Face trainer is run here: quietly, seeded, and resumed where a killed run left off."""

import copy
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from peft import LoraConfig
from transformers import AutoConfig, PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from counterpoint.artifacts import MANIFEST, hash_files, read_json, write_json
from counterpoint.data.examples import Example, Pair
from counterpoint.models.load import load_model, quiet
from counterpoint.train.checkpoints import newest_checkpoint
from counterpoint.types import CounterpointError

RECORD = "training.json"
Schedule = Literal["linear", "cosine", "constant_with_warmup"]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind.

    `losses` has one mean loss per step, `dropped` counts the examples longer than `max_length`, and `fresh` is False
    where the same artefact was there already and nothing was done.
    """

    folder: Path
    losses: tuple[float, ...]
    dropped: int
    fresh: bool


class RunConfig(Protocol):
    """The fields that all configurations of this package's Hugging Face trainers share."""

    @property
    def model(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...
    @property
    def lora_targets(self) -> str | tuple[str, ...]: ...
    @property
    def lora_dropout(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def max_length(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def bf16(self) -> bool: ...
    @property
    def activation_checkpointing(self) -> bool: ...


Row = TypeVar("Row", Example, Pair)


def keep_short(rows: Sequence[Row], config: RunConfig) -> tuple[list[Row], int]:
    """The rows of at most `max_length` tokens, and how many were longer: nothing is ever cut.

    Raises CounterpointError where no row is left, and for a setting that is out of range.
    """
    _check(config)
    kept = [row for row in rows if row.length <= config.max_length]
    if not rows:
        raise CounterpointError("there is nothing to train on: no examples were given")
    if not kept:
        raise CounterpointError(
            f"all {len(rows)} examples are longer than max_length = {config.max_length} tokens "
            f"(the shortest has {min(row.length for row in rows)}); raise max_length"
        )
    return kept, len(rows) - len(kept)


def _check(config: RunConfig) -> None:
    for name, least in (("steps", 1), ("batch", 1), ("accumulate", 1), ("lora_rank", 0), ("checkpoint_every", 0)):
        if (value := getattr(config, name)) < least:
            raise CounterpointError(f"{name} is {value}; it must be at least {least}")
    if not 0 < config.learning_rate < math.inf:
        raise CounterpointError(f"learning_rate is {config.learning_rate}; it must be more than 0, such as 0.001")
    if config.schedule not in get_args(Schedule):
        raise CounterpointError(f"schedule is {config.schedule!r}; it must be one of {', '.join(get_args(Schedule))}")


def inputs_of(config: RunConfig, rows: Sequence[Row]) -> dict[str, str]:
    """The hashes that decide whether an artefact is still good: the base model's files and the token ids."""
    text = json.dumps([list(vars(row).values()) for row in rows])
    return {"base": hash_base(config.model), "data": hashlib.sha256(text.encode()).hexdigest()}


def hash_base(name: str) -> str:
    """SHA-256 of a model folder's own files (not of its subfolders), or the commit of a hub id."""
    folder = Path(name)
    if folder.is_dir():
        return hash_files(*sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST))
    try:
        return f"{name}@{AutoConfig.from_pretrained(name)._commit_hash}"
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CounterpointError(f"{name}: there is no such model folder, and as a hub id it failed: {reason}") from None


def base_model(config: RunConfig, model: Any | None) -> Any:
    """The base model to train, or a copy of one that is loaded already, which so stays as it is.

    A base for LoRA is held in bfloat16 where `bf16` is set; a base that is trained itself stays in float32.
    """
    if model is None:
        return load_model(config.model, torch.bfloat16 if config.bf16 and config.lora_rank else torch.float32)
    name = str(model.name_or_path)
    if name != config.model and Path(name).resolve() != Path(config.model).resolve():
        raise CounterpointError(
            f"the model passed was loaded from {name!r}, but config.model is {config.model!r}; make them the same"
        )
    return copy.deepcopy(model)


def lora(config: RunConfig, task: str) -> Any | None:
    """The PEFT configuration of a run, or None where all parameters are trained."""
    if config.lora_rank == 0:
        return None
    targets = config.lora_targets
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=AutoConfig.from_pretrained(config.model).model_type == "gpt2",
        task_type=task,
    )


def arguments(config: RunConfig, work: Path, kind: Any = TrainingArguments, **more: Any) -> Any:
    """`TrainingArguments`, or a trainer's own `kind` of them, from a configuration."""
    return kind(
        output_dir=str(work),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        train_sampling_strategy="sequential",
        save_strategy="steps" if config.checkpoint_every else "no",
        save_steps=config.checkpoint_every or config.steps,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=config.bf16,
        fp16=False,
        activation_checkpointing=config.activation_checkpointing,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def run(trainer: Any, work: Path, progress: Progress | None) -> tuple[float, ...]:
    """Train from the newest whole checkpoint, or from the start, and return the loss of each step.

    Raises CounterpointError where a loss is not finite, so that a run that diverged leaves no artefact.
    """
    trainer.remove_callback(PrinterCallback)
    if progress is not None:
        trainer.add_callback(_Report(progress))
    checkpoint = newest_checkpoint(work)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise CounterpointError(f"the loss of step {step} is {loss}; lower learning_rate or raise warmup")
    return losses


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a trainer, which draws from the global generators, from a seed; then put them back as they were."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (trainers use the global generator)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), quiet():
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def save(model: Any, tokenizer: Any | None, folder: Path) -> None:
    """Write an adapter, or a model with its tokenizer; PEFT's empty model card is left out."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def write_record(folder: Path, losses: Sequence[float], dropped: int) -> None:
    """Write what `result` reads, so that a run that was done before gives the same answer."""
    write_json(folder / RECORD, {"losses": list(losses), "dropped": dropped})


def result(folder: Path, fresh: bool) -> TrainResult:
    """The result of a run whose artefact is in `folder`."""
    record = read_json(folder / RECORD)
    return TrainResult(folder, tuple(record["losses"]), record["dropped"], fresh)
