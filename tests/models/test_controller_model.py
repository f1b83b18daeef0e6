"""A controller's transformer: its head, its files, its size, and the columns of described experts."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from counterpoint.compose.weighers.controller import (
    FILE,
    TENSORS,
    Controller,
    Encoding,
    Head,
    load_parts,
    new_model,
    read_controller,
    write_controller,
)
from counterpoint.models import controller as controllers
from counterpoint.models.controller import ControllerModel, cut_config, describe, new_trunk
from counterpoint.models.load import FAMILIES
from counterpoint.testing import pico_model, pico_tokenizer, save_pico
from counterpoint.types import CounterpointError

EXPERTS, DIMENSIONS = ["x", "y", "z"], ["warm", "terse"]
IDS_BT = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
READ_BT = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
VECTOR_BD = torch.tensor([[0.3, 0.7], [1.0, 0.0]])

families = pytest.mark.parametrize("family", FAMILIES)
kinds = pytest.mark.parametrize(
    ("profile", "head"), [("vector", "linear"), ("text", "linear"), ("vector", "described"), ("text", "described")]
)


def described(experts: Sequence[str]) -> Tensor:
    """A description that is told by the name, of five numbers."""
    return torch.stack([torch.randn(5, generator=torch.Generator().manual_seed(ord(name[0]))) for name in experts])


def rule(profile: Encoding = "vector", head: Head = "linear") -> Controller:
    return Controller(experts=EXPERTS, dimensions=DIMENSIONS, encoding=profile, head=head)


def untrained(controller: Controller, family: str = "llama") -> ControllerModel:
    return new_model(controller, pico_model(3, family), described)


def roused(controller: Controller, family: str = "llama") -> ControllerModel:
    """With random numbers where training starts from zero."""
    model, generator = untrained(controller, family), torch.Generator().manual_seed(4)
    for part in [part for part in model.learned() if not part.any()]:
        nn.init.normal_(part, std=0.3, generator=generator)
    return model


@torch.no_grad()
def z_of(model: ControllerModel) -> Tensor:
    """Logits of the tokens that are there, `[6, K]`."""
    return model.logits(model.hidden(IDS_BT, READ_BT, VECTOR_BD if model.dimensions else None))[READ_BT]


# What it says


@families
@kinds
def test_untrained_it_says_nothing(family: str, profile: Encoding, head: Head) -> None:
    model = untrained(rule(profile, head), family)
    assert z_of(model).tolist() == [[0.0] * 3] * 6
    assert z_of(roused(rule(profile, head), family)).abs().max() > 0.1


@families
def test_the_head_learns_at_once_and_the_trunk_after_it(family: str) -> None:
    model = untrained(rule(), family)
    model.logits(model.hidden(IDS_BT, READ_BT, VECTOR_BD)).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(part.grad is None or not part.grad.any() for part in model.learned())  # z is 0, and so is d z^2
    model.logits(model.hidden(IDS_BT, READ_BT, VECTOR_BD)).sum().backward()  # type: ignore[no-untyped-call]
    moved = {name for name, part in model.named_parameters() if part.grad is not None and part.grad.any()}
    assert moved == {"model.lm_head.weight", "model.lm_head.bias"}
    model = roused(rule(), family)
    model.logits(model.hidden(IDS_BT, READ_BT, VECTOR_BD))[READ_BT].sum().backward()  # type: ignore[no-untyped-call]
    moved = {name for name, part in model.named_parameters() if part.grad is not None and part.grad.any()}
    assert "profile" in moved
    assert len(moved) > len(list(model.parameters())) / 2


@families
def test_padding_on_the_right_is_not_read(family: str) -> None:
    model = roused(rule(), family)
    together = model.logits(model.hidden(IDS_BT, READ_BT, VECTOR_BD))[1, :2]
    alone = model.logits(model.hidden(IDS_BT[1:, :2], READ_BT[1:, :2], VECTOR_BD[1:]))[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_vector_is_added_to_every_token() -> None:
    """Hidden states of a profile w are those of a model whose embeddings have all moved by w P."""
    model = roused(rule())
    moved = roused(rule())
    assert model.profile is not None
    with torch.no_grad():
        moved.model.get_input_embeddings().weight += torch.tensor([0.3, 0.7]) @ model.profile
        expected_TI = moved.hidden(IDS_BT[:1], READ_BT[:1], torch.zeros(1, 2))
        got_TI = model.hidden(IDS_BT[:1], READ_BT[:1], VECTOR_BD[:1])
    torch.testing.assert_close(got_TI, expected_TI, atol=1e-5, rtol=0)
    assert (got_TI - model.hidden(IDS_BT[:1], READ_BT[:1], VECTOR_BD[1:])).abs().max() > 0.01


def test_making_one_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    trunk = pico_model(3)
    before = torch.random.get_rng_state()
    model = new_model(rule(), trunk, described)
    write_controller(tmp_path, rule(), model)
    load_parts(tmp_path, rule(), described)
    assert torch.equal(torch.random.get_rng_state(), before)


# Files


@families
@kinds
def test_saved_and_loaded_it_is_the_same_to_the_bit(tmp_path: Path, family: str, profile: Encoding, head: Head) -> None:
    controller = rule(profile, head)
    model = roused(controller, family)
    write_controller(tmp_path, controller, model)
    assert read_controller(tmp_path) == controller
    again = load_parts(tmp_path, controller, described)
    assert {n: p.tolist() for n, p in again.parts().items()} == {n: p.tolist() for n, p in model.parts().items()}
    assert torch.equal(z_of(again), z_of(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", FILE, TENSORS]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controller")
    write_controller(folder, rule(), roused(rule()))
    return folder


def damaged(saved: Path, folder: Path, name: str, spoil: Callable[[Path], object]) -> Path:
    """A copy of a controller's folder, one file of which is spoilt."""
    shutil.copytree(saved, folder)
    spoil(folder / name)
    return folder


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_field(name: str, value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (FILE, Path.unlink, "no such file"),
        (FILE, cut_in_half, ""),
        (FILE, with_field("space", "logit"), "space: .*'prob' or 'log'"),
        (FILE, with_field("stength", 1), "stength: extra inputs"),
        (FILE, with_field("experts", "x"), "experts: .*list"),
    ],
)
def test_a_rule_that_is_damaged_is_refused_by_its_file(
    saved: Path, tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    folder = damaged(saved, tmp_path / "damaged", name, spoil)
    with pytest.raises(CounterpointError, match=f"(?i){name}.*{message}"):
        read_controller(folder)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("config.json", Path.unlink, "config.json"),
        ("config.json", cut_in_half, "config.json"),
        ("config.json", with_field("model_type", "bert"), "'bert' is not supported"),
        (TENSORS, Path.unlink, TENSORS),
        (TENSORS, cut_in_half, TENSORS),
        ("config.json", with_field("hidden_size", 16), f"{TENSORS}: .* is .*32.*, and should be .*16"),
        ("config.json", with_field("num_hidden_layers", 3), f"{TENSORS}: .*layers.2.* is absent, and should be 32"),
        ("config.json", with_field("num_hidden_layers", 1), f"{TENSORS}: .*layers.1.* is 32.*, and should be absent"),
    ],
)
def test_a_model_that_is_damaged_is_refused_by_its_file(
    saved: Path, tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    folder = damaged(saved, tmp_path / "damaged", name, spoil)
    with pytest.raises(CounterpointError, match=message) as refusal:
        load_parts(folder, rule(), described)
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize(
    ("controller", "odd"),
    [
        (rule(head="described"), "'centre_I' is absent, and should be 5"),
        (rule(profile="text"), "'profile' is 2 x 32, and should be absent"),
        (rule().model_copy(update={"experts": ["x", "y"]}), "'model.lm_head.bias' is 3, and should be 2"),
    ],
)
def test_the_parts_of_another_controller_are_refused(saved: Path, controller: Controller, odd: str) -> None:
    with pytest.raises(CounterpointError, match=f"{TENSORS}: {odd}"):
        load_parts(saved, controller, described)


# Sizes


def shape(family: str, width: int, layers: int, heads: int, vocab: int, kv_heads: int) -> Any:
    mlp = {} if family == "gpt2" else {"intermediate_size": int(8 / 3 * width), "num_key_value_heads": kv_heads}
    return AutoConfig.for_model(
        family,
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        **mlp,
    )


SMALL = {"width": 576, "layers": 30, "heads": 9, "vocab": 49152, "kv_heads": 3}
LARGE = {"width": 4096, "layers": 32, "heads": 32, "vocab": 32000, "kv_heads": 32}


@families
@pytest.mark.parametrize(("of", "asked"), [(SMALL, 2_700_000), (LARGE, 135_000_000)])
def test_a_cut_config_has_about_as_many_parameters_as_asked_for(family: str, of: dict[str, int], asked: int) -> None:
    cut = cut_config(shape(family, **of), asked)
    with torch.device("meta"):
        trunk = AutoModelForCausalLM.from_config(cut).base_model
    found = sum(parameter.numel() for parameter in trunk.parameters())
    assert asked / 1.35 < found < asked * 1.35
    assert (cut.vocab_size, cut.model_type) == (of["vocab"], family)


def test_two_hundredths_of_7_billion_is_as_large_as_the_papers_is_said_to_be() -> None:
    """LLaMA-160m is 12 layers 768 wide: 192 w^2 + 32000 w = 0.02 * 6.74 * 10^9 gives w = 759, and so 12 heads of 64."""
    cut = cut_config(shape("llama", **LARGE), round(0.02 * 6.74e9))
    assert (cut.num_hidden_layers, cut.hidden_size, cut.intermediate_size) == (12, 768, 3072)
    assert (cut.num_attention_heads, cut.num_key_value_heads, cut.head_dim) == (12, 12, 64)


@families
def test_a_cut_model_runs_in_the_pico_shape_of_its_family(family: str) -> None:
    model = pico_model(family=family, layers=6)
    trunk = AutoModelForCausalLM.from_config(cut_config(model.config, 12_000)).eval()
    assert trunk.config.num_hidden_layers == 2
    with torch.no_grad():
        hidden_BTI = untrained_on(trunk).hidden(IDS_BT, READ_BT, VECTOR_BD)
    assert hidden_BTI.shape == (2, 4, trunk.config.hidden_size)
    assert hidden_BTI.isfinite().all()


def untrained_on(trunk: Any) -> ControllerModel:
    return new_model(rule(), trunk, described)


def test_a_small_base_lends_itself_and_a_large_one_is_cut(tmp_path: Path) -> None:
    base = save_pico(tmp_path / "base", seed=1, layers=6, hidden=64)
    small = save_pico(tmp_path / "small", seed=2)
    weight = "model.layers.0.mlp.up_proj.weight"

    def trunk(parameters: int, seed: int = 0, small: str = "") -> dict[str, Tensor]:
        state: dict[str, Tensor] = new_trunk(str(base), parameters, 4.2e-5, seed, small).state_dict()
        return state

    assert torch.equal(trunk(controllers.LARGE - 1)[weight], pico_model(1, layers=6, hidden=64).state_dict()[weight])
    cut = trunk(controllers.LARGE)
    asked, counted = 42_000, sum(part.numel() for name, part in cut.items() if name != "lm_head.weight")
    assert asked / 1.35 < counted < asked * 1.35
    assert torch.equal(cut[weight], trunk(controllers.LARGE)[weight])
    assert not torch.equal(cut[weight], trunk(controllers.LARGE, seed=1)[weight])
    assert torch.equal(trunk(controllers.LARGE, small=str(small))[weight], pico_model(2).state_dict()[weight])


# Described experts


def test_an_expert_that_was_added_later_has_a_column_of_its_description(tmp_path: Path) -> None:
    """By hand: column and bias of an expert are (its description - the mean of those trained with) times the matrix."""
    controller = rule(head="described")
    model = roused(controller)
    write_controller(tmp_path, controller, model)
    grown = load_parts(tmp_path, controller.model_copy(update={"experts": [*EXPERTS, "new"]}), described)
    torch.testing.assert_close(z_of(grown)[:, :3], z_of(model))
    assert model.described is not None
    both_I = (described(["new"])[0] - described(EXPERTS).mean(dim=0)) @ model.described.detach()
    with torch.no_grad():
        hidden_TI = model.hidden(IDS_BT, READ_BT, VECTOR_BD)[READ_BT]
    torch.testing.assert_close(z_of(grown)[:, 3], hidden_TI @ both_I[:-1] + both_I[-1])


def test_an_expert_described_as_another_gets_its_column(tmp_path: Path) -> None:
    controller = rule(head="described")
    write_controller(tmp_path, controller, roused(controller))
    grown = load_parts(tmp_path, controller.model_copy(update={"experts": [*EXPERTS, "y once more"]}), described)
    z_TK = z_of(grown)
    torch.testing.assert_close(z_TK[:, 3], z_TK[:, 1])
    assert (z_TK[:, 3] - z_TK[:, 0]).abs().min() > 1e-3


def test_descriptions_are_mean_hidden_states_of_length_one_a_number() -> None:
    model, tokenizer = pico_model(), pico_tokenizer()
    texts = ["warm: is kind", "terse: few words", "warm: is kind"]
    got_KI = describe(model, tokenizer, texts)
    torch.testing.assert_close(got_KI.square().mean(-1), torch.ones(3))
    torch.testing.assert_close(got_KI[0], got_KI[2])
    with torch.no_grad():
        hidden_TI = model.model(torch.tensor([tokenizer(texts[1])["input_ids"]])).last_hidden_state[0]
    expected_I = hidden_TI.mean(0) / hidden_TI.mean(0).norm() * 32**0.5
    torch.testing.assert_close(got_KI[1], expected_I)
