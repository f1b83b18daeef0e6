"""A band with gates on disk: what it reads and when, what its methods make of profiles and bounds, what it refuses."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose.plan import Row
from counterpoint.compose.weighers.gate import (
    FILE,
    GUIDE,
    LEARNED,
    Gate,
    GateExpert,
    hash_adapter,
    open_gate,
    write_gate,
)
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import CONFIG, read_adapter
from counterpoint.models.band_file import BAND, add_expert, hash_model, new_band, read_band, set_bounds
from counterpoint.models.gates import GATE, RULES, Guide
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import CounterpointError, Dimension, Expert, Profile

TOLERANCE = 1e-4
PROMPT = "Tell me of the owl."
SHORT = Sampling(temperature=0, max_tokens=12)
SKEWED = Profile({"terse": 3.0, "warm": 1.0})
EVEN = Profile({"terse": 2.0, "warm": 2.0})
KINDS_HERE = ("pmol", "loramoe", "x-lora", "arrow", "phatgoose")


def random_rows(gate: Gate, reads: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """A router's rows, or of X-LoRA the classifier's parameters."""
    generator = torch.Generator().manual_seed(seed)
    if gate.kind == "x-lora":
        parts = Guide(32, len(gate.experts), 1, gate.depth, gate.width).state_dict()
        return {GUIDE + name: torch.randn(part.shape, generator=generator) for name, part in parts.items()}
    return {m: torch.randn(len(gate.experts) + gate.empty, reads[m], generator=generator) for m in gate.modules}


def put_gate(band: Path, kind: Any, seed: int = 5) -> Path:
    """A random gate of the band's folder; pmol and loramoe with experts of their own, two for "terse"."""
    adapters = {name: band / "experts" / name for name in ("terse", "warm")}
    factors = {name: read_adapter(place) for name, place in adapters.items()}
    entries = [GateExpert(name=name, dimension=name, hash=hash_adapter(place)) for name, place in adapters.items()]
    own = {}
    if kind in ("pmol", "loramoe"):
        made = {name: band.parent / name.rpartition("-")[0] for name in ("terse-0", "terse-1", "warm-0")}
        own = {name: read_adapter(place) for name, place in made.items()}
        entries = [GateExpert(name=name, dimension=name.rpartition("-")[0]) for name in own]
    reads = {module: a.shape[1] for module, (a, _) in factors["terse"].factors.items()}
    gate = Gate(kind=kind, experts=entries, modules=sorted(reads), empty=RULES[kind].empty)
    folder: Path = band / "gates" / kind
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_gate(folder, gate, random_rows(gate, reads, seed), own, str(band / "base"))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a band of two adapters and a gate of every kind; the adapters lie beside it."""
    folder = tmp_path_factory.mktemp("gated")
    base = save_pico(folder / "base", seed=1)
    band = folder / "band"
    new_band(band, str(base), [Dimension("terse"), Dimension("warm"), Dimension("lone")])
    for seed, name in enumerate(("terse", "warm"), start=11):
        add_expert(band, pico_adapter(folder / name, base, seed=seed), Expert(name, name))
    for kind in KINDS_HERE:
        put_gate(band, kind)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the band, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "copy")) / "band"


@pytest.fixture
def gated(made: Path) -> Band:
    return Band.load(made / "band")


def next_logp(band: Band, *plans: tuple[Profile | None, str]) -> list[Tensor]:
    """The next token's log-probabilities by each (profile, method), all in one batch."""
    requests = [band.request(PROMPT, band.plan(profile, method), Sampling()) for profile, method in plans]
    return list(band.engine.next_distributions(requests))


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# What is read, and when


def test_a_gate_is_read_when_it_is_first_asked_for(folder: Path) -> None:
    """A broken one is named by its own method alone, every time."""
    (folder / "gates" / "pmol" / FILE).write_text("{}")
    band = Band.load(folder)
    assert band.gates == KINDS_HERE
    assert not band.bank.routers, "none was asked for"
    for _ in range(2):
        with pytest.raises(CounterpointError, match=r"gates/pmol/gate\.json: kind: field required"):
            band.chat(PROMPT, "terse", "pmol", SHORT)
    assert band.chat(PROMPT, "terse", "loramoe", SHORT)
    assert list(band.bank.routers) == ["loramoe"]


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_each_kind_answers_by_its_name(gated: Band, kind: str) -> None:
    """With a profile and without one, and not as the base."""
    routed, steered, base = next_logp(gated, (None, kind), (SKEWED, kind), (None, "base"))
    assert apart(routed, base) > 0.01
    assert apart(routed, steered) > 0.01
    assert gated.chat(PROMPT, method=kind, sampling=SHORT)


def test_requests_of_all_methods_and_profiles_share_a_batch(gated: Band) -> None:
    plans = [
        *((profile, kind) for kind in KINDS_HERE for profile in (None, SKEWED)),
        *((SKEWED, method) for method in ("soup", "mixture-prob", "prompted", "base")),
    ]
    together = next_logp(gated, *plans)
    for plan, one in zip(plans, together, strict=True):
        (alone,) = next_logp(gated, plan)
        assert apart(one, alone) < TOLERANCE, plan


def test_a_gate_in_the_place_of_another_is_the_one_that_answers(folder: Path) -> None:
    band = Band.load(folder)
    before = next_logp(band, (SKEWED, "pmol"))[0]
    adapters = {name: folder / "experts" / name for name in ("terse", "warm")}
    band.take_gate(open_gate(put_gate(folder, "pmol", seed=6), adapters))
    after = next_logp(band, (SKEWED, "pmol"))[0]
    assert apart(before, after) > 0.01
    assert apart(after, next_logp(Band.load(folder), (SKEWED, "pmol"))[0]) < TOLERANCE


def test_any_band_of_adapters_has_an_arrow(made: Path) -> None:
    band = Band.assemble(made / "base", {name: made / name for name in ("terse", "warm")})
    assert not band.gates
    arrow, base = next_logp(band, (SKEWED, "arrow"), (None, "base"))
    assert apart(arrow, base) > 0.01
    assert "arrow" in band.gates
    with pytest.raises(CounterpointError, match="this band has no pmol gate; `counterpoint train gate` makes one"):
        band.plan(SKEWED, "pmol")


# Profiles


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_an_even_profile_is_no_profile(gated: Band, kind: str) -> None:
    assert gated.plan(EVEN, kind) == gated.plan(None, kind)
    assert gated.plan(EVEN, kind).rows == (Row({GATE + kind: 1.0}),)


def test_a_profile_of_one_dimension_selects_its_group_and_leaves_the_empty_expert(gated: Band) -> None:
    """What the group had not, it gets; what went to nobody still does."""
    of = {}
    for name, profile in (("routed", None), ("terse", Profile({"terse": 1.0}))):
        bank, plan = gated.bank, gated.plan(profile, "pmol")
        ids = torch.tensor([[1, 5, 6, 7]])
        bank.context.seen = []
        with torch.no_grad(), bank.gated(bank.gate([plan.rows[0].gate])):
            gated.model(input_ids=ids)
        of[name], bank.context.seen = bank.context.seen[0].share_BTJK, None
    assert torch.equal(of["terse"][..., 2], torch.zeros_like(of["terse"][..., 2])), "the third expert is warm's"
    assert apart(of["terse"].sum(-1), of["routed"].sum(-1)) < 1e-6
    assert float(of["routed"].sum(-1).max()) < 1, "some goes to nobody"


def test_strength_zero_is_the_base(gated: Band) -> None:
    none = Profile({"terse": 1.0}, strength=0.0)
    for kind in KINDS_HERE:
        zero, base = next_logp(gated, (none, kind), (None, "base"))
        assert apart(zero, base) < TOLERANCE, kind


def test_a_dimension_of_which_the_gate_has_no_expert(gated: Band) -> None:
    with pytest.raises(CounterpointError, match="pmol has no expert for 'lone'; it has some for: terse, warm"):
        gated.plan(Profile({"lone": 1.0, "terse": 1.0}), "pmol")
    assert gated.plan(Profile({"lone": 0.0, "terse": 1.0}), "pmol").rows == (Row({GATE + "pmol": 1.0, "terse": 1.0}),)


# Bounds


def test_a_cap_of_zero_keeps_a_group_out_whoever_asks(folder: Path) -> None:
    set_bounds(folder, "warm = 0")
    band = Band.load(folder)
    for profile in (None, EVEN, SKEWED):
        gate = band.plan(profile, "pmol").rows[0].gate
        assert gate.keys() == {GATE + "pmol", "terse"}, profile
    assert band.plan(Profile({"warm": 1.0}), "pmol").rows == (Row(),), "nothing is left but the base"


def test_no_router_keeps_a_floor_or_another_cap(folder: Path) -> None:
    for bounds in ("terse >= 0.3", "warm <= 0.4"):
        set_bounds(folder, bounds)
        band = Band.load(folder)
        for profile in (None, EVEN):
            with pytest.raises(CounterpointError, match="pmol keeps no floor and no cap but 0"):
                band.plan(profile, "pmol")


# What is refused


def test_a_replaced_or_removed_adapter_stops_the_gates_over_it(folder: Path) -> None:
    config = folder / "experts" / "warm" / CONFIG
    write_json(config, read_json(config) | {"lora_alpha": 99})
    band = Band.load(folder)
    for kind in ("x-lora", "arrow", "phatgoose"):
        with pytest.raises(
            CounterpointError, match=rf"gates/{kind}/gate\.json: it was made for another adapter 'warm'"
        ):
            band.plan(SKEWED, kind)
    assert band.plan(SKEWED, "pmol"), "it has experts of its own"
    raw = read_json(folder / BAND)
    write_json(folder / BAND, raw | {"experts": [e for e in raw["experts"] if e["name"] != "warm"]})
    with pytest.raises(CounterpointError, match="the band no longer has the adapter 'warm'"):
        Band.load(folder).plan(SKEWED, "arrow")


def test_a_gate_of_another_base(folder: Path) -> None:
    file = folder / "gates" / "pmol" / FILE
    other = save_pico(folder.parent / "other", seed=2)
    write_json(file, {**read_json(file), "base": hash_model(other)})
    with pytest.raises(CounterpointError, match=r"gates/pmol/gate\.json: it was made on another base than the band's"):
        Band.load(folder).plan(SKEWED, "pmol")
    write_json(file, {**read_json(file), "base": read_band(folder).base_hash})
    assert Band.load(folder).plan(SKEWED, "pmol")


def test_a_gate_in_the_folder_of_another_kind(folder: Path) -> None:
    """It was once taken for its own kind, and then not found."""
    shutil.rmtree(folder / "gates" / "pmol")
    (folder / "gates" / "loramoe").rename(folder / "gates" / "pmol")
    with pytest.raises(CounterpointError, match=r"pmol/gate\.json: kind is 'loramoe' in the folder 'pmol'; rename it"):
        Band.load(folder).plan(SKEWED, "pmol")


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "gates" / "loramoe" / LEARNED).unlink()
    shutil.rmtree(folder / "gates" / "pmol" / "experts" / "terse-1")
    band = Band.load(folder)
    with pytest.raises(CounterpointError, match=r"gates/loramoe/gate\.safetensors"):
        band.plan(SKEWED, "loramoe")
    with pytest.raises(CounterpointError, match=r"gates/pmol/experts/terse-1"):
        band.plan(SKEWED, "pmol")
