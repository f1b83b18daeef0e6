"""`counterpoint chat`."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from counterpoint.cli.app import (
    AnswerSeed,
    AsJson,
    BandFolder,
    Device,
    Dtype,
    MaxTokens,
    Temperature,
    Threads,
    TopP,
    app,
    load_band,
    out,
)
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from counterpoint.decode.band import Band
    from counterpoint.profiles import Bounds
    from counterpoint.types import Profile

METHOD = "soup"


@app.command()
def chat(
    band: BandFolder,
    prompt: Annotated[str | None, typer.Argument(help="What to answer; else each line of input.")] = None,
    profile: Annotated[str, typer.Option(help='Who asks, such as "concise=1, friendly=0.5, strength=1.5".')] = "",
    method: Annotated[str | None, typer.Option(help=f"How the experts are combined; {METHOD} unless given.")] = None,
    mix: Annotated[
        str | None, typer.Option(help='Instead: a log mixture of experts, such as "base=1, expert=1.5, another=-0.5".')
    ] = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    max_tokens: MaxTokens = 256,
    seed: AnswerSeed = 0,
    threads: Threads = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Answer as the person of a profile would like it."""
    from counterpoint.decode.sampling import Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    if mix is not None and (profile or method is not None):
        raise CounterpointError("--mix says all by itself how experts are combined: leave out --profile and --method")
    loaded = load_band(band, threads, device, dtype)
    if mix is not None:
        answer = mixer(loaded, mix, sampling, as_json)
    else:
        answer = adviser(loaded, profile, method or METHOD, sampling, as_json)
    for question in [prompt] if prompt is not None else questions(loaded.dimensions):
        out.print(answer(question), markup=False, soft_wrap=True)


def adviser(band: "Band", profile: str, method: str, sampling: Any, as_json: bool) -> Callable[[str], str]:
    """What answers for a profile; a mistake in it ends here."""
    from counterpoint.profiles import parse_profile

    wanted = parse_profile(profile, band.dimensions) if profile else None
    band.plan(wanted, method)
    if not as_json:
        say_bounds(wanted, method, band.bounds)
    return lambda question: reply(band, question, profile, method, sampling, as_json)


def mixer(band: "Band", text: str, sampling: Any, as_json: bool) -> Callable[[str], str]:
    """What answers as a mix of experts does. Raises CounterpointError in a band with bounds, which hold profiles."""
    from counterpoint.compose import presets

    if band.bounds:
        raise CounterpointError(
            "--mix gets round profiles, and this band has bounds on these; use --profile, or ask who set the bounds"
        )
    coefficients = parse_mix(text, [presets.BASE, *(expert.name for expert in band.experts)])
    plan = presets.mix(coefficients)

    def answer(question: str) -> str:
        said = band.run([band.request(band.prompt(question), plan, sampling)])[0].text
        return json.dumps({"prompt": question, "response": said, "mix": coefficients}) if as_json else said

    return answer


def parse_mix(text: str, known: Iterable[str]) -> dict[str, float]:
    """Read `name=number` entries joined by commas, a bare name for 1; any sign, names of experts or `base`."""
    from counterpoint.profiles import unknown_name

    known, coefficients = list(known), {}
    for entry in text.split(","):
        name, equals, number = (piece.strip() for piece in entry.partition("="))
        if name not in known:
            raise CounterpointError(f"--mix {text!r}: {unknown_name('expert', name, known)}")
        if name in coefficients:
            raise CounterpointError(f"--mix {text!r}: {name!r} is given twice; name it once")
        try:
            coefficients[name] = float(number) if equals else 1.0
        except ValueError:
            raise CounterpointError(f"--mix {text!r}: {name!r} is {number!r}; expected a number") from None
    return coefficients


def questions(dimensions: Iterable[str]) -> Any:
    """Lines that a person types, or that are piped in, a person up to the first empty one."""
    if sys.stdin.isatty():
        out.print(f"[dim]dimensions: {', '.join(dimensions)}; each line is a question, an empty one ends[/dim]")
    while True:
        try:
            line = input("you> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line
        elif sys.stdin.isatty():
            return


def reply(band: "Band", prompt: str, profile: str, method: str, sampling: Any, as_json: bool) -> str:
    """One answer as text, or as JSON with what was in force, what was asked, and which bounds made them differ."""
    text = band.chat(prompt, profile or None, method, sampling)
    if not as_json:
        return text
    from counterpoint.compose.weighers.gate import KINDS
    from counterpoint.profiles import parse_profile
    from counterpoint.profiles.bounds import acting

    wanted = parse_profile(profile, band.dimensions) if profile else None
    given = None if method == "base" else band.in_force(wanted)
    held = {} if method == "base" else acting(wanted, band.bounds)
    return json.dumps(
        {
            "prompt": prompt,
            "response": text,
            "method": method if given or (method in KINDS and wanted is None) else "base",
            **(as_dict(given) or {}),
            "asked": as_dict(wanted),
            "bounds": {name: {"asked": asked, "in_force": found} for name, (asked, found) in held.items()},
        }
    )


def as_dict(profile: "Profile | None") -> dict[str, Any] | None:
    return {"weights": dict(profile.weights), "strength": profile.strength} if profile else None


def say_bounds(profile: "Profile | None", method: str, bounds: "Bounds") -> None:
    """Tell a person where bounds changed what they asked for, or where their method knows none."""
    from counterpoint.profiles import format_bounds
    from counterpoint.profiles.bounds import acting

    held = acting(profile, bounds)
    if method == "base" and held:
        line = f"bounds not in force: the method base knows none ({format_bounds(bounds)})"
    else:
        line = "bounds in force: " + ", ".join(
            f"{name} {asked:g} -> {found:g}" for name, (asked, found) in held.items()
        )
    if held:
        Console(stderr=True).print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
