"""`counterpoint train expert`: an adapter for one dimension, from comparisons or from the base's own responses."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Threads, out, set_threads
from counterpoint.cli.data import parse_columns
from counterpoint.cli.policy import (
    ROUNDS,
    AtOnce,
    Epochs,
    Eta,
    Iterations,
    Kl,
    KlTarget,
    LongestAnswer,
    MissingEnd,
    PerIteration,
    StopKl,
    described,
    print_policy,
    read_asked,
)
from counterpoint.cli.preferences import Preferences
from counterpoint.cli.train import (
    Batch,
    Checkpoints,
    Column,
    Half,
    Holdout,
    Longest,
    Model,
    Out,
    Pairs,
    Rate,
    Seed,
    SkipBad,
    Steps,
    accelerator,
    number,
    read_pairs,
    resolved,
    share,
    train,
)
from counterpoint.types import CounterpointError, Dimension, Profile, RewardFn

if TYPE_CHECKING:
    from counterpoint.stages import Stages
    from counterpoint.train.dpo import DpoConfig
    from counterpoint.train.sft import SftConfig

METHOD = "dpo, sft (on chosen responses), best-of-n (of its own), or ppo or rebel (on its own, in rounds)."
REQUEST = "The words that ask for it after a prompt; else those of the table, or 'Please be DIMENSION.'"
ALGORITHMS: dict[str, Literal["ppo", "rebel"]] = {"ppo": "ppo", "rebel": "rebel"}
"""Methods that learn in rounds of answering."""
OWN = ("best-of-n", *ALGORITHMS)
"""Methods that learn from responses of their own."""
METHODS = ("dpo", "sft", *OWN)
READ_BY: dict[str, Sequence[str]] = {
    "sft_weight": ("dpo",),
    "beta": ("dpo", "sft"),
    **dict.fromkeys(("prompts", "reward", "samples", "temperature", "max_tokens"), OWN),
    "keep": ("best-of-n",),
    **dict.fromkeys(("request", "no_request", "preferences", "iterations", "prompts_per_iteration"), tuple(ALGORITHMS)),
    **dict.fromkeys(("epochs", "at_once", "kl", "kl_target", "stop_kl", "missing_end"), tuple(ALGORITHMS)),
    "eta": ("rebel",),
    **dict.fromkeys(("steps", "max_length", "checkpoint_every"), ("dpo", "sft", "best-of-n")),
}
"""Which methods read an option; what is not here all do."""


@train.command()
def expert(
    context: typer.Context,
    model: Model,
    folder: Out,
    dimension: Annotated[str, typer.Option(help="What the expert is for; also that of files without such a column.")],
    comparisons: Pairs = None,
    method: Annotated[str, typer.Option(help=METHOD)] = "dpo",
    prompts: Annotated[list[Path] | None, typer.Option(help="From its own responses: what is answered.")] = None,
    reward: Annotated[
        str | None, typer.Option(help="From its own responses: DIMENSION=RULE or a trained reward model.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Responses per prompt; else 16, or 4 a round.")] = None,
    keep: Annotated[int, typer.Option(help="For best-of-n: how many of them are imitated.")] = 2,
    temperature: Annotated[float | None, typer.Option(help="Of its own responses; else 0.8, or 1 in rounds.")] = None,
    max_tokens: LongestAnswer = 128,
    request: Annotated[str | None, typer.Option(help=REQUEST, rich_help_panel=ROUNDS)] = None,
    no_request: Annotated[
        bool, typer.Option("--no-request", help="Ask for nothing in words.", rich_help_panel=ROUNDS)
    ] = False,
    preferences: Preferences = None,
    iterations: Iterations = 20,
    prompts_per_iteration: PerIteration = 32,
    epochs: Epochs = 4,
    at_once: AtOnce = None,
    eta: Eta = 1.0,
    kl: Kl = 0.2,
    kl_target: KlTarget = None,
    stop_kl: StopKl = None,
    missing_end: MissingEnd = None,
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
    from counterpoint.build.best import BestConfig, learn_best
    from counterpoint.build.controller import fingerprint
    from counterpoint.build.pairs import longest_of
    from counterpoint.build.policy import Wanted, learn_policy
    from counterpoint.profiles import check_name
    from counterpoint.rewards.rules import Rewards
    from counterpoint.stages import Stages
    from counterpoint.train.dpo import DpoConfig
    from counterpoint.train.policy import PolicyConfig
    from counterpoint.train.sft import SftConfig

    check_expert_options(method, lora_rank, bool(comparisons), bool(prompts), reward)
    check_read(context, method)
    check_name(dimension)
    set_threads(threads)
    columns, stages = parse_columns(column or []), Stages()
    shared: dict[str, Any] = {
        "model": resolved(model), "lora_rank": lora_rank, "lora_alpha": 2 * lora_rank, "bf16": bf16, "seed": seed,
        **given(learning_rate=learning_rate),
    }  # fmt: skip
    if method in ALGORITHMS:
        rounds = PolicyConfig(
            **shared, **given(samples=samples, temperature=temperature), algorithm=ALGORITHMS[method],
            iterations=iterations, prompts_per_iteration=prompts_per_iteration, epochs=epochs, minibatch=batch,
            at_once=at_once, eta=eta, kl=kl, kl_target=kl_target, stop_kl=stop_kl, missing_end=missing_end,
            max_tokens=max_tokens,
        )  # fmt: skip
        person, named = Profile({dimension: 1.0}), asking_for(dimension, request, preferences)
        wanted = Wanted((person,), (named,), not no_request, fingerprint([str(reward)]), holdout, skip_bad)
        asked = read_asked(rounds.model, prompts or [], columns, skip_bad)
        rewards = Rewards([reward_of(str(reward), dimension)])
        metrics = learn_policy(rounds, wanted, rewards, asked, folder, stages, accelerator())
        return tell_expert(metrics, print_policy, folder, dimension, as_json)
    shared |= {
        "steps": steps, "batch": batch, "max_length": longest_of(model, max_length),
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    if method == "best-of-n":
        best = BestConfig(
            dimension, keep=keep, max_tokens=max_tokens, holdout=holdout, skip_bad=skip_bad, seed=seed,
            **given(samples=samples, temperature=temperature),
        )  # fmt: skip
        asked = read_asked(shared["model"], prompts or [], columns, skip_bad)
        one = reward_of(str(reward), dimension)
        metrics = learn_best(SftConfig(**shared), best, one, asked, folder, stages, accelerator())
        return tell_expert(metrics, print_best, folder, dimension, as_json)
    config: DpoConfig | SftConfig = SftConfig(**shared)
    if method == "dpo":
        config = DpoConfig(**shared, dimension=dimension, beta=beta, sft_weight=sft_weight)
    metrics = from_pairs(config, comparisons or [], dimension, beta, holdout, columns, skip_bad, folder, stages)
    tell_expert(metrics, print_expert, folder, dimension, as_json)


def given(**options: Any) -> dict[str, Any]:
    """Those that were passed, so that a method's own default stands for the others."""
    return {name: value for name, value in options.items() if value is not None}


def tell_expert(
    metrics: dict[str, Any], show: Callable[[dict[str, Any]], None], folder: Path, dimension: str, as_json: bool
) -> None:
    """What was measured, and what to type next."""
    if as_json:
        print(json.dumps(metrics))
        return
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


def asking_for(name: str, request: str | None, preferences: Path | None) -> Dimension:
    """A dimension with the words that ask for it: as given, or those that a table has for it."""
    (found,) = described([name], preferences)
    return found if request is None else replace(found, request=request)


def reward_of(text: str, dimension: str) -> RewardFn:
    """The reward that scores one dimension alone."""
    from counterpoint.rewards.load import Column, parse_reward
    from counterpoint.rewards.rules import Rewards

    found = Rewards(parse_reward(text, accelerator()))
    if dimension not in found.dimensions:
        raise CounterpointError(f"--reward {text!r} scores {', '.join(found.dimensions)}, not {dimension!r}")
    return Column(found, found.dimensions.index(dimension), dimension)


def check_expert_options(method: str, lora_rank: int, pairs: bool, prompts: bool, reward: str | None) -> None:
    """Refuse what does not go together before anything is loaded."""
    if method not in METHODS:
        raise CounterpointError(f"--method {method!r}: expected dpo, sft, best-of-n, ppo or rebel")
    if lora_rank < 1:
        raise CounterpointError(f"--lora-rank {lora_rank}: an expert is an adapter; expected 1 or more")
    if method in OWN and (pairs or not (prompts and reward)):
        raise CounterpointError(
            f"{method} learns from its own responses: it takes --prompts and --reward, and no --comparisons"
        )


def check_read(context: typer.Context, method: str) -> None:
    """Refuse an option that was passed and that the method would not read."""
    for name, readers in READ_BY.items():
        source = context.get_parameter_source(name)
        if method not in readers and source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise CounterpointError(f"--{option} is for --method {', '.join(readers)}; {method} does not read it")
    if context.params["no_request"] and context.params["request"] is not None:
        raise CounterpointError("pass --request or --no-request, not both")


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
