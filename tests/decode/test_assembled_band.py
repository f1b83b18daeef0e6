"""A band from adapters that other libraries made, without a folder of its own: each expert is what PEFT makes of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from counterpoint import Band
from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.assemble import add
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import CounterpointError, Dimension

CONFIGS: dict[str, dict[str, Any]] = {
    "concise": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "friendly": {"r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "formal": {"r": 3, "use_rslora": True, "target_modules": r".*\.(up|down)_proj"},
    "vivid": {"r": 2, "target_modules": ["o_proj"], "rank_pattern": {r"layers\.1\.self_attn\.o_proj": 6}},
}
SHORT = Sampling(max_tokens=12, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and four adapters, made with plain PEFT."""
    folder = tmp_path_factory.mktemp("peft")
    base = save_pico(folder / "base", seed=1)
    for seed, (name, options) in enumerate(CONFIGS.items()):
        config = LoraConfig(task_type="CAUSAL_LM", **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder / name)
    return folder


def assembled(folder: Path) -> Band:
    return Band.assemble(folder / "base", {name: folder / name for name in CONFIGS})


def assert_is_peft(band: Band, expert: str, base: Path, adapter: Path) -> None:
    """The next token's distribution is that of PEFT's own model."""
    ids = band.tokenizer("Tell me of the owl")["input_ids"]
    with torch.no_grad():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
        expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    request = Request(Plan((Row({expert: 1.0}),)), (tuple(ids),))
    torch.testing.assert_close(band.engine.next_distributions([request])[0], expected, atol=1e-4, rtol=0)


def test_four_peft_adapters_make_a_band_and_no_file(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    band = assembled(folder)
    said = band.chat("Tell me of the owl.", profile="concise=1, friendly=0.5", sampling=SHORT)
    assert said != band.chat("Tell me of the owl.", sampling=SHORT)
    assert band.dimensions == tuple(CONFIGS)
    for method in ("soup", "moe", "mixture-prob", "mixture-log", "route", "prompted"):
        band.chat("Hi", "formal=1, vivid=2", method=method, sampling=SHORT)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for name in CONFIGS:
        assert_is_peft(band, name, folder / "base", folder / name)


def test_a_band_folder_of_the_same_adapters_answers_the_same(folder: Path, tmp_path: Path) -> None:
    for name in CONFIGS:
        add(tmp_path / "band", str(folder / name), Dimension(name), name)
    profile = "concise=1, friendly=0.5, vivid=2"
    expected = assembled(folder).chat("Hi", profile, sampling=SHORT)
    assert Band.load(tmp_path / "band").chat("Hi", profile=profile, sampling=SHORT) == expected


def test_a_whole_model_beside_adapters(folder: Path, tmp_path: Path) -> None:
    wild = save_pico(tmp_path / "wild", seed=5, family="gpt2", hidden=16)
    band = Band.assemble(str(folder / "base"), {"concise": str(folder / "concise"), "wild": str(wild)})
    assert band.chat("Hi", "concise=1, wild=1", method="mixture-log", sampling=SHORT)
    with pytest.raises(CounterpointError, match="soup blends adapters of one base, and expert 'wild' is a whole model"):
        band.chat("Hi", "concise=1, wild=1")


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    other = save_pico(tmp_path / "other", hidden=48)
    with pytest.raises(CounterpointError, match=r"its delta is .* was it trained on another base"):
        Band.assemble(other, {"concise": folder / "concise"})
    with pytest.raises(CounterpointError, match="gone: there is no such folder"):
        Band.assemble(folder / "base", {"concise": folder / "gone"})
    with pytest.raises(CounterpointError, match="'a=b' cannot name a dimension"):
        Band.assemble(folder / "base", {"a=b": folder / "concise"})


def test_what_is_odd_is_warned_of(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder / "base", tmp_path / "moved"))
    with pytest.warns(UserWarning, match="it names another base, '.*base'; its factors fit '.*moved' all the same"):
        Band.assemble(moved, {"concise": folder / "concise"})


def options(kind: Any, out: Path) -> Any:
    return kind(
        output_dir=str(out), max_steps=1, per_device_train_batch_size=2, learning_rate=0.01, save_steps=1,
        activation_checkpointing=False, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip


def test_adapters_of_trls_trainers_and_their_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_pico(tmp_path / "base", seed=1)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    imitate = Dataset.from_list([{"prompt": "Say", "completion": " the owl"}] * 4)
    prefer = Dataset.from_list([{"prompt": "Say", "chosen": " the owl", "rejected": " of you"}] * 4)
    for trainer, kind, data, name in ((SFTTrainer, SFTConfig, imitate, "sft"), (DPOTrainer, DPOConfig, prefer, "dpo")):
        monkeypatch.setattr(trainer, "_send_telemetry", lambda _: None)
        run = trainer(model=str(base), args=options(kind, tmp_path / name), train_dataset=data, peft_config=lora)
        run.train()
        run.save_model(tmp_path / name)
    pico_adapter(tmp_path / "plain", base, seed=2)
    experts = {
        "sft": tmp_path / "sft",
        "dpo": tmp_path / "dpo",
        "half": tmp_path / "dpo" / "checkpoint-1",
        "plain": tmp_path / "plain",
    }
    band = Band.assemble(base, experts)
    for name, adapter in experts.items():
        assert_is_peft(band, name, base, adapter)
    assert band.chat("Hi", "sft=1, dpo=1, plain=1", sampling=SHORT) != band.chat("Hi", "plain=1", sampling=SHORT)
