"""`band.json`: what a band is made of. A band is a folder that needs nothing else to be loaded."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from counterpoint.artifacts import MANIFEST, hash_files, publish, read_json, write_json
from counterpoint.models.adapter import CONFIG, TENSORS, read_adapter
from counterpoint.profiles import check_name, parse_bounds, unknown_name
from counterpoint.profiles.bounds import as_pairs
from counterpoint.types import CounterpointError, Dimension, Expert

BAND = "band.json"

KEYS = "COUNTERPOINT_KEY"
"""How the environment variables of keys start: a band from elsewhere must not be able to send another secret away."""

VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Files that say which token an id is."""

Record = tuple[str, str | None, str | None]
"""How a band refers to a model: path relative to the band, hash and stamp; or a hub id alone."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DimensionEntry(_Strict):
    """A dimension, as `counterpoint.types.Dimension` explains it."""

    name: str
    description: str = ""
    request: str = ""
    axis: str = ""
    criterion: str = ""


class EndpointEntry(_Strict):
    """A model that a server offers at `url`, as in http://host:8000/v1, by the OpenAI-compatible completions API.

    `top` is how many of the likeliest tokens it is asked for, `api_key_env` names the environment variable that holds
    the key (see `KEYS`), `timeout_s` is in seconds, and with `trust_tokenizer` its token ids are taken to be the base's
    unproved.
    """

    url: str
    model: Annotated[str, Field(min_length=1)]
    top: int | Literal["all"] = 20
    api_key_env: str | None = None
    on_failure: Literal["fail", "drop"] = "fail"
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    trust_tokenizer: bool = False

    @field_validator("top", mode="before")
    @classmethod
    def _some(cls, top: object) -> object:
        if top != "all" and not (isinstance(top, int) and not isinstance(top, bool) and top >= 1):
            raise ValueError(f"{top!r} is neither a number from 1 nor all")
        return top

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        if any(mark in url for mark in "@?#"):
            raise ValueError("an address without a key in it is expected; the key goes into an environment variable")
        if not _is_address(url):
            raise ValueError(f"{url!r} is no address of a server; expected one such as http://host:8000/v1")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _secret(cls, name: str | None, found: ValidationInfo) -> str | None:
        if name is None:
            return None
        if not re.fullmatch(KEYS + "[A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is no variable for keys; expected {KEYS}, or one that starts so: {KEYS}_VLLM")
        parts = urlsplit(found.data.get("url", ""))
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise ValueError(f"a key would go to {parts.hostname} where all can read it; use https")
        return name


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = url.isprintable() and " " not in url
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ExpertEntry(_Strict):
    """An expert: an adapter, which lies in `experts/<name>`, or a whole model, here or behind an endpoint.

    `model` is a path relative to the band, with the hash and the stamp of its files, or a hub id (then without).
    `scores` are mean rewards on training prompts.
    """

    name: str
    dimension: str
    trained_on: str = ""
    scores: dict[str, float] = Field(default_factory=dict)
    model: str | None = None
    hash: str | None = None
    stamp: str | None = None
    endpoint: EndpointEntry | None = None

    @property
    def kind(self) -> Literal["adapter", "model", "endpoint"]:
        if self.endpoint is not None:
            return "endpoint"
        return "adapter" if self.model is None else "model"


class BandFile(_Strict):
    """`base` is a path relative to the band, with the hash and the stamp of its files, or a hub id (then without).

    `strengths` holds, per method, the strength that scored best on training prompts; `bounds`, per dimension, the floor
    and the cap that an operator set (null for no cap).
    """

    base: str
    base_hash: str | None = None
    base_stamp: str | None = None
    dimensions: list[DimensionEntry]
    experts: list[ExpertEntry]
    strengths: dict[str, float] = Field(default_factory=dict)
    bounds: dict[str, tuple[float, float | None]] = Field(default_factory=dict)

    def dimension(self, name: str) -> Dimension:
        entry = next(entry for entry in self.dimensions if entry.name == name)
        return Dimension(**entry.model_dump())

    def typed_experts(self) -> list[Expert]:
        return [Expert(entry.name, entry.dimension, entry.trained_on) for entry in self.experts]


def read_band(folder: Path) -> BandFile:
    """Read and check `band.json`. Raises CounterpointError that names the file and each wrong field."""
    if not (folder / BAND).exists():
        raise CounterpointError(
            f"{folder}: not a band, since it holds no {BAND}; `counterpoint build` and `counterpoint add` make one"
        )
    raw = read_json(folder / BAND)
    try:
        band = BandFile.model_validate(raw)
    except ValidationError as error:
        raise CounterpointError(f"{folder / BAND}: {_explain(error)}") from None
    if found := list(_faults(band)):
        raise CounterpointError(f"{folder / BAND}: {'; '.join(found)}")
    return band


def _faults(band: BandFile) -> Iterator[str]:
    dimensions = [entry.name for entry in band.dimensions]
    for names in (dimensions, [entry.name for entry in band.experts]):
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield f"the name {name!r} is there twice"
            try:
                check_name(name)
            except CounterpointError as error:
                yield str(error)
    for expert in band.experts:
        if expert.dimension not in dimensions:
            yield f"expert {expert.name!r} is for dimension {expert.dimension!r}, which is not among {dimensions}"
        if expert.model is not None and expert.endpoint is not None:
            yield f"expert {expert.name!r} has a model and an endpoint; keep the one that it is"
    try:
        parse_bounds(band.bounds, dimensions)
    except CounterpointError as error:
        yield str(error)


def write_band(folder: Path, band: BandFile) -> None:
    """Write `band.json` atomically."""
    write_json(folder / BAND, band.model_dump())


def base_path(folder: Path, band: BandFile, trust_stamp: bool = True) -> str:
    """Where the base is loaded from, after checking that it is the one that the experts were made for.

    A stamp that is as recorded stands for the hash, unless it is not to be trusted.
    """
    made_for = "these are not the weights and vocabulary that the band's experts were made for"
    return _model_path(folder, "the base", (band.base, band.base_hash, band.base_stamp), made_for, trust_stamp)


def expert_path(folder: Path, entry: ExpertEntry, trust_stamp: bool = True) -> str:
    """Where an expert is loaded from; a whole model is checked, as a base is, to be the one that was added."""
    if entry.endpoint is not None:
        return entry.endpoint.url
    if entry.model is None:
        return str(folder / "experts" / entry.name)
    added = f"these are not the weights and vocabulary that were added as expert {entry.name!r}"
    return _model_path(
        folder, f"expert {entry.name!r}: the model", (entry.model, entry.hash, entry.stamp), added, trust_stamp
    )


def _model_path(folder: Path, role: str, record: Record, otherwise: str, trust_stamp: bool) -> str:
    model, recorded, stamp = record
    local = folder / model
    if not local.is_dir():
        if recorded is not None:
            raise CounterpointError(f"{folder / BAND}: {role} {model!r} is not a folder at {local.resolve()}")
        return model
    unproved = recorded is not None and not (trust_stamp and stamp_model(local) == stamp)
    if unproved and recorded != (found := hash_model(local)):
        raise CounterpointError(f"{local.resolve()}: {otherwise} (hash {found[:12]}, expected {str(recorded)[:12]})")
    return str(local)


def hash_model(folder: Path) -> str:
    """SHA-256 over the weights and the config of a model folder."""
    return hash_files(*_model_files(folder))


def stamp_model(folder: Path) -> str:
    """A digest of the names, sizes and times of what `hash_model` reads: while it stays, so does the hash.

    It spares a large model's hash, a second for each gigabyte, at every load. A copy without its times is hashed again.
    """
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in _model_files(folder)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _model_files(folder: Path) -> list[Path]:
    if not (folder / "config.json").exists():
        raise CounterpointError(f"{folder}: not a model folder, since it holds no config.json")
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    return [folder / "config.json", *weights, *(folder / name for name in VOCABULARY if (folder / name).exists())]


def record_model(folder: Path, model: str) -> Record:
    """What `band.json` keeps of a model folder or hub id."""
    local = Path(model)
    if not local.is_dir():
        return model, None, None
    stamp = stamp_model(local)  # before the hash: what changes meanwhile must not pass for what was hashed
    return os.path.relpath(local.resolve(), folder.resolve()), hash_model(local), stamp


def _explain(error: ValidationError) -> str:
    def line(item: Any) -> str:
        return f"{'.'.join(map(str, item['loc'])) or 'top level'}: {item['msg'][:1].lower()}{item['msg'][1:]}"

    return "; ".join(line(item) for item in error.errors())


def new_band(folder: Path, base: str, dimensions: Sequence[Dimension]) -> BandFile:
    """Start a band: `base` is a model folder, kept as a path relative to the band, or a hub id."""
    path, recorded, stamp = record_model(folder, base)
    band = BandFile(
        base=path,
        base_hash=recorded,
        base_stamp=stamp,
        dimensions=[DimensionEntry(**vars(dimension)) for dimension in dimensions],
        experts=[],
    )
    write_band(folder, band)
    return band


def add_expert(folder: Path, adapter: Path, expert: Expert) -> BandFile:
    """Copy an adapter into the band; an expert of the same name is replaced."""
    read_adapter(adapter)
    band = _without(folder, expert)
    with publish(folder / "experts" / expert.name) as staging:
        for name in (CONFIG, TENSORS):
            shutil.copyfile(adapter / name, staging / name)
        if (adapter / MANIFEST).exists():
            shutil.copyfile(adapter / MANIFEST, staging / MANIFEST)
    return _with(folder, band, ExpertEntry(**vars(expert)))


def add_model(folder: Path, model: str, expert: Expert) -> BandFile:
    """Let a whole model, which stays where it is, be an expert; one of the same name is replaced."""
    path, recorded, stamp = record_model(folder, model)
    band = _without(folder, expert)
    shutil.rmtree(folder / "experts" / expert.name, ignore_errors=True)
    return _with(folder, band, ExpertEntry(**vars(expert), model=path, hash=recorded, stamp=stamp))


def parse_endpoint(**fields: Any) -> EndpointEntry:
    """An endpoint from what a person gave. Raises CounterpointError that names each wrong field."""
    try:
        return EndpointEntry.model_validate(fields)
    except ValidationError as error:
        raise CounterpointError(f"endpoint: {_explain(error)}") from None


def add_endpoint(folder: Path, endpoint: EndpointEntry, expert: Expert) -> BandFile:
    """Let a model behind an endpoint be an expert; one of the same name is replaced."""
    band = _without(folder, expert)
    shutil.rmtree(folder / "experts" / expert.name, ignore_errors=True)
    return _with(folder, band, ExpertEntry(**vars(expert), endpoint=endpoint))


def remove_expert(folder: Path, name: str, keep_dimension: bool = False) -> BandFile:
    """Take an expert out, and its dimension where neither an expert nor a reward is left for it."""
    band = read_band(folder)
    entry = next((entry for entry in band.experts if entry.name == name), None)
    if entry is None:
        raise CounterpointError(f"{folder / BAND}: {unknown_name('expert', name, (e.name for e in band.experts))}")
    band.experts.remove(entry)
    served = {other.dimension for other in band.experts} | {path.name for path in (folder / "rewards").glob("*/")}
    served |= set(band.bounds)  # an operator's bound outlives the expert: a floor then refuses, rather than lapse
    if not keep_dimension and entry.dimension not in served:
        band.dimensions = [other for other in band.dimensions if other.name != entry.dimension]
    write_band(folder, band)
    shutil.rmtree(folder / "experts" / name, ignore_errors=True)
    return band


def _without(folder: Path, expert: Expert) -> BandFile:
    """The band without an expert of that name, also on disk: whoever is killed meanwhile leaves a band that loads."""
    check_name(expert.name)
    check_name(expert.dimension)
    band = read_band(folder)
    if expert.name in [entry.name for entry in band.experts]:
        band.experts = [entry for entry in band.experts if entry.name != expert.name]
        write_band(folder, band)
    return band


def _with(folder: Path, band: BandFile, entry: ExpertEntry) -> BandFile:
    if entry.dimension not in [dimension.name for dimension in band.dimensions]:
        band.dimensions.append(DimensionEntry(name=entry.dimension))
    band.experts.append(entry)
    write_band(folder, band)
    return band


def set_bounds(folder: Path, text_or_mapping: str | Mapping[str, Sequence[float | None]]) -> BandFile:
    """Put an operator's bounds in place of those that a band has; see `counterpoint.profiles.parse_bounds`.

    Raises CounterpointError for bounds that cannot be read, and for a floor of a dimension that no expert serves.
    """
    band = read_band(folder)
    bounds = parse_bounds(text_or_mapping, [entry.name for entry in band.dimensions])
    served = sorted({entry.dimension for entry in band.experts})
    for name, (low, _) in bounds.items():
        if low and name not in served:
            raise CounterpointError(
                f"the floor {low:g} of {name!r} cannot hold, since no expert serves it; there are experts for: "
                f"{', '.join(served) or 'none'}"
            )
    band.bounds = as_pairs(bounds)
    write_band(folder, band)
    return band
