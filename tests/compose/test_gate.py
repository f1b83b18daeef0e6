"""A gate's folder: what is written is read to the bit, and what is wrong in it is named with its file."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from counterpoint.compose.weighers.arrow import arrow_scores
from counterpoint.compose.weighers.gate import (
    GUIDE,
    KINDS,
    Gate,
    GateExpert,
    gate_over,
    hash_adapter,
    layer_normed,
    open_gate,
    read_gate,
    write_gate,
)
from counterpoint.decode.band import Band
from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.models.band_file import hash_model
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE, RULES, Guide, Kind, Router
from counterpoint.testing import save_pico
from counterpoint.types import CounterpointError, Expert, Profile

NAMES = ("terse", "warm")
AGAIN = "; train it again with `counterpoint train gate`"


@pytest.fixture
def adapters(band_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """The band's adapters that adapt the same layers, where a test may change them."""
    for name in NAMES:
        shutil.copytree(band_folder / "experts" / name, tmp_path / "experts" / name)
    return {name: tmp_path / "experts" / name for name in NAMES}


def over(adapters: dict[str, Path], kind: Kind, **more: Any) -> Gate:
    entries = [GateExpert(name=name, dimension=name, hash=hash_adapter(path)) for name, path in adapters.items()]
    modules = sorted(read_adapter(adapters["terse"]).factors)
    return Gate(kind=kind, experts=entries, modules=modules, empty=RULES[kind].empty, **more)


def random_rows(adapters: dict[str, Path], gate: Gate) -> dict[str, Tensor]:
    factors = [read_adapter(path) for path in adapters.values()]
    if gate.kind == "arrow":
        return dict(arrow_scores(factors, gate.modules))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if gate.kind == "x-lora":
            guide = Guide(32, len(factors), len(gate.modules) if gate.layerwise else 1, gate.depth, gate.width)
            return {GUIDE + name: part for name, part in guide.state_dict().items()}
        reads = {module: a.shape[1] for module, (a, _) in factors[0].factors.items()}
        return {module: torch.randn(len(factors) + gate.empty, reads[module]) for module in gate.modules}


@pytest.fixture
def written(adapters: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a gate over the adapters and gives its folder."""

    def write(kind: Kind, **more: Any) -> Path:
        gate, folder = over(adapters, kind, **more), tmp_path / "gate"
        folder.mkdir()
        write_gate(folder, gate, random_rows(adapters, gate), {}, "base")
        return folder

    return write


X_LORA = {"depth": 2, "width": 16, "layerwise": True}


@pytest.mark.parametrize("kind", KINDS)
def test_read_again_a_gate_is_the_same_to_the_bit(
    adapters: dict[str, Path], written: Callable[..., Path], kind: Kind
) -> None:
    more = X_LORA if kind == "x-lora" else {"temperature": 0.7}
    folder, gate = written(kind, **more), over(adapters, kind, **more)
    made, opened = gate.router(random_rows(adapters, gate)), open_gate(folder, adapters)
    assert opened.gate == gate
    assert opened.experts == {}
    found = opened.router
    assert (found.rule, found.experts, found.groups, found.modules) == (made.rule, NAMES, NAMES, made.modules)
    assert found.scores.keys() == made.scores.keys()
    assert all(torch.equal(found.scores[module], rows) for module, rows in made.scores.items())
    if made.guide and found.guide:
        ours, theirs = made.guide.state_dict(), found.guide.state_dict()
        assert all(torch.equal(theirs[name], part) for name, part in ours.items())
    assert (found.guide is None) == (kind != "x-lora")


def test_experts_of_its_own_are_ordinary_adapters_beside_it(adapters: dict[str, Path], tmp_path: Path) -> None:
    factors = {name: read_adapter(path) for name, path in adapters.items()}
    entries = [GateExpert(name=name, dimension="warm") for name in NAMES]
    gate = over(adapters, "pmol").model_copy(update={"experts": entries})
    write_gate(tmp_path / "gate", gate, random_rows(adapters, gate), factors, "base")
    opened = open_gate(tmp_path / "gate", {})
    assert list(opened.experts) == ["pmol:terse", "pmol:warm"]
    again = read_adapter(tmp_path / "gate" / "experts" / "warm")
    for module, pair in factors["warm"].factors.items():
        for own, read, beside in zip(
            pair, opened.experts["pmol:warm"].factors[module], again.factors[module], strict=True
        ):
            assert torch.equal(own, read)
            assert torch.equal(own, beside)
    shutil.rmtree(tmp_path / "gate" / "experts" / "warm")
    with pytest.raises(CounterpointError, match=r"gate/experts/warm/adapter_config\.json: there is no such file"):
        open_gate(tmp_path / "gate", {})


def test_it_says_on_which_base_it_was_made(adapters: dict[str, Path], tmp_path: Path) -> None:
    """From its first moment: it was once written without, and told when it was there. A hub id has no hash."""
    gate, base = over(adapters, "pmol"), save_pico(tmp_path / "base")
    for name, known in ((str(base), hash_model(base)), ("someone/model", None)):
        write_gate(tmp_path / "gate", gate, random_rows(adapters, gate), {}, name)
        assert read_gate(tmp_path / "gate").base == known


def changed(folder: Path, **fields: Any) -> None:
    file = folder / "gate.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "moe"}, "kind: input should be 'pmol', 'loramoe', 'x-lora', 'arrow' or 'phatgoose'"),
        ({"experts": []}, "experts: list should have at least 1 item"),
        ({"experts": [{"name": "a", "dimension": "b"}] * 2}, "an expert is there twice: a, a"),
        ({"top_k": 3}, "top_k is 3, and there are 2 experts"),
        ({"top_k": 0}, "top_k: input should be greater than or equal to 1"),
        ({"temperature": 0}, "temperature: input should be greater than 0"),
        ({"empty": True}, "empty is true, and loramoe has no empty expert"),
        ({"depht": 2}, "depht: extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named(written: Callable[..., Path], fields: dict[str, Any], message: str) -> None:
    folder = written("loramoe")
    changed(folder, **fields)
    with pytest.raises(CounterpointError, match=f"^{re.escape(str(folder / 'gate.json'))}: .*{re.escape(message)}"):
        read_gate(folder)


def says(folder: Path, adapters: dict[str, Path], file: str, message: str) -> None:
    with pytest.raises(CounterpointError) as raised:
        open_gate(folder, adapters)
    assert str(raised.value) == f"{folder / file}: {message}"


MODULE = "model.layers.0.mlp.down_proj"
FLOAT = "expected torch.float32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(MODULE), f"tensor {MODULE!r} is missing"),
        (lambda t: t.update(more=torch.ones(1)), "tensor 'more' is no part of this gate"),
        (lambda t: t.update({MODULE: t[MODULE][:2]}), f"tensor {MODULE!r} has the shape (2, 64), expected (3, 64)"),
        (lambda t: t.update({MODULE: t[MODULE][:, 1:]}), f"tensor {MODULE!r} has the shape (3, 63), expected (3, 64)"),
        (lambda t: t[MODULE].fill_(torch.nan), f"tensor {MODULE!r} is not finite everywhere"),
        *(
            (
                lambda t, odd=odd: t.update({MODULE: t[MODULE].to(odd)}),
                f"tensor {MODULE!r} is of the type {odd}, {FLOAT}",
            )
            for odd in (torch.int64, torch.float8_e4m3fn)
        ),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file(
    adapters: dict[str, Path], written: Callable[..., Path], change: Callable[[Any], object], message: str
) -> None:
    folder = written("pmol")
    tensors = load_file(folder / "gate.safetensors")
    change(tensors)
    save_file({name: part.contiguous() for name, part in tensors.items()}, folder / "gate.safetensors")
    says(folder, adapters, "gate.safetensors", message + AGAIN)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 3}, f"tensor '{GUIDE}layers.4.bias' is missing"),
        ({"depth": 1}, f"tensor '{GUIDE}layers.2.bias' is no part of this gate"),
        ({"width": 8}, f"tensor '{GUIDE}layers.0.weight' has the shape (16, 32), expected (8, 32)"),
        ({"layerwise": False}, f"tensor '{GUIDE}layers.2.weight' has the shape (28, 16), expected (2, 16)"),
    ],
)
def test_a_guide_that_does_not_fit_its_json_is_named(
    adapters: dict[str, Path], written: Callable[..., Path], fields: dict[str, Any], message: str
) -> None:
    folder = written("x-lora", **X_LORA)
    changed(folder, **fields)
    says(folder, adapters, "gate.safetensors", message + AGAIN)


def test_a_file_that_is_missing_or_cut_short_is_named(adapters: dict[str, Path], written: Callable[..., Path]) -> None:
    folder = written("loramoe")
    file = folder / "gate.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(
        CounterpointError, match=r"gate\.safetensors: not a readable safetensors file: .*; train it again"
    ):
        open_gate(folder, adapters)
    file.unlink()
    with pytest.raises(
        CounterpointError, match=r"gate\.safetensors: not a readable safetensors file: .*; train it again"
    ):
        open_gate(folder, adapters)
    (folder / "gate.json").unlink()
    says(folder, adapters, "gate.json", "there is no such file")


def test_an_adapter_that_was_removed_or_replaced_is_named(
    adapters: dict[str, Path], written: Callable[..., Path]
) -> None:
    folder = written("phatgoose")
    says(folder, {"terse": adapters["terse"]}, "gate.json", f"the band no longer has the adapter 'warm'{AGAIN}")
    swapped = {"terse": adapters["terse"], "warm": adapters["terse"]}
    says(folder, swapped, "gate.json", f"it was made for another adapter 'warm'{AGAIN}")


def test_modules_that_the_experts_do_not_adapt_are_named(
    adapters: dict[str, Path], written: Callable[..., Path]
) -> None:
    folder = written("loramoe")
    changed(folder, modules=[MODULE])
    says(
        folder, adapters, "gate.json",
        f"modules are not those that expert 'terse' adapts; they differ in 'model.layers.0.mlp.gate_proj'{AGAIN}",
    )  # fmt: skip


# Over a band's own


def test_adapters_of_unlike_layers_have_no_gate(band: Band) -> None:
    """`exact` adapts one layer of attention and one of the MLP alone."""
    with pytest.raises(
        CounterpointError, match=r"arrow: the experts must adapt the same layers, and of 'terse' and 'exact'"
    ):
        band.plan(None, "arrow")


def test_a_band_of_no_adapters_has_no_gate() -> None:
    with pytest.raises(CounterpointError, match="arrow needs experts that are adapters, and this band has none"):
        gate_over("arrow", [], {}, {})


def test_a_gate_over_few_experts_keeps_as_many_as_there_are(adapters: dict[str, Path]) -> None:
    """Arrow's top 3 of two experts are two."""
    factors = {name: read_adapter(path) for name, path in adapters.items()}
    gate = gate_over("arrow", [Expert(name, name) for name in NAMES], factors, {})
    assert (gate.top_k, gate.rule.absolute, gate.groups) == (2, True, NAMES)


def test_how_experts_share_is_told_or_the_papers(adapters: dict[str, Path]) -> None:
    factors, experts = {name: read_adapter(path) for name, path in adapters.items()}, [Expert(n, n) for n in NAMES]
    gate = gate_over("phatgoose", experts, factors, {}, top_k=1, temperature=0.5)
    assert (gate.top_k, gate.rule.temperature) == (1, 0.5)
    for top_k in (0, 3):
        with pytest.raises(CounterpointError, match=f"top k is {top_k}, and there are 2 experts; expected 1 to 2"):
            gate_over("phatgoose", experts, factors, {}, top_k=top_k)
    for temperature in (0.0, math.inf, math.nan):
        with pytest.raises(CounterpointError, match=f"the temperature of a gate is {temperature:g}; expected more"):
            gate_over("phatgoose", experts, factors, {}, temperature=temperature)


# Plans


def gate(kind: Kind = "pmol") -> Gate:
    """Two experts for `warm`, one for `terse`."""
    entries = [GateExpert(name=f"{d}-{i}", dimension=d) for i, d in enumerate(("warm", "warm", "terse"))]
    return Gate(kind=kind, experts=entries, modules=["m"])


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (None, {"gate:pmol": 1.0}),
        (Profile({"warm": 2.0, "terse": 2.0}), {"gate:pmol": 1.0}),
        (Profile({"warm": 2.0, "terse": 2.0}, 0.5), {"gate:pmol": 0.5}),
        (Profile({"warm": 1.0, "terse": 3.0}), {"gate:pmol": 1.0, "warm": 1.0, "terse": 3.0}),
        (Profile({"warm": 1.0}), {"gate:pmol": 1.0, "warm": 1.0}),
        (Profile({"warm": 1.0, "terse": 0.0, "exact": 0.0}), {"gate:pmol": 1.0, "warm": 1.0}),
    ],
)
def test_what_a_profile_asks_of_a_gate(profile: Profile | None, expected: dict[str, float]) -> None:
    """Weights that are even are left out, since they change nothing; so is what weighs nothing."""
    (row,) = gate().plan(profile, {}).rows
    assert row.gate == expected


def test_a_dimension_that_the_gate_lacks_is_named_with_those_that_it_has() -> None:
    with pytest.raises(CounterpointError, match=r"loramoe has no expert for 'exact'; it has some for: warm, terse"):
        gate("loramoe").plan(Profile({"warm": 1.0, "exact": 1.0}), {})


@pytest.mark.parametrize("profile", [None, Profile({"warm": 1.0, "terse": 1.0})])
def test_a_cap_of_0_leaves_a_group_out(profile: Profile | None) -> None:
    (row,) = gate().plan(profile, {"terse": (0.0, 0.0)}).rows
    assert row.gate == {"gate:pmol": 1.0, "warm": 1.0}
    (nothing,) = gate().plan(Profile({"terse": 1.0}), {"terse": (0.0, 0.0)}).rows
    assert nothing.gate == {}


@pytest.mark.parametrize(("low", "high"), [(0.2, 1.0), (0.0, 0.4)])
def test_a_floor_or_a_cap_that_no_router_keeps_is_refused(low: float, high: float) -> None:
    with pytest.raises(CounterpointError, match=f"the band's bounds have {low:g} <= warm <= {high:g}; use moe"):
        gate().plan(Profile({"warm": 1.0}), {"warm": (low, high)})
    assert gate().plan(Profile({"warm": 1.0}, 0.4), {"warm": (0.0, 0.4)}).rows[0].gate["gate:pmol"] == 0.4


# PHATGOOSE's rows


def test_a_row_is_layer_normed_by_hand() -> None:
    """(1, 3) less its mean 2 is (-1, 1), of deviation 1; LN / sqrt(2) is (-1, 1) / sqrt(2)."""
    half = 0.5**0.5
    torch.testing.assert_close(layer_normed(torch.tensor([[1.0, 3.0]])), torch.tensor([[-half, half]]))


def one_layer(rows: Tensor) -> LoraBank:
    generator = torch.Generator().manual_seed(1)
    bank = LoraBank(nn.Sequential(nn.Linear(8, 6, bias=False)))
    for k in range(3):
        pair = torch.randn(2, 8, generator=generator), torch.randn(6, 2, generator=generator)
        bank.add(f"e{k}", LoraFactors({"0": pair}))
    rule = replace(RULES["phatgoose"], top_k=3)
    bank.add_router("phatgoose", Router(rule, ("e0", "e1", "e2"), ("a", "b", "c"), {"0": layer_normed(rows)}, ("0",)))
    return bank


def routed(bank: LoraBank, x_BTI: Tensor) -> Tensor:
    """What the experts add, `[B, T, O]`."""
    with torch.no_grad():
        base: Tensor = bank.model(x_BTI)
        with bank.gated(bank.gate([{GATE + "phatgoose": 1.0}])):
            y: Tensor = bank.model(x_BTI)
    return y - base


def test_phatgoose_compares_normed_tokens_with_normed_rows() -> None:
    """softmax(LN(v) . LN(x) / sqrt(I)), with torch's own layer norm."""
    generator = torch.Generator().manual_seed(0)
    rows, x = torch.randn(3, 8, generator=generator), torch.randn(1, 5, 8, generator=generator)
    bank = one_layer(rows)
    z = layer_norm(x, (8,)) @ layer_norm(rows, (8,), eps=0.0).T / 8**0.5
    parts = torch.stack([x @ bank.experts[f"e{k}"].delta("0").T for k in range(3)], dim=-1)
    torch.testing.assert_close(routed(bank, x), (parts * torch.softmax(z, -1)[..., None, :]).sum(-1))


def test_neither_the_scale_of_a_token_nor_scale_and_mean_of_a_row_matter_to_phatgoose() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, x = torch.randn(3, 8, generator=generator), torch.randn(1, 5, 8, generator=generator)
    expected = routed(one_layer(rows), x)
    tiny = rows * torch.tensor([[1e-6], [100.0], [0.3]]) + torch.tensor([[0.0], [2.0], [-1.0]])
    torch.testing.assert_close(routed(one_layer(tiny), x), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(routed(one_layer(rows), 30 * x), 30 * expected, atol=1e-3, rtol=1e-4)
