"""`counterpoint data` as a person meets it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from counterpoint.cli import app
from counterpoint.cli.app import out
from counterpoint.cli.data import one_line, parse_columns
from counterpoint.data.comparisons import read_comparisons
from counterpoint.types import CounterpointError

ROW = {"instruction": "Say hi.", "good": "Hello there.", "bad": "Hi.", "id": 1}
BY_HAND = ("--column", "chosen=good", "--column", "rejected=bad", "--dimension", "warm")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "width", 200)


def run(*arguments: str | Path) -> Any:
    """The command's text, or its JSON where that is asked for; a mistake is raised."""
    done = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_the_dry_run_says_how_columns_are_understood(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", ROW, {**ROW, "bad": ""}, {**ROW, "instruction": "a\n" + "b" * 200}, ROW)
    said = " ".join(run(file, *BY_HAND, "--skip-bad").split())
    for text in (
        f"{file}: JSON lines, 4 rows columns: prompt = instruction, chosen = good, rejected = bad",
        "columns not used: id",
        "comparisons: warm 3 left out: 1 rows",
        "warm 3 2.0 (to 2) 1.0 (to 1) 100.0% 0.0% 1 0",
        "warm: Say hi. chosen: Hello there. rejected: Hi.",
        f"left out: {file}:2: field 'rejected': empty; expected a response ('chosen' is the column 'good', ",
    ):
        assert text in said


def test_json_holds_the_same(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", ROW, {**ROW, "good": "Hi."}, {**ROW, "good": "Hi.", "bad": "Hello there."})
    found = run(file, *BY_HAND, "--skip-bad", "--json")
    assert found["comparisons"] == {"warm": 2}
    (summary,) = found["files"]
    assert (summary["rows"], summary["dropped"], summary["unused"]) == (2, 1, ["id"])
    assert summary["layouts"] == {"prompt = instruction, chosen = good, rejected = bad": 2}
    warm = found["dimensions"]["warm"]
    assert (warm["longer"], warm["contradictions"], warm["duplicates"]) == (0.5, 1, 0)
    assert [(bad["row"], bad["line"]) for bad in found["dropped"]] == [(2, 2)]
    assert [example["chosen"] for example in found["examples"]] == ["Hello there.", "Hi."]


def test_scores_and_what_is_written(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": text, "helpful": n, "long": -n} for n, text in enumerate(["a", "b b", "c c c"])]
    file = write(tmp_path / "x.jsonl", *rows, {**rows[0], "prompt": "alone"})
    scores = ("--scores", "helpful,brief=-long", "--margin", "2")
    said = " ".join(run(file, *scores, "--out", tmp_path / "out.jsonl").split())
    assert "scored: 2 prompts, of which 1 have one response and make no pair" in said
    assert "scores: helpful by more helpful, brief by less long; differences: 2 or more; of each prompt: all" in said
    assert "brief, helpful 1 100.0%" in said
    written = read_comparisons(tmp_path / "out.jsonl").comparisons
    assert [(c.chosen, c.rejected, c.dimension) for c in written] == [
        ("c c c", "a", "helpful"), ("c c c", "a", "brief"),
    ]  # fmt: skip
    kept = run(file, "--scores", "helpful", "--pairs-per-prompt", "1", "--seed", "7", "--json")
    assert kept["comparisons"] == {"helpful": 1}


def test_transcripts_are_said_and_may_stay(tmp_path: Path) -> None:
    row = {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "a", "rejected": "b"}
    file = write(tmp_path / "x.jsonl", row)
    said = run(file, "--dimension", "d")
    assert "transcripts: 1 rows became messages" in said
    assert "d: (1 messages) q" in said
    assert "became messages" not in run(file, "--dimension", "d", "--keep-transcripts")


def test_two_layouts_in_one_file_are_both_said(tmp_path: Path) -> None:
    pair = {"prompt": "q", "response_a": "a", "response_b": "b"}
    ordered = {"prompt": "q", "chosen": "x", "rejected": "y"}
    file = write(tmp_path / "x.jsonl", {**pair, "winner": "a"}, {**pair, "winner": "tie"}, ordered)
    said = run(file, "--dimension", "d")
    assert "columns of 2 rows: prompt, response_a, response_b, preference = winner" in said
    assert "columns of 1 rows: prompt, chosen, rejected" in said
    assert "ties, or nothing said: d 1" in said


def test_a_long_list_of_bad_rows_is_cut_in_text_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", ROW, *["{"] * 15)
    said = run(file, *BY_HAND, "--skip-bad")
    assert said.count("left out: ") == 1 + 10 + 1
    assert "left out: 5 more; --json lists all" in said
    assert len(run(file, *BY_HAND, "--skip-bad", "--json")["dropped"]) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--column", "chosen"), "--column 'chosen': expected PART=COLUMN"),
        (("--column", "chosen="), "--column 'chosen=': expected PART=COLUMN"),
        (("--column", "chosen=a", "--column", "chosen=b"), "the part 'chosen' is given twice"),
        (("--column", "choose=a"), "unknown part 'choose'"),
        (("--scores", ""), "expected COLUMN"),
        (("--scores", "a", "--margin", "-1"), "margin -1"),
        (("--scores", "a", "--pairs-per-prompt", "-1"), "pairs_per_prompt -1"),
        (("--scores", "a", "--dimension", "d"), "scores name their dimensions"),
        (("--out", "x.csv", *BY_HAND), "expected a file name that ends with .jsonl"),
        (("--out", "x.jsonl", *BY_HAND), "is read as well, and would be lost"),
        ((".", "--out", "x.jsonl", *BY_HAND), "is read as well, and would be lost"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.jsonl", ROW)
    before = (tmp_path / "x.jsonl").read_bytes()
    with pytest.raises(CounterpointError) as error:
        run(tmp_path / "x.jsonl", *arguments)
    assert message in str(error.value)
    assert (tmp_path / "x.jsonl").read_bytes() == before


def test_a_columns_name_may_hold_an_equals_sign() -> None:
    assert parse_columns(["chosen = a=b", "rejected=c"]) == {"chosen": "a=b", "rejected": "c"}


def test_one_line_has_no_line_end_and_a_bounded_length() -> None:
    assert one_line("a\n\n b") == "a b"
    assert len(one_line("word " * 99)) == 100


def test_real_lengths(shared: Path) -> None:
    """On answers that were rated for safety, refusals win: the longer answer is better in few pairs."""
    file = shared / "data" / "just_eval" / "safety_scored.jsonl.gz"
    found = run(file, "--scores", "safety", "--margin", "2", "--json")
    assert found["dimensions"]["safety"]["longer"] < 0.3
    assert found["dimensions"]["safety"]["duplicates"] > 0, "two models gave the same refusal"
