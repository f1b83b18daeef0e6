"""What a build is given, and how much of everything it does."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from counterpoint.decode.sampling import Sampling
from counterpoint.profiles import check_name, corners
from counterpoint.types import Comparison, CounterpointError, Dimension, Profile, Prompt, RewardFn

Correct = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Task:
    """What is learned and by what it is judged.

    `axes` name opposed dimensions: a profile takes one pole of each; without axes, profiles are all sets of two or more
    dimensions. `judge` scores every dimension; `correct` says, as a further score, whether a response is right at all.
    `trade_off` names the two dimensions of the Pareto picture. `comparisons`, where given, are learned from; else the
    judge labels pairs of the base's own responses.
    """

    model: str
    dimensions: tuple[Dimension, ...]
    train_prompts: tuple[Prompt, ...]
    test_prompts: tuple[Prompt, ...]
    judge: RewardFn
    correct: Correct | None = None
    axes: tuple[tuple[str, ...], ...] = ()
    trade_off: tuple[str, str] | None = None
    comparisons: tuple[Comparison, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            check_name(name)
        both = set(self.train_prompts) & set(self.test_prompts)
        if both:
            raise CounterpointError(
                f"{len(both)} prompts are for training and for testing, such as {min(map(str, both))!r}"
            )
        missing = [name for name in self.names if name not in self.judge.dimensions]
        if missing:
            raise CounterpointError(f"no reward scores the dimension {missing[0]!r}")
        if not self.train_prompts or len(self.test_prompts) < 2:
            raise CounterpointError(
                f"{len(self.train_prompts)} training prompts and {len(self.test_prompts)} test prompts: "
                "at least one to learn from and two to judge by are needed"
            )

        assert self.profiles  # axes that repeat a pole are refused here, before any work

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    @property
    def profiles(self) -> list[Profile]:
        """The people that methods are judged for."""
        if self.axes:
            return corners(self.axes)
        least = min(2, len(self.names))
        chosen = [c for size in range(least, len(self.names) + 1) for c in combinations(self.names, size)]
        return [Profile(dict.fromkeys(names, 1.0)) for names in chosen]

    def scores(self, reward: RewardFn, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """`scores_ND` with the columns in the order of the dimensions."""
        columns = [reward.dimensions.index(name) for name in self.names]
        scores_ND: np.ndarray = reward(prompts, responses)[:, columns]
        return scores_ND


@dataclass(frozen=True)
class BuildConfig:
    """How much of everything; lengths in tokens.

    The pool holds `samples` plain responses per training prompt and `asked` more per dimension that can be asked for in
    words; a share `held_out` of the prompts measures the reward models. `expert_steps` are steps of supervised
    fine-tuning on the `keep` best of the pool per prompt or on the preferred of the comparisons, or of DPO on the
    comparisons. `strengths` are tried for every method that has one, on `tune_prompts` training prompts (mixture-prob,
    which cannot exceed 1, gets as many between 0 and 1).
    `workers` models are trained at once, each in a process of one thread.
    """

    samples: int = 4
    asked: int = 2
    pool_temperature: float = 0.8
    pairs_per_prompt: int = 12
    held_out: float = 0.2
    reward_steps: int = 120
    reward_batch: int = 16
    reward_learning_rate: float = 2e-3
    experts: Literal["best-of-n", "sft", "dpo"] = "best-of-n"
    keep: int = 2
    expert_steps: int = 50
    expert_learning_rate: float = 2e-3
    batch: int = 32
    lora_rank: int = 8
    temperature: float = 0.7
    max_tokens: int = 64
    tune_prompts: int = 24
    strengths: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    checkpoint_every: int = 0
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise CounterpointError(f"samples is {self.samples}; at least 2 responses per prompt can be compared")
        least = {
            "asked": 0, "pairs_per_prompt": 1, "reward_steps": 1, "reward_batch": 1, "keep": 1, "expert_steps": 1,
            "batch": 1, "lora_rank": 1, "tune_prompts": 2, "checkpoint_every": 0, "workers": 1,
        }  # fmt: skip
        for field, smallest in least.items():
            if getattr(self, field) < smallest:
                raise CounterpointError(f"{field} is {getattr(self, field)}; it must be at least {smallest}")
        for field in ("reward_learning_rate", "expert_learning_rate"):
            if not 0 < getattr(self, field) < math.inf:
                raise CounterpointError(f"{field} is {getattr(self, field)}; it must be a number above 0")
        for temperature in (self.temperature, self.pool_temperature):
            Sampling(temperature=temperature, max_tokens=self.max_tokens)
        if self.experts not in ("best-of-n", "sft", "dpo"):
            raise CounterpointError(f"experts is {self.experts!r}; it must be best-of-n, sft or dpo")
