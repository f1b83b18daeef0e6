"""Training a controller, from prompts to a folder: what it earns, what it writes, and how it goes on after a kill."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from counterpoint.compose.weighers.controller import FILE, TENSORS, read_controller
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import LoraFactors, write_adapter
from counterpoint.models.band_file import add_expert, new_band
from counterpoint.testing import LetterReward, pico_model, pico_tokenizer
from counterpoint.train.controller import ControllerConfig, kept_gib, references, reward_of, train_controller
from counterpoint.train.mope import MopeLearner
from counterpoint.types import CounterpointError, Dimension, Expert, Profile, Prompt

PROMPTS = ("Tell me of the owl and the bee.", "Hi", "What now?")
BOTH = Profile({"x": 1.0, "y": 1.0})
UNITS = 4.0
"""Logits of preference for a response that says nothing but the letter."""


class LettersReward:
    """Dimension x: the letter x. Dimension y: the letter q, which no expert says."""

    dimensions = ("x", "y")

    def __init__(self, calls: int = 10**9) -> None:
        self.calls = calls

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        self.calls -= 1
        assert self.calls >= 0, "nothing is left to be scored"
        columns = [LetterReward(letter)(prompts, responses) for letter in ("x", "q")]
        return UNITS * np.hstack(columns)


def save_base(folder: Path) -> Path:
    """A pico model whose hidden states have a large first number always, which its own head does not read."""
    model = pico_model(1)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 8
        model.lm_head.weight[:, 0] = 0
    model.save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    return folder


def letter_expert(letter: str) -> LoraFactors:
    """Adds about 10 to the logit of one letter: the first number of the hidden state, which is 1 to 1.6, times 8."""
    tokenizer = pico_tokenizer()
    a_1I, b_V1 = torch.zeros(1, 32), torch.zeros(len(tokenizer), 1)
    a_1I[0, 0], b_V1[tokenizer.convert_tokens_to_ids(letter), 0] = 1.0, 8.0
    return LoraFactors({"lm_head": (a_1I, b_V1)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A band whose expert of x says x, and whose expert of y says z, of which nobody wants anything."""
    folder = tmp_path_factory.mktemp("band")
    base = save_base(folder / "base")
    new_band(folder, str(base), (Dimension("x", "says x"), Dimension("y", "should say q")))
    for name, letter in (("x", "x"), ("y", "z")):
        write_adapter(folder / "made" / name, letter_expert(letter), str(base))
        add_expert(folder, folder / "made" / name, Expert(name, name))
    return folder


@pytest.fixture(scope="module")
def band(folder: Path) -> Band:
    return Band.load(folder)


def quick(folder: Path, **options: Any) -> ControllerConfig:
    given: dict[str, Any] = {
        "band": str(folder), "max_tokens": 5, "prompts_per_iteration": 12, "iterations": 6, "epochs": 4,
        "minibatch": 8, "learning_rate": 0.01, "eta": 20.0,
    }  # fmt: skip
    return ControllerConfig(**{**given, **options})


def tiny(folder: Path, **options: Any) -> ControllerConfig:
    return quick(folder, **{"iterations": 3, "prompts_per_iteration": 2, "epochs": 2, "minibatch": 2, **options})


def bits(out: Path) -> dict[str, list[float]]:
    return {name: part.flatten().tolist() for name, part in load_file(out / TENSORS).items()}


def share_of_x(band: Band, method: str) -> float:
    said = band.respond(PROMPTS * 8, [BOTH] * 24, method, Sampling(seed=100, max_tokens=5))
    return float(LetterReward("x")(PROMPTS * 8, [completion.text for completion in said]).mean())


# What it learns


@pytest.mark.parametrize(
    "options",
    [{}, {"algorithm": "ppo"}, {"constant": True, "learning_rate": 0.2}, {"space": "log"}, {"bt": False, "eta": 3.0}],
    ids=["rebel", "ppo", "constant", "log", "raw"],
)
def test_it_finds_the_expert_that_is_better(band: Band, folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    result = train_controller(band, quick(folder, **options), PROMPTS, [BOTH], LettersReward(), tmp_path / "out")
    first, last = result.log[0], result.log[-1]
    assert first["weight:x"] == pytest.approx(0.5)
    assert last["weight:x"] > 0.7
    assert last["reward"] > first["reward"]
    assert max(entry["mismatch"] for entry in result.log) < 1e-5
    assert share_of_x(band, "mope") > 1.4 * share_of_x(band, f"mixture-{options.get('space', 'prob')}") > 0.02


def test_a_described_head_samples_with_what_it_learned_last(folder: Path, tmp_path: Path) -> None:
    """Its columns are made anew for every roll-out, so that each iteration's samples are those of its parameters."""
    config = quick(folder, head="described", iterations=4)
    result = train_controller(Band.load(folder), config, PROMPTS, [BOTH], LettersReward(), tmp_path / "out")
    assert max(entry["mismatch"] for entry in result.log) < 1e-5
    assert abs(result.log[-1]["weight:x"] - result.log[0]["weight:x"]) > 0.02, "it moved"


def test_constants_are_learned_saved_and_served_without_a_transformer(band: Band, folder: Path, tmp_path: Path) -> None:
    config = quick(folder, constant=True, iterations=2, learning_rate=0.2)
    train_controller(band, config, PROMPTS, [BOTH, Profile({"x": 0.3, "y": 0.7})], LettersReward(), tmp_path / "out")
    constants = read_controller(tmp_path / "out").constants
    assert constants is not None
    assert set(constants) == {"x=0.5, y=0.5", "x=0.3, y=0.7"}
    assert all(x > y for x, y in constants.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [FILE, "manifest.json", "training.json"]
    plan = band.plan(BOTH, "mope")
    expected_K = torch.softmax(torch.tensor([0.5, 0.5]).log() + torch.tensor(constants["x=0.5, y=0.5"]), dim=0)
    assert (plan.control, plan.coefficients) == (None, tuple(expected_K.tolist()))
    with pytest.raises(CounterpointError, match=r"learned constants .*'x=0.666667, y=0.333333'"):
        band.plan(Profile({"x": 1.0, "y": 0.5}), "mope")


@pytest.mark.parametrize("options", [{}, {"encoding": "text", "head": "described"}], ids=["vector", "text described"])
def test_what_is_written_is_what_was_trained(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """The band that was trained, and one that is loaded later, answer alike."""
    trained, later = Band.load(folder), Band.load(folder)
    train_controller(trained, tiny(folder, **options), PROMPTS, [BOTH], LettersReward(), tmp_path / "out")
    later.load_controller(tmp_path / "out")
    assert torch.equal(next_logp(trained), next_logp(later))
    assert (next_logp(later) - next_logp(later, "mixture-prob")).abs().max() > 1e-3
    assert any(part for part in bits(tmp_path / "out").values())


def next_logp(band: Band, method: str = "mope") -> Tensor:
    return band.engine.next_distributions(
        [band.request(prompt, band.plan(BOTH, method), Sampling()) for prompt in PROMPTS]
    )


# Rewards


def test_to_answer_as_the_reference_does_is_even(band: Band) -> None:
    """BT of y = y_ref is sigmoid(0) = 0.5, for every profile and prompt."""
    reward = LettersReward()
    ref_PD = np.array([[3.0, 1.0], [0.0, 0.0], [-2.0, 5.0]])
    earned = reward_of(Fixed(ref_PD), PROMPTS, np.array([[1.0, 1.0], [0.2, 0.8]]), ref_PD)
    assert earned([0, 1, 2], ["a", "b", "c"], [0, 1, 0]).tolist() == [0.5] * 3
    assert reward.dimensions == Fixed(ref_PD).dimensions


class Fixed:
    """Scores that do not depend on what is said."""

    dimensions = ("x", "y")

    def __init__(self, scores_ND: np.ndarray) -> None:
        self.scores_ND = scores_ND

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return self.scores_ND


def test_a_reward_by_hand() -> None:
    """Margins log 3 and -log 4 are chances 3/4 and 1/5; weights 3 : 1 give (3 * 0.75 + 0.2) / 4 = 0.6125."""
    scores, ref_PD = np.array([[1 + math.log(3), 2 - math.log(4)]]), np.array([[9.0, 9.0], [1.0, 2.0]])
    weights_RD = np.array([[0.0, 1.0], [3.0, 1.0]])
    earned = reward_of(Fixed(scores), PROMPTS[:2], weights_RD, ref_PD)
    assert earned([1], ["a"], [1]) == pytest.approx([0.6125])
    assert reward_of(Fixed(scores), PROMPTS[:2], weights_RD, None)([1], ["a"], [0]) == pytest.approx(scores[:, 1])


def test_references_are_the_bases_greedy_answers(band: Band, tmp_path: Path) -> None:
    expected = band.respond(PROMPTS, [None] * 3, "base", Sampling(temperature=0, max_tokens=6))
    texts = [completion.text for completion in expected]
    assert references(band, PROMPTS, 6) == references(band, PROMPTS, 6, tmp_path) == texts
    assert list(tmp_path.iterdir()), "they are kept"


# Runs


@pytest.mark.parametrize("options", [{}, {"algorithm": "ppo"}, {"constant": True}], ids=["rebel", "ppo", "constant"])
def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(
    band: Band, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    config = tiny(folder, **options)
    run = (PROMPTS, [BOTH], LettersReward())
    unbroken = train_controller(band, config, *run, tmp_path / "unbroken")
    per_iteration = 6 if config.algorithm == "ppo" else 4  # PPO asks its critic for both minibatches first
    evaluate, left = MopeLearner.evaluate, [per_iteration + 3]

    def killed(self: MopeLearner, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return evaluate(self, rows)

    monkeypatch.setattr(MopeLearner, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        train_controller(band, config, *run, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    monkeypatch.undo()
    done: list[int] = []
    resumed = train_controller(band, config, *run, tmp_path / "broken", lambda i, of: done.append(i))
    assert done == [2, 3], "the first iteration was not lost"
    if config.constant:
        assert read_controller(resumed.folder) == read_controller(unbroken.folder)
    else:
        assert bits(resumed.folder) == bits(unbroken.folder)
    assert [entry["loss"] for entry in resumed.log] == [entry["loss"] for entry in unbroken.log]


def test_profiles_in_the_same_proportion_are_one_person(band: Band, folder: Path, tmp_path: Path) -> None:
    """Twice the weights are the same shares, under which a learned constant is kept."""
    config = tiny(folder, constant=True, learning_rate=0.2)
    train_controller(band, config, PROMPTS, [BOTH], LettersReward(), tmp_path / "once")
    twice = Profile({"x": 2.0, "y": 2.0})
    train_controller(band, config, PROMPTS, [BOTH, twice], LettersReward(), tmp_path / "twice")
    assert read_controller(tmp_path / "once") == read_controller(tmp_path / "twice")


@pytest.mark.parametrize("file", [TENSORS, FILE, "config.json"])
def test_a_damaged_controller_is_trained_again(folder: Path, tmp_path: Path, file: str) -> None:
    mine, config = Path(shutil.copytree(folder, tmp_path / "band")), tiny(folder, iterations=1)
    run = (PROMPTS, [BOTH], LettersReward(), mine / "controller")
    train_controller(Band.load(mine), config, *run)
    made = bits(mine / "controller")
    (mine / "controller" / file).write_bytes(b"{")
    assert train_controller(Band.load(mine), config, *run).fresh
    assert bits(mine / "controller") == made


def test_a_training_that_fails_leaves_the_former_controller(folder: Path, tmp_path: Path) -> None:
    band = Band.load(folder)
    train_controller(band, tiny(folder, iterations=1), PROMPTS, [BOTH], LettersReward(), tmp_path / "out")
    before = next_logp(band)
    with pytest.raises(AssertionError, match="nothing is left to be scored"):
        train_controller(band, tiny(folder), PROMPTS, [BOTH], LettersReward(calls=2), tmp_path / "other")
    assert torch.equal(next_logp(band), before)


def test_log_space_keeps_whole_distributions(band: Band, folder: Path) -> None:
    """2 prompts x 2 samples x 5 tokens, of 2 experts and the base, 4 bytes for each id of the vocabulary."""
    expected = 2 * 2 * 5 * 3 * 4 * band.model.config.vocab_size
    assert kept_gib(band, tiny(folder, space="log")) * 2**30 == pytest.approx(expected)
    assert kept_gib(band, tiny(folder)) == 0


def test_what_is_there_is_not_trained_again(band: Band, folder: Path, tmp_path: Path) -> None:
    config, out = tiny(folder, iterations=1), tmp_path / "out"
    first = train_controller(band, config, PROMPTS, [BOTH], LettersReward(), out)
    again = train_controller(band, config, PROMPTS, [BOTH], LettersReward(calls=0), out)
    assert (first.fresh, again.fresh) == (True, False)
    assert again.log == first.log
    assert train_controller(band, replace(config, seed=1), PROMPTS, [BOTH], LettersReward(), out).fresh
    assert train_controller(band, replace(config, seed=1), PROMPTS[:2], [BOTH], LettersReward(), out).fresh


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "dpo"}, "algorithm is 'dpo'"),
        ({"iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"samples": 3}, "samples is 3; rebel compares pairs"),
        ({"minibatch": 5}, "minibatch is 5; rebel compares pairs"),
        ({"prompts_per_iteration": 0}, "prompts_per_iteration is 0; it must be at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"strength": 0.0}, "strength is 0; it must be above 0, such as 1"),
        ({"strength": math.inf}, "strength is inf; it must be above 0"),
        ({"share": 1.0}, "share is 1; it must lie between 0 and 1, such as 0.02"),
        ({"temperature": 0.0}, "temperature is 0; to learn from samples it must be above 0"),
        ({"temperature": 0.7}, "temperature is 0.7, acting on the mixture: .* train at temperature 1, or with temper"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"eta": 0.0}, "eta is 0"),
        ({"kl": -1.0}, "kl is -1"),
        ({"constant": True, "algorithm": "ppo"}, "algorithm is 'ppo', which needs a critic, and constants read"),
        ({"constant": True, "model": "small"}, "model is 'small', and constants have no model; leave one of the two"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CounterpointError, match=f"^{message}"):
        ControllerConfig(band="band", **options)


def test_a_temperature_of_the_experts_is_taken() -> None:
    assert ControllerConfig(band="band", temperature=0.7, temper="experts").temperature == 0.7


@pytest.mark.parametrize(
    ("options", "profile", "message"),
    [
        ({"strength": 1.5}, BOTH, "cannot go beyond the experts: strength is 1.5, at most 1"),
        ({}, Profile({"x": 0.0}), "the profile wants nothing"),
        ({"space": "log", "keep_gib": 1e-6}, BOTH, "2 experts and the base .* keep_gib is 1e-06; lower prompts_per"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    band: Band, folder: Path, tmp_path: Path, options: dict[str, Any], profile: Profile, message: str
) -> None:
    with pytest.raises(CounterpointError, match=message):
        train_controller(band, tiny(folder, **options), PROMPTS, [profile], LettersReward(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reward_must_score_what_profiles_want(band: Band, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="'y'"):
        train_controller(band, tiny(folder), PROMPTS, [BOTH], LetterReward("x", "x"), tmp_path / "out")


def test_one_expert_needs_no_controller(folder: Path, tmp_path: Path) -> None:
    alone = Band.assemble(folder / "base", {"x": folder / "experts" / "x"})
    with pytest.raises(CounterpointError, match="has 1 experts; a controller weighs two or more"):
        train_controller(alone, tiny(folder), PROMPTS, [Profile({"x": 1.0})], LettersReward(), tmp_path / "out")
