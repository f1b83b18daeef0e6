"""`counterpoint merge` as a person meets it: what it writes, what loads it, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterpoint.artifacts import read_json, write_json
from counterpoint.build import merge as merge_module
from counterpoint.build.merge_place import held
from counterpoint.compose.checkpoints import merge_models
from counterpoint.decode.band import Band
from counterpoint.models.adapter import CONFIG, TENSORS, LoraFactors, read_adapter, write_adapter
from counterpoint.models.band_file import hash_model, set_bounds
from counterpoint.models.bank import LoraBank
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import CounterpointError

Command = Callable[..., tuple[object, str, str]]
IDS = torch.arange(40, 60)[None]
PROFILE = "terse=1, exact=0.5, strength=1.5"
GATE = {"terse": 1.0, "exact": 0.5}
"""What the profile gives: weights of 2/3 and 1/3, times the strength."""


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS).logits
    return found


def base_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "base").eval()


def composed(folder: Path, gate: dict[str, float]) -> Tensor:
    """The experts of a band in one forward, without a merge."""
    bank = LoraBank(model := base_model(folder))
    for name in gate:
        bank.add(name, read_adapter(folder / "experts" / name))
    with bank.gated(bank.gate([gate])):
        return logits(model)


def close(one: Tensor, other: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


@pytest.fixture
def merge(command: Command, tmp_path: Path) -> Callable[..., Any]:
    """Merges into `out`, and gives what `--json` prints."""

    def run(*arguments: object) -> Any:
        code, said, told = command("merge", *arguments, "--out", tmp_path / "out", "--threads", 1, "--json")
        assert code == 0, told
        return json.loads(said)

    return run


@pytest.fixture
def mistake(command: Command, tmp_path: Path) -> Callable[..., str]:
    """The one line that a merge ends in; nothing is at `out` after it."""

    def run(*arguments: object) -> str:
        code, _, told = command("merge", *arguments, "--out", tmp_path / "out", "--threads", 1)
        assert code == 2, told
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))
        return next(line for line in told.splitlines() if line.startswith("error: "))

    return run


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_band_becomes_an_adapter_or_a_model(
    merge: Callable[..., Any], band_folder_of: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    folder = band_folder_of(family)
    said = merge(folder, "--profile", PROFILE)
    assert said["weights"] == {"all": pytest.approx(GATE)}
    assert said["verified"]["difference"] < 1e-4 < said["verified"]["effect"]
    expected = composed(folder, GATE)
    close(logits(PeftModel.from_pretrained(base_model(folder), tmp_path / "out")), expected)
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["inputs"].keys() == {"base", "terse", "exact"}
    assert manifest["config"]["merge"] == said

    merge(folder, "--profile", PROFILE, "--as", "model", "--replace")
    assert not (tmp_path / "out" / CONFIG).exists()
    close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()), expected)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out")("you and").input_ids[-1]
        == AutoTokenizer.from_pretrained(folder / "base")("you and").input_ids[-1]
    )


def test_the_card_says_how_to_load_it(
    merge: Callable[..., Any], band_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in ("adapter", "model"):
        merge(band_folder, "--profile", PROFILE, "--as", form, "--replace")
        text = (tmp_path / "out" / "README.md").read_text()
        assert text.startswith("---\nbase_model:\n- ")
        assert f"library_name: {'peft' if form == 'adapter' else 'transformers'}" in text
        assert "| all | terse | 1 |" in text
        assert "| all | exact | 0.5 |" in text
        assert "Verified when written: over 128 positions" in text
        found: dict[str, Any] = {}
        exec(text.split("```python\n")[1].split("```")[0], found)
        close(logits(found["model"].eval()), composed(band_folder, GATE))
        assert found["tokenizer"]("you").input_ids


def test_an_inexact_merge_says_how_far_it_is(
    merge: Callable[..., Any], command: Command, band_folder: Path, tmp_path: Path
) -> None:
    exact = merge(band_folder, "--profile", PROFILE)
    assert exact["error"] is None
    fitted = merge(band_folder, "--profile", PROFILE, "--method", "svd", "--rank", 2, "--replace")
    assert fitted["rank"] == 2
    assert {len(a) for a, _ in read_adapter(tmp_path / "out").factors.values()} == {2}
    assert 0.05 < fitted["error"] < 1
    assert fitted["verified"]["from_exact"] > 1e-3 > fitted["verified"]["difference"]
    assert fitted["errors"].keys() == read_adapter(tmp_path / "out").factors.keys()
    code, text, _ = command(
        "merge", band_folder, "--profile", PROFILE, "--method", "svd", "--rank", 2, "--replace",
        "--out", tmp_path / "out", "--threads", 1,
    )  # fmt: skip
    assert code == 0
    assert f"The updates are {fitted['error']:.2%} off the sum of the experts' deltas" in text


@pytest.mark.parametrize("form", ["adapter", "model"])
def test_rules_on_deltas_are_whole_in_a_model_and_fitted_in_an_adapter(
    merge: Callable[..., Any], band_folder: Path, tmp_path: Path, form: str
) -> None:
    said = merge(band_folder, "--profile", PROFILE, "--method", "ties", "--as", form, "--density", 0.7)
    assert said["rank"] == (5 if form == "adapter" else None)
    assert said["verified"]["difference"] < 1e-4 < said["verified"]["from_exact"]


def test_what_dare_drops_follows_from_the_seed(merge: Callable[..., Any], band_folder: Path, tmp_path: Path) -> None:
    found = []
    for seed, density in ((1, 0.3), (1, 0.3), (2, 0.3), (1, 0.6)):
        options = ("--method", "peft-dare-linear", "--seed", seed, "--density", density, "--replace")
        merge(band_folder, "--profile", "terse=1", *options)
        found.append((tmp_path / "out" / TENSORS).read_bytes())
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_rounding_that_drowns_the_experts_is_told(merge: Callable[..., Any], band_folder: Path) -> None:
    terse = f"{band_folder / 'experts' / 'terse'}=0.001"
    assert merge(terse, "--as", "model")["notes"] == []
    (note,) = merge(terse, "--as", "model", "--dtype", "bfloat16", "--replace")["notes"]
    assert note.endswith("write float32 to keep what they do")


def test_bounds_hold_in_a_merge(merge: Callable[..., Any], command: Command, band_folder: Path, tmp_path: Path) -> None:
    bounded = Path(shutil.copytree(band_folder, tmp_path / "band"))
    set_bounds(bounded, "terse <= 0.4")
    said = merge(bounded, "--profile", "terse=1")
    assert said["weights"] == {"all": {"terse": pytest.approx(0.4)}}
    assert said["notes"] == ["bounds in force: terse 1 -> 0.4"]
    close(logits(PeftModel.from_pretrained(base_model(bounded), tmp_path / "out")), composed(bounded, {"terse": 0.4}))


def test_layers_in_amounts_of_their_own(merge: Callable[..., Any], band_folder: Path, tmp_path: Path) -> None:
    """Layer 0 is `terse` alone and layer 1 `warm` alone: each expert without what it does in the other's layer."""
    write_json(tmp_path / "layers.json", {"0": "terse=1", "1": {"warm": 2}})
    said = merge(band_folder, "--layers", tmp_path / "layers.json")
    assert said["weights"] == {"0": {"terse": 1.0}, "1": {"warm": 1.0}}
    terse, warm, found = (
        read_adapter(folder)
        for folder in (band_folder / "experts/terse", band_folder / "experts/warm", tmp_path / "out")
    )
    assert found.factors.keys() == terse.factors.keys()
    for module in found.factors:
        close(found.delta(module), (terse if ".layers.0." in module else warm).delta(module), 1e-6)


def test_adapters_by_their_folders(merge: Callable[..., Any], band_folder: Path, tmp_path: Path) -> None:
    """Numbers multiply deltas, and may be negative."""
    terse, warm = (band_folder / "experts" / name for name in ("terse", "warm"))
    said = merge(f"{terse}=0.5", f"{warm}=-0.25")
    assert said["weights"] == {"all": {"terse": 0.5, "warm": -0.25}}
    expected = composed(band_folder, {"terse": 0.5, "warm": -0.25})
    close(logits(PeftModel.from_pretrained(base_model(band_folder), tmp_path / "out")), expected)
    assert merge(terse, warm, "--replace")["weights"] == {"all": {"terse": 0.5, "warm": 0.5}}


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 5e-2), ("float16", 1e-2)])
@pytest.mark.parametrize("form", ["adapter", "model"])
def test_half_precision(
    merge: Callable[..., Any], band_folder: Path, tmp_path: Path, form: str, dtype: str, tolerance: float
) -> None:
    said = merge(band_folder, "--profile", PROFILE, "--as", form, "--dtype", dtype)
    assert 1e-6 < said["verified"]["difference"] < said["verified"]["tolerance"] == tolerance
    if form == "model":
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)
    else:
        assert {a.dtype for a, _ in read_adapter(tmp_path / "out").factors.values()} == {getattr(torch, dtype)}


def test_a_base_in_half_precision_and_shards(merge: Callable[..., Any], tmp_path: Path) -> None:
    """What is written is in the base's type, and held to what that type allows."""
    base = save_pico(tmp_path / "base")
    pico_adapter(tmp_path / "one", base, seed=1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size=20_000)
    said = merge(tmp_path / "one", "--as", "model")
    assert 1e-4 < said["verified"]["difference"] < said["verified"]["tolerance"] == 5e-2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two", "start")):
        save_pico(folder / name, seed=seed)
    return folder


def test_whole_models(merge: Callable[..., Any], models: Path, tmp_path: Path) -> None:
    said = merge(f"{models / 'one'}=3", f"{models / 'two'}=1")
    assert said["weights"] == {"all": {"one": 3.0, "two": 1.0}}
    one, two = (AutoModelForCausalLM.from_pretrained(models / name).state_dict() for name in ("one", "two"))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in found.state_dict().items():
        close(tensor, 0.75 * one[name] + 0.25 * two[name], 1e-6)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "values were read back" in text
    assert "The coefficients are divided by their sum." in text
    loaded: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], loaded)
    close(logits(loaded["model"].eval()), logits(found.eval()), 0)


def test_options_of_whole_models_are_heard(merge: Callable[..., Any], models: Path, tmp_path: Path) -> None:
    one, start = models / "one", models / "start"
    options = ("--base", start, "--seed", 7, "--density", 0.3, "--dtype", "bfloat16")
    merge(one, "--method", "dare-linear", *options)
    merge_models([(one, 1)], tmp_path / "same", "dare-linear", start, density=0.3, seed=7, dtype="bfloat16")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "same/model.safetensors").read_bytes()
    inputs = read_json(tmp_path / "out" / "manifest.json")["inputs"]
    assert inputs == {str(folder): hash_model(folder) for folder in (start, one)}


def test_task_vectors_of_whole_models(merge: Callable[..., Any], models: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "layers.json", {"1": {"two": 2}})
    said = merge(
        f"{models / 'one'}=0.5", f"{models / 'two'}=0.5", "--method", "task-arithmetic", "--base", models / "start",
        "--layers", tmp_path / "layers.json",
    )  # fmt: skip
    assert said["weights"] == {"1": {"two": 2.0}, "rest": {"one": 0.5, "two": 0.5}}
    one, two, start = (AutoModelForCausalLM.from_pretrained(models / m).state_dict() for m in ("one", "two", "start"))
    for name, tensor in AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict().items():
        w = (0.0, 2.0) if ".layers.1." in name else (0.5, 0.5)
        close(tensor, start[name] + w[0] * (one[name] - start[name]) + w[1] * (two[name] - start[name]), 1e-5)


def test_what_people_type_wrong(mistake: Callable[..., str], band_folder: Path, models: Path, tmp_path: Path) -> None:
    terse, warm = (band_folder / "experts" / name for name in ("terse", "warm"))
    one = models / "one"
    write_json(beyond := tmp_path / "layers.json", {"1-9": {"one": 1}})
    cases: list[tuple[tuple[object, ...], str]] = [
        ((band_folder,), "what is merged depends on a profile"),
        ((band_folder, "--profile", "tersely=1"), "unknown dimension 'tersely'; did you mean 'terse'?"),
        ((f"{band_folder}=1", "--profile", "terse=1"), "a band takes no number"),
        ((band_folder, terse), "a band is merged alone"),
        ((band_folder, "--profile", "terse=1", "--base", one), "a band knows its base"),
        ((band_folder, "--profile", "terse=1", "--rank", 3), "a rank is for svd"),
        ((band_folder, "--profile", "terse=1", "--density", 0.3), "a density is for ties"),
        ((band_folder, "--profile", "terse=1", "--method", "avg"), "unknown method 'avg' of merging"),
        ((band_folder, "--profile", "terse=1", "--as", "lora"), "not as 'lora'"),
        ((band_folder, "--profile", "terse=1", "--dtype", "int8"), "dtype 'int8'"),
        ((band_folder, "--profile", "terse=1, strength=0"), "every coefficient is 0"),
        ((band_folder, "--profile", "terse=1, warm=1", "--method", "factors"), "must be scaled alike: 'terse'"),
        ((f"{terse}=half", warm), "'half' is no number"),
        ((f"{terse}=nan", warm), "expected a finite number"),
        ((f"{terse}=0.5", warm), "warm: has no number, and others have"),
        ((f"{terse}=0", f"{warm}=0"), "every coefficient is 0"),
        ((terse, one), "is an adapter and"),
        ((terse, "--profile", "terse=1"), "a profile is for a band"),
        ((terse, terse), "two of the folders are called 'experts-terse'"),
        ((terse, tmp_path / "none"), "none: there is no such folder"),
        ((one, models / "two", "--as", "adapter"), "models become a model"),
        ((one, models / "two", "--rank", 4), "a rank is for adapters"),
        ((one, models / "two", "--method", "svd"), "unknown method 'svd' of merging whole models"),
        ((one, models / "two", "--dtype", "int8"), "dtype 'int8'"),
        ((one, "elsewhere"), "elsewhere: there is no such folder; a checkpoint is merged from a folder"),
        ((one, models / "two", "--layers", beyond), "range 1-9 ends after the model's last layer, 1"),
    ]  # fmt: skip
    for arguments, says in cases:
        assert says in mistake(*arguments), arguments


def test_adapters_of_different_bases(mistake: Callable[..., str], tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        base = save_pico(tmp_path / f"base-{name}", seed=seed, hidden=32 + 16 * seed)
        pico_adapter(tmp_path / name, base, seed=seed)
    said = mistake(tmp_path / "one", tmp_path / "two")
    assert f"'one' is of the base '{tmp_path}/base-one', 'two' of '{tmp_path}/base-two'" in said
    forced = mistake(tmp_path / "one", tmp_path / "two", "--base", tmp_path / "base-one")
    assert "was it trained on another base?" in forced


def test_a_band_with_a_model_on_a_server(
    mistake: Callable[..., str], merge: Callable[..., Any], band_folder: Path, tmp_path: Path
) -> None:
    """The server is asked for nothing: only experts that are wanted matter."""
    band = Path(shutil.copytree(band_folder, tmp_path / "band"))
    raw = read_json(band / "band.json")
    raw["dimensions"].append({"name": "far"})
    raw["experts"].append({"name": "far", "dimension": "far", "endpoint": {"url": "http://127.0.0.1:9", "model": "m"}})
    write_json(band / "band.json", raw)
    assert "expert 'far' is a whole model (endpoint)" in mistake(band, "--profile", "far=1, terse=1")
    assert merge(band, "--profile", "terse=1")["weights"] == {"all": {"terse": 1.0}}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_delta_for_a_tied_output_layer(
    mistake: Callable[..., str], merge: Callable[..., Any], tmp_path: Path
) -> None:
    base = save_pico(tmp_path / "base", tie_word_embeddings=True)
    vocabulary = AutoModelForCausalLM.from_pretrained(base).config.vocab_size
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, 32, generator=generator), torch.randn(vocabulary, 2, generator=generator)
    write_adapter(tmp_path / "one", LoraFactors({"lm_head": pair}), str(base))
    assert "module 'lm_head' shares its weight with the embedding" in mistake(tmp_path / "one", "--as", "model")
    assert merge(tmp_path / "one")["verified"]["difference"] < 1e-4


def test_only_a_merge_is_replaced(command: Command, band_folder: Path, tmp_path: Path) -> None:
    arguments = ("merge", band_folder, "--profile", "terse=1", "--threads", 1, "--out")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "dear.txt").write_text("diary")
    assert "is there already" in command(*arguments, tmp_path / "notes")[2]
    assert "does not hold a merge" in command(*arguments, tmp_path / "notes", "--replace")[2]
    assert (tmp_path / "notes" / "dear.txt").read_text() == "diary"
    for place in (band_folder / "experts" / "terse" / "inside", band_folder / "base" / "inside"):
        assert "name a folder apart from all sources" in command(*arguments, place)[2]
        assert not place.exists()
    (tmp_path / "link").symlink_to("notes")
    assert "is a link" in command(*arguments, tmp_path / "link", "--replace")[2]


def test_two_merges_do_not_write_one_folder(tmp_path: Path) -> None:
    """The second neither waits nor removes what the first is writing; the lock of one that was killed is no lock."""
    with held(tmp_path / "out"):
        (writing := tmp_path / ".out.new.a_1b2c3d").mkdir()
        with pytest.raises(CounterpointError, match="another merge is writing it"), held(tmp_path / "out"):
            pass
        assert writing.exists()
    (tmp_path / ".out.lock").touch()
    (tmp_path / "..out.new.a_1b2c3d.new.e_1b2c3d").mkdir()
    (other := tmp_path / ".out.new.merge").mkdir()
    with held(tmp_path / "out"):
        assert not writing.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_a_base_that_is_not_finite_is_named_as_the_fault(mistake: Callable[..., str], tmp_path: Path) -> None:
    base = save_pico(tmp_path / "base")
    pico_adapter(tmp_path / "one", base)
    state = load_file(base / "model.safetensors")
    state["model.norm.weight"][0] = torch.inf
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    assert "the base, without any expert, gives logits that are not finite" in mistake(tmp_path / "one")


def test_a_merge_that_is_off_is_an_error(
    mistake: Callable[..., str], band_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is spoilt on its way to the disk, in one module: the figure says so, and nothing stays."""

    def spoilt(folder: Path, adapter: LoraFactors, base: str, fan_in_fan_out: bool) -> None:
        module, (a, b) = next(iter(adapter.factors.items()))
        write_adapter(folder, LoraFactors({**adapter.factors, module: (a, 1.5 * b)}), base, fan_in_fan_out)

    monkeypatch.setattr(merge_module, "write_adapter", spoilt)
    assert "the merged artefact's logits are off by" in mistake(band_folder, "--profile", PROFILE)


def test_the_adapter_is_an_ordinary_one(merge: Callable[..., Any], band_folder: Path, tmp_path: Path) -> None:
    """It can be added to a band, and joins other adapters there."""
    merge(band_folder, "--profile", "terse=1, warm=1")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {CONFIG, TENSORS, "manifest.json", "README.md"}
    band = Band.assemble(band_folder / "base", {"both": tmp_path / "out", "exact": band_folder / "experts" / "exact"})
    assert band.chat("Hi", "both=1, exact=0.5")
