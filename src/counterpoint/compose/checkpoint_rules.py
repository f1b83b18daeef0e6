"""What becomes of a tensor when checkpoints are merged: sums, a base with deltas, and pruned task vectors.

A rule makes a tensor piece by piece where its method allows that, and says what the same would be in float64.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from counterpoint.models.checkpoint import Checkpoint, Values
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from torch import Tensor

Exact = NDArray[np.float64]

MAJORITY = ("ties", "dare-ties")
LARGEST = ("magnitude", "ties")
ROUNDING = 2.0**-24
CANCELLED = 1e-9
"""Weights whose sum is less than this share of their sizes cancel: 0.1 + 0.2 - 0.3 is 3e-17, not 0."""


class Rule(Protocol):
    """What becomes of each tensor; `parallel` if several threads may make parts at once."""

    parallel: bool

    def whole(self, name: str) -> bool:
        """Whether no part of a tensor can be made without the rest."""

    def make(self, name: str, first: int, count: int) -> Values:
        """So many values of a tensor from the `first` on."""

    def exact(self, name: str, first: int, count: int) -> tuple[Exact, Exact]:
        """The same in float64, and how far float32 may be from it."""


class Weights:
    """How much of each source goes into each tensor: coefficients of those that take part, and their divisor."""

    def __init__(
        self, named: Sequence[tuple[Path, float]], layers: Mapping[str, Sequence[float]], averaged: bool,
        tensors: Sequence[str],
    ) -> None:  # fmt: skip
        self.averaged = averaged
        self._usual = [weight for _, weight in named]
        self._layers = layers
        self._check("the sources", self._usual)
        for key, weights in layers.items():
            self._check(f"layers {key!r}", weights)
            if not any(_fits(key, name) for name in tensors):
                raise CounterpointError(f"layers {key!r}: names no tensor; expected '3', '0-11' or a pattern of names")

    def of(self, name: str) -> tuple[dict[int, float], float]:
        """Per source that takes part its coefficient, and what the sum is divided by."""
        weights = next((w for key, w in self._layers.items() if _fits(key, name)), self._usual)
        active = {index: weight for index, weight in enumerate(weights) if weight}
        if not self.averaged:
            return active, 1.0
        return (active, math.fsum(active.values())) if len(active) > 1 else (dict.fromkeys(active, 1.0), 1.0)

    def _check(self, where: str, weights: Sequence[float]) -> None:
        if len(weights) != len(self._usual):
            raise CounterpointError(f"{where}: {len(weights)} weights for {len(self._usual)} sources; give one each")
        if not all(map(math.isfinite, weights)) or not any(weights):
            raise CounterpointError(
                f"{where}: the weights are {_listed(weights)}; expected finite numbers, not all of them 0"
            )
        if self.averaged and abs(math.fsum(weights)) <= CANCELLED * math.fsum(map(abs, weights)):
            raise CounterpointError(
                f"{where}: the weights {_listed(weights)} add up to 0, so that they cannot be divided by their sum; "
                "give others, or do not normalise"
            )


def _listed(weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)


def _fits(key: str, tensor: str) -> bool:
    """Whether a tensor is of a layer "3", of layers "0-11", or fits a pattern; its layer is its name's first number."""
    if not (span := re.fullmatch(r"(\d+)(?:-(\d+))?", key)):
        return fnmatchcase(tensor, key)
    layer = next((int(part) for part in tensor.split(".") if part.isdecimal()), None)
    return layer is not None and int(span[1]) <= layer <= int(span[2] or span[1])


class Summed:
    """W = sum_k w_k W_k / d, or with a base W = W0 + sum_k w_k (W_k - W0) / d."""

    parallel = True

    def __init__(self, checkpoints: Sequence[Checkpoint], weights: Weights, from_base: bool) -> None:
        self._base = checkpoints[0] if from_base else None
        self._sources = checkpoints[1:] if from_base else checkpoints
        self._weights = weights

    def whole(self, name: str) -> bool:
        return False

    def make(self, name: str, first: int, count: int) -> Values:
        coefficients, divisor = self._weights.of(name)
        start = piece(self._base, name, first, count) if self._base else None
        total, term = np.empty((2, count), np.float32)  # used again for each source: fresh memory is slow
        for turn, (index, coefficient) in enumerate(coefficients.items()):
            values = term if turn else total
            self._sources[index].read(name, first, values)
            if start is not None:
                values -= start
            if coefficient != 1:
                values *= np.float32(coefficient)
            if turn:
                total += term
        if divisor != 1:
            total /= np.float32(divisor)
        return total if start is None else np.add(total, start, out=total)

    def exact(self, name: str, first: int, count: int) -> tuple[Exact, Exact]:
        coefficients, divisor = self._weights.of(name)
        start = piece(self._base, name, first, count).astype(np.float64) if self._base else np.zeros(count)
        terms = [c / divisor * (piece(self._sources[k], name, first, count) - start) for k, c in coefficients.items()]
        # Each step of a sum of K products rounds once, and so do a coefficient and the divisor.
        size = np.abs(start) + sum(abs(c / divisor) * np.abs(start) for c in coefficients.values())
        size += np.sum(np.abs(terms), axis=0)
        return start + np.sum(terms, axis=0), (len(terms) + 4) * ROUNDING * size


class Added:
    """W = W0 + delta."""

    parallel = False  # how a delta is made is the caller's, and so is whether that can be done twice at once

    def __init__(self, base: Checkpoint, deltas: Mapping[str, Callable[[], "Tensor"]]) -> None:
        self._base = base
        self._deltas = deltas

    def whole(self, name: str) -> bool:
        return name in self._deltas

    def make(self, name: str, first: int, count: int) -> Values:
        values = piece(self._base, name, first, count)
        return np.add(values, self._delta(name), out=values) if name in self._deltas else values

    def exact(self, name: str, first: int, count: int) -> tuple[Exact, Exact]:
        total = piece(self._base, name, first, count).astype(np.float64)
        if name in self._deltas:
            total += self._delta(name)
        return total, ROUNDING * np.abs(total)

    def _delta(self, name: str) -> Values:
        delta = self._deltas[name]().detach().float().numpy()
        if delta.shape != self._base.specs[name].shape:
            raise CounterpointError(
                f"{self._base.folder}: tensor {name!r} has the shape {self._base.specs[name].shape}, its delta "
                f"{delta.shape}"
            )
        values: Values = delta.reshape(-1)
        return values


class Pruned:
    """W = W0 + what PEFT's function of the method makes of the task vectors."""

    parallel = False  # PEFT's functions draw from torch's one generator, and use all cores themselves

    def __init__(
        self, checkpoints: Sequence[Checkpoint], weights: Weights, method: str, density: float, seed: int
    ) -> None:
        self._base, *self._sources = checkpoints
        self._weights = weights
        self._method = method
        self._density = density
        self._seed = seed

    def whole(self, name: str) -> bool:
        return True

    def make(self, name: str, first: int, count: int) -> Values:
        import torch  # this and PEFT take longer to load than a plain sum takes to write
        from peft.utils import merge_utils

        functions = {
            "magnitude": merge_utils.magnitude_prune,
            "ties": merge_utils.ties,
            "dare-linear": merge_utils.dare_linear,
            "dare-ties": merge_utils.dare_ties,
        }
        coefficients, divisor = self._weights.of(name)
        if self._method in MAJORITY and self._weights.averaged:
            divisor /= len(coefficients)
        start = piece(self._base, name, first, count)
        tasks = [piece(self._sources[k], name, first, count) - start for k in coefficients]
        density = self._density
        if self._method in LARGEST:
            tasks, density = [largest(task, density) for task in tasks], 1.0
        weights = torch.tensor([coefficient / divisor for coefficient in coefficients.values()])
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The density 1", UserWarning)  # says that nothing is pruned: as asked
            torch.manual_seed(seed_of(self._seed, name))
            start += functions[self._method](list(map(torch.from_numpy, tasks)), weights, density).numpy()
        return start

    def exact(self, name: str, first: int, count: int) -> tuple[Exact, Exact]:
        """The same once more: float64 would put near-equal entries in another order and keep others of them."""
        return self.make(name, first, count).astype(np.float64), np.zeros(count)


def largest(task: Values, density: float) -> Values:
    """The entries of largest size, a share `density` of them, and zero elsewhere; all those of the smallest size kept.

    PEFT sorts all that it keeps, which takes seven times as long.
    """
    sizes, kept = np.abs(task), int(density * task.size)
    least = np.partition(sizes, -kept)[-kept] if kept else np.inf
    return np.where(sizes >= least, task, np.float32(0))


def seed_of(seed: int, name: str) -> int:
    """A tensor's own seed, so that what is dropped does not depend on the order of tensors."""
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "little", signed=True)


def piece(checkpoint: Checkpoint, name: str, first: int, count: int) -> Values:
    values = np.empty(count, np.float32)
    checkpoint.read(name, first, values)
    return values
