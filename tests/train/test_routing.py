"""What learns through the bank, against an independent PMoL, and what a trainer makes of it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from counterpoint.compose.weighers.gate import GateExpert
from counterpoint.data.examples import Pair, pairs
from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.models.load import load_model
from counterpoint.testing import pico_adapter, pico_tokenizer
from counterpoint.train.balance import targets
from counterpoint.train.gate import GateConfig, Given, gate_trainer, new_learner
from counterpoint.train.routing import Learner, all_shares, measure
from counterpoint.train.run import seeded
from counterpoint.types import Comparison

DIMENSIONS = ("short", "warm")
COMPARISONS = [
    Comparison(f"say {i} ", "the " * (1 + i % 4) + "end", "no" * (i % 3), DIMENSIONS[i % 2]) for i in range(6)
]
ROWS = pairs(COMPARISONS, pico_tokenizer())
GROUP = [DIMENSIONS.index(c.dimension) for c in COMPARISONS]


def config_for(base: Path, **options: Any) -> GateConfig:
    return replace(GateConfig(str(base), DIMENSIONS, steps=1, batch=6, lora_rank=2, lora_alpha=5), **options)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Given]:
    """Three experts that do something, two of them of one group, in another order than the dimensions."""
    folder = tmp_path_factory.mktemp("experts")
    dimension = {"w": "warm", "s": "short", "v": "warm"}
    return [
        (GateExpert(name=name, dimension=group), read_adapter(pico_adapter(folder / name, base, seed=i, rank=2)))
        for i, (name, group) in enumerate(dimension.items())
    ]


def learner_for(config: GateConfig, experts: list[Given]) -> Learner:
    with seeded(config.seed):
        return new_learner(config, load_model(config.model), experts)


def trainer_for(config: GateConfig, learner: Learner, work: Path) -> Any:
    return gate_trainer(config, ROWS, GROUP, learner, pico_tokenizer(), work)


def first_batch(trainer: Any) -> dict[str, Any]:
    batch: dict[str, Any] = next(iter(trainer.get_train_dataloader()))
    return batch


def loss_of(trainer: Any, batch: Mapping[str, Any]) -> Tensor:
    trainer.model.train()
    loss: Tensor = trainer.compute_loss(trainer.model, dict(batch))
    return loss


# Against an independent version


class PMoL(nn.Module):
    """A layer with K experts and a router over them and an empty one: W0 x + s sum_k w_k B_k A_k x."""

    def __init__(self, base: Any, scale: float, experts: list[tuple[Tensor, Tensor]], rows_EI: Tensor) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.A_KRI = nn.Parameter(torch.stack([a for a, _ in experts]))
        self.B_KOR = nn.Parameter(torch.stack([b for _, b in experts]))
        self.rows_EI = nn.Parameter(rows_EI.clone())

    def forward(self, x: Tensor) -> Tensor:
        self.share = torch.softmax(x @ self.rows_EI.T, -1)[..., :-1]
        z = torch.einsum("bti,kri,btk->btkr", x, self.A_KRI, self.share)
        y: Tensor = self.base(x) + self.scale * torch.einsum("btkr,kor->bto", z, self.B_KOR)
        return y


def naive(learner: Learner, base: Path) -> tuple[Any, dict[str, PMoL]]:
    """The learner's model with a layer of its own for each module."""
    model, rows = load_model(str(base)), learner.bank.scores(learner.name)
    router = learner.bank.routers[learner.name]
    experts = [learner.bank.factors(name) for name in router.experts]
    layers = {}
    for module, own in rows.items():
        factors = [(a.clone(), b.clone()) for a, b in (expert.factors[module] for expert in experts)]
        layers[module] = PMoL(model.get_submodule(module), learner.scale, factors, own)
        model.set_submodule(module, layers[module])
    return model, layers


def logps(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> Tensor:
    """Log-probability of each response token, of one response alone."""
    logits_TV: Tensor = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits_TV, -1)[torch.arange(len(response)), torch.tensor(response)]


def said(model: Any, layers: Mapping[str, PMoL], row: Pair, response: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a response's tokens, and what the routers make of them, `[T, J, K]`."""
    logp_T = logps(model, row.prompt_ids, response)
    return logp_T, torch.stack([layer.share[0, len(row.prompt_ids) :] for layer in layers.values()], dim=1)


def naive_loss(model: Any, layers: Mapping[str, PMoL], base: Path, config: GateConfig, groups: tuple[str, ...]) -> Any:
    """DPO and the imitation of what was chosen, and the group loss over the tokens of all responses."""
    target_DK, reference = targets(groups, config.soft_of, config.target), load_model(str(base))
    margins, chosen, kl = [], [], []
    for row, number in zip(ROWS, GROUP, strict=True):
        logps_2, shares_2 = zip(*(said(model, layers, row, r) for r in (row.chosen_ids, row.rejected_ids)), strict=True)
        with torch.no_grad():
            ref_2 = [logps(reference, row.prompt_ids, r).sum() for r in (row.chosen_ids, row.rejected_ids)]
        margins.append((logps_2[0].sum() - ref_2[0]) - (logps_2[1].sum() - ref_2[1]))
        chosen.append(logps_2[0])
        d_K = target_DK[number]
        kl += [(d_K * (d_K.log() - share_TJK.log())).sum(-1) for share_TJK in shares_2]
    dpo = torch.log1p(torch.exp(-config.beta * torch.stack(margins))).mean()
    return dpo - config.sft_weight * torch.cat(chosen).mean() + config.balance * torch.cat(kl).mean()


def gradients(learner: Learner) -> tuple[list[LoraFactors], dict[str, Tensor]]:
    """What a step of descent takes from each expert's factors and from the router's rows."""
    bank = learner.bank
    names = bank.routers[learner.name].experts

    def now() -> tuple[list[LoraFactors], dict[str, Tensor]]:
        experts = [{m: (a.clone(), b.clone()) for m, (a, b) in bank.factors(name).factors.items()} for name in names]
        return [LoraFactors(own) for own in experts], {m: rows.clone() for m, rows in bank.scores(learner.name).items()}

    before, rows = now()
    torch.optim.SGD(learner.parameters, lr=1.0).step()
    after, rows_after = now()
    moved = [
        {m: (a - new.factors[m][0], b - new.factors[m][1]) for m, (a, b) in old.factors.items()}
        for old, new in zip(before, after, strict=True)
    ]
    return [LoraFactors(own) for own in moved], {m: rows[m] - rows_after[m] for m in rows}


def test_loss_and_gradients_are_those_of_ten_lines(base: Path, trained: list[Given], tmp_path: Path) -> None:
    config = config_for(base, beta=0.3, sft_weight=0.7, balance=0.4, soft={"short": 0.2, "warm": 0.6})
    learner = learner_for(config, trained)
    model, layers = naive(learner, base)
    trainer = trainer_for(config, learner, tmp_path)
    loss = loss_of(trainer, first_batch(trainer))
    expected = naive_loss(model, layers, base, config, ("warm", "short", "warm"))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    torch.autograd.backward([loss, expected])
    experts, rows = gradients(learner)
    for module, layer in layers.items():
        assert layer.A_KRI.grad is not None
        assert layer.B_KOR.grad is not None
        assert layer.A_KRI.grad.abs().max() > 1e-4
        for k, expert in enumerate(experts):
            torch.testing.assert_close(expert.factors[module][0], layer.A_KRI.grad[k], atol=1e-5, rtol=1e-3)
            torch.testing.assert_close(expert.factors[module][1], layer.B_KOR.grad[k], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(rows[module], layer.rows_EI.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["pmol", "loramoe", "x-lora"])
@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_new_experts_start_at_the_base(base: Path, tmp_path: Path, kind: str, sft_weight: float) -> None:
    """B is zero, so that the margin is: log 2, and the base's own loss of imitation."""
    config = config_for(base, kind=kind, sft_weight=sft_weight, balance=0.0)
    trainer = trainer_for(config, learner_for(config, []), tmp_path)
    with torch.no_grad():
        loss = loss_of(trainer, first_batch(trainer))
        model = load_model(str(base))
        nll = -torch.cat([logps(model, row.prompt_ids, row.chosen_ids) for row in ROWS]).mean()
    assert loss.item() == pytest.approx(math.log(2) + sft_weight * nll.item(), abs=1e-5)


# What does not matter


def padded(batch: Mapping[str, Any], more: int = 7) -> dict[str, Any]:
    """The same batch with columns on its right that no mask covers, full of a token that says something."""
    value = {"input_ids": 40, "labels": -100, "attention_mask": 0, "completion_mask": 0}
    return {
        name: nn.functional.pad(x, (0, more), value=value[name]) if name in value else x for name, x in batch.items()
    }


@pytest.mark.parametrize("kind", ["pmol", "loramoe", "x-lora"])
@pytest.mark.parametrize("loss", ["dpo", "sft"])
def test_padding_changes_no_loss(base: Path, trained: list[Given], tmp_path: Path, kind: str, loss: str) -> None:
    config = config_for(base, kind=kind, loss=loss, balance=1.0, layerwise=True)
    trainer = trainer_for(config, learner_for(config, trained), tmp_path)
    batch = first_batch(trainer)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(trainer, padded(batch)), loss_of(trainer, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss", ["dpo", "sft"])
def test_the_own_loss_counts_once_however_many_batches_make_a_step(base: Path, tmp_path: Path, loss: str) -> None:
    """A trainer that sums what its batches said of one step once took the own loss of each of them whole."""
    alike = [Comparison(f"say {i} ", "the end", "no no", DIMENSIONS[i % 2]) for i in range(4)]
    rows, found = pairs(alike, pico_tokenizer()), {}
    for batch, accumulate in ((4, 1), (2, 2)):
        config = config_for(base, loss=loss, balance=10.0, batch=batch, accumulate=accumulate)
        learner = learner_for(config, [])
        trainer = gate_trainer(config, rows, [0, 1, 0, 1], learner, pico_tokenizer(), tmp_path / str(batch))
        with seeded(0):
            trainer.train()
        found[batch] = trainer.state.log_history[0]["loss"]
    assert found[2] == pytest.approx(found[4], rel=1e-4)


# What learns


def test_the_router_alone_learns_where_it_should(base: Path, trained: list[Given], tmp_path: Path) -> None:
    config = config_for(base, learn="router", steps=3, learning_rate=0.1)
    learner = learner_for(config, trained)
    rows = {module: own.clone() for module, own in learner.bank.scores("pmol").items()}
    with seeded(0):
        trainer_for(config, learner, tmp_path).train()
    assert all((own - rows[module]).abs().max() > 0.01 for module, own in learner.bank.scores("pmol").items())
    for name, (_, given) in zip(learner.bank.routers["pmol"].experts, trained, strict=True):
        for module, factors in learner.bank.factors(name).factors.items():
            assert all(torch.equal(now, then) for now, then in zip(factors, given.factors[module], strict=True))


def test_the_base_stays_as_it_is_to_the_bit(base: Path, trained: list[Given], tmp_path: Path) -> None:
    config = config_for(base, steps=3, learning_rate=0.1)
    learner = learner_for(config, trained)
    with seeded(0):
        trainer_for(config, learner, tmp_path).train()
    model: Any = learner.bank.model
    learner.bank.unwrap()
    now, then = model.state_dict(), load_model(str(base)).state_dict()
    assert all(torch.equal(now[name], own) for name, own in then.items())
    assert not any(p.requires_grad for name, p in model.named_parameters() if not name.startswith("learned"))


def test_the_reference_shares_the_bases_storage(base: Path, trained: list[Given], tmp_path: Path) -> None:
    learner = learner_for(config_for(base), trained)
    reference = trainer_for(config_for(base), learner, tmp_path).ref_model
    own = {p.untyped_storage().data_ptr() for p in learner.bank.model.parameters()}
    assert {p.untyped_storage().data_ptr() for p in reference.parameters()} <= own
    ids = torch.tensor([list(ROWS[0].prompt_ids)])
    with torch.no_grad(), learner.listening({"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
        assert torch.equal(reference(ids).logits, load_model(str(base))(ids).logits)


def test_only_what_learns_is_checkpointed(base: Path, trained: list[Given], tmp_path: Path) -> None:
    config = config_for(base, learn="router", checkpoint_every=1)
    learner = learner_for(config, trained)
    with seeded(0):
        trainer_for(config, learner, tmp_path).train()
    size = 4 * sum(p.numel() for p in learner.parameters)
    assert size == 4 * (3 + 1) * sum(a.shape[1] for a, _ in trained[0][1].factors.values())
    files = {path.name: path.stat().st_size for path in (tmp_path / "checkpoint-1").iterdir()}
    assert size <= files["learned.safetensors"] < 1.2 * size + 2000
    assert sum(files.values()) < 4 * size + 50_000, "moments of what learns, and states of the trainer"


# What is seen


def test_what_is_measured_is_each_response_alone(base: Path, trained: list[Given]) -> None:
    config = config_for(base)
    learner = learner_for(config, trained)
    layers, sums = measure(learner.bank, learner.gate, ROWS, GROUP, 2, batch=4)
    model, own = naive(learner, base)
    assert sorted(layers) == sorted(own)
    with torch.no_grad():
        alone = [said(model, {m: own[m] for m in layers}, row, row.chosen_ids)[1] for row in ROWS]
    for number in (0, 1):
        share_TJK = torch.cat([share for share, i in zip(alone, GROUP, strict=True) if i == number])
        assert sums.tokens_D[number] == len(share_TJK)
        torch.testing.assert_close(sums.share_JDK[:, number].float() / len(share_TJK), share_TJK.mean(0))


def test_a_base_in_half_precision_is_learned_over_in_float32(base: Path, trained: list[Given], tmp_path: Path) -> None:
    """What learns was once a copy in bfloat16 of the experts, and the experts were kept as they came."""
    config = config_for(base, bf16=True, steps=4, learning_rate=1e-4)
    with seeded(0):
        learner = new_learner(config, load_model(str(base), torch.bfloat16), trained)
        exact = learner_for(replace(config, bf16=False), trained)
        trainer_for(config, learner, tmp_path / "half").train()
        trainer_for(replace(config, bf16=False), exact, tmp_path / "exact").train()
    assert {p.dtype for p in learner.parameters} == {torch.float32}
    moved = []
    for one, (_, given) in zip(learner.bank.routers["pmol"].experts, trained, strict=True):
        for module, (a, _) in learner.bank.factors(one).factors.items():
            moved.append((a - given.factors[module][0].bfloat16().float()).abs().max().item())
            torch.testing.assert_close(a, exact.bank.factors(one).factors[module][0], atol=2e-3, rtol=0)
    assert 1e-4 < min(moved) <= max(moved) < 4.1e-4, "steps of 1e-4 or less, which bfloat16 would not hold"


def test_listening_ends_with_the_block(base: Path, trained: list[Given]) -> None:
    learner = learner_for(config_for(base), trained)
    ids = torch.tensor([list(ROWS[0].prompt_ids)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        with learner.listening(inputs) as seen:
            learner.bank.model(ids)
        assert all_shares(seen).shape == (1, ids.shape[1], 14, 3)
        assert torch.equal(learner.bank.model(ids).logits, load_model(str(base))(ids).logits)
    assert learner.bank.context.seen is None
