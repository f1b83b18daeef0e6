"""Pairs that are told whom they serve: whom they move, when, and what it is for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterpoint.compose.weighers.gate import GateExpert
from counterpoint.data.examples import Example, pairs
from counterpoint.models.adapter import read_adapter
from counterpoint.models.gates import GATE
from counterpoint.models.load import load_model
from counterpoint.models.logprobs import sequence_logp
from counterpoint.testing import pico_adapter, pico_tokenizer
from counterpoint.train.gate import GateConfig, Given, gate_trainer, new_learner
from counterpoint.train.routing import Learner
from counterpoint.train.run import seeded
from counterpoint.types import Comparison, CounterpointError

DIMENSIONS = ("short", "long")
SAID = ("end", "the the the the end")
COMPARISONS = [
    Comparison(f"say {i} ", SAID[want], SAID[1 - want], name) for i in range(4) for want, name in enumerate(DIMENSIONS)
]
"""The two dimensions want the opposite of the same prompts, so that no router can see whom a pair serves."""
ROWS = pairs(COMPARISONS, pico_tokenizer())
GROUP = [DIMENSIONS.index(c.dimension) for c in COMPARISONS]


def config_for(base: Path, **options: Any) -> GateConfig:
    return replace(GateConfig(str(base), DIMENSIONS, batch=8, lora_rank=2, per_group=1), **options)


def learned(config: GateConfig, work: Path, experts: list[Given], only: int | None = None) -> Learner:
    """What a run leaves, over all rows or those of one dimension."""
    place = [n for n, group in enumerate(GROUP) if only in (None, group)]
    with seeded(config.seed):
        learner = new_learner(config, load_model(config.model), experts)
        rows, group = [ROWS[n] for n in place], [GROUP[n] for n in place]
        gate_trainer(config, rows, group, learner, pico_tokenizer(), work).train()
    return learner


@pytest.fixture(scope="module")
def experts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Given]:
    folder = tmp_path_factory.mktemp("experts")
    return [
        (GateExpert(name=name, dimension=name), read_adapter(pico_adapter(folder / name, base, seed=i, rank=2)))
        for i, name in enumerate(DIMENSIONS)
    ]


@pytest.mark.parametrize("told", [0.0, 1.0])
def test_a_pair_that_is_told_moves_its_own_experts_alone(
    base: Path, experts: list[Given], tmp_path: Path, told: float
) -> None:
    learner = learned(config_for(base, told=told, steps=1, batch=4, balance=0.0), tmp_path, experts, only=0)
    moved = {}
    for entry, before in experts:
        after = learner.bank.factors(f"pmol:{entry.name}").factors
        moved[entry.name] = any(
            not torch.allclose(after[module][0], a, rtol=1e-4, atol=1e-6) for module, (a, _) in before.factors.items()
        )
    assert moved == {"short": True, "long": told == 0}


def test_the_draw_is_of_its_share_and_that_of_the_step(base: Path, experts: list[Given], tmp_path: Path) -> None:
    config, group_B = config_for(base, told=0.3, steps=2), torch.zeros(2000, dtype=torch.long)
    trainer = gate_trainer(
        config, ROWS, GROUP, new_learner(config, load_model(str(base)), experts), pico_tokenizer(), tmp_path
    )
    first, again = trainer._told(group_B), trainer._told(group_B)
    assert torch.equal(first, again)
    assert abs(first.float().mean() - 0.3) < 0.05  # 5 standard deviations: sqrt(.3 * .7 / 2000) = .01
    trainer.state.global_step = 1
    assert not torch.equal(first, trainer._told(group_B))


def margin(learner: Learner, asked: str) -> float:
    """By how many nats the short answer is likelier than the long one, for who asks for a dimension."""
    tokenizer = pico_tokenizer()
    short, long = (pairs([Comparison("say 9 ", said, "no", "short")], tokenizer)[0] for said in SAID)
    with learner.bank.gated(learner.bank.gate([{GATE + "pmol": learner.scale, asked: 1.0}])):
        logp_2 = sequence_logp(learner.bank.model, [Example(p.prompt_ids, p.chosen_ids) for p in (short, long)])
    return float(logp_2[0] - logp_2[1])


def test_a_profile_can_tell_experts_apart_only_if_some_pairs_were_told(base: Path, tmp_path: Path) -> None:
    """Without it every expert learns from both dimensions alike, and steering moves next to nothing."""
    apart = {}
    for told in (0.0, 0.5):
        learner = learned(config_for(base, told=told, steps=12, learning_rate=2e-2), tmp_path / f"{told}", [])
        apart[told] = margin(learner, "short") - margin(learner, "long")
    assert apart[0.5] > 1
    assert apart[0.5] > 3 * abs(apart[0.0])


def test_told_is_a_share(base: Path) -> None:
    with pytest.raises(CounterpointError, match=r"told is 1\.5; it is a share of the pairs, 0 to 1"):
        config_for(base, told=1.5)
