"""The band into which a gate is trained, or which is started for it: its base, its adapters and its dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from counterpoint.build.pairs import claim_folder
from counterpoint.compose.weighers.gate import FILE, GATES, GateExpert, hash_adapter
from counterpoint.models.adapter import read_adapter
from counterpoint.models.assemble import checked_base
from counterpoint.models.band_file import BAND, BandFile, DimensionEntry, ExpertEntry, new_band, read_band, write_band
from counterpoint.models.load import check_family
from counterpoint.train.gate_start import Given
from counterpoint.types import CounterpointError, Dimension

UNEQUAL = 4
"""From so many times as many comparisons as another has, a dimension is worth a warning."""


@dataclass(frozen=True)
class Begun:
    """A band in `folder` and where its base is; without a `file`, one that is to be started on that base."""

    folder: Path
    base: str
    file: BandFile | None

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Those that the band knows."""
        return () if self.file is None else tuple(entry.name for entry in self.file.dimensions)

    @property
    def adapters(self) -> list[ExpertEntry]:
        """Its experts that can be those of a gate: a whole model cannot."""
        return [] if self.file is None else [entry for entry in self.file.experts if entry.kind == "adapter"]


def begin(folder: Path, base: str | None) -> Begun:
    """A band that is there, whose base is hashed anew, or one that `base` is to start.

    Raises CounterpointError for a base that is not the band's, and where there is neither a band nor a base.
    """
    if (folder / BAND).exists():
        found = checked_base(folder, base)
        whole = str(Path(found).resolve()) if Path(found).is_dir() else found
        return Begun(folder, whole, read_band(folder))
    if base is None:
        raise CounterpointError(f"{folder}: not a band, since it holds no {BAND}; --base MODEL starts one there")
    check_family(base)
    return Begun(folder, base, None)


def own_experts(begun: Begun, dimensions: Sequence[str]) -> list[Given]:
    """The band's adapters that serve the dimensions, in the order of these; without dimensions all.

    Raises CounterpointError for a dimension without one, and for a band without any.
    """
    served = list(dict.fromkeys(entry.dimension for entry in begun.adapters))
    if not served:
        raise CounterpointError(
            f"{begun.folder}: the band has no adapters for a gate to be over; `counterpoint add` adds them"
        )
    given = []
    for name in dimensions or served:
        if name not in served:
            raise CounterpointError(
                f"{begun.folder}: no adapter of the band serves {name!r}; they serve: {', '.join(served)}; choose with "
                "--dimensions, or add one with `counterpoint add`"
            )
        for place in (begun.folder / "experts" / entry.name for entry in begun.adapters if entry.dimension == name):
            given.append((GateExpert(name=place.name, dimension=name, hash=hash_adapter(place)), read_adapter(place)))
    return given


def claim_gate(band: Path, kind: str, replace: bool) -> Path:
    """Where a gate is to lie. Raises CounterpointError where one lies that is not to be replaced, or other files."""
    place = band / GATES / kind
    claim_folder(place, FILE)
    if place.exists() and not replace:
        raise CounterpointError(
            f"{place}: the band has a gate of this kind already; --replace puts another one in its place (one of the "
            "same data and settings stays as it is)"
        )
    return place


def choose_dimensions(found: Mapping[str, int], known: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The dimensions that were asked for, or those of the band of which there are comparisons; for a new band all."""
    if asked:
        return list(dict.fromkeys(asked))
    names = [name for name in known if name in found] if known else list(found)
    if not names:
        raise CounterpointError(
            f"no comparison is on a dimension of the band: found {', '.join(found)}, the band has {', '.join(known)}; "
            f"--dimensions {','.join(found)} adds them to the band"
        )
    return names


def unequal(counts: Mapping[str, int]) -> str | None:
    """A warning where one dimension has many more comparisons than another: every batch is made of all alike."""
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[most] < UNEQUAL * counts[least]:
        return None
    return (
        f"{most} has {counts[most]} comparisons and {least} {counts[least]}: batches are drawn from all alike, so that "
        f"the gate learns most from {most}; give more of {least}, or fewer of {most}"
    )


def list_dimensions(folder: Path, base: str, dimensions: Sequence[Dimension]) -> list[str]:
    """Let a band know dimensions, and start it where there is none; the names of those that are new to it."""
    if not (folder / BAND).exists():
        new_band(folder, base, dimensions)
        return [dimension.name for dimension in dimensions]
    file = read_band(folder)
    new = [dimension for dimension in dimensions if dimension.name not in [entry.name for entry in file.dimensions]]
    file.dimensions += [DimensionEntry(**vars(dimension)) for dimension in new]
    if new:
        write_band(folder, file)
    return [dimension.name for dimension in new]
