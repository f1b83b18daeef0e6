"""A model's checkpoint as it lies on disk: tensors that are read piece by piece, and a writer of the same.

Pieces are read into arrays of the caller's (`pread`) and written where they belong (`pwrite`), in any order and from
several threads: memory is a few pieces, whatever the model's size. Values are float32 in memory. Neither torch nor
transformers is needed, whose import takes longer than merging a small model.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from counterpoint.artifacts import read_json, write_json
from counterpoint.types import CounterpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHARD_BYTES = 5_000_000_000

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Format:
    """How a type of numbers is stored: its name in torch, its array type on disk and what it can tell apart.

    A number x is written with an error of at most `rounding` * |x| + `smallest`; none beyond `largest` is.
    """

    name: str
    stored: np.dtype[Any]
    largest: float
    rounding: float
    smallest: float


FORMATS = {
    "F32": Format("float32", np.dtype("<f4"), (2 - 2.0**-23) * 2.0**127, 2.0**-24, 2.0**-150),
    "BF16": Format("bfloat16", np.dtype("<u2"), (2 - 2.0**-7) * 2.0**127, 2.0**-8, 2.0**-134),
    "F16": Format("float16", np.dtype("<f2"), 65504.0, 2.0**-11, 2.0**-25),
}
"""Types that are read and written as values, by their safetensors codes; numpy has bfloat16 only as its 16 bits."""


@dataclass(frozen=True)
class Spec:
    """What a tensor is: its type, as safetensors calls it, and its shape."""

    code: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_float(self) -> bool:
        """Whether its values can be computed with; else it is copied as it stands."""
        return self.code in FORMATS

    def cast(self, code: str) -> "Spec":
        """The same tensor in another type of float; what is no float stays as it is."""
        return Spec(code, self.shape, self.size * FORMATS[code].stored.itemsize) if self.is_float else self


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its file and its first byte there."""

    path: Path
    start: int


class Checkpoint:
    """The tensors of a model's folder, of one file or of shards, read piece by piece; close it or use `with`.

    Raises CounterpointError for a folder that holds no safetensors checkpoint, and for files that are broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs: dict[str, Spec] = {}
        self._places: dict[str, Place] = {}
        for path in _files(folder):
            self._read_header(path)
        self._descriptors = {path: os.open(path, os.O_RDONLY) for path in {p.path for p in self._places.values()}}

    def read_bytes(self, name: str, first: int, into: memoryview) -> None:
        """Fill `into` with a tensor's bytes from the `first` on."""
        place, got = self._places[name], 0
        while got < len(into):
            count = os.preadv(self._descriptors[place.path], [into[got:]], place.start + first + got)
            if not count:
                raise CounterpointError(f"{place.path}: ends inside tensor {name!r}; was it changed while being read?")
            got += count

    def read(self, name: str, first: int, into: Values) -> None:
        """Fill `into` with a tensor's values from the `first` on, exactly."""
        code = self.specs[name].code
        raw = into if code == "F32" else np.empty(into.shape, FORMATS[code].stored)
        self.read_bytes(name, first * raw.itemsize, raw.view(np.uint8).data)
        if code == "BF16":
            np.left_shift(raw, 16, out=into.view(np.uint32), dtype=np.uint32)
        elif code == "F16":
            into[...] = raw

    def tensor(self, name: str) -> Values:
        """A whole tensor."""
        values = np.empty(self.specs[name].size, np.float32)
        self.read(name, 0, values)
        return values.reshape(self.specs[name].shape)

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy"):  # checks the header against itself and against the file's length
                pass
        except (SafetensorError, OSError) as error:
            raise CounterpointError(f"{path}: not a readable safetensors file: {error}") from None
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            self.specs[name] = Spec(entry["dtype"], tuple(entry["shape"]), end - first)
            self._places[name] = Place(path, 8 + length + first)


class Writer:
    """A checkpoint whose tensors are announced first and written piece by piece; close it or use `with`.

    Raises CounterpointError for a disk without the space, before any work; for what the system refuses to write; and
    for a value that is not finite, or beyond the largest number of its type.
    """

    def __init__(self, folder: Path, specs: Mapping[str, Spec], shard_bytes: int = SHARD_BYTES) -> None:
        self.specs = dict(specs)
        self._places: dict[str, Place] = {}
        self._descriptors: dict[Path, int] = {}
        needed, free = sum(spec.nbytes for spec in specs.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise CounterpointError(
                f"{folder}: the model takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; name another place"
            )
        split = split_state_dict_into_shards_factory(
            self.specs,
            get_storage_size=lambda spec: spec.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=shard_bytes,
        )
        for file, names in split.filename_to_tensors.items():
            self._lay_out(folder / file, names)
        if split.is_sharded:
            write_json(folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})

    def write_bytes(self, name: str, first: int, data: memoryview) -> None:
        """Write a piece of a tensor's bytes from the `first` on."""
        place, put = self._places[name], 0
        while put < len(data):
            try:
                put += os.pwrite(self._descriptors[place.path], data[put:], place.start + first + put)
            except OSError as error:
                raise CounterpointError(f"{place.path}: cannot be written: {error.strerror}; mend that") from error

    def write(self, name: str, first: int, values: Values) -> None:
        """Write a piece of a tensor's values from the `first` on, each rounded to the nearest number of its type."""
        form = FORMATS[self.specs[name].code]
        least, most = values.min(initial=0), values.max(initial=0)
        if not (-form.largest <= least and most <= form.largest):
            raise CounterpointError(
                f"tensor {name!r}: would hold {least if most <= form.largest else most}, beyond the numbers of "
                f"{form.name}; look for what is not finite in the sources, or write float32"
            )
        raw = _rounded_to_bfloat16(values) if form.name == "bfloat16" else values.astype(form.stored, copy=False)
        self.write_bytes(name, first * raw.itemsize, raw.view(np.uint8).data)

    def close(self) -> None:
        """Wait until everything is on the disk."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
            os.close(descriptor)
        self._descriptors = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lay_out(self, path: Path, names: list[str]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            spec, first = self.specs[name], end
            end += spec.nbytes
            header[name] = {"dtype": spec.code, "shape": list(spec.shape), "data_offsets": [first, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        for name in names:
            self._places[name] = Place(path, 8 + len(text) + header[name]["data_offsets"][0])
        self._descriptors[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.pwrite(self._descriptors[path], len(text).to_bytes(8, "little") + text, 0)


def _rounded_to_bfloat16(values: Values) -> NDArray[np.uint16]:
    """The upper halves of finite float32, to nearest, ties to even: half a unit, less one bit where the last is 0."""
    bits = values.view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += bits
    rounded += 0x7FFF
    rounded >>= 16
    return rounded.astype("<u2")


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder: the shards that its index names, or the one file."""
    if not folder.is_dir():
        raise CounterpointError(f"{folder}: there is no such folder; a checkpoint is merged from a folder on this disk")
    if (folder / INDEX).exists():
        return [folder / name for name in sorted(set(_weight_map(folder / INDEX).values()))]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if any((folder / name).exists() for name in PICKLED):
        raise CounterpointError(
            f"{folder}: its checkpoint is pickled ({PICKLED[0]}), which is not read; load it with transformers and "
            "save it again with save_pretrained, which writes safetensors"
        )
    if (folder / "adapter_config.json").exists():
        raise CounterpointError(f"{folder}: is an adapter; expected a whole model with {SINGLE}")
    raise CounterpointError(f"{folder}: holds no checkpoint; expected {SINGLE}, or shards with {INDEX}")


def _weight_map(path: Path) -> dict[str, str]:
    index = read_json(path)
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise CounterpointError(f"{path}: expected a `weight_map` from tensors to files; download the model again")
    return found
