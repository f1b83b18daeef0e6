"""Where a merge may be written: nowhere that holds anything else."""

from pathlib import Path

from counterpoint.artifacts import MANIFEST, check_place, read_json
from counterpoint.types import CounterpointError


def check_place_of(out: Path, replace: bool) -> None:
    """Refuse to write over what is there, unless it is a merge and is to be replaced."""
    check_place(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not replace:
        raise CounterpointError(
            f"{out}: is there already; --replace puts the merge in its place, or name another folder"
        )
    manifest = out / MANIFEST
    if not (manifest.exists() and "merge" in read_json(manifest).get("config", {})):
        raise CounterpointError(f"{out}: does not hold a merge, so that it is not replaced; name another folder")
