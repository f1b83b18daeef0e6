"""`counterpoint trace`: which expert said which token."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

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
from counterpoint.cli.chat import say_bounds
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from counterpoint.compose.plan import Plan
    from counterpoint.decode.band import Band
    from counterpoint.decode.sampling import Sampling
    from counterpoint.evaluate.gate_trace import GroupShares
    from counterpoint.evaluate.trace_page import Traced, TracedToken

MIXTURES = ("mixture-prob", "mixture-log", "mope")
"""The methods that mix distributions; every other is one row, which says every token alone."""

PAGE = Path("trace.html")

COLOURS = (
    (61, 143, 214), (255, 127, 63), (43, 199, 154), (229, 155, 198), (240, 228, 66), (166, 220, 255), (139, 148, 158)
)  # fmt: skip
"""Backgrounds for black text, on a dark terminal as on a light one; those of the page's dark theme."""

FAINT = 0.05
"""A lead below this gets no colour."""


@app.command()
def trace(
    band: BandFolder,
    prompt: Annotated[str, typer.Argument(help="What to answer.")],
    profile: Annotated[str, typer.Option(help='Who asks, such as "concise=1, friendly=0.5".')],
    method: Annotated[
        str | None, typer.Option(help="mixture-prob, mixture-log or mope; mope where the band has a controller.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="The page; trace.html, or with --json none.")] = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    max_tokens: MaxTokens = 256,
    seed: AnswerSeed = 0,
    threads: Threads = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Answer with a mixture or a gate, and show which expert said which token; a gate's is a table, not a page."""
    from counterpoint.decode.sampling import Sampling
    from counterpoint.evaluate.trace_page import check_page, numbers, write_page
    from counterpoint.profiles import format_profile, parse_profile

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    if is_gate(method):
        return trace_gate(load_band(band, threads, device, dtype), prompt, profile, str(method), sampling, to, as_json)
    page = to or (None if as_json else PAGE)
    if page:
        check_page(page)
    if method is not None:
        check_mixture(method)
    loaded = load_band(band, threads, device, dtype)
    method = method or ("mixture-prob" if loaded.controller is None else "mope")
    wanted = parse_profile(profile, loaded.dimensions)
    plan = loaded.plan(wanted, method)
    if not as_json:
        say_bounds(wanted, method, loaded.bounds)
    given = loaded.in_force(wanted)
    in_force = format_profile(given) if given else "of the base"
    settings = f"{method}; profile {in_force}; temperature {temperature:g}, top_p {top_p:g}, seed {seed}"
    traced, response = respond(loaded, prompt, plan, sampling, settings)
    if page:
        write_page(page, traced)
    if as_json:
        about = {"prompt": prompt, "response": response, "method": method, "profile": in_force}
        print(json.dumps({**about, **numbers(traced)}, ensure_ascii=False))
        return
    show(traced)
    out.print(f"the whole trace: {page}", markup=False, soft_wrap=True)


def check_mixture(method: str) -> None:
    """Refuse a method that has one row, before anything is loaded; an unknown one is for the band to refuse."""
    from counterpoint.compose.weighers.gate import KINDS
    from counterpoint.decode.band import METHODS

    if method in METHODS and method not in MIXTURES:
        raise CounterpointError(
            f"--method {method} answers with one distribution, which says every token alone; those that mix several "
            f"can be traced: {', '.join(MIXTURES)}, and gates, which share every token: {', '.join(KINDS)}"
        )


def is_gate(method: str | None) -> bool:
    """Whether a method shares each token inside the model."""
    from counterpoint.compose.weighers.gate import KINDS

    return method in KINDS


def trace_gate(
    band: "Band", prompt: str, profile: str, method: str, sampling: "Sampling", page: Path | None, as_json: bool
) -> None:
    """Answer by a gate, and show what each group of its experts had of every token."""
    from counterpoint.evaluate.gate_trace import group_shares
    from counterpoint.evaluate.trace_page import pieces
    from counterpoint.profiles import format_profile, parse_profile

    if page is not None:
        raise CounterpointError(
            f"--out {page}: pages are of mixtures ({', '.join(MIXTURES)}); pass --json for {method}"
        )
    wanted = parse_profile(profile, band.dimensions)
    (row,) = band.plan(wanted, method).rows
    if not row.gate:
        raise CounterpointError(f"the band's bounds leave nothing of the profile {profile!r}: the base answers alone")
    request = band.request(band.prompt(prompt), band.plan(wanted, method), sampling)
    (said,) = band.run([request])
    found = group_shares(band.bank, row.gate, request.contexts[0], said.tokens)
    texts = list(pieces(said.tokens, lambda ids: band.tokenizer.decode(list(ids), skip_special_tokens=True)))
    if as_json:
        tokens = [
            {"text": text, "shares": dict(zip(found.groups, share_G, strict=True)), "none": left(share_G)}
            for text, share_G in zip(texts, found.share_TG, strict=True)
        ]
        about = {"prompt": prompt, "response": said.text, "method": method, "profile": format_profile(wanted)}
        print(json.dumps({**about, "groups": list(found.groups), "tokens": tokens}, ensure_ascii=False))
        return
    out.print(gate_table(texts, found))
    out.print("shares of the experts, as the mean over layers", style="dim")


def left(share_G: Sequence[float]) -> float:
    """What of a token goes to nobody."""
    return max(0.0, 1 - sum(share_G))


def gate_table(texts: Sequence[str], found: "GroupShares") -> Table:
    """A row per token: what each group of experts had of it, and what went to nobody."""
    shown = Table("token", *found.groups, "none", box=None)
    for text, share_G in zip(texts, found.share_TG, strict=True):
        cells = (f"{share:.0%}" for share in (*share_G, left(share_G)))
        shown.add_row(Text(json.dumps(text, ensure_ascii=False)), *cells)
    return shown


def respond(band: "Band", prompt: str, plan: "Plan", sampling: "Sampling", settings: str) -> "tuple[Traced, str]":
    """One response, traced and as text."""
    from counterpoint.compose.presets import BASE
    from counterpoint.evaluate.trace_page import Traced, traced_tokens

    (completion,) = band.run([band.request(band.prompt(prompt), plan, sampling, "token")])
    assert completion.trace is not None
    tokens = traced_tokens(
        completion.trace,
        plan.space,
        lambda ids: band.tokenizer.decode(list(ids), skip_special_tokens=True),
        band.tokenizer.convert_ids_to_tokens,
    )
    experts = tuple(next(iter(row.gate), BASE) for row in plan.rows)
    return Traced(prompt, settings, plan.space, experts, tokens), completion.text


def show(traced: "Traced") -> None:
    """The response in colours, or a table where there are none."""
    colourful = out.is_terminal and out.color_system is not None and not out.no_color
    if colourful:
        out.print(coloured(traced.tokens))
        out.print()
    out.print(legend(traced, colourful))
    if not colourful:
        out.print(table(traced))


def coloured(tokens: "Sequence[TracedToken]") -> Text:
    """The response; a token's background is the colour of the expert that leads, the stronger the more it leads."""
    text = Text()
    for token in tokens:
        style = f"#000000 on {background(token.lead, token.lead_by)}" if token.lead_by > FAINT else ""
        text.append(token.shown if token.text else f"[{token.name}]", style)
    return text


def background(expert: int, strength: float) -> str:
    """An expert's colour, the whiter the weaker: at strength 0 a third of it is left."""
    part = (1 + 2 * strength) / 3
    mixed = (round(part * channel + (1 - part) * 255) for channel in COLOURS[expert % len(COLOURS)])
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def legend(traced: "Traced", colourful: bool) -> Text:
    """Each expert with its mean share of a token."""
    text = Text()
    for k, (name, share) in enumerate(zip(traced.experts, traced.mean_share_K, strict=True)):
        if colourful:
            text.append("  ", f"on {background(k, 1.0)}")
            text.append(" ")
        text.append(f"{name} {share:.0%}   ")
    return text


def table(traced: "Traced") -> Table:
    """A row per token: its probability, and of each expert its weight and its responsibility or pull."""
    unit = "share" if traced.space == "prob" else "pull"
    shown = Table("token", "p", *(f"{name}: weight, {unit}" for name in traced.experts), box=None)
    for token in traced.tokens:
        credits = (f"{c:.0%}" if traced.space == "prob" else f"{c:+.2f}" for c in token.credit_K)
        cells = (f"{weight:.2f} {credit:>5}" for weight, credit in zip(token.weight_K, credits, strict=True))
        shown.add_row(Text(json.dumps(token.text or token.name, ensure_ascii=False)), f"{token.p:.1%}", *cells)
    return shown
