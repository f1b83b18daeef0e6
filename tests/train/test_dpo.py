import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from counterpoint.data.chat import prompt_ids, response_ids
from counterpoint.data.examples import Pair, pairs
from counterpoint.models.load import load_model
from counterpoint.testing import pico_tokenizer
from counterpoint.train.dpo import DpoConfig, dpo_trainer, train_dpo
from counterpoint.train.run import seeded
from counterpoint.types import Comparison, CounterpointError, Message

COMPARISONS = [
    Comparison(
        (Message("user", f"say {i} "),) if i % 2 else f"say {i} ", "the " * (1 + i % 4) + "end", "no" * (i % 3), "short"
    )
    for i in range(12)
]


def config_for(base: Path, **options: object) -> DpoConfig:
    return replace(DpoConfig(str(base), "short", steps=3, batch=4), **options)  # type: ignore[arg-type]


def dpo_loss(
    logp_chosen: torch.Tensor,
    logp_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """-log sigmoid(beta ((chosen - ref) - (rejected - ref))), the mean over pairs."""
    margin_P = (logp_chosen - ref_chosen) - (logp_rejected - ref_rejected)
    return torch.log1p(torch.exp(-beta * margin_P)).mean()


def logps(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """Log-probability of each response token, of one response alone."""
    logits_TV = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits_TV, dim=-1)[torch.arange(len(response)), torch.tensor(response)]


def sides(model: Any, rows: list[Pair]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums for chosen and rejected, and the mean negative log-probability over all chosen tokens."""
    chosen = [logps(model, r.prompt_ids, r.chosen_ids) for r in rows]
    rejected = [logps(model, r.prompt_ids, r.rejected_ids) for r in rows]
    return torch.stack([c.sum() for c in chosen]), torch.stack([r.sum() for r in rejected]), -torch.cat(chosen).mean()


def test_the_loss_by_hand() -> None:
    # margins (-1 - -2) - (-4 - -3) = 2 and 0; beta 0.5: (log(1 + e^-1) + log 2) / 2 = (0.313262 + 0.693147) / 2
    loss = dpo_loss(
        torch.tensor([-1.0, -5.0]),
        torch.tensor([-4.0, -6.0]),
        torch.tensor([-2.0, -5.0]),
        torch.tensor([-3.0, -6.0]),
        0.5,
    )
    assert loss.item() == pytest.approx(0.503205, abs=1e-6)


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
@pytest.mark.parametrize("rank", [8, 0])
def test_the_first_loss_is_log_two_and_the_sft_term(base: Path, tmp_path: Path, sft_weight: float, rank: int) -> None:
    rows = pairs(COMPARISONS, pico_tokenizer())
    config = config_for(base, steps=1, batch=12, sft_weight=sft_weight, lora_rank=rank)
    result = train_dpo(config, COMPARISONS, tmp_path / "a")
    with torch.no_grad():
        nll = sides(load_model(str(base)), rows)[2].item()
    assert result.losses[0] == pytest.approx(math.log(2) + sft_weight * nll, abs=1e-5)


def test_the_loss_of_a_moved_adapter_equals_the_ten_line_version(base: Path, tmp_path: Path) -> None:
    tokenizer, config = pico_tokenizer(), config_for(base, batch=12, steps=1, beta=0.3, sft_weight=0.7)
    rows = pairs(COMPARISONS, tokenizer)
    with seeded(0):
        trainer = dpo_trainer(config, rows, load_model(str(base)), tokenizer, tmp_path)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    batch = next(iter(trainer.get_train_dataloader()))
    with seeded(0), torch.no_grad():
        loss = trainer.compute_loss(trainer.model.train(), batch)
        chosen, rejected, nll = sides(trainer.model.eval(), rows)
        with trainer.model.disable_adapter():
            ref_chosen, ref_rejected, _ = sides(trainer.model, rows)
    assert (chosen - ref_chosen).abs().min() > 0.01
    expected = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.3) + 0.7 * nll
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


def test_the_trainer_sees_the_ids_that_decoding_sees(base: Path, tmp_path: Path) -> None:
    tokenizer = pico_tokenizer()
    with seeded(0):
        config = config_for(base, batch=12, steps=1)
        trainer = dpo_trainer(config, pairs(COMPARISONS, tokenizer), load_model(str(base)), tokenizer, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = {
        (tuple(ids[mask == 1].tolist()), tuple(ids[done == 1].tolist()))
        for ids, mask, done in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    }
    assert rows == {
        (tuple(prompt_ids(c.prompt, tokenizer) + response_ids(text, tokenizer)), tuple(response_ids(text, tokenizer)))
        for c in COMPARISONS
        for text in (c.chosen, c.rejected)
    }


def test_training_moves_the_margin_and_says_nothing(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = train_dpo(config_for(base, steps=15, learning_rate=1e-2), COMPARISONS, tmp_path / "a")
    assert result.losses[-1] < result.losses[0] - 0.5
    assert capfd.readouterr() == ("", "")


def test_longer_pairs_and_other_dimensions_are_left_out(base: Path, tmp_path: Path) -> None:
    others = [
        Comparison("x", "a", "b" * 99, "short"),
        Comparison("x", "a" * 99, "b", "short"),
        Comparison("x", "a", "b", "polite"),
    ]
    config = config_for(base, max_length=60)
    mixed = train_dpo(config, [*COMPARISONS, *others], tmp_path / "a")
    plain = train_dpo(config, COMPARISONS, tmp_path / "b")
    assert (mixed.dropped, plain.dropped) == (2, 0)
    assert mixed.losses == plain.losses


def test_an_unknown_dimension_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="no comparison is on the dimension 'kind'; dimensions found: short"):
        train_dpo(config_for(base, dimension="kind"), COMPARISONS, tmp_path / "a")
    with pytest.raises(CounterpointError, match="there are no comparisons"):
        train_dpo(config_for(base), [], tmp_path / "a")
    with pytest.raises(CounterpointError, match="/nowhere"):
        train_dpo(config_for(Path("/nowhere/base")), COMPARISONS, tmp_path / "a")
