import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from counterpoint.rewards.load import load_reward, load_rewards, parse_reward, take_messages
from counterpoint.testing import pico_tokenizer, save_pico
from counterpoint.train.k_head import KHeadConfig, train_k_head
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.types import Comparison, CounterpointError

PAIRS = [Comparison(f"say {i}", "the end", "no", name) for i in range(4) for name in ("kind", "brief")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rewards/brief`, a model of one dimension, and `rewards/two`, of two, both hardly trained."""
    folder = tmp_path_factory.mktemp("trained")
    base = str(save_pico(folder / "base"))
    train_reward_model(RewardModelConfig(base, "brief", steps=1, batch=2), PAIRS, folder / "rewards" / "brief")
    train_k_head(KHeadConfig(base, ("kind", "warm"), steps=1, batch=2), [*PAIRS, *warm()], folder / "rewards" / "two")
    return folder / "rewards"


def warm() -> list[Comparison]:
    return [Comparison(c.prompt, c.chosen, c.rejected, "warm") for c in PAIRS]


def test_a_folder_of_models_gives_all_of_them(trained: Path) -> None:
    assert [reward.dimensions for reward in load_rewards(trained)] == [("brief",), ("kind", "warm")]
    assert [reward.dimensions for reward in parse_reward(str(trained))] == [("brief",), ("kind", "warm")]
    assert [reward.dimensions for reward in parse_reward(str(trained / "two"))] == [("kind", "warm")]


def test_one_head_of_two_is_taken_by_its_name(trained: Path) -> None:
    (head,) = parse_reward(f"warm={trained / 'two'}")
    both_N2 = load_reward(trained / "two")(["a", "b"], ["x", "y z"])
    np.testing.assert_allclose(head(["a", "b"], ["x", "y z"]), both_N2[:, [1]], atol=1e-6)
    assert np.abs(both_N2[:, 0] - both_N2[:, 1]).min() > 1e-4
    with pytest.raises(CounterpointError, match="kind"):
        parse_reward(f"cold={trained / 'two'}")


def test_a_model_of_one_dimension_takes_the_name_that_it_is_given(trained: Path) -> None:
    (named,) = parse_reward(f"short={trained / 'brief'}")
    assert named.dimensions == ("short",)
    np.testing.assert_allclose(named(["a"], ["x"]), load_reward(trained / "brief")(["a"], ["x"]), atol=1e-6)


def test_rules_are_read_as_before() -> None:
    (rule,) = parse_reward("short=-length")
    assert rule(["p"], ["one two"]).tolist() == [[-2.0]]
    assert take_messages([rule])


def test_a_model_without_a_chat_template_takes_text_alone(trained: Path) -> None:
    rewards = parse_reward(f"short={trained / 'brief'}")
    assert pico_tokenizer().chat_template
    assert take_messages(rewards)
    rewards[0].reward.model.tokenizer.chat_template = None  # type: ignore[attr-defined]
    assert not take_messages(rewards)


def test_regression_a_folder_that_is_not_whole_is_one_line(trained: Path, tmp_path: Path) -> None:
    """Missing parameters or a missing base were tracebacks."""
    for name in ("brief", "two"):
        whole, record = trained / name, json.loads((trained / name / "reward.json").read_text())
        bare = tmp_path / name / "bare"
        bare.mkdir(parents=True)
        (bare / "reward.json").write_text(json.dumps(record))
        with pytest.raises(CounterpointError, match=r"bare: holds no parameters"):
            load_reward(bare)
        del record["base"]
        (bare / "reward.json").write_text(json.dumps(record))
        with pytest.raises(CounterpointError, match=r"reward\.json: no field 'base'"):
            load_reward(bare)
        broken = shutil.copytree(whole, tmp_path / name / "broken")
        (broken / "model.safetensors").write_bytes(b"cut")
        with pytest.raises(CounterpointError, match="no reward model could be loaded"):
            load_reward(broken)


def test_a_folder_without_models_is_named(trained: Path) -> None:
    with pytest.raises(CounterpointError, match="neither it nor a folder in it holds"):
        parse_reward(str(trained.parent / "base"))
