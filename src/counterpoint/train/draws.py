"""What an iteration of training on own samples asks, and with which noise: functions of a seed and its number."""

from collections.abc import Sequence

import numpy as np
import torch


def drawn(sizes: Sequence[int], count: int, seed: int, iteration: int) -> list[list[int]]:
    """`count` indices below each of `sizes`, in shuffled rounds: each as often as any other, give or take one."""
    generator = torch.Generator().manual_seed(mixed(seed, iteration, 0))
    return [_rounds(size, count, generator) for size in sizes]


def seeds(count: int, seed: int, iteration: int) -> list[int]:
    """A seed for each of an iteration's responses."""
    return [mixed(seed, iteration, 1 + index) for index in range(count)]


def mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64).item()) >> 1


def _rounds(size: int, count: int, generator: torch.Generator) -> list[int]:
    indices: list[int] = []
    while len(indices) < count:
        indices += torch.randperm(size, generator=generator).tolist()
    return indices[:count]
