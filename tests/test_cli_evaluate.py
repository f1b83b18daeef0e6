"""`counterpoint evaluate`: the table is what the answers, scored anew by hand, give; every mistake is one line."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.artifacts import MANIFEST, read_json
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.profiles import parse_profile
from counterpoint.rewards.k_head import KHeadReward
from counterpoint.train.k_head import KHeadConfig, train_k_head
from counterpoint.types import Comparison, Message, Prompt

Command = Callable[..., tuple[object, str, str]]
WORDS = ("owls", "sky", "sea", "tea", "ice", "fog")
RULES = ("--reward", "terse=-length", "--reward", "warm=regex:[A-Za-z]")


@pytest.fixture
def command(command: Command, band_folder: Path, prompts: Path) -> Command:
    """Runs `counterpoint evaluate` of the band on the prompts."""
    return partial(command, "evaluate", band_folder, "--prompts", prompts, "--max-tokens", 24, "--threads", 1)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"Tell me of {word}" for word in WORDS))
    return file


def result(done: tuple[object, str, str]) -> Any:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


def by_hand(response: str) -> list[float]:
    """What `RULES` say of a response."""
    return [-len(response.split()), sum(c.isascii() and c.isalpha() for c in response)]


def test_rewards_and_wins_are_those_of_the_answers(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    people = ("--profile", "terse=1", "--profile", "warm=1, terse=0.5")
    results = result(command(*RULES, *people, "--method", "soup", "--method", "moe", "--out", out, "--json"))
    assert results == read_json(out / "results.json")
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    methods, profiles = ["base", "prompted", "soup", "moe"], ["terse=1", "warm=1, terse=0.5"]
    assert [(row["method"], row["profile"]) for row in rows] == [
        (m, p) for m in methods for _ in WORDS for p in profiles
    ]  # fmt: skip
    raw_MPRD = np.array([by_hand(row["response"]) for row in rows]).reshape(4, 6, 2, 2)
    zero_D, unit_D = raw_MPRD[0].mean(axis=(0, 1)), raw_MPRD[:2].reshape(-1, 2).std(axis=0)
    z_MPRD = (raw_MPRD - zero_D) / unit_D
    assert [results["scale"][name] for name in ("terse", "warm")] == [
        {"zero": pytest.approx(zero), "unit": pytest.approx(unit)} for zero, unit in zip(zero_D, unit_D, strict=True)
    ]
    reward_MPR = np.stack([z_MPRD[:, :, 0, 0], z_MPRD[:, :, 1].mean(axis=-1)], axis=-1)
    for m, name in enumerate(methods):
        assert results["methods"][name]["reward"]["value"] == pytest.approx(reward_MPR[m].mean(), abs=1e-9)
        difference = None if name == "base" else (reward_MPR[m] - reward_MPR[0]).mean()
        against = results["against"][name]["base"]
        assert (against and against["reward_difference"]["value"]) == (difference and pytest.approx(difference))
    # on one dimension a verdict is the sign of the difference; on two, the sign of the sum of both
    sign_PD = np.sign(raw_MPRD[2] - raw_MPRD[0])
    verdict_PR = np.stack([sign_PD[:, 0, 0], np.sign(sign_PD[:, 1].sum(axis=-1))], axis=-1)
    assert results["against"]["soup"]["base"]["win_rate"]["value"] == pytest.approx((verdict_PR.mean() + 1) / 2)
    assert results["methods"]["soup"] == results["methods"]["moe"], "one function"
    assert results["against"]["base"]["base"] is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(text in page for text in (*methods, *profiles, "standard deviations over the base"))


def test_a_shared_reward_model_scores_both_of_its_dimensions(
    command: Command, band_folder: Path, tmp_path: Path
) -> None:
    pairs = [Comparison("a", "x " * i, "y", name) for name in ("warm", "terse") for i in (1, 2)]
    config = KHeadConfig(str(band_folder / "base"), ("warm", "terse"), steps=2, batch=2)
    folder, out = train_k_head(config, pairs, tmp_path / "reward").folder, tmp_path / "out"
    arguments = ("--rewards", folder, "--raw", "--method", "soup", "--limit", 2, "--out", out, "--json")
    results = result(command(*arguments))
    assert results["profiles"] == ["terse=1", "warm=1", "terse=1, warm=1"]
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["method"] == "soup"]
    asked: list[Prompt] = [(Message("user", f"Tell me of {word}"),) for word in WORDS[:2] for _ in range(3)]
    warm_N, terse_N = KHeadReward.load(folder)(asked, [row["response"] for row in rows]).T
    wanted_N = np.tile([[0, 1], [1, 0], [0.5, 0.5]], (2, 1))
    expected = (wanted_N * np.stack([warm_N, terse_N], axis=1)).sum(axis=1).mean()
    assert results["methods"]["soup"]["reward"]["value"] == pytest.approx(expected, abs=1e-5)
    assert abs(warm_N - terse_N).min() > 1e-4, "the two heads differ"


def test_answers_are_the_bands_own(command: Command, band: Band, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (*RULES, "--profile", "warm=1, terse=0.5, strength=1.5", "--method", "mixture-log", "--limit", 3)
    assert command(*arguments, "--out", out, "--seed", 4, "--temperature", 0.9)[0] == 0
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [(Message("user", f"Tell me of {word}"),) for word in WORDS[:3]]
    profile = parse_profile("warm=1, terse=0.5, strength=1.5", band.dimensions)
    for method in ("base", "prompted", "mixture-log"):
        said = band.respond(asked, [profile] * 3, method, Sampling(0.9, max_tokens=24, seed=4))
        assert [row["response"] for row in rows if row["method"] == method] == [c.text for c in said]


def test_another_reward_costs_no_new_answers(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--profile", "warm", "--method", "soup", "--out", out, "--json")
    first = result(command("--reward", "warm=regex:[a-z]", *arguments))
    stamps = [(out / "answers" / name / MANIFEST).stat().st_mtime_ns for name in ("base", "soup")]
    code, said, told = command("--reward", "warm=length", *arguments)
    assert code == 0
    assert "soup had answered before" in " ".join(told.split())
    assert stamps == [(out / "answers" / name / MANIFEST).stat().st_mtime_ns for name in ("base", "soup")]
    assert json.loads(said)["scale"] != first["scale"]
    _, _, told = command("--reward", "warm=length", *arguments, "--seed", 1)
    assert "had answered before" not in told


def test_everyone_and_every_method_that_serves_them(command: Command) -> None:
    code, said, told = command(*RULES, "--json", "--strength", 1.5, "--limit", 2)
    assert code == 0
    results = json.loads(said)
    assert results["profiles"] == ["terse=1", "warm=1", "terse=1, warm=1"]
    assert (results["strengths"]["soup"], results["strengths"]["base"]) == (1.5, None)
    assert list(results["methods"]) == ["base", "prompted", "route", "soup", "moe", "mixture-log"]
    assert "cannot go beyond its experts" in results["left_out"]["mixture-prob"]
    assert "measured scores" in results["left_out"]["best-expert"]
    assert "left out: mixture-prob" in told
    assert "no reward scores exact" in told


def test_raw_scores_and_a_dimension_without_a_unit(command: Command) -> None:
    flat = ("--reward", "terse=words:counterpoint", "--profile", "terse", "--method", "soup", "--limit", 2)
    code, _, said = command(*flat)
    assert code == 2
    assert "so there is no scale" in said
    assert "pass --raw" in said
    results = result(command(*flat, "--raw", "--json"))
    assert results["scale"] is None
    assert results["methods"]["soup"]["reward"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_table_is_in_the_order_of_reward(command: Command) -> None:
    code, said, _ = command(*RULES, "--method", "soup", "--method", "route")
    results = result(command(*RULES, "--method", "soup", "--method", "route", "--json"))
    rewards = {name: row["reward"]["value"] for name, row in results["methods"].items()}
    shown = [line.split()[0] for line in said.splitlines() if line.split()[:1] and line.split()[0] in rewards]
    assert code == 0
    assert shown == sorted(rewards, key=lambda name: -rewards[name])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "holds no rewards of its own; pass --reward"),
        (("--reward", "bright=length"), "no reward scores a dimension of the band"),
        ((*RULES, "--profile", "exact=1"), "no reward scores 'exact'; pass --reward exact=RULE"),
        ((*RULES, "--profile", "ters=1"), "'terse'"),
        ((*RULES, "--method", "soap"), "unknown method 'soap'"),
        ((*RULES, "--method", "mixture-prob", "--strength", "2"), "at most 1"),
        ((*RULES, "--strength", "high"), "expected a number, or best"),
        ((*RULES, "--strength", "-1"), "strength is -1; it must be finite and at least 0"),
        ((*RULES, "--strength", "nan"), "strength is nan; it must be finite and at least 0"),
        ((*RULES, "--limit", "1"), "two prompts or more"),
        ((*RULES, "--max-tokens", "0"), "max_tokens is 0"),
    ],
)
def test_a_wrong_turn_is_one_line(command: Command, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    code, _, said = command(*arguments, "--out", tmp_path / "out")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1
    assert says in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["report.html", "results.json", "summary.json"])
def test_regression_a_folder_of_the_users_is_left_alone(command: Command, tmp_path: Path, name: str) -> None:
    """A report or results of the user's own were overwritten."""
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("mine")
    code, _, said = command(*RULES, "--method", "soup", "--out", out)
    assert code == 2
    assert f"{out}: holds other files" in said
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [(name, "mine")]


def test_regression_a_place_that_cannot_be_written_is_refused_before_answering(command: Command, prompts: Path) -> None:
    """It was a traceback, after all answers had been drawn."""
    for place in (prompts, prompts / "out"):
        code, _, said = command(*RULES, "--out", place)
        assert code == 2
        assert said.startswith(f"error: {place}")
        assert "is a file" in said
        assert "answers" not in said


def test_a_prompt_that_is_too_long_is_named_or_left_out(command: Command, prompts: Path) -> None:
    prompts.write_text(f"Hi\n{'long ' * 200}\nYou there\n")
    arguments = (*RULES, "--method", "soup", "--json")
    code, _, said = command(*arguments)
    assert code == 2
    assert "prompt 2 ('long long" in said
    code, out, said = command(*arguments, "--skip-bad")
    assert code == 0
    assert "left out: prompt 2" in said
    assert json.loads(out)["prompts"] == 2
