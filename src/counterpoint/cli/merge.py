"""`counterpoint merge`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import AsJson, Threads, app, out, set_threads
from counterpoint.cli.tell import tell
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from counterpoint.build.merge import MergeConfig, Merged
    from counterpoint.build.merge_models import MergedModels

SOURCES = (
    "A band; or PEFT adapters, as in ADAPTER=0.5 ANOTHER=0.5; or whole models of one shape, as in MODEL=0.5 OTHER=0.5. "
    "Without numbers all get the same share."
)
METHOD = (
    "For adapters: delta (exact, the default), svd, factors, ties, dare-linear, dare-ties, magnitude, peft-linear, "
    "peft-ties and so on. For whole models: linear (the default), task-arithmetic, ties, dare-linear, dare-ties, "
    "magnitude."
)
BASE = "The adapters' base, where it is not the one that they name; or what whole models were tuned from."
LAYERS = 'Amounts by layer, a JSON file: {"0-11": {"concise": 1}, "12-23": {"concise": 1, "friendly": 1}}.'


@app.command()
def merge(
    sources: Annotated[list[str], typer.Argument(help=SOURCES)],
    to: Annotated[Path, typer.Option("--out", help="The folder of the merge.")],
    profile: Annotated[str | None, typer.Option(help='For a band: who for, such as "concise=1, friendly=0.5".')] = None,
    form: Annotated[str | None, typer.Option("--as", help="adapter (the default, for adapters) or model.")] = None,
    method: Annotated[str | None, typer.Option(help=METHOD)] = None,
    base: Annotated[str | None, typer.Option(help=BASE)] = None,
    rank: Annotated[int | None, typer.Option(help="The rank of svd; without it, the experts' largest.")] = None,
    density: Annotated[
        float | None, typer.Option(help="The share of entries that ties and its like keep (0.5).")
    ] = None,
    layers: Annotated[Path | None, typer.Option(help=LAYERS)] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or same as the base.")] = "same",
    seed: Annotated[int, typer.Option(help="Of the entries that dare drops.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of a merge that is there.")] = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Merge experts, or whole models, into one adapter or model, and verify it before it appears."""
    from counterpoint.build.merge_place import check_place_of

    given = [split_weight(text) for text in sources]
    kind = kind_of([path for path, _ in given])
    refuse_options(kind, {"--profile": profile, "--base": base, "--as": form, "--rank": rank})
    check_place_of(to, replace)
    set_threads(threads)
    merged: Merged | MergedModels
    if kind == "models":
        merged = merge_models(given, to, method or "linear", base, density, seed, dtype, layers)
    else:
        from counterpoint.build.merge import MergeConfig

        config = MergeConfig(method or "delta", form or "adapter", rank, density, seed, dtype)  # type: ignore[arg-type]
        merged = merge_adapters(given, to, config, profile, base, layers)
    if as_json:
        print(json.dumps(asdict(merged), indent=1))
        return
    show(merged)


def split_weight(text: str) -> tuple[str, float | None]:
    """Read `PATH=number`, or a path alone."""
    path, equals, number = text.rpartition("=")
    if not equals or Path(text).exists():
        return text, None
    try:
        weight = float(number)
    except ValueError:
        raise CounterpointError(f"{text!r}: {number!r} is no number; expected such as {path}=0.5") from None
    if not math.isfinite(weight):
        raise CounterpointError(f"{text!r}: expected a finite number")
    return path, weight


def kind_of(paths: Sequence[str]) -> str:
    """Whether a band, adapters or models are to be merged; CounterpointError where they are of several kinds."""
    from counterpoint.models.fit import find_expert

    bands = [path for path in paths if (Path(path) / "band.json").exists()]
    if bands and len(paths) > 1:
        raise CounterpointError(f"{bands[0]}: a band is merged alone; --profile says how much of each of its experts")
    if bands:
        return "band"
    kinds = {path: find_expert(path).kind for path in paths}
    if len(set(kinds.values())) > 1:
        adapter, model = (
            next(path for path, kind in kinds.items() if kind == wanted) for wanted in ("adapter", "model")
        )
        raise CounterpointError(
            f"{adapter} is an adapter and {model} a whole model; merge adapters with adapters (--base names their "
            "base, --as model writes a whole model), and models with models"
        )
    return f"{next(iter(kinds.values()))}s"


def refuse_options(kind: str, options: Mapping[str, object]) -> None:
    """Raise CounterpointError for an option that would say nothing of what is merged."""
    unread = {"band": ("--base",), "adapters": ("--profile",), "models": ("--profile", "--as", "--rank")}[kind]
    instead = {
        "--base": "a band knows its base",
        "--profile": "a profile is for a band; PATH=0.5 says how much of each",
        "--as": "models become a model",
        "--rank": "a rank is for adapters",
    }
    for option in unread:
        if options[option] is not None:
            raise CounterpointError(f"{option} {options[option]}: {instead[option]}; leave {option} out")


def shares(given: Sequence[tuple[str, float | None]]) -> list[tuple[str, float]]:
    """Paths with their numbers, or with equal ones that sum to one where none has any."""
    missing = [path for path, weight in given if weight is None]
    if missing and len(missing) < len(given):
        raise CounterpointError(f"{missing[0]}: has no number, and others have; give each its own, or none")
    return [(path, 1 / len(given) if weight is None else weight) for path, weight in given]


def merge_adapters(
    given: Sequence[tuple[str, float | None]],
    to: Path,
    config: "MergeConfig",
    profile: str | None,
    base: str | None,
    layers: Path | None,
) -> "Merged":
    """Merge a band's adapters for a profile, or those of folders."""
    from counterpoint.build.merge import merge_experts
    from counterpoint.build.merge_sources import from_adapters, from_band
    from counterpoint.stages import Stages

    stages = Stages()
    with stages.stage("read", "the base and the experts"):
        if (Path(given[0][0]) / "band.json").exists():
            if given[0][1] is not None:
                raise CounterpointError(
                    f"{given[0][0]}: a band takes no number; --profile says how much of each expert"
                )
            sources = from_band(Path(given[0][0]), profile, layers)
        else:
            sources = from_adapters(shares(given), base, layers)
    return merge_experts(sources, to, config, stages)


def merge_models(
    given: Sequence[tuple[str, float | None]],
    to: Path,
    method: str,
    base: str | None,
    density: float | None,
    seed: int,
    dtype: str,
    layers: Path | None,
) -> "MergedModels":
    """Merge whole models."""
    from counterpoint.build.merge_models import ModelsConfig, merge_whole
    from counterpoint.stages import Stages

    config = ModelsConfig(method, base, density, seed, dtype)  # type: ignore[arg-type]
    return merge_whole(shares(given), to, config, layers, Stages())


def show(merged: "Merged | MergedModels") -> None:
    """What was merged, in how much of each, and what the verification found."""
    table = Table("layers", "expert", "coefficient", box=None)
    for where, part in merged.weights.items():
        for name, c in part.items():
            table.add_row(where, escape(name), f"{c:g}")
    out.print(table)
    for line in (merged.how(), merged.found(), f"wrote {merged.out}"):
        out.print(line, markup=False, soft_wrap=True)
    for note in merged.notes:
        tell(f"note: {note}")
