"""Whose token it was: a response of a mixture, token by token, as numbers and as one self-contained HTML page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from counterpoint.artifacts import check_place, write_text
from counterpoint.compose.plan import Space
from counterpoint.types import CounterpointError, Trace

GENERATOR = '<meta name="generator" content="counterpoint trace">'
"""What a page is known by, so that nothing else is written over."""

SERIES = 7
"""Colours that can be told apart, also by the colour-blind; an eighth expert has the first one's again."""

HIDDEN = "\ufffd"
"""What a tokenizer gives for bytes that are no whole character yet."""


@dataclass(frozen=True)
class TracedToken:
    """One token, and by expert: the coefficient, the credit, the share in [0, 1] that colours it, and p_k(token).

    `text` is what it added to the response, nothing for the end of text or for a part of a character; `name` is its
    entry in the vocabulary. `force` is how much there was to share: 1, or in log space the sum of the positive pulls,
    1 nat at most.
    """

    text: str
    name: str
    weight_K: tuple[float, ...]
    credit_K: tuple[float, ...]
    share_K: tuple[float, ...]
    force: float
    p_K: tuple[float, ...]
    p: float
    lost: float

    @property
    def shown(self) -> str:
        """Its text with line ends that can be seen."""
        return self.text.replace("\n", "↵\n")

    @property
    def lead(self) -> int:
        """The expert of the largest share; of equals, the first."""
        return max(range(len(self.share_K)), key=self.share_K.__getitem__)

    @property
    def lead_by(self) -> float:
        """How far its share is above an even one, times the force: from 0 to 1, and 0 for one expert alone."""
        even = 1 / len(self.share_K)
        return self.force * max(0.0, (self.share_K[self.lead] - even) / (1 - even)) if even < 1 else 0.0


@dataclass(frozen=True)
class Traced:
    """A response to `prompt`, and how a mixture of `experts` in probability or log space came to say it.

    `settings` say by which method, for whom and how it was drawn.
    """

    prompt: str
    settings: str
    space: Space
    experts: tuple[str, ...]
    tokens: tuple[TracedToken, ...]

    @property
    def mean_share_K(self) -> tuple[float, ...]:
        columns = zip(*(token.share_K for token in self.tokens), strict=True)
        return tuple(sum(column) / len(self.tokens) for column in columns)

    @property
    def mean_weight_K(self) -> tuple[float, ...]:
        columns = zip(*(token.weight_K for token in self.tokens), strict=True)
        return tuple(sum(column) / len(self.tokens) for column in columns)


def traced_tokens(
    trace: Trace, space: Space, decode: Callable[[Sequence[int]], str], name: Callable[[int], str]
) -> tuple[TracedToken, ...]:
    """A trace with the text of its tokens; `decode` leaves special tokens out, `name` gives a token's own name."""
    texts = pieces(trace.tokens, decode)
    return tuple(
        TracedToken(
            text=text,
            name=name(token),
            weight_K=tuple(c_K.tolist()),
            credit_K=tuple(credit_K.tolist()),
            share_K=shares(credit_K.tolist(), space),
            force=1.0 if space == "prob" else min(1.0, float(credit_K.clamp(min=0).sum())),
            p_K=tuple(logp_K.exp().tolist()),
            p=float(logp.exp()),
            lost=float(lost),
        )
        for text, token, c_K, credit_K, logp_K, logp, lost in zip(
            texts, trace.tokens, trace.c_TK, trace.credit_TK, trace.logp_TK, trace.logp_T, trace.lost_T, strict=True
        )
    )


def pieces(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """What each token adds to the text; a character of several tokens comes with its last one."""
    done = ""
    for end in range(1, len(tokens) + 1):
        text = decode(tokens[:end])
        if text.endswith(HIDDEN) and end < len(tokens):
            yield ""
        else:
            yield text[len(done) :]
            done = text


def shares(credit_K: Sequence[float], space: Space) -> tuple[float, ...]:
    """Responsibilities as they are; of pulls in log space the positive parts, normalised (all 0 where none is)."""
    if space == "prob":
        return tuple(credit_K)
    positive_K = [max(credit, 0.0) for credit in credit_K]
    total = sum(positive_K)
    return tuple(credit / total if total else 0.0 for credit in positive_K)


def numbers(traced: Traced) -> dict[str, Any]:
    """The page as plain JSON; a responsibility is a share of one, or in log space a pull in nats."""
    return {
        "experts": list(traced.experts),
        "space": traced.space,
        "responsibility": "share" if traced.space == "prob" else "nats",
        "mean_share": dict(zip(traced.experts, traced.mean_share_K, strict=True)),
        "tokens": [
            {
                "text": token.text,
                "name": token.name,
                "weights": dict(zip(traced.experts, token.weight_K, strict=True)),
                "responsibilities": dict(zip(traced.experts, token.credit_K, strict=True)),
                "probabilities": dict(zip(traced.experts, token.p_K, strict=True)),
                "probability": token.p,
                "lost": token.lost,
            }
            for token in traced.tokens
        ],
    }


def check_page(path: Path) -> None:
    """Refuse a place where no page can be written, or where there is something that is no trace."""
    if path.suffix != ".html":
        raise CounterpointError(f"--out {path}: expected a file name that ends with .html")
    if path.is_dir():
        raise CounterpointError(f"--out {path}: is a folder, expected the name of a file")
    if path.exists() and GENERATOR.encode() not in path.read_bytes():
        raise CounterpointError(f"--out {path}: is not a page that `trace` wrote, and would be lost; name another file")
    check_place(path)


def write_page(path: Path, traced: Traced) -> None:
    """Write the page: one file, nothing fetched, readable on a phone, light and dark, with a keyboard or without."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("trace.html").render(
        generator=GENERATOR, traced=traced, series=SERIES, charts=charts(traced)
    )
    write_text(path, page + "\n")


@dataclass(frozen=True)
class Chart:
    """A strip of bars for each expert: SVG paths, where zero is, and what a bar of full height stands for."""

    title: str
    paths: tuple[str, ...]
    zero: float
    full: float


def charts(traced: Traced) -> list[Chart]:
    """Weights and credits by token; in probability space on one scale, since both are shares of one."""
    weight_KT = list(zip(*(token.weight_K for token in traced.tokens), strict=True))
    credit_KT = list(zip(*(token.credit_K for token in traced.tokens), strict=True))
    if traced.space == "prob":
        full = largest([*weight_KT, *credit_KT])
        return [chart("Weights", weight_KT, full), chart("Responsibilities", credit_KT, full)]
    return [
        chart("Weights", weight_KT, largest(weight_KT)),
        chart("Pulls, in nats", credit_KT, largest(credit_KT)),
    ]


def largest(value_KT: Sequence[Sequence[float]]) -> float:
    """The largest absolute value, or 1 where all are 0."""
    return max(abs(value) for value_T in value_KT for value in value_T) or 1.0


def chart(title: str, value_KT: Sequence[Sequence[float]], full: float) -> Chart:
    """A bar for each token, in boxes of `T` by 1 whose y grows downwards.

    Bars rise from the bottom, or, where any value is negative, rise and fall from the middle.
    """
    zero = 0.5 if any(value < 0 for value_T in value_KT for value in value_T) else 1.0
    paths = (bars([zero * value / full for value in value_T], zero) for value_T in value_KT)
    return Chart(title, tuple(paths), zero, full)


def bars(height_T: Sequence[float], zero: float) -> str:
    """The path of bars that stand on `zero`, or hang from it."""
    return "".join(f"M{t} {zero:g}V{zero - height:.3f}H{t + 0.9:g}V{zero:g}Z" for t, height in enumerate(height_T))
