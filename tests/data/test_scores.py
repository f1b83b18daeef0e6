"""Scores become pairs: which, how many and in which order, worked out by hand."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from counterpoint.data.comparisons import Comparisons, read_comparisons
from counterpoint.data.scores import MOST, ScoreColumn, Scored, Scoring, by_prompt, pairs_of, parse_scores
from counterpoint.data.summary import agreements
from counterpoint.types import Comparison, CounterpointError, Message

HELPFUL = (ScoreColumn("helpful", "helpful"),)


def scored(*scores: float | None, prompt: str = "q") -> list[Scored]:
    """Responses r0, r1, ... with these scores."""
    return [
        Scored(prompt, f"r{index}", {} if score is None else {"helpful": score}) for index, score in enumerate(scores)
    ]


def pairs(responses: list[Scored], **options: Any) -> list[tuple[str, str]]:
    return [(c.chosen, c.rejected) for c in pairs_of(responses, Scoring(HELPFUL, **options))]


def read(tmp_path: Path, rows: list[dict[str, Any]], text: str, **options: Any) -> Comparisons:
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_comparisons(tmp_path / "x.jsonl", scoring=Scoring(parse_scores(text), **options))


def test_pairs_by_hand() -> None:
    """Of 3, 1, 3 and no score: r0 and r2 both beat r1, and are equal."""
    assert pairs(scored(3, 1, 3, None)) == [("r0", "r1"), ("r2", "r1")]


def test_a_margin_bounds_the_difference_from_below() -> None:
    assert pairs(scored(4, 2, 1), margin=2) == [("r0", "r1"), ("r0", "r2")]
    assert pairs(scored(4, 2, 1), margin=2.5) == [("r0", "r2")]
    assert 0.3 - 0.1 < 0.2, "a difference of decimals may fall short of itself"
    assert pairs(scored(0.3, 0.1), margin=0.2) == [("r0", "r1")]


def test_the_same_text_is_no_pair() -> None:
    assert not pairs([Scored("q", "r", {"helpful": 1}), Scored("q", "r", {"helpful": 2})])


def test_a_prompt_keeps_its_largest_differences() -> None:
    """Differences of 5, 3, 2, 0: 5, 3, 3 (5-2), 2 (5-3, 2-0), 1."""
    kept = pairs(scored(5, 3, 2, 0), pairs_per_prompt=3)
    assert kept[0] == ("r0", "r3")
    assert sorted(kept[1:]) == [("r0", "r2"), ("r1", "r3")]
    assert len(pairs(scored(5, 3, 2, 0), pairs_per_prompt=99)) == 6


def test_the_seed_decides_among_equal_differences_and_nothing_else_does() -> None:
    responses = scored(1, 0, 1, 0, 1, 0)
    kept = {seed: pairs(responses, pairs_per_prompt=2, seed=seed) for seed in range(20)}
    assert kept[3] == pairs(responses, pairs_per_prompt=2, seed=3)
    assert len({tuple(found) for found in kept.values()}) > 10, "of 36 ordered choices"
    other = pairs(scored(1, 0, 1, 0, 1, 0, prompt="another"), pairs_per_prompt=2, seed=3)
    assert {found for seed in range(20) for found in kept[seed]} >= set(other)


def test_too_many_responses_to_one_prompt_are_a_mistake(tmp_path: Path) -> None:
    rows = [{"prompt": "same", "response": f"r{i}", "helpful": i} for i in range(MOST + 1)]
    with pytest.raises(
        CounterpointError, match=r"x\.jsonl: the prompt 'same' has 1001 responses, expected at most 1000"
    ):
        read(tmp_path, rows, "helpful")


def test_prompts_are_grouped_wherever_they_stand() -> None:
    groups = by_prompt([*scored(1, prompt="a"), *scored(1, prompt="b"), *scored(2, prompt="a")])
    assert [(prompt, len(found)) for prompt, found in groups.items()] == [("a", 2), ("b", 1)]


ROWS = [
    {"prompt": "q", "response": "short", "helpfulness": 1, "verbosity": 0, "id": 1},
    {"prompt": "other", "response": "alone", "helpfulness": 1, "verbosity": 0, "id": 2},
    {"prompt": "q", "response": "long", "helpfulness": 3, "verbosity": 4, "id": 3},
    {"prompt": "q", "response": "middle", "helpfulness": 3, "verbosity": 2, "id": 4},
]


def test_rows_of_one_response(tmp_path: Path) -> None:
    found = read(tmp_path, ROWS, "helpfulness, concise=-verbosity")
    assert found.comparisons == (
        Comparison("q", "long", "short", "helpfulness"), Comparison("q", "middle", "short", "helpfulness"),
        Comparison("q", "short", "long", "concise"), Comparison("q", "short", "middle", "concise"),
        Comparison("q", "middle", "long", "concise"),
    )  # fmt: skip
    assert found.extra_columns == ("id",)
    assert (found.files[0].prompts, found.files[0].alone) == (2, 1)
    (agreement,) = agreements(found.comparisons)
    assert (agreement.pairs, agreement.share) == (2, 0.0), "helpfulness has no verdict on the third pair"


def test_a_dimension_without_a_pair_is_counted_as_none(tmp_path: Path) -> None:
    rows = [{**row, "verbosity": 1} for row in ROWS]
    found = read(tmp_path, rows, "helpfulness,verbosity")
    assert dict(found.files[0].comparisons) == {"helpfulness": 2, "verbosity": 0}


def test_scores_as_text_and_missing(tmp_path: Path) -> None:
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("question", "answer", "score"), ("q", "a", "4.5"), ("q", "b", "N/A"), ("q", "c", "1e0")])
        writer.writerows([("q", "d", ""), ("q", "e", " 2 "), ("q", "f", "nan")])
    found = read_comparisons(tmp_path / "x.csv", scoring=Scoring(parse_scores("score")))
    assert [(c.chosen, c.rejected) for c in found.comparisons] == [("a", "c"), ("a", "e"), ("e", "c")]


@pytest.mark.parametrize(
    "aspect", [lambda n: n, lambda n: {"Rating": str(n), "Rationale": "r"}, lambda n: {"score": n}]
)
@pytest.mark.parametrize("nested", [True, False])
def test_lists_of_completions(tmp_path: Path, aspect: Any, nested: bool) -> None:
    def completion(text: str, truth: Any, help_: Any) -> dict[str, Any]:
        scores = {"truth": aspect(truth), "help": aspect(help_)}
        return {"response": text, "model": "m", **({"annotations": scores} if nested else scores)}

    row = {"instruction": "q", "completions": [completion("a", 1, 5), completion("b", 4, "N/A"), completion("c", 4, 3)]}
    found = read(tmp_path, [row], "truth,help")
    assert found.comparisons == (
        Comparison("q", "b", "a", "truth"), Comparison("q", "c", "a", "truth"), Comparison("q", "a", "c", "help"),
    )  # fmt: skip
    assert dict(found.files[0].layouts) == {"prompt = instruction, completions": 1}


def test_ranks_are_scores_of_which_less_is_better(tmp_path: Path) -> None:
    row = {"prompt": "q", "answers": [{"answer": "second", "rank": 2}, {"answer": "first", "rank": 1}]}
    assert read(tmp_path, [row], "good=-rank").comparisons == (Comparison("q", "first", "second", "good"),)


def test_scores_inside_a_column_and_transcripts(tmp_path: Path) -> None:
    prompt = "\n\nHuman: q\n\nAssistant:"
    rows = [{"prompt": prompt, "output": f" {n}", "scores": {"depth": n}} for n in (1, 2)]
    found = read(tmp_path, rows, "depth")
    assert found.comparisons == (Comparison((Message("user", "q"),), "2", "1", "depth"),)
    assert found.files[0].transcripts == 2
    assert not found.extra_columns


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": "a", "x": 1}, "field 'prompt': missing; found only 'response', 'x'; name it: --column prompt="),
        ({"prompt": "q", "x": 1}, "field 'response': missing; found only 'prompt', 'x'; name it: --column response="),
        (
            {"prompt": "q", "response": "a"},
            "field 'x': missing; found only 'prompt', 'response'; name a column with sc",
        ),
        ({"prompt": "q", "response": "a", "x": "good"}, "field 'x': expected a number, found 'good'"),
        ({"prompt": "q", "response": "a", "x": True}, "field 'x': expected a number, found True"),
        ({"prompt": "q", "response": "a", "x": {"why": "r"}}, "field 'x': expected a number, found {'why': 'r'}"),
        ({"prompt": "q", "response": "a", "x": float("inf")}, "field 'x': expected a number, found inf"),
        ({"prompt": "q", "response": "", "x": 1}, "field 'response': expected a response as text, found ''"),
        ({"prompt": "q", "response": 7, "x": 1}, "field 'response': expected a response as text, found 7"),
        ({"prompt": " ", "response": "a", "x": 1}, "field 'prompt': empty"),
        ({"prompt": None, "response": "a", "x": 1}, "field 'prompt': expected text or a list of messages, found None"),
        ({"prompt": "q", "completions": ["a"]}, "field 'completions': expected a list of objects with a response and"),
        (
            {"prompt": "q", "completions": [{"x": 1}]},
            "field 'completions[0]': no response; found only 'x'; expected 're",
        ),
        ({"prompt": "q", "completions": [{"text": "a"}]}, "field 'completions[0].x': missing; found only 'text'"),
    ],
)
def test_what_is_wrong_with_scores(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(CounterpointError, match=re.escape(f"x.jsonl:1: {message}")):
        read(tmp_path, [row], "x")


def test_one_response_per_prompt_is_said(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"no comparison came of it; found 1 rows, 1 prompts with one response"):
        read(tmp_path, ROWS[:1], "helpfulness")


def test_how_scores_are_written() -> None:
    assert parse_scores("a, b = c,d=-e,f=g=h") == (
        ScoreColumn("a", "a"), ScoreColumn("b", "c"), ScoreColumn("d", "e", -1), ScoreColumn("f=g", "h"),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "a,", "-a", "=a", "a=", "a=-"])
def test_scores_that_cannot_be_read(text: str) -> None:
    with pytest.raises(CounterpointError, match=r"expected COLUMN, NAME=COLUMN or NAME=-COLUMN"):
        parse_scores(text)


def test_mistakes_in_options(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="the dimension 'a' is given twice"):
        parse_scores("a,a=-b")
    with pytest.raises(CounterpointError, match="margin -1"):
        Scoring(HELPFUL, margin=-1)
    with pytest.raises(CounterpointError, match="margin nan"):
        Scoring(HELPFUL, margin=float("nan"))
    with pytest.raises(CounterpointError, match="pairs_per_prompt 0"):
        Scoring(HELPFUL, pairs_per_prompt=0)
    with pytest.raises(CounterpointError, match="scores name their dimensions"):
        read_comparisons(tmp_path, dimension="d", scoring=Scoring(HELPFUL))
    with pytest.raises(CounterpointError, match="unknown dimension 'helpful'"):
        read_comparisons(tmp_path, known=["warm"], scoring=Scoring(HELPFUL))


def test_real_scores(shared: Path) -> None:
    """3,200 answers to 200 rows of prompts, of which 197 differ; most answers have the highest score."""
    path = shared / "data" / "just_eval" / "safety_scored.jsonl.gz"
    every = read_comparisons(path, scoring=Scoring(parse_scores("safety")))
    clear = read_comparisons(path, scoring=Scoring(parse_scores("safety"), margin=2))
    kept = read_comparisons(path, scoring=Scoring(parse_scores("safety"), pairs_per_prompt=3))
    assert set(clear.comparisons) | set(kept.comparisons) <= set(every.comparisons)
    assert len(kept.comparisons) < len(clear.comparisons) < len(every.comparisons)
    assert every.files[0].rows == 3200
    assert every.files[0].prompts == 197
