from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterpoint.data.chat import prompt_ids, response_ids
from counterpoint.models.load import load_model, load_tokenizer, quiet
from counterpoint.testing import (
    PECULIAR,
    WINDOW,
    LetterReward,
    pico_adapter,
    pico_model,
    pico_tokenizer,
    save_pico,
)
from counterpoint.types import Message

TEXTS = ["", "the cat and you", "  two  spaces ", "line\nbreak\ttab", "Grüße, 世界 🙂", "<not-special> don't"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(text: str) -> None:
    tokenizer = pico_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_special_tokens() -> None:
    tokenizer = pico_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert prompt_ids("a", tokenizer) == [1, *tokenizer("a", add_special_tokens=False)["input_ids"]]
    assert response_ids("", tokenizer) == [2]


def test_merges_cross_the_border_of_prompt_and_response() -> None:
    tokenizer = pico_tokenizer()
    apart = [len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in ("say ", "the")]
    together = tokenizer("say the", add_special_tokens=False)["input_ids"]
    assert (apart, len(together)) == ([4, 3], 4)


def test_chat_template_has_one_start_and_asks_for_an_answer() -> None:
    tokenizer = pico_tokenizer()
    ids = prompt_ids((Message("user", "hi"), Message("assistant", "yo"), Message("user", "so?")), tokenizer)
    assert tokenizer.decode(ids) == "<s>user: hi\nassistant: yo</s>user: so?\nassistant: "
    assert ids.count(1) == 1


@pytest.mark.parametrize("family", PECULIAR)
def test_a_pico_model_is_made_of_its_seed_alone(family: str) -> None:
    before = torch.get_rng_state()
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        first, again, other = (pico_model(seed, family)(ids).logits for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1
    assert torch.equal(before, torch.get_rng_state())


TURNED_OFF: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False},
    "gemma2": {"sliding_window": 512},
    "gemma2, attention uncapped": {"attn_logit_softcapping": None},
    "gemma2, logits uncapped": {"final_logit_softcapping": None},
    "gemma3_text": {"sliding_window": 512},
    "gemma3_text, sliding everywhere": {"layer_types": ["sliding_attention"] * 2},
}


@pytest.mark.parametrize("case", TURNED_OFF)
def test_what_sets_a_family_apart_can_be_seen(case: str) -> None:
    """The same parameters without a window (or a cap) say something else, after more tokens than the window holds."""
    family = case.partition(",")[0]
    ids = torch.arange(40, 60)[None]
    assert ids.shape[1] > WINDOW
    with torch.no_grad():
        with_it = pico_model(3, family)(ids).logits
        without = pico_model(3, family, **TURNED_OFF[case])(ids).logits
    assert (with_it - without)[0, -1].abs().max() > 0.1


@pytest.mark.parametrize("family", PECULIAR)
def test_a_saved_pico_model_loads(tmp_path: Path, family: str) -> None:
    """Transformers reads any tokenizer beside a Qwen 2 by a class of its own, which adds a token."""
    save_pico(tmp_path / "m", seed=5, family=family)
    model, ids = load_model(str(tmp_path / "m")), torch.arange(40, 60)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, pico_model(5, family)(ids).logits)
    read = load_tokenizer(str(tmp_path / "m")).get_vocab()
    assert read.items() >= pico_tokenizer().get_vocab().items()
    assert set(read) - set(pico_tokenizer().get_vocab()) == ({"<|endoftext|>"} if family == "qwen2" else set())
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template == pico_tokenizer().chat_template


def test_an_adapter_loads_in_peft_and_changes_logits(tmp_path: Path) -> None:
    base = save_pico(tmp_path / "base")
    before = torch.get_rng_state()
    folder = pico_adapter(
        tmp_path / "a", base, seed=1, rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}
    )
    assert torch.equal(before, torch.get_rng_state())
    factors = load_file(folder / "adapter_model.safetensors")
    assert all(f.abs().max() > 0 for f in factors.values())
    ids = torch.tensor([[1, 5, 9]])
    with quiet(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(base)
        plain = model(ids).logits
        adapted = PeftModel.from_pretrained(model, folder)
        assert (adapted(ids).logits - plain).abs().max() > 0.01
    layer = adapted.base_model.model.model.layers[0].self_attn
    assert layer.q_proj.lora_A["default"].weight.shape == (2, 32)
    assert layer.v_proj.scaling["default"] == pytest.approx(3 / 4**0.5)
    assert layer.k_proj.scaling["default"] == pytest.approx(8 / 4**0.5)


def test_letter_reward_by_hand() -> None:
    reward = LetterReward("a")
    np.testing.assert_array_equal(reward(["p", "p", "p"], ["aabb", "", "a"]), [[0.5], [0.0], [1.0]])
    assert reward([], []).shape == (0, 1)
