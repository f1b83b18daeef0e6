"""Policies against another implementation of learning from one's own samples, on a real model of 260 K parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import RLOOConfig, RLOOTrainer

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.load import load_model, load_tokenizer, quiet
from counterpoint.train.policy import PolicyConfig, train_policy

PROMPTS = (
    "Once upon a time",
    "One day, a little girl",
    "Tom and Lily",
    "The big dog",
    "In the park, a boy",
    "Mom said",
)
TOKENS, ITERATIONS, EACH, RATE, KL = 16, 5, 4, 2e-3, 0.05


def earned(text: str) -> float:
    """A rule that a small model can follow: how many of its words are "was" or "and", of the first ten."""
    return sum(word in ("was", "and") for word in text.split()[:10]) / 2


@pytest.fixture(scope="module")
def base(shared: Path) -> str:
    return str(shared / "models" / "stories260k")


def ours(base: str, out: Path) -> Path:
    def reward(prompts: Sequence[int], texts: Sequence[str], profiles: Sequence[int]) -> np.ndarray:
        return np.array([earned(text) for text in texts])

    config = PolicyConfig(
        base, iterations=ITERATIONS, samples=EACH, prompts_per_iteration=len(PROMPTS), epochs=2, minibatch=24,
        learning_rate=RATE, kl=KL, max_tokens=TOKENS,
    )  # fmt: skip
    return train_policy(config, PROMPTS, [""], reward, out).folder


def theirs(base: str, out: Path) -> Path:
    def reward(completions: list[str], **_: Any) -> list[float]:
        return [earned(text) for text in completions]

    batch = len(PROMPTS) * EACH
    arguments = RLOOConfig(
        output_dir=str(out / "work"), max_steps=2 * ITERATIONS, num_iterations=2, num_generations=EACH, beta=KL,
        per_device_train_batch_size=batch, max_completion_length=TOKENS, learning_rate=RATE, temperature=1.0,
        lr_scheduler_type="constant", bf16=False, use_cpu=True, save_strategy="no", report_to="none",
        disable_tqdm=True, logging_strategy="no", gradient_checkpointing=False, seed=0,
    )  # fmt: skip
    trainer = RLOOTrainer(
        model=load_model(base), reward_funcs=[reward], args=arguments, processing_class=load_tokenizer(base),
        train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out / "adapter"))
    return out / "adapter"


def rewards(base: str, adapter: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of answers by the base and by an adapter, with the same noise: 20 to each prompt."""
    band = Band.assemble(base, {"mine": adapter})
    found = []
    for plan in (Plan((Row(),)), Plan((Row({"mine": 1.0}),))):
        requests = [
            band.request(prompt, plan, Sampling(max_tokens=TOKENS, seed=1000 * seed + i))
            for i, prompt in enumerate(PROMPTS)
            for seed in range(20)
        ]
        found.append(np.array([earned(said.text) for said in band.run(requests)]))
    return found[0], found[1]


@pytest.mark.parametrize("train", [ours, theirs])
def test_both_earn_more_than_the_base_by_more_than_noise(base: str, tmp_path: Path, train: Any) -> None:
    with quiet(), torch.random.fork_rng(devices=[]):
        adapter = train(base, tmp_path / "out")
    base_N, policy_N = rewards(base, adapter)
    error = np.sqrt((base_N.var() + policy_N.var()) / len(base_N))
    assert policy_N.mean() - base_N.mean() > 3 * error
