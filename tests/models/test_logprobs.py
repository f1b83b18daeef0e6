"""Summed log-probabilities of responses: padded batches, gates, and a model whose numbers are known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from counterpoint.data.examples import Example
from counterpoint.decode.band import Band
from counterpoint.models.logprobs import sequence_logp
from counterpoint.testing import PECULIAR, pico_model

EXAMPLES = [
    Example((1, 40, 41), (50, 51, 2)),
    Example((1, 40), (50,)),
    Example((1, 44, 45, 46, 47, 48), (60, 61, 62, 63, 64, 65, 2)),
]


def alone(model: torch.nn.Module, example: Example) -> float:
    """Token by token, one forward each."""
    ids, total = list(example.prompt_ids), 0.0
    for token in example.response_ids:
        with torch.no_grad():
            total += float(model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
        ids.append(token)
    return total


@pytest.mark.parametrize("family", PECULIAR)
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_padded_batch_equals_each_alone(family: str, batch: int) -> None:
    model = pico_model(5, family)
    expected = [alone(model, example) for example in EXAMPLES]
    np.testing.assert_allclose(sequence_logp(model, EXAMPLES, batch), expected, atol=1e-4)


def test_a_uniform_model_by_hand() -> None:
    """All logits are zero, so each of three response tokens has probability 1/290, and the prompt counts nothing."""
    model = pico_model(vocab=290)
    torch.nn.init.zeros_(model.lm_head.weight)
    assert sequence_logp(model, EXAMPLES[:1])[0] == pytest.approx(-3 * math.log(290), abs=1e-5)


def test_under_a_gate_it_is_the_expert_of_peft(band: Band, band_folder: Path) -> None:
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(band_folder / "base"), band_folder / "experts" / "warm"
    ).eval()
    with band.bank.gated(band.bank.gate([{"warm": 1.0}])):
        actual = sequence_logp(band.model, EXAMPLES)
    np.testing.assert_allclose(actual, [alone(peft, example) for example in EXAMPLES], atol=1e-4)
    assert np.abs(actual - sequence_logp(band.model, EXAMPLES)).min() > 0.05
