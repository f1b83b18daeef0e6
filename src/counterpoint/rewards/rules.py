"""Rewards that a person can write down: `concise=-length`, `happy=words:happy,glad`, `mine=python:my.py:score`."""

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType

import numpy as np

from counterpoint.data.comparisons import read_comparisons
from counterpoint.profiles import unknown_name
from counterpoint.types import CounterpointError, Prompt, RewardFn

Score = Callable[[Prompt, str], float]


@dataclass(frozen=True)
class Rule:
    """A reward for one dimension: a function of prompt and response, and the text that it was made from."""

    dimension: str
    spec: str
    score: Score

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (self.dimension,)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        pairs = zip(prompts, responses, strict=True)
        return np.array([[self._checked(prompt, response)] for prompt, response in pairs]).reshape(-1, 1)

    def _checked(self, prompt: Prompt, response: str) -> float:
        where = f"{self.dimension}={self.spec}: response {response[:40]!r}"
        try:
            value = self.score(prompt, response)
        except Exception as error:
            raise CounterpointError(f"{where}: the function raised {type(error).__name__}: {error}") from error
        if not isinstance(value, Real) or not math.isfinite(value):
            raise CounterpointError(f"{where}: the function returned {value!r}, expected a finite number")
        return float(value)


class Rewards:
    """Several rewards as one: `scores_ND` with the columns of its parts side by side.

    Raises CounterpointError for no parts, a dimension that two parts score, and scores of another shape or not finite.
    """

    def __init__(self, parts: Sequence[RewardFn]) -> None:
        self.parts = tuple(parts)
        self.dimensions = tuple(name for part in parts for name in part.dimensions)
        twice = sorted({name for name in self.dimensions if self.dimensions.count(name) > 1})
        if twice or not self.dimensions:
            found = f"two for {', '.join(twice)}" if twice else "none"
            raise CounterpointError(f"rewards: expected one per dimension, found {found}")

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return np.hstack([_checked_scores(part, prompts, responses) for part in self.parts])


def _checked_scores(part: RewardFn, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
    scores_ND = np.asarray(part(prompts, responses), dtype=float)
    expected = (len(responses), len(part.dimensions))
    if scores_ND.shape != expected or not np.isfinite(scores_ND).all():
        raise CounterpointError(
            f"reward for {', '.join(part.dimensions)}: expected finite scores of shape {expected}, "
            f"found shape {scores_ND.shape} with {int((~np.isfinite(scores_ND)).sum())} not finite"
        )
    return scores_ND


def parse_rule(text: str) -> tuple[str, RewardFn]:
    """Read `dimension=rule` or `dimension=-rule` (the more of it, the worse) and return the name and its reward.

    `length`: words. `ari`, `coleman-liau`: the grade level of `readability` or `coleman_liau`. `sentiment`: by VADER,
    from -1 to 1. `words:a,b`: how many of 100 words are in the list. `regex:PATTERN`: how many matches.
    `bag-of-words:PATH`: learned from a file of comparisons, or read from the folder of a saved `BagOfWordsReward`.
    `python:module:function` or `python:path.py:function`: any function of (prompt, response) that returns a number.
    Raises CounterpointError that names what is unknown, missing or broken.
    """
    name, equals, spec = (part.strip() for part in text.partition("="))
    if not equals or not name or not spec:
        raise CounterpointError(f"rule {text!r}: expected dimension=rule, such as 'concise=-length'")
    kind, colon, argument = spec.removeprefix("-").partition(":")
    where = f"rule {text!r}"
    if kind not in _RULES:
        raise CounterpointError(f"{where}: {unknown_name('rule', kind, _RULES)}")
    make, example = _RULES[kind]
    if bool(colon) != (":" in example) or bool(argument.strip()) != (":" in example):
        raise CounterpointError(f"{where}: expected {example!r}, found {spec!r}")
    score = make(argument, name, where)
    return name, Rule(name, spec, _negative(score) if spec.startswith("-") else score)


def words(text: str) -> int:
    """Words, parted by white space."""
    return len(text.split())


def readability(text: str) -> float:
    """Automated readability index: the school grade, in the United States, that a text asks for.

        4.71 characters / words + 0.5 words / sentences - 21.43

    Smith and Senter (1967). Characters are letters and digits; a sentence ends with `.`, `!` or `?`, or with the text.
    No words give -21.43, so that an empty response counts as the simplest.
    """
    characters, count, sentences = _sizes(text)
    return 4.71 * characters / max(count, 1) + 0.5 * count / max(sentences, 1) - 21.43


def coleman_liau(text: str) -> float:
    """Coleman-Liau index: another estimate of the same grade, on which sentences weigh less.

        5.88 characters / words - 29.6 sentences / words - 15.8

    Coleman and Liau (1975), whose L and S are per 100 words; counted as in `readability`. No words give -15.8.
    """
    characters, count, sentences = _sizes(text)
    return (5.88 * characters - 29.6 * sentences) / max(count, 1) - 15.8


def _sizes(text: str) -> tuple[int, int, int]:
    """Characters, words and sentences.

    Our own, since textstat counts marks as characters, leaves out sentences of two words and rounds 5.88 to 5.8.
    """
    sentences = sum(any(c.isalnum() for c in part) for part in re.split(r"[.!?]+", text))
    return sum(c.isalnum() for c in text), words(text), sentences


def word_rate(listed: Sequence[str]) -> Callable[[str], float]:
    """How many listed words or phrases there are per 100 words: case aside, whole words only, 0 for an empty text.

    A rate, so that a response cannot win by being long; a response of one listed word has the highest, 100.
    """
    longest_first = sorted(listed, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    return lambda text: 100 * len(pattern.findall(text)) / max(words(text), 1)


def _make_words(argument: str, dimension: str, where: str) -> Score:
    listed = [word.strip() for word in argument.split(",")]
    if not all(listed):
        raise CounterpointError(f"{where}: a listed word is empty; expected words joined by single commas")
    rate = word_rate(listed)
    return lambda prompt, response: rate(response)


def _make_regex(argument: str, dimension: str, where: str) -> Score:
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise CounterpointError(f"{where}: not a regular expression: {error}") from None
    return lambda prompt, response: sum(bool(match.group()) for match in pattern.finditer(response))


def _make_sentiment(argument: str, dimension: str, where: str) -> Score:
    """VADER's compound score (Hutto and Gilbert, ICWSM 2014), from a word list: -1 is bad and 1 good.

    Made for a sentence or two: over a long text it goes to -1 or 1, since it sums over words before it is squashed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ModuleNotFoundError as error:
        raise _missing(error, where) from None
    analyser = SentimentIntensityAnalyzer()
    return lambda prompt, response: float(analyser.polarity_scores(response)["compound"])


def _make_bag_of_words(argument: str, dimension: str, where: str) -> Score:
    try:
        from counterpoint.rewards.bag_of_words import BagOfWordsReward, learn_bag_of_words
    except ModuleNotFoundError as error:
        raise _missing(error, where) from None
    path = Path(argument.strip())
    if path.is_dir():
        reward = BagOfWordsReward.load(path)
    else:
        reward = learn_bag_of_words(read_comparisons(path, dimension).comparisons, dimension)
    return lambda prompt, response: float(reward([prompt], [response])[0, 0])


def _missing(error: ModuleNotFoundError, where: str) -> CounterpointError:
    return CounterpointError(f"{where}: the package of {error.name!r} is missing; install counterpoint's dependencies")


def _make_python(argument: str, dimension: str, where: str) -> Score:
    source, _, function = argument.rpartition(":")
    if not source or not function:
        raise CounterpointError(f"{where}: expected 'python:module:function' or 'python:path.py:function'")
    try:
        module = _load_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except FileNotFoundError:
        raise CounterpointError(f"{where}: there is no file {source}") from None
    except Exception as error:
        raise CounterpointError(f"{where}: could not import {source}: {type(error).__name__}: {error}") from error
    score = getattr(module, function, None)
    if not callable(score):
        named = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise CounterpointError(f"{where}: {unknown_name('function', function, named)}")
    return score  # type: ignore[no-any-return]  # what it returns is checked at each call


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _negative(score: Score) -> Score:
    return lambda prompt, response: -score(prompt, response)


def _of_text(measure: Callable[[str], float]) -> Callable[[str, str, str], Score]:
    return lambda argument, dimension, where: lambda prompt, response: measure(response)


_RULES: dict[str, tuple[Callable[[str, str, str], Score], str]] = {
    "length": (_of_text(words), "length"),
    "ari": (_of_text(readability), "ari"),
    "coleman-liau": (_of_text(coleman_liau), "coleman-liau"),
    "sentiment": (_make_sentiment, "sentiment"),
    "words": (_make_words, "words:happy,glad"),
    "regex": (_make_regex, "regex:PATTERN"),
    "bag-of-words": (_make_bag_of_words, "bag-of-words:pairs.jsonl"),
    "python": (_make_python, "python:module:function"),
}
