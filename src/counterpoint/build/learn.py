"""Reward models and experts, one per dimension."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.build.answer import Progress
from counterpoint.build.pairs import longest_of
from counterpoint.build.pool import Pool
from counterpoint.build.task import BuildConfig, Task
from counterpoint.data.examples import Example, example
from counterpoint.data.split import split_by_prompt
from counterpoint.evaluate.accuracy import RewardQuality, measure_reward
from counterpoint.models.band_file import add_expert
from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.train.best_of_n import best_of_n, to_examples
from counterpoint.train.dpo import DpoConfig, train_dpo
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.run import TrainResult
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Comparison, Expert


def train_rewards(
    task: Task, comparisons: Sequence[Comparison], out: Path, config: BuildConfig, progress: Progress
) -> tuple[list[RewardQuality], int]:
    """Train a reward model per dimension on the comparisons of some prompts, and measure it on those of the others.

    The second value is how many comparisons were left out as too long.
    """
    split = {name: split_by_prompt(comparisons, name, config.held_out, config.seed) for name in task.names}
    jobs = [
        (
            RewardModelConfig(
                model=task.model, dimension=name, steps=config.reward_steps, batch=config.reward_batch,
                learning_rate=config.reward_learning_rate, checkpoint_every=config.checkpoint_every, seed=config.seed,
                max_length=longest_of(task.model),
            ),
            seen,
            out / "rewards" / name,
        )
        for name, (seen, _) in split.items()
    ]  # fmt: skip
    dropped = side_by_side(train_reward_model, jobs, config.workers, progress)
    models = {name: BradleyTerryReward.load(out / "rewards" / name) for name in task.names}
    return [measure_reward(models[name], name, *split[name], config.seed) for name in task.names], dropped


def train_experts(
    task: Task, pool: Pool, scores_PND: np.ndarray, comparisons: Sequence[Comparison], tokenizer: Any, out: Path,
    config: BuildConfig, progress: Progress,
) -> int:  # fmt: skip
    """Train an expert per dimension and put it into the band; `scores_PND` are the reward models'.

    Comparisons that measure the reward models are not learned from. Returns how many examples were too long.
    """
    shared: dict[str, Any] = {
        "model": task.model, "steps": config.expert_steps, "batch": config.batch, "seed": config.seed,
        "learning_rate": config.expert_learning_rate, "lora_rank": config.lora_rank,
        "lora_alpha": 2 * config.lora_rank, "checkpoint_every": config.checkpoint_every,
        "max_length": longest_of(task.model),
    }  # fmt: skip
    folders = [out / "made" / name for name in task.names]
    own = [split_by_prompt(comparisons, name, config.held_out, config.seed)[0] for name in task.names]
    if config.experts == "dpo":
        jobs = [(DpoConfig(dimension=n, **shared), c, f) for n, c, f in zip(task.names, own, folders, strict=True)]
        dropped = side_by_side(train_dpo, jobs, config.workers, progress)
        sources = [f"DPO on {len(c)} comparisons" for c in own]
    else:
        if config.experts == "sft":
            learned = [preferred(c, tokenizer) for c in own]
            sources = [f"the preferred responses of {len(c)} comparisons" for c in own]
        else:
            n, scores_DPN = scores_PND.shape[1], np.moveaxis(scores_PND, -1, 0)
            learned = [
                to_examples(best_of_n(pool.prompts, pool.completions_PN, s, config.keep), tokenizer) for s in scores_DPN
            ]
            sources = [f"the {config.keep} best of {n} responses to each of {len(pool.prompts)} prompts"] * len(folders)
        dropped = side_by_side(train_sft, [(SftConfig(**shared), e, f) for e, f in zip(learned, folders, strict=True)],
                     config.workers, progress)  # fmt: skip
    for name, folder, source in zip(task.names, folders, sources, strict=True):
        add_expert(out, folder, Expert(name, name, source))
    return dropped


def preferred(comparisons: Sequence[Comparison], tokenizer: Any) -> list[Example]:
    """The chosen responses, each once."""
    return [example(*pair, tokenizer) for pair in dict.fromkeys((c.prompt, c.chosen) for c in comparisons)]


def side_by_side(
    train: Callable[..., TrainResult], jobs: Sequence[tuple[Any, ...]], workers: int, progress: Progress
) -> int:
    """Run trainers in `workers` processes of one thread each; with one worker, in this process.

    Small models gain nothing from a second thread, since its waking costs as much as its work saves; two processes are
    nearly twice as fast. Each holds a model of its own. Returns how many examples were left out as too long.
    """
    progress(0, len(jobs))
    dropped = 0
    if workers == 1:
        for done, job in enumerate(jobs, start=1):
            dropped += train(*job).dropped
            progress(done, len(jobs))
        return dropped
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(train, *job) for job in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            dropped += future.result().dropped
            progress(done, len(jobs))
    return dropped
