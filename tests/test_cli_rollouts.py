"""`preferences`, `sample`, `label` and `train reward --steered`: the path of a user's own table, and every mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.cli.build import make_task
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.preferences import read_preferences
from counterpoint.data.samples import read_samples
from counterpoint.rewards.steered import SteeredReward
from counterpoint.testing import save_pico

Command = Callable[..., tuple[object, str, str]]
TABLE = [
    {"name": "short", "axis": "length", "request": "Be short."},
    {"name": "long", "axis": "length", "request": "Be long, please."},
]
RULES = ("--reward", "short=-length", "--reward", "long=length")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pico(tmp_path_factory.mktemp("rollouts") / "base", seed=5)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TABLE))
    return tmp_path / "table.jsonl"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("".join(f"say {i} and\n" for i in range(8)))
    return tmp_path / "prompts.txt"


def result(done: tuple[object, str, str]) -> Any:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


def failing(done: tuple[object, str, str]) -> str:
    assert done[0] == 2
    return " ".join(done[2].split())


def test_what_preferences_prints_can_be_read_again(command: Command, tmp_path: Path, table: Path) -> None:
    code, said, _ = command("preferences", "--json")
    (tmp_path / "mine.json").write_text(said)
    assert code == 0
    assert read_preferences(tmp_path / "mine.json") == read_preferences()
    assert [row["name"] for row in result(command("preferences", table, "--json"))] == ["short", "long"]
    _, text, _ = command("preferences", table)
    assert "Be long, please." in text
    assert "One pole of each axis is a profile: 2 in all." in text


def test_from_prompts_to_a_steered_reward_model(
    command: Command, base: Path, table: Path, prompts: Path, tmp_path: Path
) -> None:
    own, samples, pairs = ("--preferences", table), tmp_path / "s.jsonl", tmp_path / "c.jsonl"
    asked = ("--samples", 2, "--max-tokens", 12, "--threads", 1, "--json")
    drawn = result(command("sample", base, "--prompts", prompts, *own, *asked, "--out", samples))
    assert [(row["asked"], row["samples"]) for row in drawn] == [([], 16), (["short"], 16), (["long"], 16)]
    assert len(read_samples(samples)) == 48

    told = result(command("label", samples, *RULES, *own, "--check", "--threads", 1, "--json", "--out", pairs))
    read = read_comparisons(pairs)
    assert told["comparisons"] == len(read.comparisons) == sum(tally["kept"] for tally in told["pairs"])
    assert told["judge"] is None
    known = [tally for tally in told["pairs"] if tally["kind"] != "same"]
    assert sum(tally["checked"] for tally in known) == sum(tally["kept"] for tally in known) > 0
    words = {"short": -1, "long": 1}
    for c, rest in zip(read.comparisons, read.rest, strict=True):
        gap = words[c.dimension] * (len(c.chosen.split()) - len(c.rejected.split()))
        assert gap > 0 or rest["kind"] != "same"

    out = tmp_path / "steered"
    small = ("--steps", 6, "--batch", 4, "--threads", 1, "--holdout", 0.5)
    arguments = ("train", "reward", base, "--comparisons", pairs, "--steered", *own, "--out", out, *small)
    metrics = result(command(*arguments, "--json"))
    reward, unseen = SteeredReward.load(out), read_comparisons(out / "held_out.jsonl").comparisons
    assert list(metrics) == list(reward.dimensions) == ["short", "long"]
    for column, name in enumerate(("short", "long")):
        by_prompt: dict[object, list[float]] = {}
        for c in (c for c in unseen if c.dimension == name):
            chosen, rejected = reward([c.prompt] * 2, [c.chosen, c.rejected])[:, column]
            by_prompt.setdefault(c.prompt, []).append(float(chosen > rejected))
        assert metrics[name]["held_out"]["prompts"] == len(by_prompt) > 1
        assert metrics[name]["accuracy"]["value"] == pytest.approx(np.mean([np.mean(v) for v in by_prompt.values()]))
    scored = result(command("score", out / "held_out.jsonl", "--reward", out, "--json", "--threads", 1))
    assert scored["accuracies"]["long"]["accuracy"] == pytest.approx(metrics["long"]["accuracy"]["value"])
    other = command(*arguments, "--dimension", "long")
    assert "holds a reward model of short, long, which one of long would replace" in failing(other)


def test_one_dimension_of_a_table_and_of_the_built_in_one(
    command: Command, base: Path, table: Path, prompts: Path, tmp_path: Path
) -> None:
    few = ("--samples", 1, "--max-tokens", 3, "--threads", 1)
    out = tmp_path / "s.jsonl"
    code, said, told = command(
        "sample", base, "--prompts", prompts, "--dimension", "sassy", "--no-neutral", *few, "--out", out
    )
    assert code == 0, told
    assert {s.asked for s in read_samples(out)} == {("sassy",)}
    assert "sassy" in said
    wrong = command("label", out, *RULES, "--preferences", table, "--out", tmp_path / "c.jsonl", "--threads", 1)
    assert "unknown preference 'sassy'" in failing(wrong)
    none = command("label", out, "--reward", "kind=length", "--out", tmp_path / "c.jsonl", "--threads", 1)
    assert "samples were asked for sassy, and rewards score kind: nothing is in both" in failing(none)
    lone = command("label", out, "--reward", "sassy=length", "--out", tmp_path / "c.jsonl", "--threads", 1)
    assert "'sassy': the samples make no pairs" in failing(lone)


def test_a_build_takes_requests_and_axes_from_a_table(base: Path, table: Path, prompts: Path) -> None:
    """Of what has a reward; 'odd' is in no table, and a request by hand comes first."""
    rules = ["short=-length", "odd=ari", "long=length"]
    rows = read_preferences(table)
    task = make_task(str(base), [prompts], [], rules, [], ["long=Go on!"], [], skip_bad=False, table=rows)
    assert [(d.name, d.axis, d.request) for d in task.dimensions] == [
        ("short", "length", "Be short."), ("odd", "", ""), ("long", "length", "Go on!")
    ]  # fmt: skip
    assert task.axes == (("short", "long"),)
    assert len(task.profiles) == 2
    other = make_task(str(base), [prompts], [], rules, ["short,odd"], [], [], skip_bad=False, table=rows)
    assert other.axes == (("short", "odd"),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--endpoint", "http://localhost:1/v1"), "expected a MODEL or an --endpoint with its --remote-model"),
        (("--remote-model", "m"), "--endpoint and --remote-model go together"),
        (("--api-key-env", "COUNTERPOINT_KEY"), "a key is for an --endpoint"),
        (("--dimension", "consise"), "unknown preference 'consise'; did you mean 'concise'?"),
        (("--samples", 0), "samples is 0"),
        (("--temperature", -1), "temperature is -1"),
    ],
)
def test_mistakes_of_sample(
    command: Command, base: Path, prompts: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    done = command("sample", base, "--prompts", prompts, "--out", tmp_path / "s.jsonl", *arguments)
    assert message in failing(done)
    assert not (tmp_path / "s.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pairs", "same,oposite"), "unknown kind of pairs 'oposite'; did you mean 'opposite'"),
        (("--judge", "http://localhost:1/v1"), "--judge-model NAME is missing"),
        (("--reward", "short=length", "--judge", "http://localhost:1/v1", "--judge-model", "m"), "name one"),
        ((), "4 pairs need a label, and neither a --reward nor a --judge is named"),
    ],
)
def test_mistakes_of_label(
    command: Command, tmp_path: Path, table: Path, arguments: tuple[object, ...], message: str
) -> None:
    rows = [
        {"prompt": f"p{i}", "asked": ["short"], "response": "a" * (1 + j), "index": j, "ended": True, "seed": 0}
        for i in range(4) for j in range(2)
    ]  # fmt: skip
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--preferences", table, "--out", tmp_path / "c.jsonl", "--threads", 1, *arguments)
    assert message in failing(command("label", tmp_path / "s.jsonl", *options))
    assert not (tmp_path / "c.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steered", "--shared"), "pass one of --all, --shared and --steered"),
        (("--shared", "--preferences", "table.jsonl"), "its requests steer a model; pass --steered as well"),
        (("--steered",), "unknown preference 'loud'"),
    ],
)
def test_mistakes_of_a_steered_model(
    command: Command, base: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "dimension": "loud"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    options = ("--comparisons", tmp_path / "c.jsonl", "--out", tmp_path / "r", "--threads", 1)
    assert message in failing(command("train", "reward", base, *options, *arguments))
