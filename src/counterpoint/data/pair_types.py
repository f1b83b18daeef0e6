"""Which samples are compared on a preference: four kinds of pairs, three of which need no label.

For a preference p, and p' another pole of its axis:

    same               two responses that were asked for p           whichever is labelled the better
    neutral            asked for p > asked for nothing               by construction
    opposite           asked for p > asked for p'                    by construction
    neutral-opposite   asked for nothing > asked for p'              by construction

Personalized Soups (arXiv 2310.11564) labels pairs of the first kind and speaks of positive, neutral and negative
responses; that the others are these three is our reconstruction. A label by construction trusts that the model did as
it was asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from counterpoint.data.samples import Sample
from counterpoint.profiles import unknown_name
from counterpoint.types import CounterpointError, Dimension, Prompt, Question

Kind = Literal["same", "neutral", "opposite", "neutral-opposite"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class TypedPair:
    """Two responses to be compared. Of every kind but `same` the first is the better by construction."""

    kind: Kind
    question: Question

    @property
    def by_construction(self) -> bool:
        return self.kind != "same"

    @property
    def usable(self) -> bool:
        """Whether both responses say something, and not the same."""
        first, second = self.question.first.strip(), self.question.second.strip()
        return bool(first and second and first != second)


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Read kinds joined by commas, each once; in the order of `KINDS`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in KINDS:
            raise CounterpointError(f"pairs {text!r}: {unknown_name('kind of pairs', name, KINDS)}")
    if not names:
        raise CounterpointError(f"pairs {text!r}: expected one or more of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in names)


def pairs_of(
    samples: Sequence[Sample], preference: Dimension, opposites: Sequence[str], kinds: Sequence[Kind]
) -> list[TypedPair]:
    """The pairs of these kinds on a preference, prompt by prompt; what was asked for two preferences is in none.

    A response is in one pair of a kind at most (of one per opposite), so that pairs of a kind are independent: samples
    0 and 1, 2 and 3 of the same request; else sample i with sample i. The question holds the bare prompt.
    """
    found: list[TypedPair] = []
    for prompt, by_request in _by_prompt(samples).items():
        for kind in kinds:
            texts = _texts(by_request, preference.name, opposites, kind)
            found += [TypedPair(kind, Question(prompt, first, second, preference)) for first, second in texts]
    return found


def _by_prompt(samples: Sequence[Sample]) -> dict[Prompt, dict[tuple[str, ...], list[str]]]:
    found: dict[Prompt, dict[tuple[str, ...], list[str]]] = {}
    for sample in samples:
        found.setdefault(sample.prompt, {}).setdefault(sample.asked, []).append(sample.response)
    return found


def _texts(
    by_request: Mapping[tuple[str, ...], Sequence[str]], name: str, opposites: Sequence[str], kind: Kind
) -> list[tuple[str, str]]:
    own, neutral = by_request.get((name,), ()), by_request.get((), ())
    against = [by_request.get((opposite,), ()) for opposite in opposites]
    match kind:
        case "same":
            return list(zip(own[0::2], own[1::2], strict=False))
        case "neutral":
            return list(zip(own, neutral, strict=False))
        case "opposite":
            return [pair for other in against for pair in zip(own, other, strict=False)]
        case "neutral-opposite":
            return [pair for other in against for pair in zip(neutral, other, strict=False)]
