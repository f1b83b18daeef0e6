"""`counterpoint train expert --method ppo` and `train policy`: what they measure, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.artifacts import read_json
from counterpoint.build.best import split_prompts
from counterpoint.data.chat import with_request
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.testing import save_pico
from counterpoint.types import Message, Profile, Prompt

Command = Callable[..., tuple[object, str, str]]
SMALL = (
    "--iterations", 2, "--prompts-per-iteration", 4, "--samples", 2, "--epochs", 2, "--max-tokens", 6,
    "--holdout", 0.4, "--threads", 1,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pico(tmp_path_factory.mktemp("policy") / "base", seed=5)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"say {i}\n" for i in range(10)))
    return file


def result(done: tuple[object, str, str]) -> Any:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


@pytest.mark.parametrize("method", ["ppo", "rebel"])
def test_an_expert_is_measured_beside_its_base(
    command: Command, base: Path, prompts: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "expert"
    arguments = (
        "train", "expert", base, "--method", method, "--dimension", "concise", "--prompts", prompts,
        "--reward", "concise=-length", "--out", out, "--request", "Be short.", "--learning-rate", 0.05, *SMALL,
    )  # fmt: skip
    metrics = result(command(*arguments, "--json"))
    assert metrics == read_json(out / "metrics.json")
    assert metrics["requests"] == ["Be short."]
    assert (metrics["learned"]["prompts"], metrics["held_out"]["prompts"]) == (6, 4)
    assert [len(metrics["iterations"]), metrics["base"]["kl"]["value"]] == [2, pytest.approx(0, abs=1e-5)]
    assert metrics["policy"]["kl"]["value"] != pytest.approx(0, abs=1e-3)
    gain = metrics["policy"]["reward"]["value"] - metrics["base"]["reward"]["value"]
    assert metrics["gain"]["value"] == pytest.approx(gain)
    assert result(command(*arguments, "--json")) == {**metrics, "fresh": False}
    code, said, told = command(*arguments)
    assert code == 0, told
    assert [line.split()[0] for line in said.splitlines()[:5]] == ["on", "reward", "KL", "tokens", "share"]
    assert f"counterpoint add BAND {out} --dimension concise" in said


def test_what_a_policy_earns_is_what_its_answers_earn(
    command: Command, base: Path, prompts: Path, tmp_path: Path
) -> None:
    """Answered again by a band of the base and the expert, with the words that were asked, seed by place."""
    out = tmp_path / "expert"
    metrics = result(
        command(
            "train", "expert", base, "--method", "ppo", "--dimension", "concise", "--prompts", prompts,
            "--reward", "concise=-length", "--out", out, "--request", "Be short.", "--learning-rate", 0.05, *SMALL,
            "--json",
        )
    )  # fmt: skip
    band = Band.assemble(base, {"concise": out})
    every: list[Prompt] = [(Message("user", f"say {i}"),) for i in range(10)]
    held = [with_request(prompt, "Be short.") for prompt in split_prompts(every, 0.4, seed=0)[1]]
    for name, method in (("base", "base"), ("policy", "soup")):
        said = band.respond(held, [Profile({"concise": 1.0})] * 4, method, Sampling(max_tokens=6))
        earned = [-len(answer.text.split()) for answer in said]
        assert metrics[name]["reward"]["value"] == pytest.approx(np.mean(earned))
        ended = [answer.finish == "stop" for answer in said]
        assert metrics[name]["ended"]["value"] == pytest.approx(np.mean(ended))


def test_a_policy_learns_all_corners_of_the_axes_in_words(
    command: Command, base: Path, prompts: Path, tmp_path: Path
) -> None:
    rewards = ("--reward", "concise=-length", "--reward", "informative=length")
    out = tmp_path / "policy"
    arguments = ("train", "policy", base, "--prompts", prompts, *rewards, "--out", out, *SMALL, "--json")
    metrics = result(command(*arguments, "--corners"))
    assert metrics["profiles"] == ["concise=1", "informative=1"]
    assert all(metrics["requests"])
    assert len(set(metrics["requests"])) == 2
    single = result(command(*arguments))
    assert (single["profiles"], single["requests"]) == (["concise=1, informative=1"], [""])
    named = result(command(*arguments, "--profile", "concise=1, informative=1"))
    assert named["requests"] == [" ".join(metrics["requests"])]


def test_regression_whoever_asks_in_the_same_words_for_other_shares_is_learned_anew(
    command: Command, base: Path, prompts: Path, tmp_path: Path
) -> None:
    """What a profile earns was no part of what tells one run from another, and the old policy was kept."""
    rewards = ("--reward", "concise=-length", "--reward", "informative=length")
    arguments = ("train", "policy", base, "--prompts", prompts, *rewards, "--out", tmp_path / "policy", *SMALL)
    found = [
        result(command(*arguments, "--iterations", 1, "--profile", f"concise=1, informative={share}", "--json"))
        for share in (1, 0.2, 0.2)
    ]
    assert found[0]["requests"] == found[1]["requests"]
    assert [metrics["fresh"] for metrics in found] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("expert", "--method", "ppo", "--dimension", "x"), "ppo learns from its own responses: it takes --prompts"),
        (("expert", "--method", "pop", "--dimension", "x"), "expected dpo, sft, best-of-n, ppo or rebel"),
        (("expert", "--method", "rebel", "--dimension", "x", "--samples", 3), "samples is 3; rebel compares pairs"),
        (("expert", "--method", "ppo", "--dimension", "x", "--samples", 0), "samples is 0; it must be at least 1"),
        (
            ("expert", "--method", "ppo", "--dimension", "x", "--steps", 9),
            "--steps is for --method dpo, sft, best-of-n",
        ),
        (("expert", "--method", "ppo", "--dimension", "x", "--eta", 2), "--eta is for --method rebel; ppo does not"),
        (("expert", "--method", "ppo", "--dimension", "x", "--at-once", 0), "at_once is 0; it must be at least 1"),
        (
            ("expert", "--method", "ppo", "--dimension", "x", "--request", "a", "--no-request"),
            "pass --request or --no-request, not both",
        ),
        (("policy", "--corners", "--profile", "x=1"), "pass --profile or --corners, not both"),
        (("policy", "--corners"), "'x' is on no axis; name one in a table of --preferences"),
        (("policy", "--profile", "y=1"), "y"),
    ],
)
def test_a_mistake_is_one_line(
    command: Command, base: Path, prompts: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    kind, *more = arguments
    asked = () if "ppo learns" in message else ("--prompts", prompts, "--reward", "x=length")
    code, said, told = command("train", kind, base, "--out", tmp_path / "out", *asked, *more)
    assert (code, said) == (2, "")
    assert message in " ".join(told.split())
    assert not (tmp_path / "out").exists()
