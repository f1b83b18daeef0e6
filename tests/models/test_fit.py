"""Whether an expert fits a base: what is found at a path, and what is refused, without loading a model."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from counterpoint.artifacts import read_json, write_json
from counterpoint.models.adapter import CONFIG, TENSORS
from counterpoint.models.fit import (
    Source,
    check_adapter,
    check_expert,
    check_model,
    configured_ends,
    differing_ids,
    end_tokens,
    find_expert,
    same_model,
    skeleton,
    vocabulary,
)
from counterpoint.testing import pico_adapter, pico_tokenizer, save_pico
from counterpoint.types import CounterpointError

IDS = len(pico_tokenizer())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter of it, and another whole model."""
    folder = tmp_path_factory.mktemp("fit")
    base = save_pico(folder / "base", seed=1)
    pico_adapter(folder / "terse", base, seed=2)
    save_pico(folder / "wild", seed=3, family="gpt2", hidden=16)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def save_tokenizer(folder: Path, swap: tuple[str, str] | None = None, **special: str) -> None:
    """Write the pico tokenizer, with two tokens swapped or other special tokens."""
    tokenizer = pico_tokenizer()
    for name, token in special.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    if swap:
        raw = read_json(folder / "tokenizer.json")
        one, other = swap
        vocab = raw["model"]["vocab"]
        vocab[one], vocab[other] = vocab[other], vocab[one]
        write_json(folder / "tokenizer.json", raw)


# What is found


def test_an_adapter_a_model_and_an_id_are_told_apart(made: Path) -> None:
    assert find_expert(str(made / "terse")) == Source("adapter", str(made / "terse"))
    assert find_expert(str(made / "wild")) == Source("model", str(made / "wild"))
    assert find_expert("someone/model") == Source("model", "someone/model")


def test_a_trainers_output_is_its_one_checkpoint(place: Path) -> None:
    run = place / "run"
    shutil.copytree(place / "terse", run / "checkpoint-50")
    (run / "checkpoint-50" / "optimizer.pt").write_bytes(b"")
    (run / "logs").mkdir()
    assert find_expert(str(run)) == Source("adapter", str(run / "checkpoint-50"))
    assert find_expert(str(run / "checkpoint-50")) == Source("adapter", str(run / "checkpoint-50"))
    assert check_adapter(str(place / "base"), run / "checkpoint-50") == [moved(run / "checkpoint-50", place)]


def moved(folder: Path, place: Path) -> str:
    """The note on an adapter that was copied with its base: it names the old place."""
    named = read_json(folder / CONFIG)["base_model_name_or_path"]
    return f"{folder / CONFIG}: it names another base, {named!r}; its factors fit {str(place / 'base')!r} all the same"


def test_a_folder_of_several_says_which_there_are(place: Path) -> None:
    shutil.copytree(place / "terse", place / "two" / "warm")
    shutil.copytree(place / "terse", place / "two" / "terse")
    with pytest.raises(
        CounterpointError, match=r"two: holds several experts; name one of them: .*two/terse, .*two/warm$"
    ):
        find_expert(str(place / "two"))


def test_a_folder_of_nothing_and_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id is `model` or `owner/model`, unless `owner` is a folder here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters").mkdir()
    with pytest.raises(CounterpointError, match=r"holds neither an adapter \(adapter_config.json\) nor a model"):
        find_expert(str(tmp_path))
    for name in (str(tmp_path / "gone"), "./gone", "a/b/c", "adapters/gone"):
        with pytest.raises(CounterpointError, match=f"^{name}: there is no such folder$"):
            find_expert(name)


# Adapters


def test_an_adapter_that_fits(made: Path) -> None:
    assert check_adapter(str(made / "base"), made / "terse") == []
    assert check_expert(str(made / "base"), Source("adapter", str(made / "terse"))) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 48}, r"module 'model\.layers\.0\..*': its delta is \d+ x \d+, the base layer is \d+ x \d+"),
        ({"kv_heads": 4}, r"module '.*k_proj': its delta is 16 x 32, the base layer is 32 x 32"),
        ({"layers": 1}, r"the base model has no module 'model\.layers\.1\."),
        ({"family": "gpt2"}, r"the base model has no module 'model\.layers\.0\."),
    ],
)
def test_an_adapter_of_another_base(made: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    base = save_pico(tmp_path / "base", **options)  # type: ignore[arg-type]
    with pytest.raises(CounterpointError, match=message):
        check_adapter(str(base), made / "terse")


def test_one_spoilt_factor_is_named(place: Path) -> None:
    tensors = load_file(place / "terse" / TENSORS)
    module = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    tensors[module] = torch.zeros(63, 4)
    save_file(tensors, place / "terse" / TENSORS)
    with pytest.raises(
        CounterpointError, match=r"'model\.layers\.1\.mlp\.up_proj': its delta is 63 x 32, the base layer"
    ):
        check_adapter(str(place / "base"), place / "terse")


def test_no_weights_are_read_to_check(place: Path) -> None:
    """A base whose weights are gone can still be checked against, and its skeleton holds none."""
    (place / "base" / "model.safetensors").unlink()
    assert len(check_adapter(str(place / "base"), place / "terse")) == 1
    assert {p.device.type for p in skeleton(str(place / "base")).parameters()} == {"meta"}


def test_a_tokenizer_beside_an_adapter_must_be_the_bases(place: Path) -> None:
    save_tokenizer(place / "terse")
    assert check_adapter(str(place / "base"), place / "terse") == [moved(place / "terse", place)]
    save_tokenizer(place / "terse", swap=("a", "b"))
    with pytest.raises(
        CounterpointError,
        match=r"terse: its tokenizer .* ids that differ: 2, first id 67 is 'b', in the base 'a'; id 68 is 'a'",
    ):
        check_adapter(str(place / "base"), place / "terse")
    save_tokenizer(place / "terse", eos_token="the")
    with pytest.raises(CounterpointError, match=r"ids that differ: 1, first id 290 is 'the', in the base None"):
        check_adapter(str(place / "base"), place / "terse")
    save_tokenizer(place / "terse", eos_token="z")
    with pytest.raises(CounterpointError, match=r"its tokenizer ends a text with 'z', that of the base .* with '</s>'"):
        check_adapter(str(place / "base"), place / "terse")


def test_another_chat_template_is_noted(place: Path) -> None:
    save_tokenizer(place / "terse", chat_template="{{ messages }}")
    notes = check_adapter(str(place / "base"), place / "terse")
    assert notes[1:] == [
        f"{place / 'terse'}: its tokenizer has another chat template; prompts are rendered by the base's"
    ]


# Whole models


def test_a_model_that_fits(made: Path, tmp_path: Path) -> None:
    assert check_model(str(made / "base"), str(made / "wild")).get_vocab() == pico_tokenizer().get_vocab()
    padded = save_pico(tmp_path / "padded", family="mistral", vocab=IDS + 30)
    assert check_expert(str(made / "base"), Source("model", str(padded))) == []
    assert check_expert(str(padded), Source("model", str(made / "base"))) == []


def test_a_model_of_another_tokenizer_is_refused(made: Path, place: Path) -> None:
    save_tokenizer(place / "wild", swap=("x", "y"))
    with pytest.raises(
        CounterpointError, match=r"wild: its tokenizer is not that of the base .*: ids that differ: 2, "
    ):
        check_model(str(made / "base"), str(place / "wild"))


def test_a_head_smaller_than_the_vocabulary_is_refused(made: Path, tmp_path: Path) -> None:
    small = save_pico(tmp_path / "small", vocab=IDS - 1)
    for base, model in ((made / "base", small), (small, made / "base")):
        with pytest.raises(CounterpointError, match=f"small: its vocabulary has {IDS - 1} ids, its tokenizer {IDS}"):
            check_model(str(base), str(model))


def test_models_must_end_a_response_alike(made: Path, place: Path) -> None:
    path = place / "wild" / "generation_config.json"
    write_json(path, read_json(path) | {"eos_token_id": [2, 7]})
    with pytest.raises(CounterpointError, match=r"ends a response with the tokens \[2, 7\], the base .* with \[2\]"):
        check_model(str(made / "base"), str(place / "wild"))


def test_an_unsupported_model_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(CounterpointError, match="model type 'bert' is not supported"):
        check_expert(str(made / "base"), find_expert(str(tmp_path)))


# Tokens


def test_the_ends_are_those_that_a_loaded_model_has(place: Path) -> None:
    base = place / "base"
    write_json(base / "generation_config.json", {"eos_token_id": [7, 9]})
    assert configured_ends(str(base)) == AutoModelForCausalLM.from_pretrained(base).generation_config.eos_token_id
    (base / "generation_config.json").unlink()
    write_json(base / "config.json", read_json(base / "config.json") | {"eos_token_id": 5})
    assert configured_ends(str(base)) == 5
    assert AutoModelForCausalLM.from_pretrained(base).generation_config.eos_token_id == 5


def test_end_tokens_by_hand() -> None:
    tokenizer = pico_tokenizer()
    assert end_tokens(None, tokenizer) == {2}
    assert end_tokens(7, tokenizer) == {2, 7}
    assert end_tokens([7, 9], tokenizer) == {2, 7, 9}


def test_differing_ids_by_hand() -> None:
    one, other = pico_tokenizer(), pico_tokenizer()
    other.add_tokens(["<extra>"])
    assert list(differing_ids(one, one)) == []
    assert list(differing_ids(one, other)) == [(IDS, None, "<extra>")]
    assert list(differing_ids(other, one)) == [(IDS, "<extra>", None)]
    assert (vocabulary(one), vocabulary(other)) == (IDS, IDS + 1)


def test_one_model_by_two_names(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    assert same_model("base", str(made / "base"))
    assert same_model("someone/model", "someone/model")
    assert not same_model("base", "wild")
    assert not same_model("someone/model", "someone/other")
