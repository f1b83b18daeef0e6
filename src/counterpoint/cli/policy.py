"""`counterpoint train policy`: one adapter for all combinations of preferences, or for a single reward."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Threads, out, set_threads
from counterpoint.cli.data import parse_columns
from counterpoint.cli.evaluate import cell
from counterpoint.cli.preferences import Preferences, read_dimensions
from counterpoint.cli.tell import tell_left_out
from counterpoint.cli.train import Column, Half, Holdout, Model, Out, Seed, SkipBad, accelerator, resolved, train
from counterpoint.types import CounterpointError, Dimension, Profile

if TYPE_CHECKING:
    from counterpoint.rewards.rules import Rewards
    from counterpoint.types import Prompt

REWARD = "DIMENSION=FOLDER, FOLDER or DIMENSION=RULE."
PROFILE = "Whom it learns for, in quotes: the preferences that are asked for together. Several with several."
CORNERS = "Learn for every combination of one preference from each axis (P-MORL)."
SAMPLES = "Answers to each prompt of a round; for rebel an even number."
RATE = "Suits small models; large ones need less, such as 2e-5."
AT_ONCE = "Answers of one forward, where memory is short; else all of a step."
KL = "Price of a nat away from the base, in standard deviations of the reward."
KL_TARGET = "Lead the price to where answers are so many nats away."
STOP_KL = "End a round where a token is 1.5 times so many nats away."
ETA = "For rebel: how far to move for a reward; larger is further."
MISSING = "What an answer without an end earns, in standard deviations; else what the reward says of it."

ROUNDS = "Rounds of answering and learning"

Iterations = Annotated[int, typer.Option(help="How many rounds.", rich_help_panel=ROUNDS)]
PerIteration = Annotated[int, typer.Option(help="Prompts in a round.", rich_help_panel=ROUNDS)]
Samples = Annotated[int, typer.Option(help=SAMPLES, rich_help_panel=ROUNDS)]
Epochs = Annotated[int, typer.Option(help="Passes over a round's answers.", rich_help_panel=ROUNDS)]
Minibatch = Annotated[int, typer.Option(help="Answers per step.", rich_help_panel=ROUNDS)]
AtOnce = Annotated[int | None, typer.Option(help=AT_ONCE, rich_help_panel=ROUNDS)]
Kl = Annotated[float, typer.Option(help=KL, rich_help_panel=ROUNDS)]
KlTarget = Annotated[float | None, typer.Option(help=KL_TARGET, rich_help_panel=ROUNDS)]
StopKl = Annotated[float | None, typer.Option(help=STOP_KL, rich_help_panel=ROUNDS)]
Eta = Annotated[float, typer.Option(help=ETA, rich_help_panel=ROUNDS)]
MissingEnd = Annotated[float | None, typer.Option(help=MISSING, rich_help_panel=ROUNDS)]
LongestAnswer = Annotated[int, typer.Option(help="Longest answer, in tokens.")]


@train.command()
def policy(
    model: Model,
    folder: Out,
    prompts: Annotated[list[Path], typer.Option(help="What is answered: .txt (one a line) or rows with a prompt.")],
    reward: Annotated[list[str], typer.Option(help=REWARD)],
    profile: Annotated[list[str] | None, typer.Option(help=PROFILE)] = None,
    corners: Annotated[bool, typer.Option("--corners", help=CORNERS)] = False,
    preferences: Preferences = None,
    algorithm: Annotated[Literal["ppo", "rebel"], typer.Option(help="How it learns from rewards.")] = "ppo",
    iterations: Iterations = 20,
    prompts_per_iteration: PerIteration = 32,
    samples: Samples = 4,
    epochs: Epochs = 4,
    minibatch: Minibatch = 32,
    learning_rate: Annotated[float, typer.Option(help=RATE)] = 1e-3,
    at_once: AtOnce = None,
    eta: Eta = 1.0,
    kl: Kl = 0.2,
    kl_target: KlTarget = None,
    stop_kl: StopKl = None,
    missing_end: MissingEnd = None,
    raw: Annotated[bool, typer.Option("--raw", help="Keep the reward's own unit; else standard deviations.")] = False,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 8,
    temperature: Annotated[float, typer.Option(help="Of the answers.")] = 1.0,
    max_tokens: LongestAnswer = 128,
    holdout: Holdout = 0.2,
    bf16: Half = False,
    seed: Seed = 0,
    column: Column = None,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Learn one adapter from rewards of its own answers, asked in words for whom, and see what that is worth.

    With --profile or --corners it learns to follow requests in words; without, it learns from the mean of all rewards
    and is asked for nothing. A run that was killed goes on when the command is given again.
    """
    from counterpoint.build.controller import fingerprint
    from counterpoint.build.policy import Wanted, learn_policy
    from counterpoint.stages import Stages
    from counterpoint.train.policy import PolicyConfig

    set_threads(threads)
    config = PolicyConfig(
        resolved(model), algorithm=algorithm, iterations=iterations, prompts_per_iteration=prompts_per_iteration,
        samples=samples, epochs=epochs, minibatch=minibatch, at_once=at_once, learning_rate=learning_rate, eta=eta,
        kl=kl, kl_target=kl_target, stop_kl=stop_kl, missing_end=missing_end, normalise=not raw, lora_rank=lora_rank,
        lora_alpha=2 * lora_rank, temperature=temperature, max_tokens=max_tokens, bf16=bf16, seed=seed,
    )  # fmt: skip
    rewards = read_rewards(reward)
    named = described(rewards.dimensions, preferences)
    people = find_people(profile or [], corners, named)
    asking = bool(profile) or corners
    wanted = Wanted(tuple(people), tuple(named), asking, fingerprint(reward), holdout, skip_bad)
    asked = read_asked(config.model, prompts, parse_columns(column or []), skip_bad)
    metrics = learn_policy(config, wanted, rewards, asked, folder, Stages(), accelerator())
    if as_json:
        print(json.dumps(metrics))
        return
    print_policy(metrics)
    tell_next(folder, metrics["requests"][0])


def read_rewards(texts: Sequence[str]) -> "Rewards":
    """The rewards of all texts, side by side."""
    from counterpoint.rewards.load import parse_reward
    from counterpoint.rewards.rules import Rewards

    return Rewards([part for text in texts for part in parse_reward(text, accelerator())])


def described(names: Sequence[str], preferences: Path | None) -> list[Dimension]:
    """Dimensions with the request and axis that a table has for them; one that it does not know has neither."""
    table = {found.name: found for found in read_dimensions(preferences)}
    return [table.get(name, Dimension(name)) for name in names]


def find_people(texts: Sequence[str], all_corners: bool, named: Sequence[Dimension]) -> list[Profile]:
    """Those that were named, one for each combination of poles, or one who wants all that is rewarded."""
    from counterpoint.data.preferences import axes_of
    from counterpoint.profiles import corners, parse_profile

    names = [dimension.name for dimension in named]
    if texts and all_corners:
        raise CounterpointError("pass --profile or --corners, not both")
    if texts:
        return [parse_profile(text, names) for text in texts]
    if not all_corners:
        return [Profile(dict.fromkeys(names, 1.0))]
    axes = axes_of(named)
    if alone := [dimension.name for dimension in named if not dimension.axis]:
        raise CounterpointError(f"--corners: {alone[0]!r} is on no axis; name one in a table of --preferences")
    return corners(axes)


def read_asked(model: str, files: Sequence[Path], columns: Mapping[str, str], skip_bad: bool) -> "list[Prompt]":
    """Prompts as `chat` would ask them; says what was left out."""
    from counterpoint.data.asked import as_asked
    from counterpoint.data.prompts import read_prompts
    from counterpoint.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    found = read_prompts(files, skip_bad, columns, transcripts=bool(tokenizer.chat_template))
    tell_left_out(found.dropped)
    return [as_asked(prompt, tokenizer) for prompt in found.prompts]


def print_policy(metrics: dict[str, Any]) -> None:
    """What held-out prompts' answers earn, how far they are from the base's, how long they are and how many ended."""
    table = Table("on held-out prompts [95 %]", "base", "policy", box=None)
    for name, title, form in (
        ("reward", "reward", ".3f"), ("kl", "KL to the base, nats", ".2f"), ("length", "tokens", ".1f"),
        ("ended", "share that ended", ".0%"),
    ):  # fmt: skip
        table.add_row(title, cell(metrics["base"][name], form), cell(metrics["policy"][name], form))
    out.print(table)
    out.print(f"It earns {cell(metrics['gain'], '+.3f')} more than the base.", markup=False)


def tell_next(folder: Path, request: str) -> None:
    """What to type to use it."""
    command = shlex.join(["counterpoint", "merge", str(folder), "--as", "model", "--out", f"{folder}-model"])
    out.print(f"Make it a model of its own: {command}", markup=False, soft_wrap=True)
    if request:
        out.print(f"It knows the words of its training, such as {request!r}.", markup=False, soft_wrap=True)
