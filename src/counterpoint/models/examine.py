"""What a band is made of, and everything that is wrong with it: each part is looked at, whatever ails the others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from counterpoint.models.adapter import read_adapter
from counterpoint.models.band_file import BandFile, ExpertEntry, base_path, expert_path, read_band, stamp_model
from counterpoint.models.bank import LoraBank
from counterpoint.models.fit import check_model, configured_ends, end_tokens, skeleton, vocabulary
from counterpoint.models.load import check_family, load_tokenizer
from counterpoint.types import CounterpointError

T = TypeVar("T")


@dataclass
class Base:
    """A band's base: where it is, whether its hash is right, and what its tokenizer and its config say."""

    path: str | None = None
    hash: str = "not found"
    ids: int | None = None
    ends: list[int] = field(default_factory=list)
    longest: int | None = None


@dataclass(frozen=True)
class Part:
    """An expert: "adapter", "model" or "endpoint", its parameters, and the longest sequence of its model in tokens."""

    kind: str
    parameters: int | None
    longest: int | None


@dataclass
class Examined:
    """What was found; `unused` are folders in `experts` of which `band.json` knows nothing.

    `model` is the base as shapes alone, against which what belongs to it can be checked; None where it has problems.
    """

    file: BandFile
    base: Base
    experts: dict[str, Part] = field(default_factory=dict)
    rewards: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    model: Any = None

    def attempt(self, look: Callable[[], T]) -> T | None:
        """What `look` finds, or None where it meets a problem, which is kept."""
        try:
            return look()
        except CounterpointError as error:
            self.problems.append(str(error))
            return None


def examine(folder: Path) -> Examined:
    """Look at every part of a band, with hashes taken anew. Raises CounterpointError for an unreadable band.json."""
    file = read_band(folder)
    found = Examined(file, Base())
    _examine_base(folder, found)
    base = found.base.path
    found.model = None if base is None else found.attempt(lambda: skeleton(base))
    for entry in file.experts:
        found.experts[entry.name] = _examine_expert(folder, found, entry)
    names = {entry.name for entry in file.experts if entry.kind == "adapter"}
    found.unused = [name for name in _folders(folder / "experts") if name not in names]
    found.rewards = _folders(folder / "rewards")
    return found


def _examine_base(folder: Path, found: Examined) -> None:
    base, file = found.base, found.file
    if (folder / file.base).is_dir():
        base.hash = "differs"
    path = found.attempt(lambda: base_path(folder, file, trust_stamp=False))
    if path is None:
        return
    base.path = path
    base.hash = _hash_state(file, Path(path))
    base.longest = found.attempt(lambda: check_family(path))
    tokenizer = found.attempt(lambda: load_tokenizer(path))
    if tokenizer is not None and base.longest is not None:
        base.ids, base.ends = vocabulary(tokenizer), sorted(end_tokens(configured_ends(path), tokenizer))


def _hash_state(file: BandFile, path: Path) -> str:
    if file.base_hash is None:
        return "none recorded"
    return "as recorded" if stamp_model(path) == file.base_stamp else "as recorded, but hashed anew at each load"


def _examine_expert(folder: Path, found: Examined, entry: ExpertEntry) -> Part:
    path = found.attempt(lambda: expert_path(folder, entry, trust_stamp=False))
    if path is None:
        return Part(entry.kind, None, None)
    if entry.kind == "model":
        return _examine_model(found, path)
    if entry.kind == "endpoint":
        return Part(entry.kind, None, None)
    adapter = found.attempt(lambda: read_adapter(Path(path)))
    if adapter is not None and found.model is not None:
        found.attempt(lambda: LoraBank(found.model).add(entry.name, adapter))
    return Part(entry.kind, None if adapter is None else adapter.size, found.base.longest)


def _examine_model(found: Examined, path: str) -> Part:
    if found.base.path is not None:
        found.attempt(lambda: check_model(str(found.base.path), path))
    whole = found.attempt(lambda: skeleton(path))
    if whole is None:
        return Part("model", None, None)
    return Part("model", sum(p.numel() for p in whole.parameters()), check_family(path))


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*/"))
