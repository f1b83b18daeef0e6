"""Merges that are not the sum of deltas: identities, hand-worked constants, and PEFT doing the same."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from counterpoint.compose.inexact import (
    METHODS,
    RULES,
    Recipe,
    as_delta,
    as_pair,
    merged,
    squared_distance,
    squared_norm,
    truncated,
)
from counterpoint.compose.soup import Part, concatenated
from counterpoint.models.adapter import read_adapter
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import CounterpointError

OUT, INTO, RANK = 40, 24, 4
DENSITY = 0.3


def part(seed: int, c: float = 1.0, rank: int = RANK, out: int = OUT, into: int = INTO) -> Part:
    generator = torch.Generator().manual_seed(seed)
    return c, torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator)


def close(one: Tensor, other: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


def exact(parts: Sequence[Part]) -> Tensor:
    return sum((c * b @ a for c, a, b in parts), torch.zeros(()))


def delta(method: str, parts: Sequence[Part], module: str = "m", **options: Any) -> Tensor:
    return as_delta(merged(parts, Recipe(method, **options), module))


def error(method: str, parts: Sequence[Part]) -> float:
    found = merged(parts, Recipe(method), "m")
    return math.sqrt(squared_distance(found, concatenated(parts)) / squared_norm(concatenated(parts)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("c", [1.0, 0.5])
def test_vertex(method: str, c: float) -> None:
    """An expert alone is itself at every strength, where nothing is dropped: in rank, or below density 1."""
    options: dict[str, Any] = {"density": 1.0} if method.removeprefix("peft-") in RULES else {}
    close(delta(method, [part(1, c)], **options), exact([part(1, c)]))


def test_the_average_of_factors_misses_by_the_product_of_differences() -> None:
    """(sum w B)(sum w A) = sum w B A - w (1 - w) (B_1 - B_2)(A_1 - A_2)."""
    w = 0.3
    (_, a1, b1), (_, a2, b2) = parts = [part(1, w), part(2, 1 - w)]
    close(delta("factors", parts), exact(parts) - w * (1 - w) * (b1 - b2) @ (a1 - a2))


def test_the_average_of_factors_takes_a_strength_once() -> None:
    """s (sum w B)(sum w A): with the strength in both factors it would count twice."""
    parts = [part(1, 0.3), part(2, 0.7)]
    doubled = [(2 * c, a, b) for c, a, b in parts]
    close(delta("factors", doubled), 2 * delta("factors", parts))


def test_with_a_shared_a_the_average_of_factors_is_exact_and_pefts_linear_is_not() -> None:
    """sum_kj sqrt(w_k w_j) B_k A with equal w is K times the mean."""
    parts = [(1 / 3, part(0)[1], part(seed)[2]) for seed in (1, 2, 3)]
    close(delta("factors", parts), exact(parts))
    close(delta("peft-linear", parts), 3 * exact(parts))


@pytest.mark.parametrize("experts", [2, 4, 8])
def test_how_far_independent_factors_miss(experts: int) -> None:
    """K experts of one size n with independent factors: all B_i A_j are orthogonal in expectation.

    The mean is n / sqrt(K) long. `factors` has 1/K^2 for each i, j in the place of 1/K for i = j: it misses by
    K (1/K - 1/K^2)^2 + K (K - 1) / K^4 = (K - 1) / K^2 of n^2, so by sqrt(1 - 1/K) of the mean. `peft-linear` has 1/K
    for each i, j, right for i = j, and misses by K (K - 1) / K^2 of n^2, so by sqrt(K - 1) of the mean.
    """
    parts = [part(seed, 1 / experts, rank=16, out=192, into=256) for seed in range(experts)]
    assert error("factors", parts) == pytest.approx(math.sqrt(1 - 1 / experts), rel=0.06)
    assert error("peft-linear", parts) == pytest.approx(math.sqrt(experts - 1), rel=0.06)
    assert error("delta", parts) == 0


@pytest.mark.parametrize("shape", [(OUT, INTO), (INTO, OUT), (7, INTO), (OUT, 6)])
@pytest.mark.parametrize("rank", [1, 5, 8])
def test_svd_through_the_factors_is_that_of_the_matrix(shape: tuple[int, int], rank: int) -> None:
    """Also where the ranks add up to 9, more than one side has."""
    out, into = shape
    parts = [part(1, 0.4, rank=4, out=out, into=into), part(2, 0.6, rank=5, out=out, into=into)]
    u, s, v = torch.linalg.svd(exact(parts), full_matrices=False)
    a, b = truncated(concatenated(parts), rank)
    close(b @ a, u[:, :rank] * s[:rank] @ v[:rank])
    assert len(a) == min(rank, len(s))
    missed = squared_distance((a, b), concatenated(parts))
    assert missed == pytest.approx(float(s[rank:].square().sum()), abs=1e-3)  # Eckart and Young


def test_svd_of_the_whole_rank_is_exact() -> None:
    parts = [part(1, 0.4), part(2, 0.6, rank=3)]
    close(delta("svd", parts, rank=7), exact(parts))


def test_distances_by_factors_are_those_of_the_matrices() -> None:
    parts, other = [part(1, 0.4), part(2, 0.6)], truncated(concatenated([part(3), part(4)]), 3)
    expected = float((as_delta(other) - exact(parts)).square().sum())
    assert squared_distance(other, concatenated(parts)) == pytest.approx(expected, rel=1e-5)
    assert squared_distance(as_delta(other), concatenated(parts)) == pytest.approx(expected, rel=1e-5)
    assert squared_norm(concatenated(parts)) == pytest.approx(float(exact(parts).square().sum()), rel=1e-5)


def test_ties_by_hand() -> None:
    """Two thirds of [4, 1, -3] and [-2, .5, -1] are [4, 0, -3] and [-2, 0, -1], whose sums elect +, + and -.

    The first entry agrees in one expert, 4 / 1; the last in both, (-3 - 1) / 2.
    """
    one = torch.ones(1, 1)
    parts = [(0.5, torch.tensor([[4.0, 1.0, -3.0]]), one), (0.5, torch.tensor([[-2.0, 0.5, -1.0]]), one)]
    close(delta("ties", parts, density=0.67), torch.tensor([[4.0, 0.0, -2.0]]))
    twice = [(2 * c, a, b) for c, a, b in parts]
    close(delta("ties", twice, density=0.67), torch.tensor([[8.0, 0.0, -4.0]]))


def test_dare_keeps_an_entry_whole_or_drops_it_and_is_right_on_average() -> None:
    (_, a, b) = one = part(1, 1.0)
    found = delta("dare-linear", [one], density=DENSITY)
    kept = found != 0
    close(found[kept], (b @ a)[kept] / DENSITY)
    assert float(kept.float().mean()) == pytest.approx(
        DENSITY, abs=4 * math.sqrt(DENSITY * (1 - DENSITY) / b.shape[0] / 24)
    )
    parts = [part(1, 0.4), part(2, 0.6)]
    draws = torch.stack([delta("dare-linear", parts, density=0.5, seed=seed) for seed in range(300)])
    z = (draws.mean(0) - exact(parts)) / draws.std(0) * math.sqrt(len(draws))
    assert float(z.square().mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("method", ["dare-linear", "dare-ties", "peft-dare-linear", "peft-dare-ties"])
def test_what_is_dropped_depends_on_seed_and_module_alone(method: str) -> None:
    parts = [part(1, 0.4), part(2, 0.6)]
    state = torch.random.get_rng_state()
    first = delta(method, parts, "a")
    torch.rand(3)
    assert torch.equal(delta(method, parts, "a"), first)
    assert not torch.equal(delta(method, parts, "b"), first)
    assert not torch.equal(delta(method, parts, "a", seed=1), first)
    torch.random.set_rng_state(state)
    before = torch.random.get_rng_state()
    delta(method, parts)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("inexact")
    base = save_pico(folder / "base", seed=1)
    return base, *(
        pico_adapter(folder / name, base, seed=seed, rank=4, alpha=6, targets=["q_proj", "up_proj"])
        for seed, name in enumerate(("one", "two"))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "scaled"),
    [
        ("peft-linear", "linear", 1),
        ("peft-ties", "ties", 1),
        ("peft-magnitude", "magnitude_prune", 1),
        ("svd", "svd", 1),
        ("ties", "ties_svd", 2),
        ("magnitude", "magnitude_prune_svd", 1),
        ("delta", "cat", 1),
    ],
)
@pytest.mark.parametrize("c", [(0.7, 0.3), (1.0, -0.5)])
def test_pefts_own_names(
    adapters: tuple[Path, ...], ours: str, theirs: str, scaled: int, c: tuple[float, float]
) -> None:
    """`ties` counts coefficients relative to 1/K: PEFT is given them K times."""
    base, *folders = adapters
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folders[0], adapter_name="one")
    peft.load_adapter(folders[1], adapter_name="two")
    density = DENSITY if "ties" in ours or "magnitude" in ours else None
    peft.add_weighted_adapter(
        ["one", "two"], [scaled * x for x in c], "both", combination_type=theirs, density=density, svd_rank=4
    )
    experts = [read_adapter(folder) for folder in folders]
    for module in experts[0].factors:
        parts = [(x, *expert.factors[module]) for x, expert in zip(c, experts, strict=True)]
        update = merged(parts, Recipe(ours, density=density or 0.5), module)
        expected = peft.get_submodule(f"base_model.model.{module}").get_delta_weight("both")
        close(as_delta(as_pair(update, 4)), expected)


def test_unlike_ranks_are_refused_by_methods_of_factors_alone() -> None:
    parts = [part(1, 0.5), part(2, 0.5, rank=3)]
    for method in METHODS:
        if method == "factors" or method.startswith("peft-"):
            with pytest.raises(CounterpointError, match=f"{method} works on the factors .* the ranks are 4, 3"):
                delta(method, parts)
        else:
            assert delta(method, parts).shape == (OUT, INTO)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "avarage"}, "unknown method 'avarage' of merging; there are: delta, svd, factors, ties"),
        ({"method": "svd", "rank": 0}, "rank 0: expected 1 or more"),
        ({"method": "ties", "density": 0.0}, "density 0: expected more than 0"),
        ({"method": "ties", "density": 1.5}, "density 1.5: expected more than 0"),
    ],
)
def test_recipes_that_cannot_be(options: dict[str, object], says: str) -> None:
    with pytest.raises(CounterpointError, match=says):
        Recipe(**options)  # type: ignore[arg-type]


def test_an_average_needs_weights() -> None:
    with pytest.raises(CounterpointError, match="the coefficients sum to 0"):
        delta("factors", [part(1, 0.5), part(2, -0.5)])
