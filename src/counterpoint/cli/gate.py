"""`counterpoint train gate`: a router that shares every token among a band's LoRA experts."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Threads, out, set_threads
from counterpoint.cli.data import parse_columns
from counterpoint.cli.expert import given
from counterpoint.cli.policy import described
from counterpoint.cli.preferences import Preferences
from counterpoint.cli.tell import tell
from counterpoint.cli.train import (
    Batch,
    Checkpoints,
    Column,
    Half,
    Holdout,
    Longest,
    Pairs,
    Seed,
    SkipBad,
    accelerator,
    read_pairs,
    resolved,
    share,
    train,
)
from counterpoint.types import Comparison, CounterpointError

if TYPE_CHECKING:
    from counterpoint.build.gate import ArrowConfig, Config
    from counterpoint.build.gate_band import Begun
    from counterpoint.build.pairs import Divided
    from counterpoint.train.gate_start import Given

KIND = "pmol, loramoe, x-lora, phatgoose or arrow; arrow takes no comparisons, since nothing is trained."
DATA = "Preference data, as `data` reads it, or DIMENSION=FILE for a file that names none; arrow needs no data."
BASE = "Start a band on this model, a folder or a hub id, where there is none."
NAMES = "Which, as in helpful,harmless; else those of the band that the data has. The band gets those that it lacks."
FROM = "Start from the band's own adapters for the dimensions, in place of new experts."
BALANCE = "Weight of the loss that ties experts to dimensions; how far it does is in the table at the end."
LEARN = "What moves: all, or the router alone (which --from-experts has unless told otherwise)."
SOFT = (
    "How soft groups are: 0.1, or helpful=0.1,harmless=0.3. --target says what it means; for --kind loramoe as there."
)
TARGET = (
    "What --soft is: by ratio the part of an expert of another group to one of the data's own (0: the own alone, 1: "
    "even), by mass the share of the own group, by loramoe 0 is even and 1 the own alone."
)
RENORMALISE = "Leave the empty expert out of that loss, so that it is free."
TARGETS = "Which linear layers new experts adapt: all-linear, or names as in q_proj,v_proj."
TOLD = "Share of pairs, 0 to 1, routed as if their dimension alone were asked for: 0.5 lets profiles steer new experts."
REPLACE = "Put it in the place of the band's gate of that kind; the same one is not made again."
LOSS = "dpo, ipo or hinge on pairs, or sft on the chosen responses."
SOFT_IS = "expected a number, or one for each dimension, as in helpful=0.1,harmless=0.3"
EXPERTS, ROUTER, TRAINING = "Experts", "Router", "Training"

MADE: Sequence[str] = ("pmol", "loramoe", "x-lora")
GROUPED: Sequence[str] = ("pmol", "loramoe")
TRAINED: Sequence[str] = (*MADE, "phatgoose")
READ_BY: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("files", "comparisons", "preferences", "base", "column", "skip_bad"), TRAINED),
    **dict.fromkeys(("loss", "learn", "told", "beta", "sft_weight", "bf16"), MADE),
    **dict.fromkeys(("per_group", "rank", "alpha", "targets", "balance", "soft"), GROUPED),
    **dict.fromkeys(("no_empty", "target", "renormalise"), ("pmol",)),
    **dict.fromkeys(("depth", "width", "layerwise"), ("x-lora",)),
    **dict.fromkeys(("top_k", "temperature"), ("arrow", "phatgoose")),
    **dict.fromkeys(("steps", "batch", "learning_rate", "max_length", "holdout", "checkpoint_every", "seed"), TRAINED),
}
"""Which kinds read an option; what is not here all do."""
NEW = ("per_group", "rank", "alpha", "targets")
"""Options of new experts."""


@train.command()
def gate(
    context: typer.Context,
    band: Annotated[Path, typer.Argument(help="A band; with --base, where there is none, one is started.")],
    files: Annotated[list[str] | None, typer.Argument(metavar="[COMPARISONS]...", help=DATA)] = None,
    comparisons: Pairs = None,
    kind: Annotated[str, typer.Option(help=KIND)] = "pmol",
    dimensions: Annotated[str, typer.Option("--dimensions", "--dimension", help=NAMES)] = "",
    base: Annotated[str | None, typer.Option(help=BASE)] = None,
    preferences: Preferences = None,
    replace: Annotated[bool, typer.Option("--replace", help=REPLACE)] = False,
    from_experts: Annotated[bool, typer.Option("--from-experts", help=FROM, rich_help_panel=EXPERTS)] = False,
    per_group: Annotated[int, typer.Option(help="New experts for each dimension.", rich_help_panel=EXPERTS)] = 2,
    rank: Annotated[int, typer.Option(help="Rank of each.", rich_help_panel=EXPERTS)] = 8,
    alpha: Annotated[int | None, typer.Option(help="Else twice the rank.", rich_help_panel=EXPERTS)] = None,
    targets: Annotated[str, typer.Option(help=TARGETS, rich_help_panel=EXPERTS)] = "all-linear",
    learn: Annotated[Literal["all", "router"] | None, typer.Option(help=LEARN, rich_help_panel=ROUTER)] = None,
    no_empty: Annotated[
        bool, typer.Option("--no-empty", help="Without an expert that adds nothing.", rich_help_panel=ROUTER)
    ] = False,
    balance: Annotated[float, typer.Option(help=BALANCE, rich_help_panel=ROUTER)] = 0.1,
    soft: Annotated[str, typer.Option(help=SOFT, rich_help_panel=ROUTER)] = "0.1",
    target: Annotated[Literal["ratio", "mass", "loramoe"], typer.Option(help=TARGET, rich_help_panel=ROUTER)] = "ratio",
    renormalise: Annotated[bool, typer.Option("--renormalise", help=RENORMALISE, rich_help_panel=ROUTER)] = False,
    told: Annotated[float, typer.Option(help=TOLD, rich_help_panel=ROUTER)] = 0.0,
    depth: Annotated[int, typer.Option(help="Linear layers of the classifier.", rich_help_panel=ROUTER)] = 1,
    width: Annotated[int, typer.Option(help="Of its hidden layers.", rich_help_panel=ROUTER)] = 256,
    layerwise: Annotated[
        bool, typer.Option("--layerwise", help="Shares for each layer, not for all.", rich_help_panel=ROUTER)
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(help="Experts that share a token; else 3, phatgoose 2.", rich_help_panel=ROUTER)
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the shares.", rich_help_panel=ROUTER)] = 1.0,
    loss: Annotated[str, typer.Option(help=LOSS, rich_help_panel=TRAINING)] = "dpo",
    beta: Annotated[float, typer.Option(help="Of pair losses.", rich_help_panel=TRAINING)] = 0.1,
    sft_weight: Annotated[
        float, typer.Option(help="With pairs: weight of imitating the chosen.", rich_help_panel=TRAINING)
    ] = 1.0,
    steps: Annotated[
        int | None, typer.Option(help="Else 50; phatgoose 100 for each expert.", rich_help_panel=TRAINING)
    ] = None,
    batch: Batch = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="Else 5e-3, or phatgoose 1e-3: for small models.", rich_help_panel=TRAINING)
    ] = None,
    max_length: Longest = None,
    holdout: Holdout = 0.2,
    checkpoint_every: Checkpoints = 50,
    bf16: Half = False,
    seed: Seed = 0,
    column: Column = None,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Learn how a band's experts share each token, and for pmol and loramoe the experts themselves.

    The method of that name then answers with it. A run that was killed goes on when the command is given again.
    """
    from counterpoint.build.gate import ArrowConfig, learn_gate
    from counterpoint.build.gate_band import begin, claim_gate, own_experts
    from counterpoint.build.pairs import longest_of
    from counterpoint.stages import Stages

    check_kind(kind)
    check_read(context, kind)
    check_start(context, kind, from_experts, learn)
    if target == "mass" and not passed(context, "soft"):
        raise CounterpointError("--target mass: pass --soft, the share of a dimension's own group, such as 0.8")
    set_threads(threads)
    begun = begin(band, None if base is None else resolved(base))
    claim_gate(band, kind, replace)
    names = [name.strip() for name in dimensions.split(",") if name.strip()]
    if kind == "arrow":
        return tell_arrow(begun, ArrowConfig(begun.base, top_k, temperature), own_experts(begun, names), as_json)
    trained: dict[str, Any] = {
        "model": begun.base, "batch": batch, "max_length": longest_of(begun.base, max_length), "seed": seed,
        "checkpoint_every": checkpoint_every, **given(steps=steps, learning_rate=learning_rate),
    }  # fmt: skip
    own: dict[str, Any] = {"top_k": top_k, "temperature": temperature} if kind == "phatgoose" else {
        "kind": kind, "loss": loss, "beta": beta, "sft_weight": sft_weight, "per_group": per_group, "lora_rank": rank,
        "lora_alpha": alpha or 2 * rank, "lora_targets": parse_targets(targets), "empty": not no_empty,
        "balance": balance, "soft": parse_soft(soft), "target": target, "renormalise": renormalise, "told": told,
        "depth": depth, "width": width, "layerwise": layerwise, "bf16": bf16,
    }  # fmt: skip
    texts = [*(files or []), *map(str, comparisons or [])]
    data = read_data(begun, texts, names, parse_columns(column or []), skip_bad)
    names = name_dimensions(begun, data, names)
    taken = own_experts(begun, names) if from_experts or kind not in GROUPED else []
    config = configured(kind, names, {**trained, **own}, learn or ("router" if taken else "all"))
    divided = divide(config, data, names, holdout)
    metrics = learn_gate(begun, config, divided, taken, described(names, preferences), Stages(), accelerator())
    if as_json:
        print(json.dumps(metrics))
        return
    print_gate(metrics)
    tell_next(band, kind, names[0])


def check_kind(kind: str) -> None:
    """Refuse a gate that there is not."""
    from counterpoint.compose.weighers.gate import KINDS
    from counterpoint.profiles import unknown_name

    if kind not in KINDS:
        raise CounterpointError(f"--kind: {unknown_name('kind', kind, KINDS)}")


def passed(context: typer.Context, name: str) -> bool:
    """Whether a person typed an option."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def check_read(context: typer.Context, kind: str) -> None:
    """Refuse an option that was passed and that the kind would not read."""
    for name, readers in READ_BY.items():
        if kind not in readers and passed(context, name):
            option = "comparisons" if name == "files" else "--" + name.replace("_", "-")
            raise CounterpointError(f"{option}: for --kind {', '.join(readers)}; {kind} does not read it")


def check_start(context: typer.Context, kind: str, from_experts: bool, learn: str | None) -> None:
    """Refuse what does not go together of where experts come from."""
    if kind in GROUPED and learn == "router" and not from_experts:
        raise CounterpointError(
            "--learn router: new experts add nothing, so that there would be nothing to route; pass --from-experts too"
        )
    for name in NEW if from_experts else ():
        if passed(context, name):
            option = name.replace("_", "-")
            raise CounterpointError(
                f"--{option} is for new experts, and --from-experts takes the band's; leave one out"
            )


def parse_targets(text: str) -> str | tuple[str, ...]:
    """`all-linear`, or the names of layers."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return "all-linear" if names == ("all-linear",) else names


def parse_soft(text: str) -> float | dict[str, float]:
    """A number for all dimensions, or `name=number` entries joined by commas."""
    found = {}
    for entry in text.split(","):
        name, equals, number = (piece.strip() for piece in entry.rpartition("="))
        if name in found or bool(equals) != bool(name):
            raise CounterpointError(f"--soft {text!r}: {SOFT_IS}")
        try:
            found[name] = float(number)
        except ValueError:
            raise CounterpointError(f"--soft {text!r}: {number!r} is no number; {SOFT_IS}") from None
    if "" in found and len(found) > 1:
        raise CounterpointError(f"--soft {text!r}: {SOFT_IS}")
    return found.get("", found)


def read_data(
    begun: "Begun", texts: Sequence[str], names: Sequence[str], columns: Mapping[str, str], skip_bad: bool
) -> list[Comparison]:
    """The comparisons of all files; in DIMENSION=FILE a file is named that names no dimension itself."""
    from counterpoint.models.load import load_tokenizer

    tokenizer = load_tokenizer(begun.base)
    if not texts:
        return read_pairs([], None, tokenizer, columns, skip_bad)
    found = []
    for text in texts:
        name, equals, file = text.partition("=")
        known = equals and not Path(text).exists()
        own = name if known else names[0] if len(names) == 1 else None
        found += read_pairs([Path(file if known else text)], own, tokenizer, columns, skip_bad)
    return found


def name_dimensions(begun: "Begun", data: Sequence[Comparison], asked: Sequence[str]) -> list[str]:
    """The dimensions of the gate; says which comparisons are left out."""
    from counterpoint.build.gate_band import choose_dimensions
    from counterpoint.profiles import check_name

    counts = Counter(comparison.dimension for comparison in data)
    names = choose_dimensions(counts, begun.dimensions, asked)
    for name in names:
        check_name(name)
    others = [name for name in counts if name not in names]
    if others and not asked:
        tell(f"left out: comparisons on {', '.join(others)}, which the band does not know; --dimensions names them too")
    return names


def configured(kind: str, names: Sequence[str], settings: Mapping[str, Any], learn: Any) -> "Config":
    """The configuration of a kind's trainer."""
    from counterpoint.train.gate import GateConfig
    from counterpoint.train.phatgoose import PhatgooseConfig

    if kind == "phatgoose":
        return PhatgooseConfig(**settings)
    return GateConfig(**settings, dimensions=tuple(names), learn=learn)


def divide(config: "Config", data: Sequence[Comparison], names: Sequence[str], holdout: float) -> "list[Divided]":
    """The comparisons to learn from and those to measure by; a prompt is among the latter for all dimensions.

    Says where there are far fewer of one dimension than of another.
    """
    from counterpoint.build.gate_band import unequal
    from counterpoint.build.reward import divide_together
    from counterpoint.models.load import load_tokenizer

    divided = divide_together(data, names, load_tokenizer(config.model), config.max_length, holdout, config.seed)
    if warning := unequal({part.dimension: len(part.seen) for part in divided}):
        tell(warning)
    return divided


def tell_arrow(begun: "Begun", config: "ArrowConfig", taken: "Sequence[Given]", as_json: bool) -> None:
    """Make an Arrow, and say of what."""
    from counterpoint.build.gate import make_arrow
    from counterpoint.stages import Stages

    made = make_arrow(begun.folder, config, taken, Stages())
    if as_json:
        print(json.dumps(made))
        return
    out.print(f"arrow over {', '.join(made['experts'])}; the likeliest {made['top_k']} share a token", soft_wrap=True)
    tell_next(begun.folder, "arrow", taken[0][0].dimension)


def print_gate(metrics: dict[str, Any]) -> None:
    """What it learned of each dimension, and how it routes tokens of it."""
    table = Table("held-out pairs of", "as routed [95 %]", "asked for it [95 %]", "pairs", "too long", box=None)
    for name, found in metrics["dimensions"].items():
        pairs = f"{found['learned']['pairs']} + {found['held_out']['pairs']}"
        table.add_row(name, share(found["routed"]), share(found["asked"]), pairs, str(found["too_long"]))
    out.print(table)
    say("the share that the gate raised the chosen response of by more, as it routes and with a profile for it alone")
    print_routing(metrics["routing"])


def print_routing(routing: dict[str, Any]) -> None:
    """What each group of experts gets of tokens of each dimension's data."""
    groups = list(next(iter(routing.values()))["mass"])
    table = Table("tokens of", *(f"to {group}" for group in groups), "to none", "entropy", box=None)
    for name, found in routing.items():
        masses = (f"{found['mass'][group]:.0%}" for group in groups)
        table.add_row(name, *masses, f"{found['empty']:.0%}", f"{found['entropy']:.2f}")
    out.print(table)
    say("means over layers and tokens of the data; entropy of a token's shares, in nats")


def say(text: str) -> None:
    out.print(text, style="dim", markup=False, soft_wrap=True)


def tell_next(band: Path, kind: str, dimension: str) -> None:
    """What to type to use it."""
    command = shlex.join(["counterpoint", "chat", str(band), "--method", kind, "--profile", f"{dimension}=1"])
    out.print(f"Ask it: {command}", markup=False, soft_wrap=True)
