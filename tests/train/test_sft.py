import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from counterpoint.data.examples import Example, example
from counterpoint.models.load import load_model, load_tokenizer, quiet
from counterpoint.testing import pico_model, pico_tokenizer
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import CounterpointError


def make_examples(n: int = 24) -> list[Example]:
    tokenizer = pico_tokenizer()
    return [example(f"say {i}", "the " * (1 + i % 5) + "end", tokenizer) for i in range(n)]


def config_for(base: Path, **options: object) -> SftConfig:
    return replace(SftConfig(str(base), steps=4, batch=4, learning_rate=1e-2), **options)  # type: ignore[arg-type]


def reference_loss(model: torch.nn.Module, examples: list[Example]) -> float:
    """Ten lines, one example at a time, without padding."""
    total, tokens = 0.0, 0
    for e in examples:
        logits_TV = model(torch.tensor([[*e.prompt_ids, *e.response_ids]])).logits[0]
        logp_TV = torch.log_softmax(logits_TV.double(), dim=-1)
        for t, token in enumerate(e.response_ids):
            total -= logp_TV[len(e.prompt_ids) + t - 1, token].item()
            tokens += 1
    return total / tokens


def factors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_first_loss_equals_a_ten_line_version(base: Path, tmp_path: Path) -> None:
    examples = make_examples(5)
    result = train_sft(config_for(base, steps=1, batch=5), examples, tmp_path / "a")
    with torch.no_grad():
        assert result.losses[0] == pytest.approx(reference_loss(load_model(str(base)), examples), abs=1e-5)


def test_the_adapter_loads_in_peft_and_has_learned(base: Path, tmp_path: Path) -> None:
    examples = make_examples()
    result = train_sft(config_for(base, steps=30), examples, tmp_path / "a")
    model = load_model(str(base))
    with quiet(), torch.no_grad():
        before = reference_loss(model, examples)
        after = reference_loss(PeftModel.from_pretrained(model, result.folder).eval(), examples)
    assert len(result.losses) == 30
    assert after < before - 1.0


def test_rank_zero_writes_a_whole_model_with_its_tokenizer(base: Path, tmp_path: Path) -> None:
    examples = make_examples()
    train_sft(config_for(base, steps=20, lora_rank=0), examples, tmp_path / "m")
    with torch.no_grad():
        trained, plain = (reference_loss(load_model(str(f)), examples) for f in (tmp_path / "m", base))
    assert trained < plain - 1.0
    assert load_tokenizer(str(tmp_path / "m")).get_vocab() == pico_tokenizer().get_vocab()


def test_a_finished_run_is_not_done_again(base: Path, tmp_path: Path) -> None:
    examples, config = make_examples(), config_for(base)
    first = train_sft(config, examples, tmp_path / "a")
    again = train_sft(config, examples, tmp_path / "a")
    assert (first.fresh, again.fresh) == (True, False)
    assert again == replace(first, fresh=False)
    assert train_sft(config, examples[1:], tmp_path / "a").fresh
    assert train_sft(replace(config, seed=1), examples[1:], tmp_path / "a").fresh


def test_only_the_artefact_is_left(base: Path, tmp_path: Path) -> None:
    train_sft(config_for(base, checkpoint_every=2), make_examples(), tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "training.json",
    ]


def test_a_model_passed_in_is_left_as_it_was_and_gives_the_same_bits(base: Path, tmp_path: Path) -> None:
    model = load_model(str(base))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    train_sft(config_for(base), make_examples(), tmp_path / "passed", model=model)
    train_sft(config_for(base), make_examples(), tmp_path / "loaded")
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    passed, loaded = factors(tmp_path / "passed"), factors(tmp_path / "loaded")
    assert all(torch.equal(passed[name], loaded[name]) for name in loaded)


def test_the_seed_decides_the_first_factors_and_the_global_generators_are_left_alone(
    base: Path, tmp_path: Path
) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    for name, seed, rate in (("a", 0, 1e-9), ("b", 0, 1e-2), ("c", 1, 1e-9)):
        train_sft(config_for(base, seed=seed, learning_rate=rate), make_examples(), tmp_path / name)
    a, b, c = (factors(tmp_path / name) for name in "abc")
    key = next(name for name in a if "lora_A" in name)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    assert (a[key] - b[key]).abs().max() < 0.05
    assert (a[key] - c[key]).abs().max() > 0.1


def test_progress_is_told_and_nothing_is_printed(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    train_sft(
        config_for(base), make_examples(), tmp_path / "a", progress=lambda step, total: told.append((step, total))
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert capfd.readouterr() == ("", "")


def test_longer_examples_are_counted_and_never_cut(base: Path, tmp_path: Path) -> None:
    short, long = make_examples(3), example("x", "y" * 100, pico_tokenizer())
    config = config_for(base, max_length=max(e.length for e in short))
    with_long = train_sft(config, [*short, long], tmp_path / "a")
    without = train_sft(config, short, tmp_path / "b")
    assert (with_long.dropped, without.dropped) == (1, 0)
    assert with_long.losses == without.losses


def test_accumulated_batches_equal_one_large_one(base: Path, tmp_path: Path) -> None:
    examples = make_examples(8)
    whole = train_sft(config_for(base, batch=8), examples, tmp_path / "a")
    parts = train_sft(config_for(base, batch=4, accumulate=2), examples, tmp_path / "b")
    assert parts.losses == pytest.approx(whole.losses, abs=1e-4)


def test_a_run_that_diverges_leaves_no_artefact(base: Path, tmp_path: Path) -> None:
    wild = config_for(base, lora_rank=0, learning_rate=1e38, max_grad_norm=0.0)
    with pytest.raises(CounterpointError, match=r"the loss of step \d is (nan|inf); lower learning_rate"):
        train_sft(wild, make_examples(), tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "n", "message"),
    [
        ({}, 0, "nothing to train on"),
        ({"max_length": 3}, 2, r"all 2 examples are longer than max_length = 3 tokens \(the shortest has 1\d\)"),
        ({"model": "/nowhere/base"}, 2, "/nowhere/base: there is no such model folder"),
        ({"steps": 0}, 2, "steps is 0; it must be at least 1"),
        ({"schedule": "wavy"}, 2, "schedule is 'wavy'; it must be one of linear, cosine, constant_with_warmup"),
        ({"lora_rank": -1}, 2, "lora_rank is -1; it must be at least 0"),
    ],
)
def test_bad_input_is_named(base: Path, tmp_path: Path, options: dict[str, object], n: int, message: str) -> None:
    with pytest.raises(CounterpointError, match=message):
        train_sft(config_for(base, **options), make_examples(n), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_model_from_elsewhere_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="was loaded from ''"):
        train_sft(config_for(base), make_examples(), tmp_path / "a", model=pico_model())
