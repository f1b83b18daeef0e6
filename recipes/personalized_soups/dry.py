"""The same settings at the smallest scale, to see that all connects."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from recipes.personalized_soups.settings import Learning, Models, PromptFiles, Settings

from counterpoint.artifacts import write_text
from counterpoint.data.world import questions
from counterpoint.models.load import quiet
from counterpoint.testing import save_pico


def dry(settings: Settings, out: Path) -> Settings:
    """A random model of bytes, and questions of the embedded world."""
    base = str(out / "model")
    small: dict[str, Any] = {"batch": 16, "accumulate": 1, "max_length": 512, "warmup": 0, "checkpoint_every": 0}
    small |= {"bf16": False, "activation_checkpointing": False}
    with quiet():
        save_pico(out / "model")
    return replace(
        settings,
        models=Models(base, base, base, dtype="float32"),
        prompts=PromptFiles((write_questions(out, "train", 8),), (write_questions(out, "test", 2),)),
        sample=replace(settings.sample, samples=2, max_tokens=12),
        learning=Learning(reward_passes=0.3, asked=settings.learning.asked),
        reward=replace(settings.reward, **small),
        policy=replace(
            settings.policy,
            prompts_per_iteration=4,
            samples=1,
            epochs=1,
            minibatch=4,
            at_once=2,
            max_tokens=6,
            bf16=False,
        ),
        multitask=replace(settings.multitask, **small, steps=2),
        evaluation=replace(settings.evaluation, max_tokens=6),
    )


def write_questions(out: Path, split: Literal["train", "test"], count: int) -> str:
    path = out / f"{split}.txt"
    write_text(path, "".join(f"{question.text}\n" for question in questions(split)[:count]))
    return str(path)
