"""`counterpoint train reward` and `counterpoint train expert`: one stage alone, on a user's own data."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Threads, app, out, set_threads
from counterpoint.cli.data import parse_columns
from counterpoint.cli.tell import tell_left_out
from counterpoint.types import Comparison, CounterpointError, RewardFn

if TYPE_CHECKING:
    from counterpoint.build.best import BestConfig
    from counterpoint.stages import Stages
    from counterpoint.train.dpo import DpoConfig
    from counterpoint.train.reward_model import RewardModelConfig
    from counterpoint.train.sft import SftConfig

train = typer.Typer(help="Train a reward model or an expert from your own data.", no_args_is_help=True)
app.add_typer(train, name="train")

Model = Annotated[str, typer.Argument(help="The base: a Hugging Face causal language model, a folder or an id.")]
Pairs = Annotated[list[Path] | None, typer.Option("--comparisons", help="Preference data, as `data` reads it.")]
Dimension = Annotated[str | None, typer.Option(help="Which dimension; also that of files without such a column.")]
SHARED = "One model for all dimensions found (or --dimension ONE,TWO), with a head for each; a batch is of each."
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
    from counterpoint.build.reward import divide_together, learn_shared_reward
    from counterpoint.models.load import load_tokenizer
    from counterpoint.profiles import check_name
    from counterpoint.stages import Stages
    from counterpoint.train.k_head import KHeadConfig
    from counterpoint.train.reward_model import RewardModelConfig

    set_threads(threads)
    base, longest = resolved(model), longest_of(model, max_length)
    tokenizer = load_tokenizer(base)
    found = read_pairs(
        comparisons or [], None if shared else dimension, tokenizer, parse_columns(column or []), skip_bad
    )
    names = chosen_dimensions(found, dimension, every, shared)
    for name in names:
        check_name(name)
    options: dict[str, Any] = {
        "steps": steps, "batch": batch, "seed": seed, "lora_rank": lora_rank, "lora_alpha": 2 * lora_rank,
        "learning_rate": 2e-3 if learning_rate is None else learning_rate, "max_length": longest,
        "checkpoint_every": checkpoint_every, "bf16": bf16,
    }  # fmt: skip
    if shared:
        heads = KHeadConfig(base, tuple(names), **options)
        together = divide_together(found, names, tokenizer, longest, holdout, seed)
        metrics = learn_shared_reward(heads, together, folder, Stages(), accelerator())
    else:
        places = {name: folder / name if every else folder for name in names}
        metrics = one_each(RewardModelConfig(base, names[0], **options), found, places, tokenizer, holdout)
    if as_json:
        print(json.dumps(metrics if every or shared else metrics[names[0]]))
        return
    print_rewards(metrics)
    out.print(f"In {folder}; score with it: counterpoint score FILE --reward {folder}", markup=False, soft_wrap=True)


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


@train.command()
def expert(
    model: Model,
    folder: Out,
    dimension: Annotated[str, typer.Option(help="What the expert is for; also that of files without such a column.")],
    comparisons: Pairs = None,
    method: Annotated[str, typer.Option(help="dpo, sft (on chosen responses) or best-of-n (of its own).")] = "dpo",
    prompts: Annotated[list[Path] | None, typer.Option(help="For best-of-n: what is answered.")] = None,
    reward: Annotated[str | None, typer.Option(help="For best-of-n: DIMENSION=RULE or a trained reward model.")] = None,
    samples: Annotated[int, typer.Option(help="For best-of-n: responses per prompt to choose from.")] = 16,
    keep: Annotated[int, typer.Option(help="For best-of-n: how many of them are imitated.")] = 2,
    temperature: Annotated[float, typer.Option(help="For best-of-n: of the responses.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(help="For best-of-n: longest response.")] = 128,
    beta: Annotated[float, typer.Option(help="Of the DPO loss: how dear a step away from the base is.")] = 0.1,
    sft_weight: Annotated[float, typer.Option(help="For dpo: weight of imitating chosen responses.")] = 1.0,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 8,
    steps: Steps = 60,
    batch: Batch = 32,
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
    """Learn a LoRA expert for a dimension, and see on prompts held out what it learned.

    Computes on a CUDA device where there is one, else on the CPU; CUDA_VISIBLE_DEVICES chooses.
    """
    from counterpoint.build.best import BestConfig
    from counterpoint.build.pairs import longest_of
    from counterpoint.profiles import check_name
    from counterpoint.stages import Stages
    from counterpoint.train.dpo import DpoConfig
    from counterpoint.train.sft import SftConfig

    check_expert_options(method, lora_rank, bool(comparisons), bool(prompts), reward)
    check_name(dimension)
    columns = parse_columns(column or [])
    set_threads(threads)
    shared: dict[str, Any] = {
        "model": resolved(model), "steps": steps, "batch": batch, "seed": seed, "lora_rank": lora_rank,
        "lora_alpha": 2 * lora_rank, "max_length": longest_of(model, max_length), "bf16": bf16,
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    if learning_rate is not None:
        shared["learning_rate"] = learning_rate
    if method == "dpo":
        dpo = DpoConfig(**shared, dimension=dimension, beta=beta, sft_weight=sft_weight)
        metrics = from_pairs(dpo, comparisons or [], dimension, beta, holdout, columns, skip_bad, folder, Stages())
    elif method == "sft":
        imitated = SftConfig(**shared)
        metrics = from_pairs(imitated, comparisons or [], dimension, beta, holdout, columns, skip_bad, folder, Stages())
    else:
        best = BestConfig(dimension, samples, keep, temperature, max_tokens, holdout, skip_bad, seed)
        metrics = from_samples(SftConfig(**shared), best, str(reward), prompts or [], columns, folder, Stages())
    if as_json:
        print(json.dumps(metrics))
        return
    show = print_best if method == "best-of-n" else print_expert
    show(metrics)
    command = shlex.join(["counterpoint", "add", "BAND", str(folder), "--dimension", dimension])
    out.print(f"Add it to a band: {command}", markup=False, soft_wrap=True)


def from_pairs(
    config: "DpoConfig | SftConfig", files: Sequence[Path], dimension: str, beta: float, holdout: float,
    columns: Mapping[str, str], skip_bad: bool, folder: Path, stages: "Stages",
) -> dict[str, Any]:  # fmt: skip
    """An expert from comparisons."""
    from counterpoint.build.expert import learn_expert
    from counterpoint.build.pairs import divide
    from counterpoint.models.load import load_tokenizer

    tokenizer = load_tokenizer(config.model)
    found = read_pairs(files, dimension, tokenizer, columns, skip_bad)
    divided = divide(found, dimension, tokenizer, config.max_length, holdout, config.seed)
    return learn_expert(config, divided, folder, beta, stages, accelerator())


def from_samples(
    config: "SftConfig", best: "BestConfig", reward: str, files: Sequence[Path], columns: Mapping[str, str],
    folder: Path, stages: "Stages",
) -> dict[str, Any]:  # fmt: skip
    """An expert from the base's own responses."""
    from counterpoint.build.best import learn_best
    from counterpoint.data.asked import as_asked
    from counterpoint.data.prompts import read_prompts
    from counterpoint.models.load import load_tokenizer

    judge = reward_of(reward, best.dimension)
    tokenizer = load_tokenizer(config.model)
    found = read_prompts(files, best.skip_bad, columns, transcripts=bool(tokenizer.chat_template))
    tell_left_out(found.dropped)
    asked = [as_asked(prompt, tokenizer) for prompt in found.prompts]
    return learn_best(config, best, judge, asked, folder, stages, accelerator())


def reward_of(text: str, dimension: str) -> RewardFn:
    """The reward that scores one dimension alone."""
    from counterpoint.rewards.load import Column, parse_reward
    from counterpoint.rewards.rules import Rewards

    found = Rewards(parse_reward(text, accelerator()))
    if dimension not in found.dimensions:
        raise CounterpointError(f"--reward {text!r} scores {', '.join(found.dimensions)}, not {dimension!r}")
    return Column(found, found.dimensions.index(dimension), dimension)


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
        raise CounterpointError(f"pass one of --dimension NAME, --all and --shared; dimensions found: {names}")
    if dimension is None:
        return found
    return [name.strip() for name in dimension.split(",")] if shared else [dimension]


def check_expert_options(method: str, lora_rank: int, pairs: bool, prompts: bool, reward: str | None) -> None:
    """Refuse what does not go together before anything is loaded."""

    def refuse(text: str) -> NoReturn:
        raise CounterpointError(text)

    if method not in ("dpo", "sft", "best-of-n"):
        refuse(f"--method {method!r}: expected dpo, sft or best-of-n")
    if lora_rank < 1:
        refuse(f"--lora-rank {lora_rank}: an expert is an adapter; expected 1 or more")
    if method == "best-of-n" and (pairs or not (prompts and reward)):
        refuse("best-of-n learns from the base's own responses: it takes --prompts and --reward, and no --comparisons")
    if method != "best-of-n" and (prompts or reward):
        refuse(f"{method} learns from --comparisons; --prompts and --reward are for --method best-of-n")


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


def print_expert(metrics: dict[str, Any]) -> None:
    """Every measure beside what the base has, which is what no training would give."""
    flips = metrics["ranking"]["flips"]
    wrong = flips["became_right"] + flips["stayed_wrong"]
    table = Table("on held-out prompts [95 %]", "expert", "base", box=None)
    table.add_row("raised the chosen response more than the rejected", share(metrics["reward_accuracy"]), "-")
    table.add_row("finds the chosen response likelier", share(metrics["accuracy"]), share(metrics["base_accuracy"]))
    table.add_row("length alone tells the chosen response", share(metrics["length_accuracy"]), "-")
    table.add_row(f"DPO loss at beta {metrics['beta']:g}", number(metrics["loss"]), "0.693")
    table.add_row("pairs that the base ranks wrong, now right", f"{flips['became_right']} of {wrong}", "0")
    table.add_row("pairs that the base ranks right, now wrong", str(flips["became_wrong"]), "0")
    out.print(table)
    if metrics["flip_loss"] is not None:
        out.print(
            f"Half of the pairs that the base ranks wrong need a DPO loss below {metrics['flip_loss']:.2g} to flip."
        )


def print_best(metrics: dict[str, Any]) -> None:
    """What the reward says of answers to held-out prompts."""
    table = Table("reward of answers to held-out prompts [95 %]", "", box=None)
    table.add_row("expert", number(metrics["expert_reward"]))
    table.add_row("base", number(metrics["base_reward"]))
    table.add_row("difference", number(metrics["gain"]))
    out.print(table)
