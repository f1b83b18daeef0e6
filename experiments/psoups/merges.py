"""Merging: the sum of the deltas against the average of the factors, for experts that start alike and that do not.

Experts of one build share a seed, and so the random factor A that LoRA starts from; published code relies on that.
The independent ones learn the same examples from seeds of their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from experiments.mope.measure import measure
from experiments.mope.setting import Setting
from experiments.psoups.setting import best_strength, build_config

from counterpoint.artifacts import write_json
from counterpoint.build.pairs import longest_of
from counterpoint.build.pool import sample_pool
from counterpoint.compose.inexact import Recipe, as_pair, merged, squared_distance, squared_norm
from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.soup import Part, by_module, concatenated
from counterpoint.compose.weighers.constant import constant
from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.profiles import corners
from counterpoint.train.best_of_n import best_of_n, to_examples
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Profile

METHODS = ("delta", "svd", "factors", "peft-linear")
STARTS = ("shared", "independent")


def groups(setting: Setting) -> dict[int, list[Profile]]:
    """Profiles by how many experts they merge: one, poles of two axes and of three, and all."""
    task = setting.task
    several = [*corners(task.axes[:2]), *task.profiles] if task.axes else task.profiles
    everything = Profile(dict.fromkeys(task.names, 1.0))
    alone = [Profile({name: 1.0}) for name in task.names]
    found: dict[int, list[Profile]] = {}
    for profile in dict.fromkeys(tuple(p.weights) for p in (*alone, *several, everything)):
        found.setdefault(len(profile), []).append(Profile(dict.fromkeys(profile, 1.0)))
    return found


def methods_for(size: int) -> tuple[str, ...]:
    """An expert alone is itself in every merge."""
    return METHODS if size > 1 else METHODS[:1]


def run_merges(setting: Setting, seed: int, out: Path) -> None:
    """Merge, answer at strength 1 and at what was best on training prompts, and write how wrong the updates are."""
    band, folder = setting.band, out / "merges"
    learn_apart(setting, seed, folder / "independent")
    places = {"shared": setting.folder / "band" / "experts", "independent": folder / "independent"}
    found: dict[str, dict[str, float]] = {}
    for start in STARTS:
        experts = {name: read_adapter(places[start] / name) for name in setting.task.names}
        found[f"{start} A"] = {"distance": mean_distance(list(experts.values()))}
        for size, profiles in groups(setting).items():
            for method in methods_for(size):
                title = f"{start} {method} {size}"
                weightings = [constant(profile, band.experts).coefficients for profile in profiles]
                pairs = [merge(experts, weighting, method) for weighting in weightings]
                names = [f"{title} {index}" for index in range(len(pairs))]
                for name, (factors, _) in zip(names, pairs, strict=True):
                    band.bank.add(name, factors)
                strength = answer(setting, title, names, profiles, folder)
                found[title] = {"error": float(np.mean([error for _, error in pairs])), "strength": strength}
                for name in names:
                    band.bank.remove(name)
    write_json(folder / "found.json", found)


def answer(setting: Setting, title: str, names: Sequence[str], profiles: Sequence[Profile], folder: Path) -> float:
    """Answer test prompts by merged experts at strength 1 and at the best one, which is returned."""

    def plans_at(strength: float) -> list[Plan]:
        return [Plan((Row({name: strength}),)) for name in names]

    strength = best_strength(setting, title, plans_at, profiles, folder / "tuning")
    for at, value in (("1", 1.0), ("best", strength)):
        measure(setting, f"{title}@{at}", plans_at(value), folder / "answers")
    return strength


def merge(experts: Mapping[str, LoraFactors], weighting: Mapping[str, float], method: str) -> tuple[LoraFactors, float]:
    """The merged adapter, and || merged - exact || / || exact || of all its updates in the Frobenius norm."""
    recipe, factors, wrong, whole = Recipe(method), {}, 0.0, 0.0
    for module, parts in by_module(experts, lambda module: weighting):
        update, exact = merged(parts, recipe, module), concatenated(parts)
        factors[module] = as_pair(update, rank_of(parts))
        wrong += squared_distance(update, exact)
        whole += squared_norm(exact)
    return LoraFactors(factors), (wrong / whole) ** 0.5


def rank_of(parts: Sequence[Part]) -> int:
    return max(len(a) for _, a, _ in parts)


def mean_distance(experts: Sequence[LoraFactors]) -> float:
    """How far factors A are apart: the mean over pairs and modules of || A_i - A_j || / sqrt(|| A_i || || A_j ||)."""
    pairs = [
        (one.factors[module][0], other.factors[module][0])
        for index, one in enumerate(experts)
        for other in experts[:index]
        for module in one.factors
    ]
    return float(np.mean([float((a - b).norm() / (a.norm() * b.norm()).sqrt()) for a, b in pairs]))


def learn_apart(setting: Setting, seed: int, out: Path) -> None:
    """The build's experts again, each from a seed of its own: only the start of A and the order of batches differ."""
    task, config = setting.task, build_config(setting.name, seed)
    if all((out / name / "manifest.json").exists() for name in task.names):
        return
    pool = sample_pool(task, setting.band, config, lambda *_: None)
    scores_PND = pool.scores(task, setting.models)
    for d, name in enumerate(task.names):
        chosen = best_of_n(pool.prompts, pool.completions_PN, scores_PND[:, :, d], config.keep)
        learn = SftConfig(
            model=task.model, steps=config.expert_steps, batch=config.batch, seed=100 * (seed + 1) + d,
            learning_rate=config.expert_learning_rate, lora_rank=config.lora_rank, lora_alpha=2 * config.lora_rank,
            max_length=longest_of(task.model),
        )  # fmt: skip
        train_sft(learn, to_examples(chosen, setting.band.tokenizer), out / name)
