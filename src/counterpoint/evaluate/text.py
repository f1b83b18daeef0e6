"""What answers look like, whoever judges them: length, variety, emptiness."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def words(text: str) -> list[str]:
    """Lower-case words; an inner apostrophe or hyphen joins, so "don't" and "well-known" are one word each."""
    return WORD.findall(text.lower())


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Share of different n-grams among all n-grams of a set of texts; `None` if no text is n words long.

        distinct_n = |set of n-grams| / number of n-grams          (Li et al., 2016, arXiv 1510.03055)

    It falls as more text is pooled: compare only sets of about the same number of words. No n-gram crosses texts.
    """
    if n < 1:
        raise ValueError(f"an n-gram has at least 1 word, got n = {n}")
    grams = [tuple(tokens[i : i + n]) for tokens in map(words, texts) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def share_empty(texts: Sequence[str]) -> float | None:
    """Share of texts that hold only white space; `None` for no texts."""
    return sum(not text.strip() for text in texts) / len(texts) if texts else None


@dataclass(frozen=True)
class TextStats:
    """One method's answers: mean words, distinct 1- and 2-grams, share of empty answers."""

    words: float | None
    distinct_1: float | None
    distinct_2: float | None
    empty: float | None


def text_stats(texts: Sequence[str]) -> TextStats:
    """All of this module for one set of texts."""
    lengths = [len(words(text)) for text in texts]
    mean = float(np.mean(lengths)) if lengths else None
    return TextStats(mean, distinct_n(texts, 1), distinct_n(texts, 2), share_empty(texts))
