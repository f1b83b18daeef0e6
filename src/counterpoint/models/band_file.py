"""`band.json`: what a band is made of. A band is a folder that needs nothing else to be loaded."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from counterpoint.artifacts import MANIFEST, hash_files, publish, read_json, write_json
from counterpoint.models.adapter import CONFIG, TENSORS, read_adapter
from counterpoint.profiles import check_name
from counterpoint.types import CounterpointError, Dimension, Expert

BAND = "band.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DimensionEntry(_Strict):
    """A dimension: how people read it, and how one asks for it in words."""

    name: str
    description: str = ""
    request: str = ""


class ExpertEntry(_Strict):
    """An expert: its adapter lies in `experts/<name>`; `scores` are its mean rewards on training prompts."""

    name: str
    dimension: str
    trained_on: str = ""
    scores: dict[str, float] = Field(default_factory=dict)


class BandFile(_Strict):
    """`base` is a path relative to the band, or a hub id (then without `base_hash`).

    `strengths` holds, per method, the strength that scored best on training prompts.
    """

    base: str
    base_hash: str | None = None
    dimensions: list[DimensionEntry]
    experts: list[ExpertEntry]
    strengths: dict[str, float] = Field(default_factory=dict)

    def dimension(self, name: str) -> Dimension:
        entry = next(entry for entry in self.dimensions if entry.name == name)
        return Dimension(entry.name, entry.description, entry.request)

    def typed_experts(self) -> list[Expert]:
        return [Expert(entry.name, entry.dimension, entry.trained_on) for entry in self.experts]


def read_band(folder: Path) -> BandFile:
    """Read and check `band.json`. Raises CounterpointError that names the file and each wrong field."""
    if not (folder / BAND).exists():
        raise CounterpointError(f"{folder}: not a band, since it holds no {BAND}; `counterpoint build` makes one")
    raw = read_json(folder / BAND)
    try:
        band = BandFile.model_validate(raw)
    except ValidationError as error:
        raise CounterpointError(f"{folder / BAND}: {_explain(error)}") from None
    names = [entry.name for entry in band.dimensions]
    experts = [entry.name for entry in band.experts]
    for name in (*names, *experts):
        check_name(name)
        if names.count(name) > 1 or experts.count(name) > 1:
            raise CounterpointError(f"{folder / BAND}: the name {name!r} is there twice")
    for expert in band.experts:
        if expert.dimension not in names:
            raise CounterpointError(
                f"{folder / BAND}: expert {expert.name!r} is for dimension {expert.dimension!r}, "
                f"which is not among {names}"
            )
    return band


def write_band(folder: Path, band: BandFile) -> None:
    """Write `band.json` atomically."""
    write_json(folder / BAND, band.model_dump())


def base_path(folder: Path, band: BandFile) -> str:
    """Where the base is loaded from, after checking that it is the one that the experts were made for."""
    local = folder / band.base
    if not local.is_dir():
        if band.base_hash is not None:
            raise CounterpointError(f"{folder / BAND}: the base {band.base!r} is not a folder at {local.resolve()}")
        return band.base
    found = base_hash(local)
    if band.base_hash is not None and found != band.base_hash:
        raise CounterpointError(
            f"{local.resolve()}: these are not the weights that the band's experts were made for "
            f"(hash {found[:12]}, expected {band.base_hash[:12]})"
        )
    return str(local)


def base_hash(folder: Path) -> str:
    """SHA-256 over the weights and the config of a model folder."""
    if not (folder / "config.json").exists():
        raise CounterpointError(f"{folder}: not a model folder, since it holds no config.json")
    return hash_files(folder / "config.json", *sorted(folder.glob("*.safetensors")))


def _explain(error: ValidationError) -> str:
    def line(item: Any) -> str:
        return f"{'.'.join(map(str, item['loc'])) or 'top level'}: {item['msg'].lower()}"

    return "; ".join(line(item) for item in error.errors())


def new_band(folder: Path, base: str, dimensions: Sequence[Dimension]) -> BandFile:
    """Start a band: `base` is a model folder, kept as a path relative to the band, or a hub id."""
    local = Path(base).is_dir()
    band = BandFile(
        base=os.path.relpath(Path(base).resolve(), folder.resolve()) if local else base,
        base_hash=base_hash(Path(base)) if local else None,
        dimensions=[DimensionEntry(**vars(dimension)) for dimension in dimensions],
        experts=[],
    )
    write_band(folder, band)
    return band


def add_expert(folder: Path, adapter: Path, expert: Expert) -> BandFile:
    """Copy an adapter into the band; an expert of the same name is replaced."""
    read_adapter(adapter)
    check_name(expert.name)
    check_name(expert.dimension)
    band = read_band(folder)
    if expert.dimension not in [entry.name for entry in band.dimensions]:
        band.dimensions.append(DimensionEntry(name=expert.dimension))
    with publish(folder / "experts" / expert.name) as staging:
        for name in (CONFIG, TENSORS):
            shutil.copyfile(adapter / name, staging / name)
        if (adapter / MANIFEST).exists():
            shutil.copyfile(adapter / MANIFEST, staging / MANIFEST)
    band.experts = [entry for entry in band.experts if entry.name != expert.name]
    band.experts.append(ExpertEntry(**vars(expert)))
    write_band(folder, band)
    return band
