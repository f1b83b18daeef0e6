"""`counterpoint train reward`: one stage alone, on a user's own data; and what the commands of `train` share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Threads, app, out, set_threads
from counterpoint.cli.data import parse_columns
from counterpoint.cli.preferences import Preferences, read_dimensions
from counterpoint.cli.tell import tell_left_out
from counterpoint.types import Comparison, CounterpointError

if TYPE_CHECKING:
    from counterpoint.train.reward_model import RewardModelConfig

train = typer.Typer(help="Train a reward model or an expert from your own data.", no_args_is_help=True)
app.add_typer(train, name="train")

Model = Annotated[str, typer.Argument(help="The base: a Hugging Face causal language model, a folder or an id.")]
Pairs = Annotated[list[Path] | None, typer.Option("--comparisons", help="Preference data, as `data` reads it.")]
Dimension = Annotated[str | None, typer.Option(help="Which dimension; also that of files without such a column.")]
SHARED = "One model for all dimensions found (or --dimension ONE,TWO), with a head for each; a batch is of each."
STEERED = "One model for all dimensions found (or --dimension ONE,TWO), told by a preference's request which one."
Out = Annotated[Path, typer.Option("--out", help="The folder that is made.")]
Steps = Annotated[int, typer.Option(help="Training steps.")]
Batch = Annotated[int, typer.Option(help="Pairs or responses per step.")]
Rate = Annotated[float | None, typer.Option(help="Defaults suit small models; large ones need less, such as 1e-4.")]
Longest = Annotated[int | None, typer.Option(help="Tokens; what is longer is left out. Else 1024 or the model's.")]
Holdout = Annotated[float, typer.Option(help="Share of the prompts that measures what was learned.")]
Checkpoints = Annotated[int, typer.Option(help="Steps between checkpoints, from which a killed run goes on; 0: none.")]
Column = Annotated[list[str] | None, typer.Option(help="PART=COLUMN of the data, such as prompt=instruction.")]
Half = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")]
Seed = Annotated[int, typer.Option(help="Of the split, the order and the sampling.")]
SkipBad = Annotated[bool, typer.Option(help="Leave out bad lines of the data, and list them.")]


@train.command()
def reward(
    model: Model,
    folder: Out,
    comparisons: Pairs = None,
    dimension: Dimension = None,
    every: Annotated[bool, typer.Option("--all", help="A model per dimension found, each in OUT/DIMENSION.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help=SHARED)] = False,
    steered: Annotated[bool, typer.Option("--steered", help=STEERED)] = False,
    preferences: Preferences = None,
    lora_rank: Annotated[int, typer.Option(help="Rank of an adapter; 0 trains all parameters.")] = 0,
    steps: Steps = 120,
    batch: Batch = 16,
    learning_rate: Rate = None,
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
    """Learn to judge a dimension from pairs of responses (Bradley-Terry), and see how well on prompts held out.

    Computes on a CUDA device where there is one, else on the CPU; CUDA_VISIBLE_DEVICES chooses.
    """
    from counterpoint.build.pairs import longest_of
    from counterpoint.build.reward import divide_together, learn_shared_reward, room_for
    from counterpoint.models.load import load_tokenizer
    from counterpoint.profiles import check_name
    from counterpoint.stages import Stages
    from counterpoint.train.k_head import KHeadConfig
    from counterpoint.train.reward_model import RewardModelConfig
    from counterpoint.train.steered import SteeredConfig

    check_together(every, shared, steered, preferences)
    set_threads(threads)
    base, longest = resolved(model), longest_of(model, max_length)
    tokenizer = load_tokenizer(base)
    together = shared or steered
    found = read_pairs(
        comparisons or [], None if together else dimension, tokenizer, parse_columns(column or []), skip_bad
    )
    names = chosen_dimensions(found, dimension, every, together)
    for name in names:
        check_name(name)
    options: dict[str, Any] = {
        "steps": steps, "batch": batch, "seed": seed, "lora_rank": lora_rank, "lora_alpha": 2 * lora_rank,
        "learning_rate": 2e-3 if learning_rate is None else learning_rate, "max_length": longest,
        "checkpoint_every": checkpoint_every, "bf16": bf16,
    }  # fmt: skip
    if together:
        requests = requests_of(names, preferences) if steered else ()
        one = SteeredConfig(base, requests, **options) if steered else KHeadConfig(base, tuple(names), **options)
        room = room_for(requests, tokenizer, longest)
        divided = divide_together(found, names, tokenizer, room, holdout, seed)
        metrics = learn_shared_reward(one, divided, folder, Stages(), accelerator())
    else:
        places = {name: folder / name if every else folder for name in names}
        metrics = one_each(RewardModelConfig(base, names[0], **options), found, places, tokenizer, holdout)
    if as_json:
        print(json.dumps(metrics if every or together else metrics[names[0]]))
        return
    print_rewards(metrics)
    out.print(f"In {folder}; score with it: counterpoint score FILE --reward {folder}", markup=False, soft_wrap=True)


def check_together(every: bool, shared: bool, steered: bool, preferences: Path | None) -> None:
    """Refuse two ways at once of learning several dimensions, and a table that nothing would read."""
    if every + shared + steered > 1:
        raise CounterpointError("pass one of --all, --shared and --steered")
    if preferences is not None and not steered:
        raise CounterpointError(f"--preferences {preferences}: its requests steer a model; pass --steered as well")


def requests_of(names: Sequence[str], preferences: Path | None) -> tuple[tuple[str, str], ...]:
    """The request of each dimension, from a table."""
    from counterpoint.data.preferences import chosen

    requests = {found.name: found.request for found in chosen(read_dimensions(preferences), names)}
    return tuple((name, requests[name]) for name in names)


def one_each(
    config: "RewardModelConfig", comparisons: Sequence[Comparison], places: Mapping[str, Path], tokenizer: Any,
    holdout: float,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """A reward model per dimension into its place; all data and places are checked before the first is trained."""
    from counterpoint.build.pairs import divide
    from counterpoint.build.reward import claim_reward, learn_reward
    from counterpoint.stages import Stages

    divided = [divide(comparisons, name, tokenizer, config.max_length, holdout, config.seed) for name in places]
    for name, place in places.items():
        claim_reward(place, [name])
    stages = Stages()
    return {
        part.dimension: learn_reward(
            replace(config, dimension=part.dimension), part, places[part.dimension], stages, accelerator()
        )
        for part in divided
    }


def read_pairs(
    files: Sequence[Path], dimension: str | None, tokenizer: Any, columns: Mapping[str, str], skip_bad: bool
) -> list[Comparison]:
    """Comparisons with their prompts as `chat` would ask them; says what was left out."""
    from counterpoint.data.asked import as_asked
    from counterpoint.data.comparisons import read_comparisons

    if not files:
        raise CounterpointError("there is nothing to learn from; name preference data with --comparisons FILE")
    chats = bool(tokenizer.chat_template)
    found = read_comparisons(files, dimension, skip_bad=skip_bad, columns=columns, transcripts=chats)
    tell_left_out(found.dropped)
    return [replace(c, prompt=as_asked(c.prompt, tokenizer)) for c in found.comparisons]


def chosen_dimensions(comparisons: Sequence[Comparison], dimension: str | None, every: bool, shared: bool) -> list[str]:
    """The dimension that was named, or all that there are; for a shared model those that were named, or all."""
    found = list(dict.fromkeys(c.dimension for c in comparisons))
    if (every and shared) or (not shared and (dimension is None) != every):
        names = ", ".join(found)
        raise CounterpointError(
            f"pass one of --dimension NAME, --all, --shared and --steered; dimensions found: {names}"
        )
    if dimension is None:
        return found
    return [name.strip() for name in dimension.split(",")] if shared else [dimension]


def resolved(model: str) -> str:
    """A model folder by its full path, so that what is trained on it finds it from anywhere; a hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def accelerator() -> str:
    """Where the trainers compute, too."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def share(interval: dict[str, float]) -> str:
    return f"{interval['value']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"


def number(interval: dict[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def print_rewards(metrics: dict[str, Any]) -> None:
    """Accuracy on held-out prompts, beside a length counter's."""
    table = Table("dimension", "held-out accuracy [95 %]", "length alone [95 %]", "pairs", "too long", box=None)
    for name, found in metrics.items():
        pairs = f"{found['learned']['pairs']} + {found['held_out']['pairs']}"
        table.add_row(name, share(found["accuracy"]), share(found["length_accuracy"]), pairs, str(found["too_long"]))
    out.print(table)
