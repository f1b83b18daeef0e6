"""Checkpoints on disk: what is read and written is what safetensors, torch and transformers read and write."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from counterpoint.models.checkpoint import FORMATS, INDEX, Checkpoint, Spec, Writer
from counterpoint.testing import pico_model, save_pico
from counterpoint.types import CounterpointError

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def numbers(seed: int = 0) -> torch.Tensor:
    """Numbers of all sizes, some of which every type has to round, and the ties between two neighbours."""
    spread = torch.randn(2000, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-9, 4, 2000)
    ties = (torch.arange(0x3F800000, 0x3F900000, 0x8000, dtype=torch.int32)).view(torch.float32)
    return torch.cat([spread, ties, torch.tensor([0.0, -0.0, 65504.0, 2.0**-24, 2.0**-25, 1e-40])])


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def write(folder: Path, tensors: dict[str, torch.Tensor], code: str, step: int = 700, **options: int) -> None:
    """Through the writer, piece by piece and the last piece first."""
    folder.mkdir(exist_ok=True)
    specs = {name: Spec(code, tuple(t.shape), t.numel() * DTYPES[code].itemsize) for name, t in tensors.items()}
    with Writer(folder, specs, **options) as writer:
        for name, tensor in tensors.items():
            values = tensor.reshape(-1).numpy()
            for first in reversed(range(0, max(len(values), 1), step)):
                writer.write(name, first, values[first : first + step])


@pytest.mark.parametrize("code", FORMATS)
def test_what_is_written_is_what_safetensors_and_torch_write(code: str, tmp_path: Path) -> None:
    tensors = {"a": numbers(), "b": torch.randn(3, 5), "empty": torch.zeros(0, 4), "scalar": torch.tensor(0.5)}
    write(tmp_path / "m", tensors, code)
    found = load_file(tmp_path / "m" / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.to(DTYPES[code])
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        assert bits(found[name]) == bits(expected)


def test_bfloat16_is_rounded_as_torch_rounds_at_every_exponent(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 0x7F7F0000, 100_000, dtype=np.uint32)
    signs = np.random.default_rng(1).integers(0, 2, 100_000, dtype=np.uint32) << 31
    values = torch.from_numpy((bits | signs).view(np.float32))
    write(tmp_path / "m", {"x": values}, "BF16", step=1 << 20)
    assert torch.equal(load_file(tmp_path / "m" / "model.safetensors")["x"], values.bfloat16())


@pytest.mark.parametrize("code", FORMATS)
def test_every_value_and_every_part_is_read_exactly(code: str, tmp_path: Path) -> None:
    stored = numbers().to(DTYPES[code])
    save_file({"other": torch.ones(3), "x": stored}, tmp_path / "model.safetensors")
    with Checkpoint(tmp_path) as checkpoint:
        assert torch.equal(torch.from_numpy(checkpoint.tensor("x")), stored.float())
        part = np.empty(10, np.float32)
        checkpoint.read("x", 17, part)
    assert torch.equal(torch.from_numpy(part), stored[17:27].float())


def test_bytes_of_what_is_no_float_go_through_unchanged(tmp_path: Path) -> None:
    counts = torch.arange(7)
    save_file({"n": counts}, tmp_path / "model.safetensors")
    with Checkpoint(tmp_path) as checkpoint:
        data = bytearray(checkpoint.specs["n"].nbytes)
        checkpoint.read_bytes("n", 0, memoryview(data))
        (tmp_path / "copy").mkdir()
        with Writer(tmp_path / "copy", checkpoint.specs) as writer:
            writer.write_bytes("n", 0, memoryview(data))
    assert torch.equal(load_file(tmp_path / "copy" / "model.safetensors")["n"], counts)


def test_shards_are_read_and_written_as_transformers_does(tmp_path: Path) -> None:
    save_pico(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    model.save_pretrained(tmp_path / "theirs", max_shard_size=40_000)
    with Checkpoint(tmp_path / "theirs") as theirs, Checkpoint(tmp_path / "m") as whole:
        assert theirs.specs == whole.specs
        found = {name: torch.from_numpy(theirs.tensor(name)) for name in whole.specs}
    write(tmp_path / "ours", found, "F32", shard_bytes=40_000)
    (tmp_path / "ours" / "config.json").write_text((tmp_path / "m" / "config.json").read_text())
    index = json.loads((tmp_path / "ours" / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == 4 * sum(p.numel() for p in model.parameters())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e5])
def test_a_value_beyond_its_type_is_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"tensor 'x': would hold (nan|inf|-100000).* numbers of float16"):
        write(tmp_path / "m", {"x": torch.tensor([1.0, value])}, "F16")


def test_a_full_disk_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"takes 4000000000\.0 GB, and .* GB are free"):
        Writer(tmp_path, {"x": Spec("F32", (10**18,), 4 * 10**18)})
    assert not list(tmp_path.iterdir())


def test_folders_without_a_checkpoint_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="there is no such folder"):
        Checkpoint(tmp_path / "absent")
    for file, said in (("pytorch_model.bin", "pickled"), ("adapter_config.json", "is an adapter"), ("x", "holds no")):
        folder = tmp_path / said
        folder.mkdir()
        (folder / file).write_text("{}")
        with pytest.raises(CounterpointError, match=said):
            Checkpoint(folder)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.randn(100)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(CounterpointError, match="not a readable safetensors file"):
        Checkpoint(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {"x": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(CounterpointError, match="model-00001-of-00002"):
        Checkpoint(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": [1]}')
    with pytest.raises(CounterpointError, match="expected a `weight_map`"):
        Checkpoint(tmp_path)


def test_a_file_cut_short_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    save_file({"x": torch.randn(100)}, tmp_path / "model.safetensors")
    with Checkpoint(tmp_path) as checkpoint:
        with (tmp_path / "model.safetensors").open("r+b") as file:
            file.truncate(200)
        with pytest.raises(CounterpointError, match="ends inside tensor 'x'"):
            checkpoint.tensor("x")


def test_a_piece_of_a_tied_model_leaves_the_tied_name_out(tmp_path: Path) -> None:
    pico_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    with Checkpoint(tmp_path) as checkpoint:
        assert "lm_head.weight" not in checkpoint.specs
        assert "model.embed_tokens.weight" in checkpoint.specs
