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
from counterpoint.decode.chats import Caller, Reply
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.wins import average_win_share, verdict_table
from counterpoint.profiles import parse_profile
from counterpoint.rewards.judge_prompts import GENERAL
from counterpoint.rewards.k_head import KHeadReward
from counterpoint.train.k_head import KHeadConfig, train_k_head
from counterpoint.types import Comparison, Message, Prompt

Command = Callable[..., tuple[object, str, str]]
WORDS = ("owls", "sky", "sea", "tea", "ice", "fog")
RULES = ("--reward", "terse=-length", "--reward", "warm=regex:[A-Za-z]")
JUDGE = ("--judge", "http://127.0.0.1:1/v1", "--judge-model", "m")


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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a judge is asked: one that prefers the shorter answer, or for "is kind" the one with more letters."""
    asked: list[dict[str, Any]] = []

    async def reply(caller: Caller, body: dict[str, Any]) -> Reply:
        asked.append(body)
        parts = body["messages"][1]["content"].split("\n\n=== ")
        a, b = (part.split(" ===\n", 1)[1] for part in parts[2:4])
        gap = liked(parts[0], a) - liked(parts[0], b)
        return Reply(f"Verdict: {'TIE' if gap == 0 else 'A' if gap > 0 else 'B'}", tokens_in=10, tokens_out=2)

    monkeypatch.setattr(Caller, "reply", reply)
    return asked


def liked(criterion: str, answer: str) -> int:
    return sum(c.isalpha() for c in answer) if "is kind" in criterion else -len(answer)


def test_a_judge_alone_ranks_by_its_verdicts(
    command: Command, asked: list[dict[str, Any]], band: Band, tmp_path: Path
) -> None:
    """The same verdicts from the responses that were written, by hand; the band has no rewards of its own."""
    out = tmp_path / "out"
    arguments = (*JUDGE, "--profile", "terse=1", "--profile", "warm=1, terse=0.5", "--method", "route", "--out", out)
    results = result(command(*arguments, "--judge-price", "1,5", "--json"))
    assert results == read_json(out / "results.json")
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    said = np.array([row["response"] for row in rows]).reshape(3, 6, 2)
    scores_MPRD = np.array([[liked("", text), liked("is kind", text)] for text in said.flat]).reshape(3, 6, 2, 2)
    verdict_MMPR = verdict_table(scores_MPRD, np.array([[1, 0], [1, 1]]), np.zeros(2))
    summed = results["judged"]["summed"]
    names = ["base", "prompted", "route"]
    for name, rate in zip(names, average_win_share(verdict_MMPR).mean(axis=1), strict=True):
        assert summed["average"][name]["win_rate"]["value"] == pytest.approx(rate)
    pair = summed["against"]["base"]["route"]
    assert pair["wins"] == (verdict_MMPR[0, 2] > 0).sum()
    assert pair["ties"] == (verdict_MMPR[0, 2] == 0).sum()
    assert pair["unanswered"] == 0
    assert list(results["judged"]["by_criterion"]) == ["terse", "warm"]
    told = results["judged"]["judge"]
    assert (told["asked"], told["tokens_in"]) == (len(asked), 10 * len(asked))
    assert told["cost"] == pytest.approx(len(asked) * (10 * 1 + 2 * 5) / 1e6)
    assert told["position_bias"] == 0
    assert "methods" not in results, "there are no rewards to stand by"
    assert not any("Be warm" in body["messages"][1]["content"] for body in asked)


def test_a_judge_is_told_the_criteria_of_a_table(command: Command, asked: list[dict[str, Any]], tmp_path: Path) -> None:
    """And where there is neither a criterion nor a description, the name, which is said."""
    table = tmp_path / "table.jsonl"
    rows = [
        {"name": "terse", "request": "Be terse.", "criterion": "Is no word wasted?"},
        {"name": "warm", "request": "?"},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = ("--profile", "warm=1, terse=1", "--method", "soup")
    for named, told, vague in (
        ((), ("says it in few words", "is kind"), False),
        (("--preferences", table), ("Is no word wasted?", "warm"), True),
    ):
        asked.clear()
        code, _, said = command(*wanted, *JUDGE, *named)
        assert code == 0, said
        found = {body["messages"][1]["content"].split("\n")[0] for body in asked}
        assert found == {f"The quality: {one}" for one in (*told, GENERAL.criterion)}
        assert ("told only the name of warm, for want" in said) == vague
    code, _, said = command(*wanted, *RULES, "--preferences", table)
    assert (code, "its criteria are for a --judge, and none is named" in said) == (2, True)


def test_a_judge_beside_rewards(command: Command, asked: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (*RULES, "--profile", "terse", "--method", "route", "--out", out)
    by_rewards = result(command(*arguments, "--json"))
    both = result(command(*arguments, *JUDGE, "--json"))
    assert {name: both[name] for name in ("methods", "against", "scores")} == {
        name: by_rewards[name] for name in ("methods", "against", "scores")
    }
    assert set(both) - set(by_rewards) == {"judged"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "What a judge says" in page
    assert "Who does best" in page
    code, said, _ = command(*arguments, *JUDGE)
    assert code == 0
    for told in ("beats base", "by the judge", "base over route", "0 replies asked for", "questions without a verdict"):
        assert told in said


def test_what_a_judge_said_is_not_paid_for_again(command: Command, asked: list[dict[str, Any]], tmp_path: Path) -> None:
    arguments = (*JUDGE, "--profile", "terse", "--out", tmp_path / "out", "--json")
    first = result(command(*arguments, "--method", "route"))["judged"]
    paid = len(asked)
    again = result(command(*arguments, "--method", "route"))["judged"]
    assert len(asked) == paid
    assert again["judge"]["kept"] == first["judge"]["asked"] == paid
    assert {**again, "judge": 0} == {**first, "judge": 0}
    code, _, told = command(*arguments, "--method", "route", "--method", "soup")
    assert code == 0
    assert f"{len(asked) - paid} calls of m, {paid} known from before" in " ".join(told.split())


def test_a_dry_run_asks_nobody(command: Command, asked: list[dict[str, Any]], tmp_path: Path) -> None:
    """Three pairs of methods, six prompts, one criterion and the general one, two orders of two repeats each."""
    arguments = (*JUDGE, "--profile", "terse", "--method", "route", "--judge-repeats", 2, "--out", tmp_path / "out")
    assert result(command(*arguments, "--dry-run", "--json")) == {"most_calls": 3 * 6 * 2 * 2 * 2}
    assert not asked
    assert not (tmp_path / "out").exists()


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
        (("--judge", "http://localhost:1/v1"), "--judge-model NAME is missing"),
        (("--judge-model", "m"), "--judge URL is missing"),
        (("--judge", "localhost:1", "--judge-model", "m"), "'localhost:1' is no address of a server"),
        ((*JUDGE, "--judge-price", "cheap"), "--judge-price 'cheap': expected two numbers"),
        ((*JUDGE, "--judge-key-env", "OPENAI_API_KEY"), "is no variable for keys; expected COUNTERPOINT_KEY"),
        ((*JUDGE, "--judge-repeats", "0"), "judge: repeats is 0; expected 1 or more"),
        ((*JUDGE, "--profile", "ters=1"), "'terse'"),
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
