"""Merges of adapters that are not the weighted sum of their deltas: of less rank, or as others ship them.

    svd           the best fit of rank r to sum_k c_k B_k A_k in the Frobenius norm
    factors       s (sum_k w_k B_k)(sum_k w_k A_k), c_k = s w_k, sum_k w_k = 1: the code published with Personalized
                  Soups (arXiv 2310.11564) and Rewarded Soups (arXiv 2306.04488)
    RULE          a rule on the deltas B_k A_k: ties (arXiv 2306.01708), dare-linear and dare-ties (arXiv 2311.03099),
                  magnitude. PEFT calls them `ties_svd` and so on. Those that elect a sign average over the experts that
                  agree, so that their coefficients count relative to 1/K: equal ones at strength 1 are the papers' mean
    peft-RULE     the rule on the factors apart, with the square roots of c_k on both: what PEFT calls `linear`, `ties`
                  and so on; `peft-linear` is (sum_k sqrt(c_k) B_k)(sum_k sqrt(c_k) A_k)

For two experts of weights w and 1 - w, `factors` misses sum_k w_k B_k A_k by w (1 - w) (B_1 - B_2)(A_1 - A_2). For K
experts of equal weights with independent factors of one size it misses by sqrt(1 - 1/K) of the sum's norm, and
`peft-linear` by sqrt(K - 1). Where the experts share A, `factors` is exact, and `peft-linear` tends to K times the sum.
Both know the adapters' own scales only as parts of B_k, which is as they are published where the scales are the same.

An expert alone, at coefficient 1, is itself in every merge but those that drop something: `svd` below its rank, and
TIES, DARE and magnitude pruning below density 1.
"""

import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, task_arithmetic, ties
from torch import Tensor

from counterpoint.compose.soup import Pair, Part, concatenated
from counterpoint.types import CounterpointError

Update: TypeAlias = Pair | Tensor
"""What is added to a weight: factors, or where these would not be small the whole `[O, I]`."""

Rule: TypeAlias = Callable[[list[Tensor], Tensor, float], Tensor]
"""Makes one tensor of `K` of one shape, their coefficients `[K]` and the density that is kept of each."""


@dataclass(frozen=True)
class Recipe:
    """How adapters are merged. `rank` is that of `svd`, `density` and `seed` are for the rules that drop entries."""

    method: str = "delta"
    rank: int | None = None
    density: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise CounterpointError(f"unknown method {self.method!r} of merging; there are: {', '.join(METHODS)}")
        if self.rank is not None and self.rank < 1:
            raise CounterpointError(f"rank {self.rank}: expected 1 or more")
        if not 0 < self.density <= 1:
            raise CounterpointError(f"density {self.density:g}: expected more than 0 and at most 1, the share kept")

    @property
    def dense(self) -> bool:
        """Whether the updates are of full rank."""
        return self.method in RULES

    @property
    def drops(self) -> bool:
        """Whether entries are dropped, so that the density matters."""
        return self.method.removeprefix("peft-") in RULES


def merged(parts: Sequence[Part], recipe: Recipe, module: str) -> Update:
    """What a recipe makes of the experts' parts of one module.

    Entries are dropped by a generator of the recipe's seed and the module's name, so that the order of modules does
    not matter. Raises CounterpointError for a method of factors where ranks differ.
    """
    if recipe.method not in ("delta", "svd", *RULES):
        _check_ranks(parts, recipe.method, module)
    with _drawing(recipe.seed, module):
        return METHODS[recipe.method](parts, recipe)


def truncated(pair: Pair, rank: int) -> Pair:
    """The best fit of a rank to B A, with the singular values shared between both factors.

    From the QR decompositions B = Q_b R_b and A^T = Q_a R_a, B A = Q_b (R_b R_a^T) Q_a^T, so that only a matrix of the
    factors' own rank is decomposed.
    """
    a, b = (factor.float() for factor in pair)
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _halves(q_b @ u, s, v @ q_a.T, rank)


def as_pair(update: Update, rank: int) -> Pair:
    """An update as factors; one that is whole is fitted at a rank, as PEFT's `ties_svd` and its like do."""
    if isinstance(update, tuple):
        return update
    u, s, v = torch.linalg.svd(update.float(), full_matrices=False)
    return _halves(u, s, v, rank)


def as_delta(update: Update) -> Tensor:
    """An update as the `[O, I]` that is added to a weight."""
    return update if isinstance(update, Tensor) else update[1] @ update[0]


def squared_norm(pair: Pair) -> float:
    """||B A||^2 = tr((B^T B)(A A^T)), in float64, without the product `[O, I]`."""
    a, b = (factor.double() for factor in pair)
    return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0))


def squared_distance(update: Update, exact: Pair) -> float:
    """||update - B A||^2 in the Frobenius norm; of factors to a relative precision of about 1e-8 of the norm."""
    a, b = exact
    if isinstance(update, Tensor):
        return float((update.double() - b.double() @ a.double()).square().sum())
    return squared_norm((torch.cat([update[0].to(a), a]), torch.cat([update[1].to(b), -b], dim=1)))


def _halves(u_OR: Tensor, s_R: Tensor, v_RI: Tensor, rank: int) -> Pair:
    root_R = s_R[:rank].sqrt()
    return (root_R[:, None] * v_RI[:rank]).contiguous(), (u_OR[:, :rank] * root_R).contiguous()


def _svd(parts: Sequence[Part], recipe: Recipe) -> Update:
    return truncated(concatenated(parts), recipe.rank or max(len(a) for _, a, _ in parts))


def _factors(parts: Sequence[Part], recipe: Recipe) -> Update:
    strength = sum(c for c, _, _ in parts)
    if not abs(strength) > 1e-9:
        raise CounterpointError("factors: the coefficients sum to 0, and an average needs weights; use delta")
    a = sum((c / strength * a for c, a, _ in parts), torch.zeros(()))
    return a, sum((c * b for c, _, b in parts), torch.zeros(()))


def _of_deltas(rule: Rule) -> "Method":
    def method(parts: Sequence[Part], recipe: Recipe) -> Update:
        c_K = torch.tensor([c for c, _, _ in parts])
        return rule([b @ a for _, a, b in parts], c_K, recipe.density)

    return method


def _of_factors(rule: Rule) -> "Method":
    """The sign of a coefficient goes to one factor only, or it would cancel."""

    def method(parts: Sequence[Part], recipe: Recipe) -> Update:
        c_K = torch.tensor([c for c, _, _ in parts])
        root_K = c_K.abs().sqrt()
        a = rule([a for _, a, _ in parts], root_K * c_K.sign(), recipe.density)
        return a, rule([b for _, _, b in parts], root_K, recipe.density)

    return method


def _linear(tensors: list[Tensor], c_K: Tensor, density: float) -> Tensor:
    merged: Tensor = task_arithmetic(tensors, c_K)
    return merged


def _averaging(rule: Rule) -> Rule:
    """PEFT's rule sums and then divides by how many experts agree, so that it wants coefficients around 1."""
    return lambda tensors, c_K, density: rule(tensors, len(tensors) * c_K, density)


Method: TypeAlias = Callable[[Sequence[Part], Recipe], Update]

PEFT: Mapping[str, Rule] = {
    "linear": _linear,
    "ties": ties,
    "dare-linear": dare_linear,
    "dare-ties": dare_ties,
    "magnitude": magnitude_prune,
}
RULES: Mapping[str, Rule] = {
    "ties": _averaging(ties),
    "dare-linear": dare_linear,
    "dare-ties": _averaging(dare_ties),
    "magnitude": magnitude_prune,
}
METHODS: Mapping[str, Method] = {
    "delta": lambda parts, recipe: concatenated(parts),
    "svd": _svd,
    "factors": _factors,
    **{name: _of_deltas(rule) for name, rule in RULES.items()},
    **{f"peft-{name}": _of_factors(rule) for name, rule in PEFT.items()},
}


@contextmanager
def _drawing(seed: int, module: str) -> Iterator[None]:
    """PEFT draws from the global generator, which is left as it was, and warns of a density that drops nothing."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The density .* no pruning will be performed")
        torch.manual_seed(zlib.crc32(f"{seed} {module}".encode()))
        yield


def _check_ranks(parts: Sequence[Part], method: str, module: str) -> None:
    ranks = [len(a) for _, a, _ in parts]
    if len(set(ranks)) > 1:
        raise CounterpointError(
            f"{method} works on the factors of adapters of one rank, and in module {module!r} the ranks are "
            f"{', '.join(map(str, ranks))}; delta and svd take any"
        )
