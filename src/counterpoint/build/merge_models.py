"""Whole models become one, verified tensor by tensor before it appears, with its manifest and card."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from transformers import AutoConfig

from counterpoint.artifacts import publish, write_manifest, write_text
from counterpoint.build.merge_card import card
from counterpoint.build.merge_check import random_ids
from counterpoint.build.merge_place import held
from counterpoint.build.merge_sources import layers_of, names_of, weights_of
from counterpoint.compose.checkpoints import Dtype, MergeReport, Method, check_apart, merge_models
from counterpoint.compose.layers import Span, check_layers
from counterpoint.models.band_file import hash_model
from counterpoint.models.checkpoint import Checkpoint
from counterpoint.models.load import check_family, load_model
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError


@dataclass(frozen=True)
class ModelsConfig:
    """How whole models are merged; `base` is what they were tuned from, for the methods of task vectors."""

    method: Method = "linear"
    base: str | None = None
    density: float | None = None
    seed: int = 0
    dtype: Dtype = "same"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise CounterpointError(
                f"unknown method {self.method!r} of merging whole models; there are: {', '.join(get_args(Method))}"
            )
        if self.dtype not in get_args(Dtype):
            raise CounterpointError(f"dtype {self.dtype!r}: expected one of {', '.join(get_args(Dtype))}")


@dataclass(frozen=True)
class MergedModels:
    """What was written of whole models; `report` is what the verification of its tensors found."""

    out: str
    bases: tuple[str, ...]
    config: ModelsConfig
    weights: Mapping[str, Mapping[str, float]]
    report: MergeReport
    notes: tuple[str, ...] = ()

    def how(self) -> str:
        """The method, and what it starts from."""
        config = self.config
        start = f", from the base {config.base}" if config.base else ""
        divided = {"linear": "their sum", "ties": "their mean", "dare-ties": "their mean"}.get(config.method)
        said = f" The coefficients are divided by {divided}." if divided else ""
        dtype = "the type of each tensor in the first" if config.dtype == "same" else config.dtype
        return f"Method: {config.method}{start}, written in {dtype}.{said}"

    def found(self) -> str:
        """What the verification found."""
        report = self.report
        return (
            f"Verified when written: of {report.tensors} tensors with {report.parameters:,} parameters, "
            f"{report.checked:,} values were read back; the farthest from the same in float64 is {report.error:.1e} "
            f"off, and rounding allows {report.bound:.1e}. It loads, and its logits are finite."
        )


def merge_whole(
    models: Sequence[tuple[str, float]], out: Path, config: ModelsConfig, layers: Path | None, stages: Stages
) -> MergedModels:
    """Merge models' folders into `out`, which appears whole and verified, or not at all."""
    folders = [*([Path(config.base)] if config.base else []), *(Path(path) for path, _ in models)]
    check_apart(out, folders)
    names = names_of([path for path, _ in models])
    rest = dict(zip(names, (weight for _, weight in models), strict=True))
    spans = layers_of(layers, names)
    for folder in folders:
        Checkpoint(folder).close()  # is there one at all? To transformers another name would be the hub's
        check_family(str(folder))
    check_layers(spans, int(AutoConfig.from_pretrained(folders[0]).num_hidden_layers))
    with held(out), publish(out) as staging:
        with stages.stage("merge", f"the tensors of {', '.join(names)} become one model's, by {config.method}") as bar:
            report = merge_models(
                models, staging, config.method, config.base, config.density, config.seed, config.dtype,
                _by_source(spans, names), progress=bar.task("tensors"),
            )  # fmt: skip
        with stages.stage("verify", "loaded as a user loads it, it must give finite logits"):
            _check_finite(staging)
        bases = tuple(str(Path(path).resolve()) for path, _ in models)
        merged = MergedModels(str(out.resolve()), bases, config, weights_of(spans, rest), report)
        with stages.stage("record", "the card, and the manifest with the hashes of all that was read"):
            inputs = {str(folder): hash_model(folder) for folder in folders}
            write_manifest(staging, {"merge": asdict(merged)}, inputs, config.seed)
            said = merged.how(), merged.found()
            write_text(staging / "README.md", card(merged.out, bases, merged.weights, said, adapter=False))
    return merged


def _by_source(spans: Sequence[Span], names: Sequence[str]) -> dict[str, list[float]]:
    """A table of layers in the order of the sources; what a row does not name gets nothing there."""
    return {str(span): [span.value.get(name, 0.0) for name in names] for span in spans}


@torch.no_grad()
def _check_finite(folder: Path) -> None:
    """In bfloat16: half the memory of float32, and the same range."""
    model = load_model(str(folder), torch.bfloat16)
    if not model(random_ids(model)).logits.isfinite().all():
        raise CounterpointError("the merged model's logits are not finite; nothing was written. Are its sources' own?")
