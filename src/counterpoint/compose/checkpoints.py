"""Whole models become one: their checkpoints are merged tensor by tensor, streamed from disk to disk.

    linear            W = sum_k w_k W_k                              (Model Soups, arXiv 2203.05482; Rewarded Soups)
    task-arithmetic   W = W0 + sum_k w_k t_k,  t_k = W_k - W0        (arXiv 2212.04089)
    magnitude         the same of task vectors that keep only their largest entries, a share `density` of each tensor
    dare-linear       the same of task vectors of which a random share is kept and divided by `density` (2311.03099)
    ties, dare-ties   where task vectors so pruned disagree in sign, only those of the majority count (2306.01708)

Sums are of float32 and rounded once, to the type written. Pruned task vectors are merged by PEFT's functions, tensor
by tensor; its `ties` divides by how many task vectors count at an entry. A source of weight 0 takes no part at all.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from counterpoint.artifacts import check_place, publish, write_json
from counterpoint.compose.checkpoint_rules import MAJORITY, Added, Pruned, Rule, Summed, Weights, piece
from counterpoint.models.alike import CONFIG, check_alike, read_model_config
from counterpoint.models.checkpoint import FORMATS, SHARD_BYTES, Checkpoint, Spec, Writer
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["linear", "task-arithmetic", "magnitude", "ties", "dare-linear", "dare-ties"]
Dtype = Literal["same", "float32", "bfloat16", "float16"]
Progress = Callable[[int, int], None]

SUMMED = ("linear", "task-arithmetic")
AVERAGED = ("linear", *MAJORITY)
DENSITY = 0.5

CARRIED = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "chat_template*", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*",
)  # fmt: skip

PIECE = 1 << 17
"""Values that are worked on at a time: half a megabyte, so that a sum and its next term stay in a core's cache."""
CHECKED = 4096
"""Values of a tensor that are read back and compared, per four millions that it has."""
CHECKED_WHOLE = 8
"""Of the tensors that have to be made whole, how many are made again and compared."""


@dataclass(frozen=True)
class MergeReport:
    """What was written, and how far what was read back is from the same in float64.

    `error` is the largest absolute error among `checked` values, `bound` the largest that rounding allows; each value
    was held to its own.
    """

    tensors: int
    parameters: int
    nbytes: int
    checked: int
    error: float
    bound: float


def merge_models(
    sources: Mapping[str, float] | Sequence[tuple[str | Path, float]],
    out: Path,
    method: Method = "linear",
    base: str | Path | None = None,
    density: float | None = None,
    seed: int = 0,
    dtype: Dtype = "same",
    layers: Mapping[str, Sequence[float]] | None = None,
    normalise: bool | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge the checkpoints of model folders into a model folder, which appears whole or not at all.

    `layers` gives other weights, in the order of `sources`, to what the first key that fits names: layers ("3",
    "0-11") or a pattern of tensor names ("*.mlp.*"). `normalise` divides weights by their sum (for `ties` by their
    mean, so that equal ones give the paper's average); None does so for linear and ties, and not where task vectors
    are added. `dtype="same"` keeps the types of the base, or of the first source. Config, tokenizer and chat template
    are those of the base, or of the first source.

    Raises CounterpointError for unlike models, for weights that are not finite or all zero, for values that are not
    finite, and if what was written is not what float64 gives, within rounding.
    """
    named = [(Path(path), float(weight)) for path, weight in _pairs(sources)]
    _check_request(named, method, base, density)
    folders = [*([Path(base)] if base else []), *(path for path, _ in named)]
    check_apart(out, folders)
    with ExitStack() as stack:
        checkpoints = [stack.enter_context(Checkpoint(folder)) for folder in folders]
        check_alike(checkpoints)
        averaged = method in AVERAGED if normalise is None else normalise
        weights = Weights(named, layers or {}, averaged, list(checkpoints[0].specs))
        if method in SUMMED:
            rule: Rule = Summed(checkpoints, weights, from_base=base is not None)
        else:
            rule = Pruned(checkpoints, weights, method, DENSITY if density is None else density, seed)
        return _write(checkpoints, rule, out, dtype, shard_bytes, progress)


def apply_deltas(
    base: str | Path,
    deltas: Mapping[str, Callable[[], "Tensor"]],
    out: Path,
    dtype: Dtype = "same",
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> MergeReport:
    """Write the base with a delta added to each tensor named, W = W0 + delta, in float32 and rounded once.

    A delta has the shape of its tensor as the checkpoint holds it (GPT-2's `Conv1D`: [in, out]), and is made when its
    turn comes. Raises CounterpointError for one whose tensor the base lacks, as an output layer tied to the embedding
    does, and for one of another shape.
    """
    check_apart(out, [Path(base)])
    with Checkpoint(Path(base)) as checkpoint:
        if unknown := sorted(deltas.keys() - checkpoint.specs.keys()):
            raise CounterpointError(
                f"{base}: has no tensor {unknown[0]!r} ({len(unknown)} such) for a delta to be added to; if it is tied "
                "to another, untie the two first (tie_word_embeddings)"
            )
        return _write([checkpoint], Added(checkpoint, deltas), out, dtype, shard_bytes, progress)


def check_apart(out: Path, folders: Sequence[Path]) -> None:
    """Refuse an output that is, lies in or holds a folder that is read: writing it would destroy what is merged."""
    place = out.resolve()
    for folder in folders:
        other = folder.resolve()
        if place == other or place in other.parents or other in place.parents:
            raise CounterpointError(f"{out}: overlaps {folder}, which is read; name a folder apart from all sources")
    check_place(out)


def _pairs(sources: Mapping[str, float] | Sequence[tuple[str | Path, float]]) -> Sequence[tuple[str | Path, float]]:
    return list(sources.items()) if isinstance(sources, Mapping) else sources


def _check_request(
    named: Sequence[tuple[Path, float]], method: str, base: str | Path | None, density: float | None
) -> None:
    if method not in get_args(Method):
        raise CounterpointError(f"method {method!r}: expected one of {', '.join(get_args(Method))}")
    if not named:
        raise CounterpointError("no model is given; name at least one model folder and its weight")
    if method == "linear" and base is not None:
        raise CounterpointError("method linear: has no base; leave it out, or choose task-arithmetic")
    if method != "linear" and base is None:
        raise CounterpointError(f"method {method}: needs the base that the models were tuned from; name it as base")
    if density is not None and (method in SUMMED or not 0 < density <= 1):
        wanted = "no density is used by it" if method in SUMMED else "expected more than 0 and at most 1"
        raise CounterpointError(f"method {method}: density is {density:g}; {wanted}")


def _write(
    checkpoints: Sequence[Checkpoint], rule: Rule, out: Path, dtype: Dtype, shard_bytes: int, progress: Progress | None
) -> MergeReport:
    """Write what the rule makes of each tensor, with the first checkpoint's config and tokenizer, and verify it."""
    codes = {form.name: code for code, form in FORMATS.items()}
    if dtype != "same" and dtype not in codes:
        raise CounterpointError(f"dtype {dtype!r}: expected one of {', '.join(get_args(Dtype))}")
    first = checkpoints[0]
    specs = {name: spec if dtype == "same" else spec.cast(codes[dtype]) for name, spec in first.specs.items()}
    with publish(out) as folder:
        with Writer(folder, specs, shard_bytes) as writer:
            _copy_others(checkpoints, writer)
            _write_floats(checkpoints, rule, writer, progress)
        with Checkpoint(folder) as written:
            report = _verify(written, rule)
        _carry(first.folder, folder, dtype)  # last: without a config nothing that a kill leaves behind can be loaded
    return report


def _carry(source: Path, folder: Path, dtype: Dtype) -> None:
    config = read_model_config(source)
    if dtype != "same":
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    write_json(folder / CONFIG, config)
    for file in {path for pattern in CARRIED for path in source.glob(pattern) if path.is_file()}:
        shutil.copyfile(file, folder / file.name)


def _copy_others(checkpoints: Sequence[Checkpoint], writer: Writer) -> None:
    """Copy what is no float (masks, counters), which must be the same in all sources."""
    for name, spec in writer.specs.items():
        if spec.is_float and all(checkpoint.specs[name].is_float for checkpoint in checkpoints):
            continue
        found = [bytearray(checkpoint.specs[name].nbytes) for checkpoint in checkpoints]
        for checkpoint, data in zip(checkpoints, found, strict=True):
            checkpoint.read_bytes(name, 0, memoryview(data))
        if any(data != found[0] for data in found) or any(c.specs[name].code != spec.code for c in checkpoints):
            raise CounterpointError(
                f"tensor {name!r}: is of type {spec.code} and not the same in all sources; only "
                f"{', '.join(FORMATS)} can be added"
            )
        writer.write_bytes(name, 0, memoryview(found[0]))


def _write_floats(checkpoints: Sequence[Checkpoint], rule: Rule, writer: Writer, progress: Progress | None) -> None:
    def work(part: tuple[str, int, int]) -> int:
        name, first, count = part
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # the writer refuses what is not finite
                writer.write(name, first, rule.make(name, first, count))
        except CounterpointError:
            _check_finite(checkpoints, name, first, count)
            raise
        return count

    pieces = list(_pieces(writer.specs, rule))
    total, done = sum(count for _, _, count in pieces), 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1) if rule.parallel else 1) as pool:
        for count in pool.map(work, pieces):
            done += count
            if progress:
                progress(done, total)


def _check_finite(checkpoints: Sequence[Checkpoint], name: str, first: int, count: int) -> None:
    """Raise CounterpointError that names the source whose values are not finite, if one's are."""
    for checkpoint in checkpoints:
        if not np.isfinite(piece(checkpoint, name, first, count)).all():
            raise CounterpointError(
                f"{checkpoint.folder}: tensor {name!r} is not finite everywhere; its training may have failed, or its "
                "file is damaged"
            )


def _pieces(specs: Mapping[str, Spec], rule: Rule) -> Iterator[tuple[str, int, int]]:
    for name, spec in specs.items():
        if spec.is_float:
            step = max(spec.size, 1) if rule.whole(name) else PIECE
            for first in range(0, spec.size, step):
                yield name, first, min(step, spec.size - first)


def _verify(written: Checkpoint, rule: Rule) -> MergeReport:
    """Compare values of what was written with float64, each within what rounding allows."""
    error, bound, checked = 0.0, 0.0, 0
    for name, first, count in _sample(written.specs, rule):
        exact, slack = rule.exact(name, first, count)
        form = FORMATS[written.specs[name].code]
        allowed = slack + form.rounding * np.abs(exact) + form.smallest
        errors = np.abs(piece(written, name, first, count) - exact)
        if not (errors <= allowed).all():
            worst = int(np.argmax(errors - allowed))
            raise CounterpointError(
                f"tensor {name!r}: value {first + worst} was written {errors[worst]:g} from what it should be, "
                f"{exact[worst]:g}, and rounding allows {allowed[worst]:g}; nothing is kept. Is the disk failing, or "
                "did a source change meanwhile?"
            )
        error, bound = max(error, float(errors.max())), max(bound, float(allowed.max()))
        checked += count
    sizes = [spec.size for spec in written.specs.values()]
    return MergeReport(
        len(sizes), sum(sizes), sum(spec.nbytes for spec in written.specs.values()), checked, error, bound
    )


def _sample(specs: Mapping[str, Spec], rule: Rule) -> Iterator[tuple[str, int, int]]:
    """Runs of values that are compared: some of every tensor; of those that are made whole a few tensors."""
    draw = random.Random(0)
    floats = [(name, spec.size) for name, spec in specs.items() if spec.is_float and spec.size]
    whole = [(name, size) for name, size in floats if rule.whole(name)]
    for name, size in draw.sample(whole, min(CHECKED_WHOLE, len(whole))):
        yield name, 0, size
    for name, size in floats:
        if not rule.whole(name):
            count = min(CHECKED, size)
            for _ in range(1 + size // (1 << 22)):
                yield name, draw.randrange(size - count + 1), count
