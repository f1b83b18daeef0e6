"""Reward models and experts, one per dimension."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.build.pool import Pool
from counterpoint.build.task import BuildConfig, Task
from counterpoint.data.examples import Example, example
from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.models.band_file import add_expert
from counterpoint.models.load import check_family
from counterpoint.rewards.bradley_terry import BradleyTerryReward, accuracy
from counterpoint.train.best_of_n import best_of_n, to_examples
from counterpoint.train.dpo import DpoConfig, train_dpo
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.run import TrainResult
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Comparison, CounterpointError, Expert, Prompt

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RewardQuality:
    """Accuracy of a reward model on comparisons of held-out prompts, beside always preferring the shorter or longer."""

    dimension: str
    pairs: int
    accuracy: Interval
    by_length: Interval


def train_rewards(
    task: Task, comparisons: Sequence[Comparison], out: Path, config: BuildConfig, progress: Progress
) -> tuple[list[RewardQuality], int]:
    """Train a reward model per dimension on the comparisons of some prompts, and measure it on those of the others.

    The second value is how many comparisons were left out as too long.
    """
    split = {name: split_comparisons(name, comparisons, config) for name in task.names}
    jobs = [
        (
            RewardModelConfig(
                model=task.model, dimension=name, steps=config.reward_steps, batch=config.reward_batch,
                learning_rate=config.reward_learning_rate, checkpoint_every=config.checkpoint_every, seed=config.seed,
                max_length=longest(task),
            ),
            seen,
            out / "rewards" / name,
        )
        for name, (seen, _) in split.items()
    ]  # fmt: skip
    dropped = side_by_side(train_reward_model, jobs, config.workers, progress)
    return [measure_reward(name, *split[name], out / "rewards" / name, config) for name in task.names], dropped


def longest(task: Task) -> int:
    """How many tokens a training sequence may have: 1024, or fewer where the model has fewer positions."""
    return min(1024, check_family(task.model))


def split_comparisons(
    name: str, comparisons: Sequence[Comparison], config: BuildConfig
) -> tuple[list[Comparison], list[Comparison]]:
    """One dimension's comparisons: to learn from, and to measure by."""
    own = [c for c in comparisons if c.dimension == name]
    held = held_out_prompts(own, config)
    seen, unseen = [c for c in own if c.prompt not in held], [c for c in own if c.prompt in held]
    if not seen or len({c.prompt for c in unseen}) < 2:
        raise CounterpointError(
            f"dimension {name!r}: {len(seen)} comparisons to learn from and {len(unseen)} to measure by are too few; "
            "if its reward hardly tells the responses apart, sample more of them or use another reward"
        )
    return seen, unseen


def measure_reward(
    name: str, seen: Sequence[Comparison], unseen: Sequence[Comparison], folder: Path, config: BuildConfig
) -> RewardQuality:
    """Accuracy on unseen comparisons, of the model and of length."""
    right_P = accuracy(BradleyTerryReward.load(folder), unseen)
    length_P = length_accuracy(seen, unseen)
    return RewardQuality(
        name, len(unseen), by_prompt(right_P, unseen, config.seed), by_prompt(length_P, unseen, config.seed)
    )


def held_out_prompts(comparisons: Sequence[Comparison], config: BuildConfig) -> set[Prompt]:
    """The prompts whose comparisons measure a reward model: at least two."""
    prompts = list(dict.fromkeys(c.prompt for c in comparisons))
    shuffled = np.random.default_rng(config.seed).permutation(len(prompts))
    return {prompts[index] for index in shuffled[: max(2, round(len(prompts) * config.held_out))]}


def by_prompt(right_P: np.ndarray, comparisons: Sequence[Comparison], seed: int) -> Interval:
    """The mean over prompts of each prompt's accuracy, with its interval."""
    of: dict[Prompt, list[float]] = {}
    for right, comparison in zip(right_P, comparisons, strict=True):
        of.setdefault(comparison.prompt, []).append(float(right))
    return mean_interval([float(np.mean(values)) for values in of.values()], seed=seed)


def length_accuracy(seen: Sequence[Comparison], unseen: Sequence[Comparison]) -> np.ndarray:
    """How often the longer response (or the shorter, whichever `seen` favours) is the chosen one; a tie is half."""

    def longer(comparisons: Sequence[Comparison]) -> np.ndarray:
        signs = [np.sign(len(c.chosen.split()) - len(c.rejected.split())) for c in comparisons]
        return (np.array(signs) + 1) / 2

    return longer(unseen) if longer(seen).mean() >= 0.5 else 1 - longer(unseen)


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
        "max_length": longest(task),
    }  # fmt: skip
    folders = [out / "made" / name for name in task.names]
    own = [split_comparisons(name, comparisons, config)[0] for name in task.names]
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
