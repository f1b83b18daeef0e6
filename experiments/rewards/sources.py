"""Real pairs on seven dimensions from five public collections, each with the source by which it must be split.

`opening` is the control of `concise`: the first words of the same two answers, so that their length tells nothing.
`informative` and `expert` are `concise` and `simple` with the two sides exchanged, and so have the same figures.
"""

import difflib
import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.types import Comparison

OPENING = 30
"""Words of an answer that `opening` shows; the whole answer has at least as many again."""
SAME = 0.9
"""Sentences of which so much agrees are too alike to be told apart by how simple they are."""


@dataclass(frozen=True)
class Row:
    """A pair, and what it was made from: pairs of one source never stand on both sides of a split."""

    comparison: Comparison
    source: str


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def plain(text: str) -> str:
    """Lower-case words alone, so that copies of a text that differ in marks or spaces are the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def helpful(data: Path) -> Iterator[Row]:
    return conversations(data / "hh_rlhf" / "helpful_base_test.jsonl.gz", "helpful")


def harmless(data: Path) -> Iterator[Row]:
    return conversations(data / "hh_rlhf" / "harmless_base_test.jsonl.gz", "harmless")


def conversations(path: Path, dimension: str) -> Iterator[Row]:
    """The prompt is the last question alone, for the sake of small models; the source is the first one.

    One conversation can be in the file several times, cut at different turns.
    """
    for line in read_lines(path):
        turns = line["prompt"].removesuffix("\n\nAssistant:").split("Human:")
        first = turns[1].split("\n\nAssistant:")[0]
        prompt = f"Human:{turns[-1].rstrip()}\n\nAssistant:"
        yield Row(Comparison(prompt, line["chosen"], line["rejected"], dimension), plain(first))


def concise(data: Path) -> Iterator[Row]:
    for prompt, short, long in answers(data):
        yield Row(Comparison(prompt, short, long, "concise"), plain(prompt))


def opening(data: Path) -> Iterator[Row]:
    for prompt, *texts in answers(data):
        words = [text.split() for text in texts]
        if min(map(len, words)) >= 2 * OPENING:
            chosen, rejected = (" ".join(w[:OPENING]) for w in words)
            yield Row(Comparison(prompt, chosen, rejected, "opening"), plain(prompt))


def answers(data: Path) -> Iterator[tuple[str, str, str]]:
    """A question with a model's concise and its verbose answer.

    129 of the questions are those of the helpful conversations, which is why `plain` of the question is the source.
    """
    folder = data / "alpaca_eval"
    prompts = {line["id"]: line["instruction"] for line in read_lines(folder / "prompts.jsonl.gz")}
    for line in read_lines(folder / "style_concise_normal_verbose.jsonl.gz"):
        if line["concise"] and line["verbose"]:
            yield prompts[line["id"]], line["concise"], line["verbose"]


def simple(data: Path) -> Iterator[Row]:
    """An elementary over an advanced sentence; the source is the news text in which the advanced one stands.

    The alignments do not name their text. A sentence that stands in none is left out, and so are near copies.
    """
    texts = {
        line["id"]: plain(line["adv"]) for line in read_lines(data / "onestop_english" / "texts_3_levels.jsonl.gz")
    }
    for line in read_lines(data / "onestop_english" / "sentence_aligned.jsonl.gz"):
        if line["pair"] == "ADV-ELE":
            easy, hard = plain(line["ele"]), plain(line["adv"])
            source = next((name for name, text in texts.items() if hard and hard in text), None)
            alike = difflib.SequenceMatcher(None, easy.split(), hard.split(), autojunk=False).ratio()
            if source is not None and alike < SAME:
                yield Row(Comparison("", line["ele"], line["adv"], "simple"), source)


def polite(data: Path) -> Iterator[Row]:
    """A neutral paraphrase over the toxic sentence that it was made from; a sentence can have several."""
    return rewrites(data / "paradetox" / "paradetox.jsonl.gz", "polite")


def positive(data: Path) -> Iterator[Row]:
    """A positive reframing over the message that it was made from."""
    for name in ("train", "dev", "test"):
        yield from rewrites(data / "positive_frames" / f"{name}.jsonl.gz", "positive")


def rewrites(path: Path, dimension: str) -> Iterator[Row]:
    for line in read_lines(path):
        yield Row(Comparison("", line["friendly"], line["unfriendly"], dimension), plain(line["unfriendly"]))


SOURCES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "helpful": helpful,
    "harmless": harmless,
    "concise": concise,
    "opening": opening,
    "simple": simple,
    "polite": polite,
    "positive": positive,
}
