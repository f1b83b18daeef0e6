"""What a merge of adapters takes: experts over one base, and how much of each goes into each module."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.artifacts import hash_files
from counterpoint.compose.layers import Span, by_layer, check_layers, read_layers
from counterpoint.compose.soup import Coefficients
from counterpoint.decode.band import Band
from counterpoint.models.adapter import CONFIG, read_adapter, read_config
from counterpoint.models.assemble import named_base
from counterpoint.models.band_file import ExpertEntry, base_path, expert_path, hash_model, read_band
from counterpoint.models.bank import LoraBank
from counterpoint.models.fit import Source, check_expert, find_expert, same_model
from counterpoint.models.load import load_model, load_tokenizer
from counterpoint.profiles import parse_profile, unknown_name
from counterpoint.profiles.bounds import acting
from counterpoint.types import CounterpointError

SCALING = ("lora_alpha", "use_rslora", "alpha_pattern")
"""What an adapter's own scale comes from, beside its ranks."""


@dataclass(frozen=True)
class Sources:
    """Adapters over one base by name, and how much of each is wanted where."""

    base: str
    bank: LoraBank
    adapters: Mapping[str, Path]
    spans: Sequence[Span]
    rest: Mapping[str, float] | None
    notes: tuple[str, ...] = ()

    @property
    def at(self) -> Coefficients:
        return by_layer(self.spans, self.rest)

    @property
    def folders(self) -> list[Path]:
        """All that is read."""
        return [*self.adapters.values(), *([Path(self.base)] if Path(self.base).is_dir() else [])]

    @property
    def inputs(self) -> dict[str, str]:
        """The hashes of all that is read, or a hub id for a base of the hub."""
        base = hash_model(Path(self.base)) if Path(self.base).is_dir() else self.base
        return {"base": base, **{name: hash_files(folder) for name, folder in self.adapters.items()}}


def from_band(folder: Path, profile: str | None, layers: Path | None = None) -> Sources:
    """A band's adapters in the amounts of a profile, held to the band's bounds, and layers in those of their own.

    Raises CounterpointError for an expert that is no adapter, and where neither profile nor layers are given.
    """
    if profile is None and layers is None:
        raise CounterpointError('what is merged depends on a profile; give --profile "name=1, other=0.5", or --layers')
    file = read_band(folder)
    base = base_path(folder, file)
    model = load_model(base)
    band = Band(file, model, load_tokenizer(base), LoraBank(model), {})

    def gate(said: Any) -> Mapping[str, float]:
        return band.plan(parse_profile(said, band.dimensions), "soup").rows[0].gate

    rest = None if profile is None else gate(profile)
    spans = [span.said(gate) for span in read_layers(layers)] if layers else []
    check_layers(spans, int(model.config.num_hidden_layers))
    wanted = {name for given in [*(span.value for span in spans), rest or {}] for name in given}
    adapters = {entry.name: _adapter_of(folder, entry) for entry in file.experts if entry.name in wanted}
    for name, path in adapters.items():
        band.bank.add(name, read_adapter(path))
    return Sources(base, band.bank, adapters, spans, rest, _acting(profile, band))


def from_adapters(
    adapters: Sequence[tuple[str, float]], base: str | None = None, layers: Path | None = None
) -> Sources:
    """PEFT adapters, each with the coefficient of its delta, over `base` or the one that they all name.

    Raises CounterpointError for adapters of different bases.
    """
    found = [find_expert(path) for path, _ in adapters]
    names = names_of([source.path for source in found])
    base = base or _common_base(dict(zip(names, found, strict=True)))
    model = load_model(base)
    bank, notes = LoraBank(model), []
    for name, source in zip(names, found, strict=True):
        notes += check_expert(base, source)
        bank.add(name, read_adapter(Path(source.path)))
    spans = layers_of(layers, names)
    check_layers(spans, int(model.config.num_hidden_layers))
    folders = {name: Path(source.path) for name, source in zip(names, found, strict=True)}
    return Sources(base, bank, folders, spans, dict(zip(names, (c for _, c in adapters), strict=True)), tuple(notes))


def check_scales(adapters: Mapping[str, Path], method: str) -> None:
    """Refuse adapters whose scales alpha/r differ, for a method that merges factors apart: it would act on both."""
    if method != "factors" and not method.startswith("peft-"):
        return
    found = {name: {field: read_config(folder).get(field) for field in SCALING} for name, folder in adapters.items()}
    (first, scaling), *others = found.items()
    for name, other in others:
        if other != scaling:
            raise CounterpointError(
                f"{method} merges factors, whose adapters must be scaled alike: {first!r} has {scaling}, {name!r} has "
                f"{other}; {CONFIG} says so. delta and svd take any"
            )


def _adapter_of(band: Path, entry: ExpertEntry) -> Path:
    if entry.kind != "adapter":
        raise CounterpointError(
            f"expert {entry.name!r} is a whole model ({entry.kind}), and a merge takes adapters; leave "
            f"{entry.dimension!r} out of the profile, or chat with mixture-prob or mixture-log"
        )
    return Path(expert_path(band, entry))


def _acting(profile: str | None, band: Band) -> tuple[str, ...]:
    """Where the band's bounds changed what the profile asks for."""
    asked = None if profile is None else parse_profile(profile, band.dimensions)
    held = {} if asked is None else acting(asked, band.bounds)
    return tuple(f"bounds in force: {name} {wanted:g} -> {found:g}" for name, (wanted, found) in held.items())


def weights_of(spans: Sequence[Span], rest: Mapping[str, float] | None) -> dict[str, Mapping[str, float]]:
    """Coefficients by what they are for, as a person reads them."""
    said: dict[str, Mapping[str, float]] = {str(span): span.value for span in spans}
    return said if rest is None else {**said, "rest" if said else "all": rest}


def names_of(paths: Sequence[str]) -> list[str]:
    """The folders' own names, with their parents' before them where they are alike."""
    found = [Path(path).resolve() for path in paths]
    names = [path.name for path in found]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}-{path.name}" for path in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CounterpointError(f"two of the folders are called {twice!r}; name each once, or give one another name")
    return names


def _common_base(sources: Mapping[str, Source]) -> str:
    bases = {name: named_base(source) for name, source in sources.items()}
    (first, base), *others = bases.items()
    for name, other in others:
        if not same_model(base, other):
            raise CounterpointError(
                f"adapter {first!r} is of the base {base!r}, {name!r} of {other!r}; adapters of different bases cannot "
                "be merged. If it is one base at two places, name it with --base"
            )
    return base


def layers_of(path: Path | None, known: Sequence[str]) -> list[Span]:
    """A table of layers whose rows are finite numbers by the names of folders; none without a file."""
    return (
        [span.said(lambda said: _coefficients(path, said, list(known))) for span in read_layers(path)] if path else []
    )


def _coefficients(path: Path, said: Any, known: Sequence[str]) -> Mapping[str, float]:
    if not isinstance(said, dict) or not said:
        raise CounterpointError(f'{path}: expected {{"expert": coefficient}} for a range of layers, found {said!r}')
    for name, c in said.items():
        if name not in known:
            raise CounterpointError(f"{path}: {unknown_name('expert', name, known)}")
        if not isinstance(c, int | float) or isinstance(c, bool) or not math.isfinite(c):
            raise CounterpointError(f"{path}: {name!r} is {json.dumps(c)}; expected a number")
    return {name: float(c) for name, c in said.items()}
