"""Where a merge may be written: nowhere that holds anything else, and by one merge at a time."""

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from counterpoint.artifacts import MANIFEST, check_place, read_json
from counterpoint.types import CounterpointError


def check_place_of(out: Path, replace: bool) -> None:
    """Refuse to write over what is there, unless it is a merge and is to be replaced."""
    check_place(out)
    if out.is_symlink():
        raise CounterpointError(f"{out}: is a link, which would be replaced; name the folder that it leads to")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not replace:
        raise CounterpointError(
            f"{out}: is there already; --replace puts the merge in its place, or name another folder"
        )
    manifest = out / MANIFEST
    if not (manifest.exists() and "merge" in read_json(manifest).get("config", {})):
        raise CounterpointError(f"{out}: does not hold a merge, so that it is not replaced; name another folder")


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other merges from `out` meanwhile, and remove what one that was killed left beside it.

    Raises CounterpointError while another merge writes it.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise CounterpointError(f"{out}: another merge is writing it; wait for it, or name another place") from None
        # Names of `artifacts.publish`, also where it is called for such a folder itself.
        staging = re.compile(rf"\.{{1,2}}{re.escape(out.name)}\.new\.\w{{8}}(\.new\.\w{{8}})?")
        for left in [path for path in out.parent.iterdir() if staging.fullmatch(path.name)]:
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            lock.unlink()
