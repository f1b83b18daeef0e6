"""How what a user keeps is written: atomically, as safetensors and JSON, with a manifest beside it.

An artefact is a folder. Work happens in a scratch folder next to it, so that a killed run leaves either the whole
artefact or none; what the scratch folder holds is what a resumed run starts from.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from counterpoint.types import CounterpointError

MANIFEST = "manifest.json"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system refuses (no permission, no space, a file in the way), said in one line with its place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CounterpointError(f"{path}: cannot be written: {reason}; mend that, or name another place") from error


def check_place(path: Path) -> None:
    """Refuse a place below a file, or in a folder that may not be written, before work is spent on what goes there."""
    with _writing(path):
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise CounterpointError(f"{path}: {above} is a file, not a folder; name another place")
        if not os.access(above, os.W_OK | os.X_OK):
            raise CounterpointError(f"{path}: you may not write into {above}; name another place")


def check_folder(path: Path) -> None:
    """Refuse a file in the place of a folder."""
    if path.exists() and not path.is_dir():
        raise CounterpointError(f"{path}: is a file, expected a folder; name another place")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part (temp, fsync, rename)."""
    with _writing(path):
        _write_text(path, text)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON; NaN is refused, since a missing value is `null`."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file, or say which file is broken and where."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CounterpointError(f"{path}: there is no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CounterpointError(f"{path}: not valid JSON: {error}") from None


def hash_files(*paths: Path) -> str:
    """SHA-256 over the contents of files, in the order given (a folder counts as its files, sorted by name)."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def write_manifest(folder: Path, config: Any, inputs: Mapping[str, str], seed: int | None) -> None:
    """Write what a run can be re-created from: resolved config, input hashes, seed and code version."""
    is_instance = dataclasses.is_dataclass(config) and not isinstance(config, type)
    resolved = dataclasses.asdict(config) if is_instance else config
    packages = {name: version(name) for name in ("counterpoint", "torch", "transformers", "peft", "trl")}
    text = {"config": resolved, "inputs": dict(inputs), "seed": seed, "versions": packages}
    write_text(folder / MANIFEST, json.dumps(text, indent=1, default=str) + "\n")


def scratch_of(final: Path) -> Path:
    """The folder in which an artefact is made before it is published."""
    return final.parent / f".{final.name}.scratch"


@contextmanager
def publish(final: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` by rename when the block ends, and vanishes if it fails."""
    check_folder(final)
    with _writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.new."))
        staging.chmod(0o755)
    try:
        yield staging
        with _writing(final):
            _replace_folder(staging, final)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _replace_folder(new: Path, final: Path) -> None:
    for file in (p for p in new.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    try:
        os.rename(new, final)
    except BaseException:
        if old.exists():
            os.rename(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def make_once(final: Path, config: Any, inputs: Mapping[str, str], make: Callable[[Path], None]) -> bool:
    """Make an artefact unless one of the same config, inputs and seed is there; return whether work was done.

    `make(scratch)` fills the scratch folder, which survives a kill, so that it can resume from its own checkpoints;
    files that must not be published belong into `scratch / "work"`.
    """
    check_folder(final)
    key = hashlib.sha256(
        json.dumps([dataclasses.asdict(config), dict(inputs)], sort_keys=True, default=str).encode()
    ).hexdigest()
    stamp = final / MANIFEST
    if stamp.exists() and read_json(stamp).get("inputs", {}).get("key") == key:
        return False
    scratch = scratch_of(final)
    key_file = scratch / "work" / "key"
    if scratch.exists() and (not key_file.exists() or key_file.read_text() != key):
        shutil.rmtree(scratch)
    write_text(key_file, key)
    make(scratch)
    shutil.rmtree(scratch / "work")
    write_manifest(scratch, config, {**inputs, "key": key}, getattr(config, "seed", None))
    with _writing(final):
        _replace_folder(scratch, final)
    return True
