"""`counterpoint tune-in`: learn a person's profile from which of two answers they prefer."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import (
    AnswerSeed,
    AsJson,
    BandFolder,
    Device,
    Dtype,
    MaxTokens,
    Temperature,
    Threads,
    app,
    load_band,
    out,
)
from counterpoint.types import CounterpointError, Dimension, Profile, Prompt, RewardFn

if TYPE_CHECKING:
    from counterpoint.decode.band import Band
    from counterpoint.profiles.elicit import Belief
    from counterpoint.profiles.sentence import Reading
    from counterpoint.profiles.tuning import Features, Pairs, Tuning, Verdict
    from counterpoint.profiles.zone import Zone

PROMPTS = (
    "How do I keep bread fresh?", "What should I see in a new city?", "Why is the sky blue?",
    "How does a bicycle work?", "What is a good way to learn a language?", "Why do we sleep?",
    "How do I say no to an invitation?",
)  # fmt: skip
"""Asked in turn where a person brings no prompts of their own."""
KEYS = {"1": 1.0, "2": 0.0, "=": 0.5}
REWARDS = "rewards"
PAIRS = "Which two are shown: information, those that tell most; thompson, two draws of what may be wanted."
ZONES = 'Rewards that are enough, in the scorers\' units: "concise=0:1", adequate:desired; more adds nothing.'
BAR, REACH = 20, 2.0
"""Width of a bar, and the weight that fills it."""
Row = dict[str, Any]
"""A choice as it is kept: prompt, both profiles, features `a` and `b`, and the share of the first."""
say_console = Console(stderr=True, highlight=False)
say = say_console.print


@dataclass(frozen=True)
class Session:
    """What is shown, and how it is scored."""

    band: "Band"
    tuning: "Tuning"
    scorers: Sequence[RewardFn]
    method: str
    strength: float
    pairs: "Pairs"
    sampling: Any


@app.command("tune-in")
def tune_in(
    band: BandFolder,
    prompt: Annotated[list[str] | None, typer.Option(help="What to answer; once for each.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts (.txt, .jsonl).")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="As in score; unless given, the band's rewards.")] = None,
    sentence: Annotated[
        str | None, typer.Option(help='Start from what a person says: "I am a nurse, keep it short".')
    ] = None,
    zone: Annotated[str, typer.Option(help=ZONES)] = "",
    choices: Annotated[int, typer.Option(help="Stop after so many choices, if not sure before.")] = 25,
    pairs: Annotated[Literal["information", "thompson"], typer.Option(help=PAIRS)] = "information",
    method: Annotated[str, typer.Option(help="How the experts are combined.")] = "soup",
    to: Annotated[Path | None, typer.Option("--out", help="Keep every choice here (.json), and go on from it.")] = None,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 256,
    seed: AnswerSeed = 0,
    threads: Threads = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Show two answers at a time, blind; learn a profile from which of them is preferred (keys 1, 2, =, q)."""
    from counterpoint.decode.sampling import Sampling

    if choices < 0:
        raise CounterpointError(f"--choices {choices}: expected 0 or more")
    if sentence is not None and not sentence.strip():
        raise CounterpointError("--sentence: says nothing; say what the person wants, or leave it out")
    rows = read_rows(to)
    loaded = load_band(band, threads, device, dtype)
    scorers = load_scorers(band, reward or [], device)
    tuning, reading = start(loaded, scorers, sentence, zone)
    check_same(rows, tuning, to)
    keep(to, tuning, rows)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    session = Session(loaded, tuning, scorers, method, loaded.file.strengths.get(method, 1.0), pairs, sampling)
    if reading is not None:
        print_reading(reading)
    asked = prompts_of(prompt or [], prompts)
    while len(rows) < choices and not (rows and verdict_of(tuning, rows).settled):
        row = ask(session, rows, asked[len(rows) % len(asked)])
        if row is None:
            break
        rows.append(row)
        keep(to, tuning, rows)
        print_verdict(verdict_of(tuning, rows), say)
    finish(verdict_of(tuning, rows), rows, session, reading, as_json)


def load_scorers(folder: Path, reward: Sequence[str], device: str) -> list[RewardFn]:
    """The rewards that are named, else those of the band's folder, else none."""
    from counterpoint.rewards.load import load_rewards, parse_reward

    if reward:
        return [part for text in reward for part in parse_reward(text, device)]
    return load_rewards(folder / REWARDS, device) if (folder / REWARDS).is_dir() else []


def start(
    band: "Band", scorers: Sequence[RewardFn], sentence: str | None, zone: str
) -> "tuple[Tuning, Reading | None]":
    """The session of a band: over the dimensions that are scored and served, from a sentence if there is one."""
    from counterpoint.profiles.tuning import tuning_of

    scored = [name for part in scorers for name in part.dimensions]
    served = [expert.dimension for expert in band.experts]
    names = [name for name in band.dimensions if name in served and (not scorers or name in scored)]
    dimensions = [band.file.dimension(name) for name in names]
    features: Features = "rewards" if scorers else "profiles"
    if not scorers:
        say("no rewards score the answers: what is learned is which profiles are preferred (--reward names some)")
    zones = zones_of(zone, names if scorers else [])
    if sentence is None:
        return tuning_of(dimensions, features, zones=zones), None
    reading, prior = read(sentence, dimensions)
    return tuning_of(dimensions, features, prior, zones), reading


def zones_of(text: str, scored: Sequence[str]) -> "dict[str, Zone]":
    from counterpoint.profiles.zone import parse_zones

    if text.strip() and not scored:
        raise CounterpointError("--zone: zones are in the units of rewards; name some with --reward")
    return parse_zones(text, scored)


def read(sentence: str, dimensions: Sequence[Dimension]) -> "tuple[Reading, Belief]":
    """What a sentence says, and where it lets the session start."""
    from counterpoint.profiles.sentence import as_prior, embedder, read_sentence

    with say_console.status("loading the embedding model"):
        embed = embedder()
    reading = read_sentence(sentence, dimensions, embed)
    return reading, as_prior(reading, dimensions)


def prompts_of(given: Sequence[str], file: Path | None) -> list[str]:
    """What is asked: the options' prompts and the file's, else the built-in ones."""
    from counterpoint.data.prompts import read_prompts

    from_file = [] if file is None else [as_text(prompt) for prompt in read_prompts([file]).prompts]
    return [*given, *from_file] or list(PROMPTS)


def as_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) > 1:
        raise CounterpointError("tune-in asks single questions, and found a prompt of several messages")
    return prompt[0].content


def ask(session: Session, rows: Sequence[Row], prompt: str) -> Row | None:
    """Two answers, which profile made which unsaid, and what the person says of them; None where they stop."""
    import numpy as np

    from counterpoint.profiles import format_profile

    generator = np.random.default_rng([session.sampling.seed, len(rows)])
    pair = session.tuning.pair(belief_of(session.tuning, rows), generator, session.pairs)
    profiles = [replace(pair[side], strength=session.strength) for side in generator.permutation(2)]
    texts = answers(session, prompt, profiles, len(rows))
    say(f"\n[bold]{len(rows) + 1}. {escape(prompt)}[/bold]")
    for key, text in zip("12", texts, strict=True):
        say(f"[bold]{key}[/bold]  ", end="")
        say(text, markup=False, soft_wrap=True)
    share = answer_of_person()
    if share is None:
        return None
    a, b = features(session, prompt, texts, profiles)
    return {"prompt": prompt, "profiles": [format_profile(p) for p in profiles], "a": a, "b": b, "share": share}


def answers(session: Session, prompt: str, profiles: Sequence[Profile], number: int) -> list[str]:
    """Each profile's answer, of noise of its own."""
    band = session.band
    sampling = replace(session.sampling, seed=session.sampling.seed + 2 * number)
    with say_console.status("answering"):
        prompts = [band.prompt(prompt)] * len(profiles)
        return [said.text for said in band.respond(prompts, list(profiles), session.method, sampling)]


def features(
    session: Session, prompt: str, texts: Sequence[str], profiles: Sequence[Profile]
) -> list[dict[str, float]]:
    """What is known of each answer: its scores, or where its profile points."""
    from counterpoint.profiles.tuning import direction
    from counterpoint.rewards.rules import Rewards

    names = session.tuning.dimensions
    if not session.scorers:
        return [direction(profile, names) for profile in profiles]
    rewards = Rewards(session.scorers)
    scores_ND = rewards([session.band.prompt(prompt)] * len(texts), texts)
    return [
        {name: float(score) for name, score in zip(rewards.dimensions, scores_D, strict=True) if name in names}
        for scores_D in scores_ND
    ]


def answer_of_person() -> float | None:
    """Which answer is preferred: the share of the first, or None for the end."""
    while True:
        if sys.stdin.isatty():
            say("1, 2, = (as good), q (stop)> ", end="")  # input() would write it to where --json goes
        try:
            key = input().strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if key == "q":
            return None
        if key in KEYS:
            return KEYS[key]
        say(f"{key!r} is none of 1, 2, = and q", markup=False)


def belief_of(tuning: "Tuning", rows: Sequence[Row]) -> "Belief":
    from counterpoint.profiles.tuning import Choice

    return tuning.believe([Choice(row["a"], row["b"], row["share"]) for row in rows])


def verdict_of(tuning: "Tuning", rows: Sequence[Row]) -> "Verdict":
    return tuning.verdict(belief_of(tuning, rows))


def read_rows(to: Path | None) -> list[Row]:
    """The choices of a former session, none where there is no such file. CounterpointError names what is wrong."""
    from counterpoint.artifacts import check_place, read_json

    if to is None:
        return []
    if to.suffix != ".json":
        raise CounterpointError(f"--out {to}: expected a file name that ends with .json")
    check_place(to)
    if not to.exists():
        return []
    found = read_json(to)
    rows = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(is_row(row) for row in rows):
        raise CounterpointError(f"--out {to}: holds something else than choices of tune-in; name another file")
    return rows


def is_row(row: object) -> bool:
    if not isinstance(row, dict) or row.get("share") not in KEYS.values():
        return False
    sides = [row.get("a"), row.get("b")]
    return all(isinstance(side, dict) and all(isinstance(v, float | int) for v in side.values()) for side in sides)


def check_same(rows: Sequence[Row], tuning: "Tuning", to: Path | None) -> None:
    """Refuse to go on with choices of other dimensions, or whose answers were scored otherwise."""
    from counterpoint.artifacts import read_json

    if not rows or to is None:
        return
    before, now = read_json(to), head(tuning)
    for name, value in now.items():
        if before.get(name) != value:
            raise CounterpointError(
                f"--out {to}: its choices are of {name} {before.get(name)!r}, this session's of {value!r}; name "
                "another file, or use the band and rewards of before"
            )


def head(tuning: "Tuning") -> dict[str, Any]:
    return {"dimensions": list(tuning.dimensions), "features": tuning.features}


def keep(to: Path | None, tuning: "Tuning", rows: Sequence[Row]) -> None:
    """Write every choice, so that a killed session goes on where it was."""
    from counterpoint.artifacts import write_json

    if to is not None:
        write_json(to, {**head(tuning), "choices": list(rows)})


def finish(verdict: "Verdict", rows: Sequence[Row], session: Session, reading: "Reading | None", as_json: bool) -> None:
    """The profile, as `--profile` takes it, with the strength that its answers had."""
    from counterpoint.profiles import format_profile

    learned = verdict.profile
    text = format_profile(replace(learned, strength=session.strength)) if learned else None
    if as_json:
        said = {**asdict(verdict), "profile": text, "method": session.method, **head(session.tuning)}
        weights = {name: asdict(weight) for name, weight in verdict.dimensions.items()}
        read = asdict(reading) if reading else None
        print(json.dumps({**said, "weights": weights, "sentence": read, "rows": list(rows)}, ensure_ascii=False))
        return
    print_verdict(verdict, out.print)
    out.print(text or "nothing speaks for any of these dimensions yet", markup=False, soft_wrap=True)


def print_reading(reading: "Reading") -> None:
    """What a sentence was taken for."""
    for name, heard in reading.dimensions.items():
        if heard.weight:
            say(f"heard: {name} ({heard.confidence:.0%} sure)", markup=False)
    for clause in reading.not_understood:
        say(f"not understood: {clause}", markup=False)
    for clause in reading.uncertain:
        say(f"not sure what this wants instead: {clause}", markup=False)
    if reading.profile is None:
        say("the sentence says nothing of these dimensions; choices will")


def print_verdict(verdict: "Verdict", show: Callable[..., None]) -> None:
    """A bar for each weight, with its interval."""
    table = Table("dimension", "weight", "90 %", "", box=None)
    for name, weight in verdict.dimensions.items():
        interval = f"{weight.low:.2f} to {weight.high:.2f}"
        table.add_row(escape(name), f"{weight.weight:.2f}", interval, bar(weight.weight))
    show(table)
    ending = "; settled" if verdict.settled else ""
    show(f"{verdict.choices} choices, {verdict.sure:.0%} sure that no other profile suits much better{ending}")


def bar(weight: float) -> str:
    """A weight on a line from `-REACH` to `REACH`."""
    filled = round(BAR / 2 * max(-1.0, min(1.0, weight / REACH)))
    left, right = "#" * -min(filled, 0), "#" * max(filled, 0)
    return f"{left:>{BAR // 2}}|{right:<{BAR // 2}}"
