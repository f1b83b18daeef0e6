"""Assemble a band from experts made elsewhere, each checked against the base before anything is written."""

from dataclasses import dataclass
from pathlib import Path

from counterpoint.models.adapter import CONFIG, read_config
from counterpoint.models.band_file import (
    BAND,
    BandFile,
    add_expert,
    add_model,
    base_path,
    new_band,
    read_band,
    write_band,
)
from counterpoint.models.fit import Source, check_expert, find_expert, is_path, same_model
from counterpoint.profiles import check_name
from counterpoint.types import CounterpointError, Dimension, Expert


@dataclass(frozen=True)
class Added:
    """An expert that was added: what it was found to be, the base it was checked against, and what looked odd."""

    file: BandFile
    source: Source
    base: str
    new: bool
    notes: tuple[str, ...]


def add(
    folder: Path, expert: str, dimension: Dimension, name: str, base: str | None = None, replace: bool = False
) -> Added:
    """Add the adapter or whole model at `expert` to the band in `folder`, which is started where there is none.

    A new band's base is `base`, or else what the adapter names as its own. Raises CounterpointError for an expert that
    does not fit, a base that is not the one that the band was made for, and a name that is taken.
    """
    check_name(name)
    check_name(dimension.name)
    source = find_expert(expert)
    new = not (folder / BAND).exists()
    base = (base or named_base(source)) if new else checked_base(folder, base)
    if not (new or replace):
        refuse_taken(folder, name)
    notes = check_expert(base, source)
    if new:
        new_band(folder, base, [dimension])
    put = Expert(name, dimension.name)
    file = (
        add_expert(folder, Path(source.path), put) if source.kind == "adapter" else add_model(folder, source.path, put)
    )
    describe(folder, file, dimension)
    return Added(file, source, base, new, tuple(notes))


def named_base(source: Source) -> str:
    """The base that an adapter was trained on, if it is there or is a hub id."""
    hint = "name the base model with --base"
    if source.kind == "model":
        raise CounterpointError(f"{source.path}: not an adapter, so that it names no base; {hint}")
    named = read_config(Path(source.path)).get("base_model_name_or_path")
    if not named:
        raise CounterpointError(f"{Path(source.path) / CONFIG}: names no base model; {hint}")
    if not Path(named).is_dir() and is_path(named):
        raise CounterpointError(f"{Path(source.path) / CONFIG}: its base {named!r} is not a folder here; {hint}")
    return str(named)


def checked_base(folder: Path, asked: str | None) -> str:
    """The base of a band that is there, hashed anew; CounterpointError where another one was asked for."""
    base = base_path(folder, read_band(folder), trust_stamp=False)
    if asked and not same_model(asked, base):
        raise CounterpointError(
            f"{folder / BAND}: this band's base is {base!r}, not {asked!r}; experts of another base need another band"
        )
    return base


def refuse_taken(folder: Path, name: str) -> None:
    """Raise CounterpointError for the name of an expert that the band has already."""
    taken = next((entry for entry in read_band(folder).experts if entry.name == name), None)
    if taken:
        raise CounterpointError(
            f"{folder / BAND}: there is an expert {name!r} for {taken.dimension!r} already; --replace puts the new one "
            "in its place, --name gives it another name"
        )


def describe(folder: Path, file: BandFile, dimension: Dimension) -> None:
    """Write a dimension's description and request, where they are given; what is left out stays as it was."""
    entry = next(entry for entry in file.dimensions if entry.name == dimension.name)
    entry.description = dimension.description or entry.description
    entry.request = dimension.request or entry.request
    write_band(folder, file)
