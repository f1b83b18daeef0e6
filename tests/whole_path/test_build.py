"""The whole path on a pico model with two rules: what it writes, and that what was done is not done again."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from rich.console import Console

from counterpoint import Band
from counterpoint.artifacts import MANIFEST, read_json
from counterpoint.build.answer import Entry
from counterpoint.build.judge import best_strengths, entries_of, strengths_of
from counterpoint.build.present import Built
from counterpoint.build.task import BuildConfig, Task
from counterpoint.build.whole import build
from counterpoint.data.comparisons import read_comparisons
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.bootstrap import mean_interval
from counterpoint.models.band_file import read_band
from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.rewards.rules import Rewards, Rule
from counterpoint.stages import Stages
from counterpoint.testing import LetterReward, save_pico
from counterpoint.types import CounterpointError, Dimension, Prompt

COMPOSED = ("best-expert", "route", "soup", "moe", "mixture-prob", "mixture-log")
METHODS = ("base", "prompted", *(name for method in COMPOSED for name in (method, f"{method}@best")))
STAGES = ["pool", "comparisons", "rewards", "experts", "strengths", "doses", "judging", "ranking", "report"]

CONFIG = BuildConfig(
    samples=3, asked=1, pairs_per_prompt=4, held_out=0.5, reward_steps=3, expert_steps=3, batch=4, lora_rank=2,
    expert_learning_rate=2e-2, max_tokens=12, tune_prompts=2, strengths=(1.0, 2.0),
)  # fmt: skip
TRAIN: tuple[Prompt, ...] = ("the owl is", "Who", "and of you", "Say", "is the bee", "So")
TEST: tuple[Prompt, ...] = ("of the", "Hi and", "you")


def plain_share(_: Prompt, response: str) -> float:
    """The share of a response that is ASCII letters, which a pico model's random bytes are at times."""
    return sum(c.isascii() and c.isalpha() for c in response) / max(len(response), 1)


def judge() -> Rewards:
    brief = Rule("brief", "-characters", lambda _, response: -len(response))
    return Rewards([brief, Rule("plain", "share", plain_share)])


def quietly() -> Stages:
    return Stages(Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task(
        model=str(save_pico(tmp_path_factory.mktemp("build") / "base", seed=3)),
        dimensions=(Dimension("brief", "in few characters", "Be brief."), Dimension("plain", "in letters")),
        train_prompts=TRAIN,
        test_prompts=TEST,
        judge=judge(),
        trade_off=("brief", "plain"),
    )


@pytest.fixture(scope="module")
def made(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    out = tmp_path_factory.mktemp("made") / "out"
    return out, build(task, out, CONFIG, quietly(), "A pico build")


def test_it_makes_a_band_that_chats(made: tuple[Path, Built]) -> None:
    out, _ = made
    assert sorted(path.name for path in out.iterdir()) == [
        "band", "comparisons.jsonl", "methods.svg", "report.html", "responses.jsonl", "summary.json"
    ]  # fmt: skip
    file = read_band(out / "band")
    assert [(entry.name, entry.dimension) for entry in file.experts] == [("brief", "brief"), ("plain", "plain")]
    assert all(set(entry.scores) == {"brief", "plain"} for entry in file.experts)
    assert "the 2 best of 4 responses to each of 6 prompts" in file.experts[0].trained_on
    assert set(file.strengths) == set(COMPOSED)
    assert file.strengths["mixture-prob"] in (0.5, 1.0)
    assert file.strengths["soup"] in (1.0, 2.0)
    band = Band.load(out / "band")
    short = Sampling(max_tokens=24)
    for method in COMPOSED:
        said = {band.chat("the owl", profile, method, short) for profile in (None, "brief", "plain")}
        assert len(said) > 1, f"{method} says what the base says"


def test_the_summary_has_the_numbers_of_every_method(made: tuple[Path, Built]) -> None:
    summary = read_json(made[0] / "summary.json")
    assert set(summary) == {"seconds", "stages", "prompts", "seed", "resamples", "methods", "reward_models"}
    assert (summary["prompts"], summary["seed"]) == (3, 0)
    assert [stage["name"] for stage in summary["stages"]] == STAGES
    assert summary["seconds"] == pytest.approx(sum(stage["seconds"] for stage in summary["stages"]))
    assert tuple(summary["methods"]) == METHODS
    for numbers in summary["methods"].values():
        assert set(numbers) == {"average_win_rate", "reward", "correctness", "by_profile"}
        assert numbers["correctness"] is None
        assert set(numbers["by_profile"]) == {"brief + plain"}
        assert 0 <= numbers["average_win_rate"]["value"] <= 1
    rates = [numbers["average_win_rate"]["value"] for numbers in summary["methods"].values()]
    assert np.mean(rates) == pytest.approx(0.5), "win rates of all against all"


def test_every_judged_response_is_written_with_its_scores(made: tuple[Path, Built], task: Task) -> None:
    """Scores of the file are the judge's of the text, by one linear scale per dimension."""
    lines = [json.loads(line) for line in (made[0] / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(METHODS) * len(TEST)
    assert set(lines[0]) == {"method", "strength", "profile", "prompt", "response", "scores"}
    assert {line["prompt"] for line in lines} == set(TEST)
    raw_ND = task.scores(task.judge, [line["prompt"] for line in lines], [line["response"] for line in lines])
    for d, name in enumerate(("brief", "plain")):
        written = np.array([line["scores"][name] for line in lines])
        assert written.std() > 0
        assert np.corrcoef(written, raw_ND[:, d])[0, 1] == pytest.approx(1, abs=1e-6)


def test_the_base_answers_once_for_all_profiles_and_moe_as_soup(made: tuple[Path, Built]) -> None:
    _, built = made
    answered = zip(built.judged.entries, built.judged.answers_M, strict=True)
    texts = {entry.name: answers.texts_PR for entry, answers in answered}
    assert texts["soup"] == texts["moe"]
    assert texts["soup"] != texts["base"]


def test_the_report_is_one_page_that_names_every_method(made: tuple[Path, Built]) -> None:
    page = (made[0] / "report.html").read_text(encoding="utf-8")
    assert "A pico build" in page
    assert all(name in page for name in (*METHODS, *STAGES[:-1], "brief", "plain"))
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_comparisons_and_reward_models_are_kept(made: tuple[Path, Built], task: Task) -> None:
    out, built = made
    comparisons = read_comparisons(out / "comparisons.jsonl").comparisons
    assert {comparison.dimension for comparison in comparisons} == {"brief", "plain"}
    for c in comparisons:
        scores_ND = task.scores(task.judge, [c.prompt] * 2, [c.chosen, c.rejected])
        chosen, rejected = scores_ND[:, task.names.index(c.dimension)]
        assert chosen > rejected
    for quality in built.rewards:
        assert quality.pairs > 0
        assert BradleyTerryReward.load(out / "band" / "rewards" / quality.dimension).dimensions == (quality.dimension,)


def test_a_second_run_trains_nothing_and_says_the_same(made: tuple[Path, Built], task: Task) -> None:
    out, _ = made
    artefacts = [out / "band" / kind / name for kind in ("rewards", "made") for name in task.names]
    before = {path: (path / MANIFEST).stat().st_mtime_ns for path in artefacts}
    said, band = (out / "responses.jsonl").read_bytes(), read_band(out / "band")
    methods = read_json(out / "summary.json")["methods"]
    build(task, out, CONFIG, quietly(), "A pico build")
    assert {path: (path / MANIFEST).stat().st_mtime_ns for path in artefacts} == before
    assert (out / "responses.jsonl").read_bytes() == said
    assert read_band(out / "band") == band
    assert read_json(out / "summary.json")["methods"] == methods


@pytest.mark.parametrize(("experts", "how"), [("dpo", "DPO on "), ("sft", "the preferred responses of ")])
def test_other_ways_to_make_experts(
    made: tuple[Path, Built], task: Task, tmp_path: Path, experts: Literal["dpo", "sft"], how: str
) -> None:
    built = build(task, tmp_path / "out", replace(CONFIG, experts=experts), quietly(), "Other")
    file = read_band(tmp_path / "out" / "band")
    assert len(file.experts) == 2
    assert file.experts[0].trained_on.startswith(how)
    best_of_n = (made[0] / "band" / "experts" / "brief" / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "out" / "band" / "experts" / "brief" / "adapter_model.safetensors").read_bytes() != best_of_n
    assert tuple(entry.name for entry in built.judged.entries) == METHODS


def test_a_dimension_that_the_judge_does_not_score(task: Task) -> None:
    with pytest.raises(CounterpointError, match="no reward scores the dimension 'plain'"):
        replace(task, judge=LetterReward("e", "brief"))


def test_a_task_needs_prompts(task: Task) -> None:
    with pytest.raises(CounterpointError, match="0 training prompts and 3 test prompts"):
        replace(task, train_prompts=())
    with pytest.raises(CounterpointError, match="6 training prompts and 1 test prompts"):
        replace(task, test_prompts=("Hi",))


def test_a_reward_that_cannot_tell_responses_apart_is_named(task: Task, tmp_path: Path) -> None:
    flat = Rewards([Rule("brief", "flat", lambda *_: 1.0), Rule("plain", "share", plain_share)])
    with pytest.raises(CounterpointError, match="dimension 'brief': 0 comparisons to learn from"):
        build(replace(task, judge=flat), tmp_path / "out", CONFIG, quietly(), "Flat")


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(CounterpointError, match="samples is 1; at least 2"):
        BuildConfig(samples=1)
    with pytest.raises(CounterpointError, match="experts is 'ppo'"):
        BuildConfig(experts="ppo")  # type: ignore[arg-type]


def test_profiles_without_axes_are_all_sets_of_two_or_more(task: Task) -> None:
    more = Rewards([*judge().parts, LetterReward("e", "e")])
    three = replace(task, dimensions=(*task.dimensions, Dimension("e")), judge=more)
    assert [tuple(p.weights) for p in three.profiles] == [
        ("brief", "plain"), ("brief", "e"), ("plain", "e"), ("brief", "plain", "e")
    ]  # fmt: skip
    assert [tuple(p.weights) for p in replace(task, dimensions=task.dimensions[:1]).profiles] == [("brief",)]
    opposed = replace(three, axes=(("brief", "plain"), ("e",)))
    assert [tuple(p.weights) for p in opposed.profiles] == [("brief", "e"), ("plain", "e")]


def test_every_method_gets_as_many_strengths() -> None:
    config = replace(CONFIG, strengths=(0.5, 1.0, 1.5, 2.0))
    assert strengths_of("soup", config) == (0.5, 1.0, 1.5, 2.0)
    assert strengths_of("mixture-prob", config) == (0.25, 0.5, 0.75, 1.0)


def test_the_best_strength_is_that_of_the_highest_reward_and_of_equals_the_smaller() -> None:
    one, three = mean_interval([1.0, 1.0], seed=0), mean_interval([3.0, 3.0], seed=0)
    best = best_strengths({"soup": {0.5: one, 1.0: three, 2.0: three}, "moe": {0.5: one}})
    assert best == {"soup": 1.0, "moe": 0.5}
    assert entries_of(best)[2:4] == [Entry("soup", "soup"), Entry("soup@best", "soup", 1.0)]
