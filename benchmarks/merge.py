"""Merging whole checkpoints of 135 M parameters against mergekit, PEFT, and what the disk allows.

    python -m venv FOLDER && FOLDER/bin/pip install mergekit==0.1.5 torch==2.13.0
    MERGEKIT=FOLDER python -m benchmarks.run --only merge

Each merge is a process of its own, timed from start to end, imports and all; its peak memory is its resident set's. The
limit is a plain loop that reads the sources into one buffer, and writes and syncs one file of their size. Sources are
in the page cache. The random checkpoints take 6.5 GB.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.models import adapter_folder
from benchmarks.timing import Row, in_turn, seconds

MOST = 8
ADAPTERS = 4

# A process's peak counts the pages of the one that started it, so that a small one has to start those measured.
STARTER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss / 1e6, status]))
"""
OURS = """
import sys
from pathlib import Path
from counterpoint.compose.checkpoints import merge_models
merge_models([(path, 1.0) for path in sys.argv[2:]], Path(sys.argv[1]))
"""
OUR_ADAPTERS = """
import sys
from functools import partial
from pathlib import Path
from counterpoint.compose.checkpoints import apply_deltas
from counterpoint.compose.soup import merge
from counterpoint.models.adapter import read_adapter
from counterpoint.types import Weighting
out, base, *folders = sys.argv[1:]
experts = {folder: read_adapter(Path(folder)) for folder in folders}
merged = merge(experts, Weighting(tuple(folders), (1 / len(folders),) * len(folders)))
apply_deltas(base, {f"{module}.weight": partial(merged.delta, module) for module in merged.factors}, Path(out))
"""
PEFT_ADAPTERS = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
out, base, *folders = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folders[0], adapter_name="0")
for index, folder in enumerate(folders[1:], 1):
    model.load_adapter(folder, adapter_name=str(index))
names = [str(index) for index in range(len(folders))]
model.add_weighted_adapter(names, [1 / len(folders)] * len(folders), "all", combination_type="cat")
model.set_adapter("all")
model.merge_and_unload().save_pretrained(out)
"""


class Child:
    """A command that writes a model folder: its seconds per run, and the gigabytes at its peak."""

    def __init__(self, out: Path, *command: object) -> None:
        self.out = out
        self._command = [str(word) for word in command]
        self._peaks: list[float] = []

    def __call__(self) -> float:
        shutil.rmtree(self.out, ignore_errors=True)
        result = subprocess.run(
            [sys.executable, "-I", "-S", "-c", STARTER, *self._command], capture_output=True, text=True, check=True
        )
        took, peak, status = json.loads(result.stdout)
        if status:
            raise RuntimeError(f"{' '.join(self._command)[:200]} failed:\n{result.stderr[-2000:]}")
        self._peaks.append(peak)
        return float(took)

    @property
    def peak(self) -> float:
        return statistics.median(self._peaks)


def merge(folder: Path, dtype: str) -> Iterator[Row]:
    """2, 4 and 8 whole checkpoints, their mean: seconds and peak memory."""
    sources = checkpoints(folder, dtype)
    peer = find()
    if peer is None:
        Console(stderr=True).print("MERGEKIT names no environment of mergekit: its rows are left out")
    for count in (2, 4, MOST):
        yield from _merged(folder, sources[:count], dtype, peer)
    out = folder / "merged" / "none"
    ours, torch_s = in_turn(
        Child(out, sys.executable, "-c", "import counterpoint.compose.checkpoints"),
        Child(out, sys.executable, "-c", "import torch"),
    )
    yield Row(f"start of a merge, {dtype}: import of torch", ours, torch_s, "s")


def _merged(folder: Path, sources: Sequence[Path], dtype: str, peer: Path | None) -> Iterator[Row]:
    name = f"merge of {len(sources)}, {dtype}"
    ours = Child(folder / "merged" / "ours", sys.executable, "-c", OURS, folder / "merged" / "ours", *sources)
    measures: list[Callable[[], float]] = [ours, lambda: limit(sources, folder / "merged" / "limit")]
    theirs = mergekit(peer, folder, sources, dtype) if peer else None
    took, least, *rest = in_turn(*measures, *([theirs] if theirs else []))
    yield Row(f"{name}: reading and writing alone", took, least, "s", "ratio <= 2.0")
    yield Row(f"{name}: peak memory", ours.peak, theirs.peak if theirs else None, "GB", "ours <= 0.5")
    if theirs:
        goal = {2: "ratio <= 0.333", MOST: "ratio <= 0.25"}.get(len(sources), "")
        yield Row(f"{name}: mergekit linear", took, rest[0], "s", goal)
        yield Row(f"{name}: tensors unlike mergekit's", unlike(ours.out, theirs.out), None, "", "ours <= 0")


def merge_adapters(folder: Path, dtype: str) -> Iterator[Row]:
    """Four adapters merged into the base and written as a whole model, against PEFT's `cat` and `merge_and_unload`."""
    base, adapters = folder / "base", [adapter_folder(folder, index) for index in range(ADAPTERS)]
    ours, theirs = (
        Child(folder / "merged" / name, sys.executable, "-c", code, folder / "merged" / name, base, *adapters)
        for name, code in (("ours", OUR_ADAPTERS), ("peft", PEFT_ADAPTERS))
    )
    took, peft, least = in_turn(ours, theirs, lambda: limit([base], folder / "merged" / "limit"), rounds=3)
    name = f"{ADAPTERS} adapters into a model, {dtype}"
    yield Row(f"{name}: PEFT cat and merge_and_unload", took, peft, "s", "ratio <= 0.5")
    yield Row(f"{name}: reading and writing alone", took, least, "s")
    yield Row(f"{name}: peak memory", ours.peak, theirs.peak, "GB", "ratio <= 1.0")
    yield Row(f"{name}: largest difference from PEFT's", difference(ours.out, theirs.out), None, "", "ours <= 1e-5")


def find() -> Path | None:
    """The environment that MERGEKIT names."""
    folder = os.environ.get("MERGEKIT")
    return Path(folder).resolve() if folder else None


def mergekit(peer: Path, folder: Path, sources: Sequence[Path], dtype: str) -> Child:
    out, recipe = folder / "merged" / "mergekit", folder / "merged" / "mergekit.json"
    models = [{"model": str(source.resolve()), "parameters": {"weight": 1.0}} for source in sources]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(json.dumps({"merge_method": "linear", "models": models, "dtype": dtype}))  # JSON is YAML
    return Child(out, peer / "bin" / "mergekit-yaml", recipe, out, "--no-copy-tokenizer", "--no-write-model-card")


def limit(sources: Sequence[Path], out: Path) -> float:
    """Seconds to read the sources into one buffer, and to write and sync one file of their size."""
    out.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    buffer = bytearray(1 << 22)

    def work() -> None:
        for source in sources:
            with (source / "model.safetensors").open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        left = (sources[0] / "model.safetensors").stat().st_size
        with out.open("wb", buffering=0) as file:
            while left > 0:
                left -= file.write(memoryview(buffer)[:left])
            os.fsync(file.fileno())

    return seconds(work)


def checkpoints(folder: Path, dtype: str) -> list[Path]:
    """The base and seven like it, each parameter moved by a random hundredth, written once."""
    base = load_file(folder / "base" / "model.safetensors")
    made = []
    for index in range(MOST):
        model = folder / f"whole{index}-{dtype}"
        made.append(model)
        if (model / "config.json").exists():
            continue
        model.mkdir(exist_ok=True)
        generator = torch.Generator().manual_seed(index)
        moved = {name: (p + 0.01 * torch.randn(p.shape, generator=generator)) for name, p in base.items()}
        tensors = {name: p.to(getattr(torch, dtype)) for name, p in moved.items()}
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "base" / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
    return made


def unlike(one: Path, other: Path) -> int:
    """How many tensors of two models are not the same, bit for bit; a missing one counts."""
    mine, theirs = tensors_of(one), tensors_of(other)
    return sum(
        name not in mine or name not in theirs or not torch.equal(mine[name], theirs[name])
        for name in mine.keys() | theirs.keys()
    )


def difference(one: Path, other: Path) -> float:
    mine, theirs = tensors_of(one), tensors_of(other)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return found
