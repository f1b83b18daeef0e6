"""`counterpoint train controller`: learn how much of which expert at every token."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, BandFolder, Device, Dtype, MaxTokens, Threads, load_band, out
from counterpoint.cli.evaluate import cell, find_prompts
from counterpoint.cli.tell import tell
from counterpoint.cli.train import Holdout, Seed, SkipBad, accelerator, train
from counterpoint.types import CounterpointError, Profile

if TYPE_CHECKING:
    from counterpoint.decode.band import Band
    from counterpoint.rewards.rules import Rewards

REWARD = "DIMENSION=FOLDER, FOLDER or DIMENSION=RULE; else the band's own reward models."
PROFILE = "A person to learn for, in quotes; else each two dimensions that have experts."
SPACE = "Mix the experts' probabilities, or their log-probabilities."
ENCODING = "The controller reads a profile as a vector of weights, or as a request in words."
PRIOR = "What it starts from: the profile's weights, or equal ones of its own experts or of all."
HEAD = "A column for each expert, or one made from an expert's description: works for experts added later."
MODEL = "A small language model to start from, with the base's tokenizer; else the base, if below 10^9 parameters."
SHARE = "Without --model: the size of a random one beside a base of 10^9 parameters or more."
ETA = "REBEL: how far to move for a reward; larger is further."
KEEP = "Log space keeps whole distributions of a round: refuse above so many GiB."
KL = "Price of a nat away from the untrained mixture."


@train.command("controller")
def train_controller(
    band: BandFolder,
    prompts: Annotated[list[Path], typer.Option(help="What is answered: .txt (one a line) or .jsonl(.gz).")],
    reward: Annotated[list[str] | None, typer.Option(help=REWARD)] = None,
    profile: Annotated[list[str] | None, typer.Option(help=PROFILE)] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="The folder that is made; else BAND/controller.")] = None,
    iterations: Annotated[int, typer.Option(help="Rounds of answering and learning.")] = 8,
    prompts_per_iteration: Annotated[int, typer.Option(help="Prompts in a round, for a profile each.")] = 64,
    samples: Annotated[int, typer.Option(help="Answers to each of them; for rebel an even number.")] = 2,
    epochs: Annotated[int, typer.Option(help="Passes over a round's answers.")] = 4,
    minibatch: Annotated[int, typer.Option(help="Answers per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Suits small models; large ones need less, as 3e-5.")] = 1e-3,
    eta: Annotated[float, typer.Option(help=ETA)] = 10.0,
    kl: Annotated[float, typer.Option(help=KL)] = 0.0,
    algorithm: Annotated[Literal["rebel", "ppo"], typer.Option(help="How it learns from rewards.")] = "rebel",
    space: Annotated[Literal["prob", "log"], typer.Option(help=SPACE)] = "prob",
    encoding: Annotated[Literal["vector", "text"], typer.Option(help=ENCODING)] = "vector",
    expert_prompt: Annotated[
        Literal["none", "own", "all"], typer.Option(help="Ask experts in words, too: for their own, or for all wanted.")
    ] = "none",
    prior: Annotated[Literal["profile", "selected", "all"], typer.Option(help=PRIOR)] = "profile",
    temper: Annotated[
        Literal["mixture", "experts"], typer.Option(help="What a temperature acts on, here and later.")
    ] = "mixture",
    head: Annotated[Literal["linear", "described"], typer.Option(help=HEAD)] = "linear",
    model: Annotated[str, typer.Option(help=MODEL)] = "",
    share: Annotated[float, typer.Option(help=SHARE)] = 0.02,
    constant: Annotated[bool, typer.Option("--constant", help="Learn fixed weights per profile instead.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep the rewards' own units; else chances to beat the base.")
    ] = False,
    strength: Annotated[float, typer.Option(help="How far from the base; prob takes at most 1.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of the answers.")] = 1.0,
    max_tokens: MaxTokens = 128,
    keep_gib: Annotated[float, typer.Option(help=KEEP)] = 8.0,
    holdout: Holdout = 0.2,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Learn to weigh a band's experts at every token (MoPE), and see on other prompts what that is worth.

    The method mope then answers with it. A run that was killed goes on when the command is given again.
    """
    from counterpoint.build.controller import LearnConfig, fingerprint, learn_controller
    from counterpoint.build.pairs import claim_folder
    from counterpoint.compose.weighers.controller import FILE
    from counterpoint.stages import Stages
    from counterpoint.train.controller import ControllerConfig

    judges = reward or [str(band / "rewards")]
    config = ControllerConfig(
        band=str(band.resolve()), space=space, encoding=encoding, expert_prompt=expert_prompt, prior=prior,
        temper=temper, head=head, model=model, share=share, constant=constant, bt=not raw, strength=strength,
        temperature=temperature, max_tokens=max_tokens, prompts_per_iteration=prompts_per_iteration,
        algorithm=algorithm, iterations=iterations, samples=samples, epochs=epochs, minibatch=minibatch,
        learning_rate=learning_rate, eta=eta, kl=kl, seed=seed, keep_gib=keep_gib,
    )  # fmt: skip
    learning = LearnConfig(fingerprint(judges), holdout, skip_bad)
    place = folder or band / "controller"
    claim_folder(place, FILE)
    loaded = load_band(band, threads, device, dtype)
    people = find_people(loaded, profile or [])
    rewards = find_judges(loaded, judges, people, given=bool(reward))
    asked = find_prompts(loaded, prompts, {}, None, skip_bad)
    metrics = learn_controller(loaded, config, learning, rewards, asked, people, place, Stages())
    if as_json:
        print(json.dumps(metrics))
        return
    print_iterations(metrics["iterations"])
    print_methods(metrics)
    tell_next(band, place, metrics["profiles"][0])


def find_people(band: "Band", texts: Sequence[str]) -> list[Profile]:
    """The people that were named, or one for each two dimensions; no one twice, by shares."""
    from counterpoint.build.controller import pairs_of
    from counterpoint.compose.weighers.controller import unlike
    from counterpoint.profiles import parse_profile

    if texts:
        return unlike(parse_profile(text, band.dimensions) for text in texts)
    people = pairs_of(band)
    tell(f"{len(people)} profiles: each two of the dimensions that have experts")
    return people


def find_judges(band: "Band", texts: Sequence[str], people: Sequence[Profile], given: bool) -> "Rewards":
    """The rewards of the dimensions that people want; refuses one of which the band knows nothing."""
    from counterpoint.profiles import unknown_name
    from counterpoint.rewards.load import parse_reward
    from counterpoint.rewards.rules import Rewards

    if not given and not Path(texts[0]).is_dir():
        raise CounterpointError(
            f"{texts[0]}: the band holds no reward models of its own; pass --reward DIMENSION=FOLDER or DIMENSION=RULE "
            "for each dimension"
        )
    parts = []
    for text in texts:
        found = parse_reward(text, accelerator())
        names = [name for part in found for name in part.dimensions]
        if not set(names) & set(band.dimensions):
            raise CounterpointError(f"--reward {text}: {unknown_name('dimension', names[0], band.dimensions)}")
        parts += found
    wanted = {name for person in people for name, weight in person.weights.items() if weight > 0}
    return Rewards([part for part in parts if wanted & set(part.dimensions)] or parts)


def print_iterations(log: Sequence[dict[str, float]]) -> None:
    """What each round earned, how far it was from the untrained mixture, and where its time went."""
    table = Table("iteration", "reward", "KL", "entropy", "tokens", "answering", "learning", box=None)
    for number, row in enumerate(log, start=1):
        table.add_row(
            str(number), f"{row['reward']:.3f}", f"{round(row['kl'], 2) + 0.0:.2f}", f"{row['entropy']:.2f}",
            f"{row['length']:.0f}", f"{row['seconds_roll_out']:.1f} s", f"{row['seconds_epochs']:.1f} s",
        )  # fmt: skip
    out.print(table)
    say("KL to the untrained mixture, of an answer; entropy of the experts' weights; both in nats")


def print_methods(metrics: dict[str, Any]) -> None:
    """Rewards on held-out prompts, and by how much mope earns more."""
    table = Table("on held-out prompts", "reward [95 %]", "mope earns more by [95 %]", box=None)
    for name, row in metrics["methods"].items():
        more = metrics["mope_minus"].get(name)
        table.add_row(name, cell(row["reward"], ".3f"), "-" if more is None else cell(more, "+.3f"))
    out.print(table)
    print_units(metrics["units"])


def print_units(units: dict[str, str]) -> None:
    """What a reward is the chance of, and what counted as how much."""
    if not units:
        say("rewards are in their own units")
        return
    say("a reward is the chance to beat the base's greedy answer; what a logit of it is:")
    for unit in dict.fromkeys(units.values()):
        say(f"  {', '.join(name for name, own in units.items() if own == unit)}: {unit}")


def say(text: str) -> None:
    out.print(text, style="dim", markup=False, soft_wrap=True)


def tell_next(band: Path, place: Path, profile: str) -> None:
    """What to type to use it."""
    if place.resolve() != (band / "controller").resolve():
        out.print(f"In {place}; a band uses what lies in {band / 'controller'}", markup=False, soft_wrap=True)
        return
    command = shlex.join(["counterpoint", "chat", str(band), "--method", "mope", "--profile", profile])
    out.print(f"In {place}; ask it: {command}", markup=False, soft_wrap=True)
