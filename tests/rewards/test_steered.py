"""A model of several dimensions that is told which one by the request in its prompt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.artifacts import read_json
from counterpoint.build.reward import claim_reward, room_for
from counterpoint.data.examples import example
from counterpoint.data.preferences import requested
from counterpoint.models.load import load_model
from counterpoint.rewards.bradley_terry import BradleyTerryReward, accuracy, classifier
from counterpoint.rewards.load import check_lengths, load_reward, parse_reward
from counterpoint.rewards.steered import SteeredReward
from counterpoint.testing import pico_tokenizer, save_pico
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.run import seeded
from counterpoint.train.steered import SteeredConfig, train_steered
from counterpoint.types import Comparison, CounterpointError, Message, Prompt

REQUESTS = (("brief", "Be brief."), ("lively", "Tell me everything!"))
PAIRS = [Comparison(f"say {i}", "no", "the end of the tale", "brief") for i in range(6)]
PAIRS += [Comparison(f"say {i}", "the end of the tale", "no", "lively") for i in range(6)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pico(tmp_path_factory.mktemp("steered") / "base", seed=2)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two dimensions that prefer the opposite of each other."""
    config = SteeredConfig(str(base), REQUESTS, steps=30, batch=12, learning_rate=3e-3)
    return train_steered(config, PAIRS, tmp_path_factory.mktemp("trained") / "steered").folder


@pytest.fixture
def untrained(base: Path) -> SteeredReward:
    with seeded(0):
        judge = classifier(load_model(str(base)), 0).eval()
    return SteeredReward(judge, pico_tokenizer(), dict(REQUESTS), batch=2)


def test_each_column_is_the_plain_model_on_the_prompt_with_its_own_request(untrained: SteeredReward) -> None:
    prompts: list[Prompt] = ["say it", (Message("user", "say it"),), "go"]
    responses = ["the end", "so", "one two three"]
    scores_ND = untrained(prompts, responses)
    assert scores_ND.shape == (3, 2)
    plain = BradleyTerryReward(untrained.model, untrained.tokenizer, "any")
    for column, (_, request) in enumerate(REQUESTS):
        with_request: list[Prompt] = [f"say it {request}", (Message("user", f"say it {request}"),), f"go {request}"]
        np.testing.assert_allclose(scores_ND[:, [column]], plain(with_request, responses), atol=1e-5)
    assert np.abs(scores_ND[:, 0] - scores_ND[:, 1]).min() > 1e-3
    np.testing.assert_allclose(untrained.only("lively")(prompts, responses), scores_ND[:, [1]], atol=1e-5)
    assert untrained([], []).shape == (0, 2)


def test_regression_the_score_depends_on_the_response(untrained: SteeredReward) -> None:
    """The released code of P-MORL scores the prompt and its request alone, which no policy can change."""
    scores_ND = untrained(["say it"] * 3, ["the end", "so", "one two three"])
    assert np.abs(np.diff(scores_ND, axis=0)).min() > 1e-3


def test_one_model_learns_opposite_preferences(trained: Path) -> None:
    """Which a model that does not read the request cannot: it is right on one and wrong on the other."""
    assert accuracy(SteeredReward.load(trained), PAIRS).mean() == 1.0


def test_it_learns_what_the_plain_trainer_learns_from_prompts_with_requests(base: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 4, "batch": 4, "seed": 3}
    steered = train_steered(SteeredConfig(str(base), REQUESTS, **options), PAIRS, tmp_path / "s")
    written_out = [replace(c, dimension="one") for c in requested(PAIRS, dict(REQUESTS))]
    plain = train_reward_model(RewardModelConfig(str(base), "one", **options), written_out, tmp_path / "p")
    np.testing.assert_allclose(steered.losses, plain.losses, atol=1e-6)


def test_loaded_by_what_its_file_says(trained: Path) -> None:
    assert read_json(trained / "reward.json")["requests"] == dict(REQUESTS)
    whole = load_reward(trained)
    assert whole.dimensions == ("brief", "lively")
    both_ND = whole(["say 1"], ["no"])
    asked = (Message("user", "say 1"),)
    np.testing.assert_allclose(both_ND, SteeredReward.load(trained)([asked], ["no"]), atol=1e-5)
    (named,) = parse_reward(f"lively={trained}")
    assert named.dimensions == ("lively",)
    np.testing.assert_allclose(named(["say 1"], ["no"]), both_ND[:, [1]], atol=1e-5)
    with pytest.raises(CounterpointError, match="unknown dimension 'loud'"):
        parse_reward(f"loud={trained}")
    with pytest.raises(CounterpointError, match="no field 'requests'"):
        SteeredReward.load(plain_folder(trained))


def plain_folder(trained: Path) -> Path:
    """A folder beside a model whose record names one dimension."""
    folder = trained.with_name("plain")
    folder.mkdir()
    (folder / "reward.json").write_text('{"dimension": "brief", "base": "b"}')
    return folder


def test_the_longest_request_counts_where_lengths_are_checked(trained: Path) -> None:
    rewards = parse_reward(str(trained))
    prompt = "y" * 400
    asked = (Message("user", f"{prompt} Tell me everything!"),)
    room = 512 - example(asked, "", pico_tokenizer()).length
    assert 0 < room < 100
    check_lengths(rewards, prompt, ["x" * room])
    with pytest.raises(CounterpointError, match="512 positions"):
        check_lengths(rewards, prompt, ["x" * (room + 1)])


def test_room_is_left_for_the_longest_request() -> None:
    """Each byte is a token: 'Tell me everything!' and the space before it are 20, and one is for a cut that moves."""
    assert room_for(REQUESTS, pico_tokenizer(), 64) == 64 - 21
    assert room_for((), pico_tokenizer(), 64) == 64
    with pytest.raises(CounterpointError, match="a request has 20 tokens, which leaves no room in 16"):
        room_for(REQUESTS, pico_tokenizer(), 16)


def test_what_cannot_be_told_apart_is_refused(base: Path, tmp_path: Path, trained: Path) -> None:
    for requests in ((), (("brief", "Go."), ("lively", "Go."))):
        with pytest.raises(CounterpointError, match="expected one or more, all different"):
            train_steered(SteeredConfig(str(base), requests), PAIRS, tmp_path / "s")
    with pytest.raises(CounterpointError, match="unknown preference 'lively'"):
        train_steered(SteeredConfig(str(base), REQUESTS[:1]), PAIRS, tmp_path / "s")
    claim_reward(trained, ["lively", "brief"])
    with pytest.raises(CounterpointError, match="holds a reward model of brief, lively"):
        claim_reward(trained, ["brief"])
