"""What has changed in a band's folder since it was loaded, read and checked as a whole before anything is taken."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.models.band_file import BAND, BandFile, expert_path, read_band
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE
from counterpoint.types import CounterpointError


@dataclass(frozen=True)
class Change:
    """`band.json` as it is now, adapters that are new or not as they were, and the names of those that are gone."""

    file: BandFile
    fresh: Mapping[str, LoraFactors]
    gone: Sequence[str]


def read_change(folder: Path, before: BandFile, bank: LoraBank, gates: Sequence[Mapping[str, float]]) -> Change:
    """Read a band's folder again, while rows with these gates are under way.

    Raises CounterpointError that names the file at fault; for another base or another whole model, which need a new
    start; and for an adapter that was replaced while rows have it, since they could not go on with another.
    """
    after = read_band(folder)
    _check_models(folder, before, after)
    adapters = {entry.name: Path(expert_path(folder, entry)) for entry in after.experts if entry.kind == "adapter"}
    fresh = {}
    for name, path in adapters.items():
        found = read_adapter(path)
        if name not in bank.experts or not _same(found, bank.experts[name]):
            bank.check(name, found)
            fresh[name] = found
    gone = [entry.name for entry in before.experts if entry.kind == "adapter" and entry.name not in adapters]
    if busy := sorted({*fresh} & set(_wanted(bank, gates))):
        raise CounterpointError(
            f"{adapters[busy[0]]}: expert {busy[0]!r} is not the adapter that was loaded, which answers are being "
            "written with; come back when they are finished, or give the new one another name"
        )
    return Change(after, fresh, gone)


def _check_models(folder: Path, before: BandFile, after: BandFile) -> None:
    if (before.base, before.base_hash) != (after.base, after.base_hash):
        raise CounterpointError(f"{folder / BAND}: the base is not the one that was loaded; load the band anew")
    models = ({entry.name: entry for entry in file.experts if entry.kind != "adapter"} for file in (before, after))
    old, new = ({name: (e.model, e.hash, e.endpoint) for name, e in entries.items()} for entries in models)
    if changed := sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)):
        raise CounterpointError(
            f"{folder / BAND}: expert {changed[0]!r} is or was a whole model; load the band anew to take the change"
        )


def _same(one: LoraFactors, other: LoraFactors) -> bool:
    def alike(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and bool((a == b.to(a)).all())

    return one.factors.keys() == other.factors.keys() and all(
        alike(*pair) for module in one.factors for pair in zip(one.factors[module], other.factors[module], strict=True)
    )


def _wanted(bank: LoraBank, gates: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """The experts that gates name, or reach by a router."""
    for gate in gates:
        for name in gate:
            yield name
            if name.startswith(GATE) and name.removeprefix(GATE) in bank.routers:
                yield from bank.routers[name.removeprefix(GATE)].experts
