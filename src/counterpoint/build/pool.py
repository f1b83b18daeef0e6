"""Responses of the base to training prompts: what comparisons and experts are made from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from counterpoint.build.task import BuildConfig, Task
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.types import Completion, Profile, Prompt, RewardFn


@dataclass(frozen=True)
class Pool:
    """N responses to each of P prompts."""

    prompts: tuple[Prompt, ...]
    completions_PN: tuple[tuple[Completion, ...], ...]

    @property
    def texts_PN(self) -> list[list[str]]:
        return [[completion.text for completion in row] for row in self.completions_PN]

    def scores(self, task: Task, reward: RewardFn) -> np.ndarray:
        """`scores_PND` of every response."""
        prompts = [prompt for prompt, row in zip(self.prompts, self.completions_PN, strict=True) for _ in row]
        scores_ND = task.scores(reward, prompts, [text for row in self.texts_PN for text in row])
        return scores_ND.reshape(len(self.prompts), -1, scores_ND.shape[1])


def sample_pool(task: Task, band: Band, config: BuildConfig, progress: Callable[[int, int], None]) -> Pool:
    """Sample plain responses, and ones to requests in words, which are then compared without the request.

    Personalized Soups samples its responses with the preference in the prompt too (arXiv 2310.11564).
    """
    wanted: list[Profile | None] = [None] * config.samples
    for dimension in task.dimensions:
        if dimension.request:
            wanted += [Profile({dimension.name: 1.0})] * config.asked
    prompts = [prompt for prompt in task.train_prompts for _ in wanted]
    sampling = Sampling(temperature=config.pool_temperature, max_tokens=config.max_tokens, seed=config.seed)
    completions = band.respond(prompts, wanted * len(task.train_prompts), "prompted", sampling, progress)
    starts = range(0, len(completions), len(wanted))
    return Pool(task.train_prompts, tuple(tuple(completions[start : start + len(wanted)]) for start in starts))
