"""`counterpoint chat`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from counterpoint.cli.app import AsJson, BandFolder, Device, Dtype, Threads, app, load_band, out

if TYPE_CHECKING:
    from counterpoint.decode.band import Band
    from counterpoint.profiles import Bounds
    from counterpoint.types import Profile


@app.command()
def chat(
    band: BandFolder,
    prompt: Annotated[str | None, typer.Argument(help="What to answer; else each line of input.")] = None,
    profile: Annotated[str, typer.Option(help='Who asks, such as "concise=1, friendly=0.5, strength=1.5".')] = "",
    method: Annotated[str, typer.Option(help="How the experts are combined.")] = "soup",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens of this total probability.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 0,
    threads: Threads = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Answer as the person of a profile would like it."""
    from counterpoint.decode.sampling import Sampling
    from counterpoint.profiles import parse_profile

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    loaded = load_band(band, threads, device, dtype)
    wanted = parse_profile(profile, loaded.dimensions) if profile else None
    loaded.plan(wanted, method)  # a mistake ends here
    if not as_json:
        say_bounds(wanted, method, loaded.bounds)
    if prompt is not None:
        out.print(reply(loaded, prompt, profile, method, sampling, as_json), markup=False, soft_wrap=True)
        return
    if sys.stdin.isatty():
        out.print(f"[dim]dimensions: {', '.join(loaded.dimensions)}; each line is a question, an empty one ends[/dim]")
    for line in questions():
        out.print(reply(loaded, line, profile, method, sampling, as_json), markup=False, soft_wrap=True)


def questions() -> Any:
    """Lines that a person types, or that are piped in, a person up to the first empty one."""
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
    from counterpoint.profiles import parse_profile
    from counterpoint.profiles.bounds import acting

    wanted = parse_profile(profile, band.dimensions) if profile else None
    given = None if method == "base" else band.in_force(wanted)
    held = {} if method == "base" else acting(wanted, band.bounds)
    return json.dumps(
        {
            "prompt": prompt,
            "response": text,
            "method": method if given else "base",
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
