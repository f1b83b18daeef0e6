import re
from typing import Any

import numpy as np
import pytest

from counterpoint.rewards.compare import label_comparisons
from counterpoint.types import Comparison, CounterpointError

DIMENSIONS = ("a", "b")


def label(**changes: Any) -> Any:
    defaults: dict[str, Any] = {
        "prompts": ["p"],
        "responses_PN": [["x", "y"]],
        "scores_PND": np.array([[[1.0, 5.0], [2.0, 5.0]]]),
        "dimensions": DIMENSIONS,
        "pairs_per_prompt": 1,
        "seed": 0,
    }
    return label_comparisons(**{**defaults, **changes})


def test_the_higher_score_is_chosen_and_ties_are_counted() -> None:
    found = label()
    assert found.comparisons == (Comparison("p", "y", "x", "a"),)
    assert found.ties == {"a": 0, "b": 1}
    assert found.unusable == 0


def test_a_margin_makes_ties() -> None:
    assert label(margin=1.0).ties == {"a": 1, "b": 1}
    assert label(margin=0.99).ties == {"a": 0, "b": 1}


def test_equal_and_empty_responses_are_unusable() -> None:
    assert label(responses_PN=[["x", "x"]]).unusable == 1
    assert label(responses_PN=[["x", " "]]).unusable == 1
    assert label(responses_PN=[["x", " "]]).comparisons == ()


def test_everything_is_accounted_for_and_agrees_with_the_scores() -> None:
    rng = np.random.default_rng(1)
    texts = [[f"{p}.{n}" for n in range(6)] for p in range(40)]
    scores_PND = rng.integers(0, 4, size=(40, 6, 2)).astype(float)
    found = label(
        prompts=[str(p) for p in range(40)], responses_PN=texts, scores_PND=scores_PND, pairs_per_prompt=5, seed=7
    )
    assert len(found.comparisons) + sum(found.ties.values()) == 40 * 5 * 2
    for c in found.comparisons:
        (p, better), (q, worse) = (map(int, text.split(".")) for text in (c.chosen, c.rejected))
        d = DIMENSIONS.index(c.dimension)
        assert str(p) == str(q) == c.prompt
        assert scores_PND[p, better, d] > scores_PND[p, worse, d]
    assert len(set(found.comparisons)) == len(found.comparisons)


def test_the_seed_decides() -> None:
    many: dict[str, Any] = {"responses_PN": [list("vwxyz")], "scores_PND": np.arange(10.0).reshape(1, 5, 2)}
    assert label(**many, pairs_per_prompt=3) == label(**many, pairs_per_prompt=3)
    assert len({label(**many, pairs_per_prompt=3, seed=seed).comparisons for seed in range(5)}) > 1


def test_bad_input_is_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"pairs_per_prompt": 2}, "found pairs_per_prompt=2, expected 1 to 1, since 2 responses have 1 pairs"),
        ({"pairs_per_prompt": 0}, "found pairs_per_prompt=0"),
        ({"scores_PND": np.ones((1, 2, 3))}, "dimensions (1, 2, 2)"),
        ({"responses_PN": [["x", "y"], ["z"]]}, "expected 2 responses for every prompt"),
        ({"responses_PN": [["x", "y"]] * 2}, "expected responses for 1 prompts, found 2"),
        ({"prompts": ["p", "q"]}, "dimensions (2, 2, 2)"),
        ({"scores_PND": np.full((1, 2, 2), np.nan)}, "a score is not finite"),
        ({"margin": -1.0}, "found margin=-1.0, expected 0 or more"),
        ({"margin": float("nan")}, "found margin=nan"),
    ]
    for changes, message in cases:
        with pytest.raises(CounterpointError, match=re.escape(message)):
            label(**changes)
