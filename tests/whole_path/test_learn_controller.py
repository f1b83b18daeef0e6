"""A controller from prompts and rewards: its figures are those of answers scored by hand, and a kill costs little."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from counterpoint.artifacts import MANIFEST, read_json
from counterpoint.build.best import split_prompts
from counterpoint.build.controller import LearnConfig, alike, fingerprint, learn_controller, pairs_of, plans_of
from counterpoint.compose.weighers.controller import TENSORS, Controller
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.profiles import parse_profile
from counterpoint.rewards.rules import Rewards, Rule
from counterpoint.stages import Stages
from counterpoint.testing import pico_model, pico_tokenizer
from counterpoint.train.controller import ControllerConfig, ControllerResult, train_controller
from counterpoint.types import CounterpointError, Message, Profile, Prompt

PROMPTS: tuple[Prompt, ...] = tuple(
    (Message("user", f"Tell me of {word}"),) for word in ["owls", "sky", "sea", "tea", "ice", "fog"]
)
TWO = [Profile({"terse": 1.0, "warm": 1.0}), Profile({"warm": 1.0, "exact": 3.0})]


def judge() -> Rewards:
    """Rules of which pico models' random text gives a little of each."""
    short = Rule("terse", "short", lambda _, response: -len(response.encode()))
    letters = Rule("warm", "letters", lambda _, response: sum(c.isascii() and c.isalpha() for c in response))
    return Rewards([short, letters, Rule("exact", "spaces", lambda _, response: response.count(" "))])


@pytest.fixture
def folder(band_folder: Path, tmp_path: Path) -> Path:
    """A copy of the band, which may get a controller."""
    return shutil.copytree(band_folder, tmp_path / "band")


def config_of(folder: Path, **changed: object) -> ControllerConfig:
    config = ControllerConfig(
        str(folder), max_tokens=8, prompts_per_iteration=4, iterations=2, epochs=2, minibatch=4, learning_rate=0.02
    )
    return replace(config, **changed)  # type: ignore[arg-type]


def learn(
    folder: Path,
    config: ControllerConfig,
    profiles: Sequence[Profile] = TWO,
    out: str = "controller",
    judged_by: str = "",
) -> dict[str, Any]:
    stages, learning = Stages(Console(file=io.StringIO())), LearnConfig(judged_by, holdout=0.5)
    return learn_controller(Band.load(folder), config, learning, judge(), PROMPTS, profiles, folder / out, stages)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_rewards_on_held_out_prompts_are_those_of_the_answers(folder: Path, strength: float) -> None:
    """Each answer is drawn again by `respond` and scored anew: z-scores, chances to beat the base, means by weight."""
    metrics = learn(folder, config_of(folder, seed=5, strength=strength))
    assert metrics == read_json(folder / "controller" / "metrics.json")
    learned, held = split_prompts(PROMPTS, 0.5, 5)
    assert (metrics["learned"]["prompts"], metrics["held_out"]["prompts"]) == (3, 3)
    band, greedy = Band.load(folder), Sampling(temperature=0, max_tokens=8)

    def raw(prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        return judge()(prompts, texts)

    def plain(prompts: Sequence[Prompt]) -> list[str]:
        return [said.text for said in band.respond(prompts, [None] * len(prompts), "base", greedy)]

    spread_D = raw(learned, plain(learned)).std(axis=0)
    reference_PD = raw(held, plain(held))
    expected: dict[str, list[float]] = {}
    for method in ("mope", "mixture-prob", "base"):
        by_profile = []
        for profile in TWO:
            drawn = Sampling(temperature=1.0, max_tokens=8, seed=5)
            served = replace(profile, strength=strength)
            texts = [said.text for said in band.respond(held, [served] * 3, method, drawn)]
            beats_PD = 1 / (1 + np.exp(-(raw(held, texts) - reference_PD) / spread_D))
            w_D = np.array([profile.weights.get(name, 0.0) for name in ("terse", "warm", "exact")])
            by_profile.append((beats_PD @ w_D / w_D.sum()).mean())
        expected[method] = by_profile
        found = metrics["methods"][method]
        assert list(found["by_profile"]) == ["terse=1, warm=1", "warm=1, exact=3"]
        assert list(found["by_profile"].values()) == pytest.approx(by_profile)
        assert found["reward"]["value"] == pytest.approx(np.mean(by_profile))
    for other in ("mixture-prob", "base"):
        difference = np.mean(expected["mope"]) - np.mean(expected[other])
        assert metrics["mope_minus"][other]["value"] == pytest.approx(difference)
    assert metrics["methods"]["mope"] != metrics["methods"]["mixture-prob"], "it learned something"


def test_a_killed_run_goes_on_and_ends_with_the_same_controller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn(folder, config_of(folder, iterations=3), out="whole")

    def killed(*given: Any) -> ControllerResult:
        def stop(done: int, _: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        band, config, prompts, profiles, reward, out, *_ = given
        return train_controller(band, config, prompts, profiles, reward, out, stop)

    monkeypatch.setattr("counterpoint.build.controller.train_controller", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(folder, config_of(folder, iterations=3))
    assert not (folder / "controller").exists()
    monkeypatch.undo()
    resumed = learn(folder, config_of(folder, iterations=3))
    timed = ("seconds_roll_out", "seconds_epochs")
    for one, other in zip(whole["iterations"], resumed["iterations"], strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert (folder / "whole" / TENSORS).read_bytes() == (folder / "controller" / TENSORS).read_bytes()
    assert resumed["methods"] == whole["methods"]


def test_what_is_there_is_not_learned_again_unless_the_rewards_are_others(folder: Path) -> None:
    assert learn(folder, config_of(folder))["fresh"]
    made = (folder / "controller" / MANIFEST).read_bytes()
    assert not learn(folder, config_of(folder))["fresh"]
    assert (folder / "controller" / MANIFEST).read_bytes() == made
    assert learn(folder, config_of(folder), judged_by="others")["fresh"]


def test_rewards_are_told_apart_by_what_their_files_hold(tmp_path: Path) -> None:
    folder, rule = tmp_path / "model", tmp_path / "rule.py"
    folder.mkdir()
    (folder / "reward.json").write_text("{}")
    rule.write_text("one")
    texts = [f"warm={folder}", f"terse=python:{rule}:score", "exact=-length"]
    first = fingerprint(texts)
    assert fingerprint(texts) == first
    rule.write_text("two")
    second = fingerprint(texts)
    (folder / "reward.json").write_text("{ }")
    assert len({first, second, fingerprint(texts)}) == 3
    assert fingerprint(["exact=length"]) != fingerprint(["exact=-length"])


def test_rewards_as_they_are(folder: Path) -> None:
    """Without z-scores and a reference, the base's mean reward is the plain mean of its answers' raw scores."""
    metrics = learn(folder, config_of(folder, bt=False), [TWO[0]])
    assert metrics["units"] == {}
    _, held = split_prompts(PROMPTS, 0.5, 0)
    drawn = Sampling(temperature=1.0, max_tokens=8)
    texts = [said.text for said in Band.load(folder).respond(held, [None] * 3, "base", drawn)]
    assert metrics["methods"]["base"]["reward"]["value"] == pytest.approx(judge()(held, texts)[:, :2].mean())


def steered(band: Band, **options: object) -> Band:
    """The band with learned constants that prefer the first expert."""
    names = [expert.name for expert in band.experts]
    constants = {"terse=0.5, warm=0.5": [2.0, 0.0, 0.0]}
    band.steer(Controller(experts=names, dimensions=list(band.dimensions), constants=constants, **options))
    return band


def test_what_it_is_compared_with(band: Band) -> None:
    """Fixed weights are those of its space; the untrained is named where asking in words makes it another."""
    assert list(plans_of(steered(band), [TWO[0]])) == ["mope", "mixture-prob", "base"]
    assert list(plans_of(steered(band, space="log"), [TWO[0]])) == ["mope", "mixture-log", "base"]
    plans = plans_of(steered(band, expert_prompt="own"), [TWO[0]])
    assert list(plans) == ["mope", "mixture-prob", "untrained", "base"]
    (untrained,) = plans["untrained"]
    assert untrained.coefficients == pytest.approx((0.5, 0.5))
    assert [row.requests for row in untrained.rows] == [("terse",), ("warm",)]
    e2 = np.exp(2)
    assert plans["mope"][0].coefficients == pytest.approx((e2 / (e2 + 1), 1 / (e2 + 1)))


def test_it_is_compared_with_soup_and_the_log_mixture_at_their_best_strengths(folder: Path) -> None:
    band = steered(Band.load(folder))
    band.file.strengths = {"soup": 1.5, "mixture-log": 2.0, "mixture-prob": 1.0}
    plans = plans_of(band, [TWO[0]])
    assert list(plans) == ["mope", "mixture-prob", "soup, strength 1.5", "mixture-log, strength 2", "base"]
    assert plans["soup, strength 1.5"] == [band.plan(replace(TWO[0], strength=1.5), "soup")]
    assert plans["mixture-log, strength 2"] == [band.plan(replace(TWO[0], strength=2.0), "mixture-log")]


def test_plans_that_differ_in_space_or_temper_are_not_alike(band: Band) -> None:
    plan = band.plan(TWO[0], "mixture-prob")
    assert alike(plan, replace(plan))
    assert not alike(plan, replace(plan, space="log"))
    assert not alike(plan, replace(plan, temper="experts"))


def test_the_base_answers_each_prompt_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are scaled by the answers that rewards count from; three prompts are learned, three held out."""
    greedy: list[int] = []
    run = Band.run

    def counted(self: Band, requests: Any, progress: Any = None) -> Any:
        greedy.extend(1 for request in requests if request.sampling.temperature == 0)
        return run(self, requests, progress)

    monkeypatch.setattr(Band, "run", counted)
    learn(folder, config_of(folder, iterations=1))
    assert len(greedy) == 6


def test_prompts_must_fit_the_controller_too(folder: Path, tmp_path: Path) -> None:
    """Its context of 32 positions is shorter than the base's; what fits is learned from where others are skipped."""
    small = tmp_path / "small"
    pico_model(7, positions=32).save_pretrained(small)
    pico_tokenizer().save_pretrained(small)
    long: Prompt = (Message("user", "Tell me all that there is to say of owls and bees and the sea."),)
    config, stages = config_of(folder, model=str(small)), Stages(Console(file=io.StringIO()))
    given = (judge(), [long, *PROMPTS], TWO, folder / "controller", stages)
    band = Band.load(folder)
    with pytest.raises(CounterpointError, match=r"prompt 1 .*Tell me all.* 32 is the most; .*--skip-bad"):
        learn_controller(band, config, LearnConfig(holdout=0.5), *given)
    assert band.controller is None
    metrics = learn_controller(band, config, LearnConfig(holdout=0.5, skip_bad=True), *given)
    assert metrics["learned"] == {"prompts": 3, "prompts_left_out": 1}


def test_profiles_by_default_are_each_two_that_are_not_forbidden(band: Band) -> None:
    assert [tuple(p.weights) for p in pairs_of(band)] == [("terse", "warm"), ("terse", "exact"), ("warm", "exact")]
    band.bounds = {"warm": (0.0, 0.0)}
    assert [tuple(p.weights) for p in pairs_of(band)] == [("terse", "exact")]


@pytest.mark.parametrize(
    ("profile", "changed", "bounds", "said"),
    [
        ("terse", {}, {}, "has one expert, which leaves nothing to weigh"),
        ("terse, warm, strength=0.5", {}, {}, "the strength of all profiles is set by --strength"),
        ("terse, warm", {}, {"exact": (0.3, 1.0)}, "keeps no floor .* have 0.3 <= exact <= 1"),
        ("terse, warm", {}, {"warm": (0.0, 0.5)}, "keeps no floor and no cap but 0"),
        ("terse, warm", {}, {"warm": (0.0, 0.0)}, "the band's bounds forbid 'warm'"),
        ("terse, warm", {"strength": 1.5}, {}, "strength is 1.5, at most 1 is possible"),
    ],
)
def test_profiles_that_cannot_be_learned(
    band: Band,
    tmp_path: Path,
    profile: str,
    changed: dict[str, object],
    bounds: dict[str, tuple[float, float]],
    said: str,
) -> None:
    band.bounds = bounds
    people = [parse_profile(profile, band.dimensions)]
    config = config_of(tmp_path, **changed)
    stages = Stages(Console(file=io.StringIO()))
    with pytest.raises(CounterpointError, match=said):
        learn_controller(band, config, LearnConfig(), judge(), PROMPTS, people, tmp_path / "out", stages)
    assert not (tmp_path / "out").exists()


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(CounterpointError, match="head is 'described', and constants have no head"):
        ControllerConfig("band", constant=True, head="described")
