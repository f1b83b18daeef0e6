import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from counterpoint.rewards.rules import Rewards, Rule, parse_rule
from counterpoint.types import CounterpointError, Prompt


def score(rule: str, response: str, prompt: str = "p") -> float:
    _, reward = parse_rule(rule)
    return float(reward([prompt], [response])[0, 0])


@pytest.mark.parametrize(
    ("rule", "response", "expected"),
    [
        ("d=length", "one  two\nthree", 3),
        ("d=-length", "one two", -2),
        ("d=length", "", 0),
        # 2 of 5 words: 40 per 100; "happily" is another word
        ("d=words:happy,glad", "Happy, so glad. Happily ever", 40),
        ("d=-words: happy , glad ", "happy x", -50),
        ("d=words:of course", "of course not ever", 25),
        ("d=words:c++", "c++ is c", 100 / 3),
        ("d=words:no", "", 0),
        ("d=regex:a+", "aa b a", 2),
        ("d=regex:x*", "xx y", 1),  # matches of nothing do not count
        ("d=regex:(?i)key=\\w", "KEY=v: key=w", 2),
        # 24 letters, 6 words, 2 sentences: 4.71 * 4 + 0.5 * 3 - 21.43 = 18.84 + 1.5 - 21.43 = -1.09
        ("d=ari", "This text runs fine. Just wait!", -1.09),
        ("d=ari", "abcd abcd", 4.71 * 4 + 0.5 * 2 - 21.43),
        ("d=ari", "...", 0.5 - 21.43),
        ("d=-ari", "", 21.43),
        # 24 letters, 6 words, 2 sentences: 5.88 * 4 - 29.6 / 3 - 15.8
        ("d=coleman-liau", "This text runs fine. Just wait!", 5.88 * 4 - 29.6 / 3 - 15.8),
        ("d=coleman-liau", "", -15.8),
        ("d=sentiment", "", 0),
        ("d=python:operator:gt", "a", 1),  # "p" > "a"; a truth value is a number
    ],
)
def test_rules_by_hand(rule: str, response: str, expected: float) -> None:
    assert score(rule, response) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("length", "rule 'length': expected dimension=rule, such as 'concise=-length'"),
        ("=length", "expected dimension=rule"),
        ("d=", "expected dimension=rule"),
        ("d=lenght", "unknown rule 'lenght'; did you mean 'length'? Known: length, ari, coleman-liau, sentiment,"),
        ("d=words", "expected 'words:happy,glad', found 'words'"),
        ("d=words: ", "expected 'words:happy,glad', found 'words:'"),
        ("d=words:a,,b", "a listed word is empty"),
        ("d=length:3", "expected 'length', found 'length:3'"),
        ("d=length:", "expected 'length', found 'length:'"),
        ("d=regex:(", "not a regular expression: missing ), unterminated subpattern at position 0"),
        ("d=python:no_such_module:f", "could not import no_such_module: ModuleNotFoundError"),
        ("d=python:no/file.py:f", "there is no file no/file.py"),
        ("d=python:math:sqrtt", "unknown function 'sqrtt'; did you mean 'sqrt'"),
        ("d=python:math:pi", "unknown function 'pi'"),
        ("d=python:math", "expected 'python:module:function' or 'python:path.py:function'"),
    ],
)
def test_errors_say_what_was_found(rule: str, message: str) -> None:
    with pytest.raises(CounterpointError, match=re.escape(message)):
        parse_rule(rule)


def test_sentiment_orders_texts() -> None:
    good, plain, bad = (score("d=sentiment", text) for text in ("A lovely day!", "It is a day.", "A terrible day."))
    assert 1 > good > plain == 0 > bad > -1
    assert score("d=-sentiment", "A lovely day!") == -good
    # VADER turns a word after "not" by its factor -0.74, before x / sqrt(x^2 + 15); "good" has 1.9 in its list
    turned = -0.74 * 1.9
    assert score("d=sentiment", "not good") == pytest.approx(turned / (turned**2 + 15) ** 0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("rule", "package"),
    [("sentiment", "vaderSentiment"), ("bag-of-words:pairs.jsonl", "sklearn")],
)
def test_a_missing_package_is_named(rule: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "counterpoint.rewards.bag_of_words", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Missing(package), *sys.meta_path])
    message = rf"rule 'd={rule}': the package of '{package}.*' is missing; install counterpoint's dependencies"
    with pytest.raises(CounterpointError, match=message):
        parse_rule(f"d={rule}")


class _Missing:
    """An importer that says that a package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_functions_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def fine(prompt, response): return len(prompt) + len(response)\n"
        "def text(prompt, response): return 'x'\n"
        "def nan(prompt, response): return float('nan')\n"
        "def broken(prompt, response): return 1 / (len(response) - 2)\n"
    )
    assert score(f"d=python:{path}:fine", "abc", "pp") == 5
    for name, message in [
        ("text", "response 'a': the function returned 'x', expected a finite number"),
        ("nan", "response 'a': the function returned nan, expected a finite number"),
        ("broken", "response 'bb': the function raised ZeroDivisionError: division by zero"),
    ]:
        _, reward = parse_rule(f"d=python:{path}:{name}")
        with pytest.raises(CounterpointError, match=re.escape(f"d=python:{path}:{name}: {message}")):
            reward(["p", "p"], ["a", "bb"])
    path.write_text("def broken(:\n")
    with pytest.raises(CounterpointError, match=r"could not import .*mine.py: SyntaxError"):
        parse_rule(f"d=python:{path}:broken")


def test_rewards_put_columns_side_by_side() -> None:
    rewards = Rewards([parse_rule("brief=-length")[1], parse_rule("happy=words:glad")[1]])
    assert rewards.dimensions == ("brief", "happy")
    np.testing.assert_allclose(rewards(["p", "p"], ["a b", "glad"]), [[-2, 0], [-1, 100]])
    assert rewards([], []).shape == (0, 2)


def test_rewards_check_their_parts() -> None:
    class Wrong:
        @property
        def dimensions(self) -> tuple[str, ...]:
            return ("a", "b")

        def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
            return np.array([[1.0, np.nan]])

    rule = Rule("a", "length", lambda prompt, response: 1.0)
    with pytest.raises(CounterpointError, match="expected one per dimension, found none"):
        Rewards([])
    with pytest.raises(CounterpointError, match="expected one per dimension, found two for a"):
        Rewards([rule, Wrong()])
    with pytest.raises(CounterpointError, match=re.escape("reward for a, b: expected finite scores of shape (1, 2)")):
        Rewards([Wrong()])(["p"], ["r"])
    with pytest.raises(ValueError, match="shorter"):
        rule(["p", "p"], ["r"])
