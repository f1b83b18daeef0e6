import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from counterpoint.data.examples import pairs
from counterpoint.models.load import load_model
from counterpoint.rewards.bradley_terry import BradleyTerryReward, accuracy, classifier, margins
from counterpoint.rewards.k_head import KHeadReward
from counterpoint.testing import pico_tokenizer, save_pico
from counterpoint.train.batches import batch_order
from counterpoint.train.k_head import KHeadConfig, k_head_loss, train_k_head
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.run import seeded
from counterpoint.types import Comparison, CounterpointError

SHORT = [Comparison(f"say {i}", "the " * (1 + i % 4) + "end", "no" * (i % 5), "short") for i in range(16)]
LOUD = [Comparison(f"say {i}", "YES " * (1 + i % 3) + "!", "yes " * (1 + i % 3), "loud") for i in range(5)]
BOTH = ("short", "loud")


def config_for(base: Path, **options: object) -> KHeadConfig:
    return replace(KHeadConfig(str(base), BOTH, steps=20, batch=8), **options)  # type: ignore[arg-type]


def untrained(base: Path, dimensions: Sequence[str] = BOTH) -> KHeadReward:
    with seeded(0):
        judge = classifier(load_model(str(base)), 0, len(dimensions)).eval()
        return KHeadReward(judge, pico_tokenizer(), dimensions, batch=3)


def test_the_loss_by_hand() -> None:
    chosen_PK = torch.tensor([[3.0, 9.0], [-7.0, 1.0]])
    rejected_PK = torch.tensor([[1.0, -9.0], [8.0, 1.0]])
    # pair 0 by head 0: 3 - 1 = 2; pair 1 by head 1: 1 - 1 = 0; log(1 + e^-2) = 0.126928, log 2 = 0.693147
    loss = k_head_loss(chosen_PK, rejected_PK, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((0.126928 + 0.693147) / 2, abs=1e-6)


def test_a_pair_moves_only_its_own_head() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen_PK, rejected_PK = (torch.randn(4, 3, generator=generator, requires_grad=True) for _ in range(2))
    loss = k_head_loss(chosen_PK, rejected_PK, torch.tensor([2, 0, 2, 2]))
    to_chosen_PK, to_rejected_PK = torch.autograd.grad(loss, (chosen_PK, rejected_PK))
    assert (to_chosen_PK != 0).int().tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1]]
    torch.testing.assert_close(to_chosen_PK, -to_rejected_PK)


def test_with_one_head_it_is_bradley_terrys() -> None:
    generator = torch.Generator().manual_seed(1)
    chosen_P1, rejected_P1 = torch.randn(2, 6, 1, generator=generator)
    plain = -torch.nn.functional.logsigmoid(chosen_P1 - rejected_P1).mean()
    torch.testing.assert_close(k_head_loss(chosen_P1, rejected_P1, torch.zeros(6, dtype=torch.long)), plain)


def test_one_head_learns_what_the_plain_trainer_learns(base: Path, tmp_path: Path) -> None:
    options = {"steps": 4, "batch": 8, "accumulate": 2, "seed": 3}
    heads = train_k_head(config_for(base, dimensions=("short",), **options), SHORT, tmp_path / "k")
    plain = train_reward_model(RewardModelConfig(str(base), "short", **options), SHORT, tmp_path / "p")  # type: ignore[arg-type]
    np.testing.assert_allclose(heads.losses, plain.losses, atol=1e-5)
    scores = [r(["a"], ["the end"]) for r in (KHeadReward.load(heads.folder), BradleyTerryReward.load(plain.folder))]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_a_step_weighs_dimensions_alike_however_many_pairs_they_have(base: Path, tmp_path: Path) -> None:
    result = train_k_head(config_for(base, steps=1, batch=5), [*SHORT[:10], *LOUD], tmp_path / "k")
    margin_P = margins(untrained(base), SHORT + LOUD)
    losses = {c: math.log1p(math.exp(-m)) for c, m in zip(SHORT + LOUD, margin_P, strict=True)}
    seen = batch_order([row.length for row in pairs(SHORT[:10], pico_tokenizer())], 5, 1, seed=0)
    short, loud = np.mean([losses[SHORT[i]] for i in seen]), np.mean([losses[c] for c in LOUD])
    assert result.losses[0] == pytest.approx((short + loud) / 2, abs=1e-5)
    assert short != pytest.approx(loud, abs=1e-2)


def test_every_dimension_moves_its_head_in_every_step(base: Path, tmp_path: Path) -> None:
    result = train_k_head(config_for(base, steps=1, learning_rate=1e-2, warmup=0), SHORT + LOUD, tmp_path / "k")
    heads_KH = load_file(result.folder / "model.safetensors")["score.weight"]
    moved_K = (heads_KH - untrained(base).model.score.weight).abs().amax(dim=1)
    assert heads_KH.shape == (2, 32)
    assert (moved_K > 1e-3).all()


@pytest.mark.parametrize("rank", [0, 4])
def test_what_was_learned_loads_again(base: Path, tmp_path: Path, rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    config = config_for(base, lora_rank=rank, learning_rate=1e-2)
    result = train_k_head(config, SHORT + LOUD, tmp_path / "k")
    reward = KHeadReward.load(result.folder)
    assert capfd.readouterr() == ("", "")
    assert reward.dimensions == BOTH
    assert reward(["a", "b", "c"], ["x", "y", "z"]).shape == (3, 2)
    assert reward([], []).shape == (0, 2)
    assert accuracy(untrained(base), SHORT + LOUD).mean() < 0.9
    assert accuracy(reward, SHORT + LOUD).mean() == 1.0
    assert json.loads((result.folder / "reward.json").read_text()) == {"dimensions": list(BOTH), "base": str(base)}
    assert not train_k_head(config, SHORT + LOUD, tmp_path / "k").fresh
    assert train_k_head(config, SHORT + LOUD[1:], tmp_path / "k").fresh


def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(base: Path, tmp_path: Path) -> None:
    config = config_for(base, steps=5, batch=2, accumulate=2, lora_rank=2, lora_dropout=0.3, checkpoint_every=2)

    def stop(step: int, total: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_k_head(config, SHORT + LOUD, tmp_path / "a", progress=stop)
    seen: list[int] = []
    resumed = train_k_head(config, SHORT + LOUD, tmp_path / "a", progress=lambda step, total: seen.append(step))
    unbroken = train_k_head(config, SHORT + LOUD, tmp_path / "b")
    assert seen == [3, 4, 5]
    assert resumed.losses == unbroken.losses
    a, b = (load_file(r.folder / "adapter_model.safetensors") for r in (resumed, unbroken))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_pairs_beyond_the_models_positions_are_left_out_and_counted(tmp_path: Path) -> None:
    base = save_pico(tmp_path / "base", positions=32)
    long = Comparison("say", "the end", "x" * 40, "loud")
    result = train_k_head(config_for(base, steps=1, batch=2), [*SHORT, *LOUD, long], tmp_path / "k")
    assert result.dropped == 1


def test_mistakes_are_named(base: Path, tmp_path: Path) -> None:
    for dimensions, message in [
        (("short", "kind"), "no comparison is on the dimension 'kind'; dimensions found: loud, short"),
        (("short", "short"), "expected one or more, each once"),
        ((), "expected one or more, each once"),
    ]:
        with pytest.raises(CounterpointError, match=message):
            train_k_head(config_for(base, dimensions=dimensions), SHORT + LOUD, tmp_path / "k")
    one = train_reward_model(RewardModelConfig(str(base), "short", steps=1, batch=2), SHORT, tmp_path / "one")
    with pytest.raises(CounterpointError, match="no field 'dimensions'; a model of one is a BradleyTerryReward"):
        KHeadReward.load(one.folder)
    two = train_k_head(config_for(base, steps=1, batch=2), SHORT + LOUD, tmp_path / "two")
    with pytest.raises(CounterpointError, match="no field 'dimension'; a model of several is a KHeadReward"):
        BradleyTerryReward.load(two.folder)


def test_the_configuration_differs_from_a_reward_models_in_its_dimensions_alone() -> None:
    plain, heads = asdict(RewardModelConfig("m", "short")), asdict(KHeadConfig("m", ("short",)))
    assert plain.pop("dimension") == heads.pop("dimensions")[0]
    assert plain == heads
