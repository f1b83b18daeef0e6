"""Experts become one artefact, an adapter or a whole model, which is verified before it appears."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from huggingface_hub import snapshot_download
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from counterpoint.artifacts import publish, write_manifest, write_text
from counterpoint.build.merge_card import card
from counterpoint.build.merge_check import Verified, expect, load_adapter, load_whole, verify
from counterpoint.build.merge_place import held
from counterpoint.build.merge_sources import Sources, check_scales, weights_of
from counterpoint.compose.checkpoints import apply_deltas, check_apart
from counterpoint.compose.inexact import (
    RULES,
    Recipe,
    Update,
    as_delta,
    as_pair,
    merged,
    squared_distance,
    squared_norm,
)
from counterpoint.compose.soup import by_module, concatenated
from counterpoint.models.adapter import LoraFactors, write_adapter
from counterpoint.models.checkpoint import FORMATS, Checkpoint
from counterpoint.models.load import DTYPES
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class MergeConfig:
    """How experts are merged, and what is written.

    `rank` is of `svd`, and of the adapter that a rule on deltas is fitted by; `density` and `seed` are of the rules.
    `dtype` is that of what is written: "same" is the base's for a model, and float32 for an adapter.
    """

    method: str = "delta"
    form: Literal["adapter", "model"] = "adapter"
    rank: int | None = None
    density: float | None = None
    seed: int = 0
    dtype: str = "same"

    def __post_init__(self) -> None:
        if self.form not in ("adapter", "model"):
            raise CounterpointError(f"a merge is written as an adapter or as a model, not as {self.form!r}")
        if self.dtype not in ("same", *DTYPES):
            raise CounterpointError(f"dtype {self.dtype!r}: expected one of same, {', '.join(DTYPES)}")
        recipe = self.recipe
        if self.rank is not None and not (self.method == "svd" or (recipe.dense and self.form == "adapter")):
            raise CounterpointError(
                f"a rank is for svd, and for {', '.join(RULES)} as adapters; {self.method} has none"
            )
        if self.density is not None and not recipe.drops:
            raise CounterpointError(f"a density is for {', '.join(RULES)} and their peft- forms, not for {self.method}")

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.method, self.rank, 0.5 if self.density is None else self.density, self.seed)


@dataclass(frozen=True)
class Merged:
    """What was written of adapters: `error` is what all updates miss, as a relative Frobenius norm; `errors` by module.

    Both are None for `delta`, which is exact. `rank` is the largest of the updates', None where they are whole.
    """

    out: str
    base: str
    config: MergeConfig
    weights: Mapping[str, Mapping[str, float]]
    verified: Verified
    error: float | None
    errors: Mapping[str, float] | None
    rank: int | None
    notes: tuple[str, ...] = ()

    def how(self) -> str:
        """The method, and how far its updates are from the weighted sum of the experts'."""
        recipe = self.config.recipe
        options = [f"rank {self.rank}"] if self.rank else []
        options += [f"density {recipe.density:g}, seed {recipe.seed}"] if recipe.drops else []
        said = f"Method: {recipe.method}{''.join(f', {option}' for option in options)}."
        if self.error is None:
            return f"{said} Each update is the sum of the experts' deltas with these coefficients."
        return f"{said} The updates are {self.error:.2%} off the sum of the experts' deltas (relative Frobenius norm)."

    def found(self) -> str:
        """What the verification found."""
        found = self.verified
        exact = "" if self.error is None else f", and {found.from_exact:.1e} off the exact composition's"
        return (
            f"Verified when written: over {found.positions} positions the logits are {found.difference:.1e} off those "
            f"of the updates applied at run time (of the largest logit; allowed {found.tolerance:g}){exact}. The "
            f"experts move the base's by {found.effect:.1e}."
        )


def merge_experts(sources: Sources, out: Path, config: MergeConfig, stages: Stages) -> Merged:
    """Merge adapters into `out`, which appears whole and verified, or not at all."""
    check_apart(out, sources.folders)
    check_scales(sources.adapters, config.method)
    with stages.stage("merge", f"the updates of {', '.join(sources.adapters)} become one, by {config.method}") as bar:
        updates, errors = _updates(sources, config, bar.task("modules"))
        _check_untied(sources.bank.model, updates, config)
    with stages.stage("compose", "what the merge must equal: the experts added inside each layer of a forward"):
        expected = expect(sources.bank, sources.at, None if errors is None else updates)
    with held(out), publish(out) as staging:
        with stages.stage("write", f"the {config.form}, from disk to disk") as bar:
            dtype = _write(sources, updates, staging, config, bar.task("tensors"))
        with stages.stage("verify", "loaded as a user loads it, it must give the logits of that composition") as bar:
            verified = verify(_load(sources, staging, config), expected, dtype)
            bar.note(f"off by {verified.difference:.1g} of the largest logit, {verified.tolerance:g} is allowed")
        report = _report(sources, out, config, verified, errors, updates)
        with stages.stage("record", "the card, and the manifest with the hashes of all that was read"):
            write_manifest(staging, {"merge": asdict(report)}, sources.inputs, config.seed)
            said = report.how(), report.found()
            write_text(
                staging / "README.md", card(report.out, [report.base], report.weights, said, config.form == "adapter")
            )
    return report


def _updates(
    sources: Sources, config: MergeConfig, progress: Progress
) -> tuple[dict[str, Update], dict[str, tuple[float, float]] | None]:
    """What is added to each module, and its squared distance from the exact update with the square of that one's norm.

    None instead of distances for `delta`, which is exact. Raises CounterpointError where nothing would be added.
    """
    updates: dict[str, Update] = {}
    distances: dict[str, tuple[float, float]] = {}
    modules = list(by_module(sources.bank.experts, sources.at))
    if not modules:
        raise CounterpointError("every coefficient is 0, so that the merge would be the base; give one expert a weight")
    for done, (module, parts) in enumerate(modules, 1):
        update, exact = merged(parts, config.recipe, module), concatenated(parts)
        if config.form == "adapter":
            update = as_pair(update, config.rank or max(len(a) for _, a, _ in parts))
        updates[module] = update
        if config.method != "delta":
            distances[module] = squared_distance(update, exact), squared_norm(exact)
        progress(done, len(modules))
    return updates, distances or None


def _check_untied(model: Any, updates: Mapping[str, Update], config: MergeConfig) -> None:
    """A delta for an output layer that is tied to the embedding would change the embedding too."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if config.form == "adapter" or head is None or head.weight is not embedding.weight:
        return
    for module in updates:
        if model.get_submodule(module) is head:
            raise CounterpointError(
                f"module {module!r} shares its weight with the embedding, so that the delta cannot be added to it "
                "alone; write an adapter (--as adapter), or untie the two first (tie_word_embeddings)"
            )


def _write(
    sources: Sources,
    updates: Mapping[str, Update],
    folder: Path,
    config: MergeConfig,
    progress: Callable[[int, int], None],
) -> str:
    """Write the artefact, and return the type that its parameters are of."""
    if config.form == "model":
        return _write_model(sources, updates, folder, config.dtype, progress)
    dtype = "float32" if config.dtype == "same" else config.dtype
    factors = {
        module: (a.to(DTYPES[dtype]), b.to(DTYPES[dtype]))
        for module, update in updates.items()
        for a, b in [as_pair(update, 0)]
    }
    conv = any(isinstance(sources.bank.model.get_submodule(module), Conv1D) for module in factors)
    write_adapter(folder, LoraFactors(factors), _base_name(sources.base), fan_in_fan_out=conv)
    progress(len(factors), len(factors))
    return dtype


def _write_model(sources: Sources, updates: Mapping[str, Update], folder: Path, dtype: str, progress: Progress) -> str:
    base = Path(sources.base) if Path(sources.base).is_dir() else Path(snapshot_download(sources.base))
    with Checkpoint(base) as checkpoint:
        stored = {name: spec.code for name, spec in checkpoint.specs.items()}
    model = sources.bank.model
    prefix = str(model.base_model_prefix)
    names = {module: _stored_name(f"{module}.weight", prefix, stored) for module in updates}
    deltas = {
        names[module]: partial(_as_stored, update, isinstance(model.get_submodule(module), Conv1D))
        for module, update in updates.items()
    }
    apply_deltas(base, deltas, folder, dtype, progress=progress)  # type: ignore[arg-type]
    if dtype != "same":
        return dtype
    found = [FORMATS[stored[name]] for name in names.values()]
    return max(found, key=lambda format: format.rounding).name


def _stored_name(name: str, prefix: str, stored: Mapping[str, str]) -> str:
    """A parameter's name in the checkpoint, which may be one of the trunk alone."""
    return name if name in stored or name.removeprefix(f"{prefix}.") not in stored else name.removeprefix(f"{prefix}.")


def _as_stored(update: Update, conv: bool) -> Tensor:
    """A delta as the checkpoint holds its weight: `Conv1D` (GPT-2) has it the other way round."""
    delta = as_delta(update)
    return delta.T if conv else delta


def _load(sources: Sources, folder: Path, config: MergeConfig) -> Any:
    if config.form == "adapter":
        return load_adapter(sources.bank.model, folder)
    sources.bank.model.to("meta")  # its parameters are of no more use, and two models may not fit into memory
    return load_whole(folder)


def _base_name(base: str) -> str:
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _report(
    sources: Sources,
    out: Path,
    config: MergeConfig,
    verified: Verified,
    errors: Mapping[str, tuple[float, float]] | None,
    updates: Mapping[str, Update],
) -> Merged:
    ranks = {len(update[0]) for update in updates.values() if isinstance(update, tuple)}
    return Merged(
        out=str(out.resolve()),
        base=_base_name(sources.base),
        config=config,
        weights=weights_of(sources.spans, sources.rest),
        verified=verified,
        error=None if errors is None else _ratio(*map(sum, zip(*errors.values(), strict=True))),
        errors=None if errors is None else {module: _ratio(*squares) for module, squares in errors.items()},
        rank=max(ranks, default=None),
        notes=(*sources.notes, *_doubts(verified)),
    )


def _ratio(squared: float, norm: float) -> float:
    return math.sqrt(squared / norm) if norm else 0.0


def _doubts(verified: Verified) -> list[str]:
    """What is within the tolerance and yet may not be wanted."""
    if verified.difference * 4 > verified.effect:
        return [
            f"rounding moves the logits by {verified.difference:.1g} of the largest, and the experts by "
            f"{verified.effect:.1g}: write float32 to keep what they do"
        ]
    return []
