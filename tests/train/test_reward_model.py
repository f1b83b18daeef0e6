import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.models.load import load_model
from counterpoint.rewards.bradley_terry import (
    BradleyTerryReward,
    accuracy,
    classifier,
    margins,
    reward_tokenizer,
    score_ids,
    short_enough,
)
from counterpoint.testing import LetterReward, pico_tokenizer, save_pico
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.run import seeded
from counterpoint.types import Comparison, CounterpointError

COMPARISONS = [Comparison(f"say {i}", "the " * (1 + i % 4) + "end", "no" * (i % 5), "short") for i in range(16)]


def config_for(base: Path, **options: object) -> RewardModelConfig:
    return replace(RewardModelConfig(str(base), "short", steps=20, batch=8), **options)  # type: ignore[arg-type]


def untrained(base: Path) -> BradleyTerryReward:
    with seeded(0):
        return BradleyTerryReward(classifier(load_model(str(base)), 0).eval(), pico_tokenizer(), "short", batch=3)


def test_the_first_loss_is_bradley_terrys(base: Path, tmp_path: Path) -> None:
    result = train_reward_model(config_for(base, steps=1, batch=16), COMPARISONS, tmp_path / "r")
    reward, prompts = untrained(base), [c.prompt for c in COMPARISONS]
    margins_P1 = reward(prompts, [c.chosen for c in COMPARISONS]) - reward(prompts, [c.rejected for c in COMPARISONS])
    expected = np.mean([math.log1p(math.exp(-m)) for m in margins_P1[:, 0]])
    assert result.losses[0] == pytest.approx(expected, abs=1e-5)
    assert expected != pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("rank", [0, 4])
def test_what_was_learned_loads_again(base: Path, tmp_path: Path, rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    config = config_for(base, lora_rank=rank, learning_rate=1e-2)
    result = train_reward_model(config, COMPARISONS, tmp_path / "r")
    before = torch.get_rng_state()
    reward = BradleyTerryReward.load(result.folder)
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")
    assert reward.dimensions == ("short",)
    assert accuracy(untrained(base), COMPARISONS).mean() < 0.9
    assert accuracy(reward, COMPARISONS).mean() == 1.0
    assert json.loads((result.folder / "reward.json").read_text()) == {"dimension": "short", "base": str(base)}


def test_a_padded_batch_equals_each_response_alone(base: Path) -> None:
    reward = untrained(base)
    prompts, responses = ["a", "the longest prompt of all", "b c"] * 2, ["x", "", "yes " * 9, "the", "z" * 20, "q"]
    together = reward(prompts, responses)
    alone = [reward([p], [r])[0, 0] for p, r in zip(prompts, responses, strict=True)]
    np.testing.assert_allclose(together[:, 0], alone, atol=1e-5)
    assert together.shape == (6, 1)
    assert np.ptp(together) > 0.01
    assert reward([], []).shape == (0, 1)


def test_padding_by_the_end_token_would_hide_the_end_so_another_token_pads(tmp_path: Path) -> None:
    folder, tokenizer = save_pico(tmp_path / "base"), pico_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    pad = reward_tokenizer(str(folder)).pad_token_id
    assert pad != tokenizer.eos_token_id
    result = train_reward_model(config_for(folder, steps=1), COMPARISONS, tmp_path / "r")
    reward = BradleyTerryReward.load(result.folder)
    assert (reward.tokenizer.pad_token_id, reward.model.config.pad_token_id) == (pad, pad)
    ids = [1, 40, 41]
    ended, open_end = score_ids(reward.model, [[*ids, tokenizer.eos_token_id], ids], pad, batch=2)[:, 0]
    assert ended != pytest.approx(open_end, abs=1e-4)


def test_accuracy_by_hand() -> None:
    rows = [Comparison("p", "aa", "ab", "toy"), Comparison("p", "b", "a", "toy"), Comparison("p", "a", "aa", "toy")]
    np.testing.assert_array_equal(accuracy(LetterReward("a"), rows), [1.0, 0.0, 0.5])
    assert accuracy(LetterReward("a"), []).shape == (0,)
    with pytest.raises(CounterpointError, match="dimension 'short', but the reward scores toy"):
        accuracy(LetterReward("a"), COMPARISONS)


def test_margins_by_hand() -> None:
    # shares of "a": 1 - 1/2, 0 - 1, 1 - 1
    rows = [Comparison("p", "aa", "ab", "toy"), Comparison("p", "b", "a", "toy"), Comparison("p", "a", "aa", "toy")]
    np.testing.assert_allclose(margins(LetterReward("a"), rows), [0.5, -1.0, 0.0])


def test_what_is_longer_than_the_models_positions_is_left_out_and_counted(tmp_path: Path) -> None:
    base = save_pico(tmp_path / "base", positions=18)
    long = Comparison("say", "the end", "x" * 20, "short")
    result = train_reward_model(config_for(base, steps=1), [*COMPARISONS[:4], long], tmp_path / "r")
    assert result.dropped == 1
    reward = BradleyTerryReward.load(result.folder)
    # <s>, three letters, twenty letters and </s> are 25 tokens
    with pytest.raises(CounterpointError, match=r"response 'xxx.*has 25 tokens .*, but the .* has 18 positions"):
        reward(["say", "say"], ["the end", long.rejected])
    kept, left_out = short_enough([*COMPARISONS[:4], long], reward.tokenizer, 18)
    assert (kept, left_out) == (COMPARISONS[:4], [long])
    assert np.isfinite(margins(reward, kept)).all()


def test_a_model_passed_in_is_left_as_it_was(base: Path, tmp_path: Path) -> None:
    model = load_model(str(base))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    passed = train_reward_model(config_for(base, steps=2), COMPARISONS, tmp_path / "a", model=model)
    loaded = train_reward_model(config_for(base, steps=2), COMPARISONS, tmp_path / "b")
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert passed.losses == loaded.losses


def test_an_unknown_dimension_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="no comparison is on the dimension 'kind'; dimensions found: short"):
        train_reward_model(config_for(base, dimension="kind"), COMPARISONS, tmp_path / "a")
    with pytest.raises(CounterpointError, match=r"reward\.json: there is no such file"):
        BradleyTerryReward.load(base)
