"""How often a reward prefers the response that people chose, beside a counter of words.

Axis `P`: pairs. Accuracies are means over prompts of each prompt's accuracy, so that a prompt with many pairs counts
as much as one with few, and their intervals are by prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.rewards.bradley_terry import accuracy
from counterpoint.rewards.length import learn_length
from counterpoint.types import Comparison, Prompt, RewardFn


@dataclass(frozen=True)
class RewardQuality:
    """Accuracy of a reward model on comparisons of held-out prompts, beside always preferring the shorter or longer."""

    dimension: str
    pairs: int
    accuracy: Interval
    by_length: Interval


def measure_reward(
    reward: RewardFn, dimension: str, seen: Sequence[Comparison], unseen: Sequence[Comparison], seed: int
) -> RewardQuality:
    """Accuracy on unseen comparisons, of the reward and of length, whose direction is learned from `seen`."""
    right_P, length_P = accuracy(reward, unseen), length_accuracy(seen, unseen)
    return RewardQuality(dimension, len(unseen), by_prompt(right_P, unseen, seed), by_prompt(length_P, unseen, seed))


def by_prompt(value_P: ArrayLike, comparisons: Sequence[Comparison], seed: int) -> Interval:
    """The mean over prompts of each prompt's mean value, with its interval; at least two prompts are needed."""
    return mean_interval(prompt_means(value_P, comparisons), seed=seed)


def prompt_means(value_P: ArrayLike, comparisons: Sequence[Comparison]) -> list[float]:
    """The mean value of each prompt's pairs, prompts in the order of their first pair."""
    of: dict[Prompt, list[float]] = {}
    for value, comparison in zip(np.asarray(value_P, dtype=float).tolist(), comparisons, strict=True):
        of.setdefault(comparison.prompt, []).append(value)
    return [sum(values) / len(values) for values in of.values()]


def length_accuracy(seen: Sequence[Comparison], unseen: Sequence[Comparison]) -> np.ndarray:
    """How often the longer response (or the shorter, whichever `seen` favours) is the chosen one; a tie is half."""
    return accuracy(learn_length(seen, unseen[0].dimension), unseen)
