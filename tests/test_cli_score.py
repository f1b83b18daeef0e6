"""`counterpoint score`: numbers worked out by hand, and one line for every mistake."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.types import Comparison, Message

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture
def command(command: Command) -> Command:
    """Runs `counterpoint score`."""
    return partial(command, "score", "--threads", 1)


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    """Responses of 1, 2 and 6 words, with a column of their own."""
    rows = [("a", "one", 7), ("b", "one two", 8), ("a", "one two three a b c", 9)]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "response": r, "mark": m}) + "\n" for p, r, m in rows))
    return file


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """On `short`: two pairs of one prompt, of which one is labelled against length; a tie; one on another dimension."""
    rows = [
        ("a", "x", "x y", "short"), ("a", "x y z", "x", "short"), ("b", "x y", "y x", "short"),
        ("c", "x", "x y z", "kind"),
    ]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    lines = [{"prompt": p, "chosen": c, "rejected": r, "dimension": d} for p, c, r, d in rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def found(done: tuple[object, str, str]) -> Any:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


def test_mean_and_spread_by_hand(command: Command, responses: Path) -> None:
    result = found(command(responses, "--reward", "words=length", "--reward", "a=regex:a", "--json"))
    # words 1, 2, 6: mean 3, deviations -2, -1, 3: std sqrt(14 / 3)
    assert result["rewards"]["words"] == {
        "responses": 3, "mean": 3.0, "std": pytest.approx((14 / 3) ** 0.5), "lowest": 1.0, "highest": 6.0
    }  # fmt: skip
    assert [row["scores"] for row in result["rows"]] == [
        {"words": 1.0, "a": 0.0}, {"words": 2.0, "a": 0.0}, {"words": 6.0, "a": 1.0}
    ]  # fmt: skip
    assert result["accuracies"] == {}


def test_the_table_and_each_row_say_the_same(command: Command, responses: Path) -> None:
    code, said, _ = command(responses, "--reward", "words=length", "--each")
    assert code == 0
    assert "words 6.000  one two three a b c" in said
    assert ["words", "3", "3.000", "2.160", "1.000", "6.000"] in [line.split() for line in said.splitlines()]


def test_rows_are_written_with_their_scores(command: Command, responses: Path, tmp_path: Path) -> None:
    assert command(responses, "--reward", "words=length", "--out", tmp_path / "scored.jsonl")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert rows[1] == {"prompt": "b", "response": "one two", "mark": 8, "scores": {"words": 2.0}}
    again = found(command(tmp_path / "scored.jsonl", "--reward", "a=regex:a", "--json"))
    assert again["rows"][1]["scores"] == {"a": 0.0}


def test_accuracy_on_pairs_by_hand(command: Command, pairs: Path) -> None:
    result = found(command(pairs, "--reward", "short=-length", "--reward", "long=length", "--json"))
    # prompt a: one right, one wrong; prompt b: a tie, which is half
    short = result["accuracies"].pop("short")
    assert (short["pairs"], short["prompts"], short["ties"], short["accuracy"]) == (3, 2, 1, 0.5)
    assert (short["interval"]["value"], short["interval"]["low"]) == (0.5, 0.5)
    assert result["accuracies"] == {}, "no pair is on 'long'"
    assert result["rewards"]["short"]["responses"] == 8
    assert result["rows"][1]["chosen_scores"] == {"short": -3.0, "long": 3.0}
    code, said, _ = command(pairs, "--reward", "kind=-length")
    assert code == 0
    assert "100.0%" in said
    assert "[" not in said.splitlines()[-1], "one prompt has no interval"


def test_lines_of_text_have_no_prompt(command: Command, tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_text("one two\n\nthree\n")
    result = found(command(tmp_path / "said.txt", "--reward", "words=length", "--json"))
    assert result["rows"] == [
        {"response": "one two", "scores": {"words": 2.0}}, {"response": "three", "scores": {"words": 1.0}}
    ]  # fmt: skip


def test_a_trained_model_reads_a_prompt_as_a_users_message(
    command: Command, responses: Path, band_folder: Path, tmp_path: Path
) -> None:
    config = RewardModelConfig(str(band_folder / "base"), "short", steps=2, batch=2)
    asked = (Message("user", "a"),)
    folder = tmp_path / "rewards" / "short"
    train_reward_model(config, [Comparison(asked, "x", "x y", "short"), Comparison(asked, "y", "y z", "short")], folder)
    reward = BradleyTerryReward.load(folder)
    texts = ["one", "one two", "one two three a b c"]
    expected = [reward([(Message("user", p),)], [r])[0, 0] for p, r in zip("aba", texts, strict=True)]
    for text in (folder, folder.parent, f"brief={folder}"):
        rows = found(command(responses, "--reward", text, "--json"))["rows"]
        (name,) = rows[0]["scores"]
        assert name == ("brief" if "=" in str(text) else "short")
        np.testing.assert_allclose([row["scores"][name] for row in rows], expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3


def test_regression_a_pair_keeps_its_other_columns(command: Command, pairs: Path, tmp_path: Path) -> None:
    """They were dropped."""
    lines = [{**json.loads(line), "mark": number} for number, line in enumerate(pairs.read_text().splitlines())]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    to = tmp_path / "scored.jsonl"
    assert command(pairs, "--reward", "short=-length", "--out", to)[0] == 0
    rows = [json.loads(line) for line in to.read_text().splitlines()]
    new = ("chosen_scores", "rejected_scores")
    assert [{name: row[name] for name in row if name not in new} for row in rows] == lines


def test_regression_a_column_of_scores_is_not_overwritten(command: Command, responses: Path, pairs: Path) -> None:
    """Scores took the place of a column of their name without a word."""
    for file, name in ((responses, "scores"), (pairs, "chosen_scores")):
        file.write_text(
            "".join(json.dumps({**json.loads(row), name: 1}) + "\n" for row in file.read_text().splitlines())
        )
        code, _, said = command(file, "--reward", "short=-length", "--out", file.with_name("new.jsonl"))
        assert code == 2
        assert f"there is a column '{name}' already" in said
        assert not file.with_name("new.jsonl").exists()


def test_regression_files_of_two_kinds_are_told_so(command: Command, responses: Path, pairs: Path) -> None:
    """The first file's kind was taken for all, and a missing column was complained of."""
    _, _, said = command(responses, pairs, "--reward", "short=-length")
    assert f"{pairs} holds pairs, but {responses} responses" in said


def test_regression_a_response_too_long_for_a_model_is_left_out(
    command: Command, responses: Path, band_folder: Path, tmp_path: Path
) -> None:
    """`--skip-bad` did not reach it, and the advice was for library code."""
    config = RewardModelConfig(str(band_folder / "base"), "short", steps=1, batch=1)
    folder = tmp_path / "reward"
    train_reward_model(config, [Comparison((Message("user", "a"),), "x", "x y", "short")], folder)
    with responses.open("a") as file:
        file.write(json.dumps({"prompt": "a", "response": "so long " * 600}) + "\n")
    code, _, said = command(responses, "--reward", folder)
    assert code == 2
    assert "response 'so long so long" in said
    assert "counterpoint score --skip-bad" in said
    code, out, said = command(responses, "--reward", f"brief={folder}", "--skip-bad", "--json")
    assert code == 0, said
    assert "left out: response 'so long" in said
    assert [row["mark"] for row in json.loads(out)["rows"]] == [7, 8, 9]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--reward", "short=lenght"), "length"),
        (("--reward", "short=no/such/folder"), "there is no folder 'no/such/folder'"),
        (("--reward", "short"), "expected DIMENSION=RULE"),
        (("--reward", "a=length", "--reward", "a=ari"), "expected one per dimension, found two for a"),
        (("--reward", "a=length", "--out", "scores.csv"), "expected a file name that ends with .jsonl"),
        (("--reward", "a=length", "--out", f"{__file__}/x.jsonl"), "is a file, not a folder"),
        (("--reward", "a=length", "--threads", -3), "--threads -3: expected 1 or more"),
    ],
)
def test_a_wrong_turn_is_one_line(command: Command, responses: Path, arguments: tuple[str, ...], says: str) -> None:
    code, _, said = command(responses, *arguments)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said


def test_a_bad_line_is_named_or_left_out(command: Command, responses: Path) -> None:
    with responses.open("a") as file:
        file.write('{"prompt": "a", "response": 3}\n')
    _, _, said = command(responses, "--reward", "words=length")
    assert f"{responses}:4" in said
    assert "'response'" in said
    code, out, said = command(responses, "--reward", "words=length", "--skip-bad", "--json")
    assert code == 0
    assert f"left out: {responses}:4" in said
    assert json.loads(out)["rewards"]["words"]["responses"] == 3


def test_a_folder_without_a_reward_and_an_output_that_is_read(
    command: Command, responses: Path, tmp_path: Path
) -> None:
    _, _, said = command(responses, "--reward", f"short={tmp_path}")
    assert f"{tmp_path}: holds no reward.json" in said
    before = responses.read_text()
    _, _, said = command(responses, "--reward", "words=length", "--out", responses)
    assert "is read as well" in said
    assert responses.read_text() == before
