"""From what a person names (files, folders, data sets) to the tables that are read."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from counterpoint.data.tables import CSV, JSON, JSONL, TEXT, TSV, Table, text_table
from counterpoint.types import CounterpointError

PARQUET = (".parquet",)
ROWS = (*JSONL, *JSON, *CSV, *TSV, *PARQUET)
"""Suffixes of files of rows with named columns."""

HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::(.+))?")
SPLITS = ("dataset_dict.json",)
ONE_SPLIT = ("dataset_info.json", "state.json")
"""The files by which `datasets` knows a folder that it wrote."""

NOT_DATA = (*SPLITS, *ONE_SPLIT, "dataset_infos.json", "manifest.json")
"""JSON files that lie beside data and are none; a folder is searched without them."""


def find_tables(paths: str | Path | Iterable[str | Path], suffixes: tuple[str, ...] = ROWS) -> list[Table]:
    """The tables in files, in folders (at any depth, by name) and in data sets; each file once.

    A path that does not exist may be `FOLDER:SPLIT` of a folder that `datasets` wrote, or `ORG/NAME` or
    `ORG/NAME:SPLIT` of the Hugging Face hub. Raises CounterpointError for anything else, and for other suffixes.
    """
    tables: dict[str, Table] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for table in _tables(str(path), suffixes):
            tables.setdefault(str(Path(table.name).resolve()), table)
    if not tables:
        raise CounterpointError("no file is named; expected at least one")
    return list(tables.values())


def _tables(name: str, suffixes: tuple[str, ...]) -> list[Table]:
    path = Path(name)
    if path.is_dir():
        return _in_folder(path, suffixes)
    if path.exists():
        if not name.endswith(suffixes):
            raise CounterpointError(
                f"{name}: expected {', '.join(suffixes)}; found a file called {path.name!r}; convert or rename"
            )
        return [_file(path)]
    folder, _, split = name.rpartition(":")
    if folder and _is_saved(Path(folder)):
        return _saved(Path(folder), split)
    hub = HUB_NAME.fullmatch(name)
    if hub and not name.endswith((*ROWS, *TEXT)) and not path.parent.exists():
        from counterpoint.data.arrow import hub_tables  # a second to import

        return hub_tables(hub[1], hub[2])
    raise CounterpointError(f"{name}: there is no such file or folder")


def _file(path: Path) -> Table:
    if not path.name.endswith(PARQUET):
        return text_table(path)
    from counterpoint.data.arrow import parquet_table  # a second to import

    return parquet_table(path)


def _is_saved(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in marks) for marks in (SPLITS, ONE_SPLIT))


def _saved(folder: Path, split: str | None = None) -> list[Table]:
    from counterpoint.data.arrow import saved_tables  # a second to import

    return saved_tables(folder, split)


def _in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Table]:
    """Tables of a folder's data sets and files, hidden ones aside, by path."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        if _is_saved(Path(root)):
            found.append(Path(root))
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if _is_data(name, suffixes)]
    if not found:
        raise CounterpointError(
            f"{folder}: expected {', '.join(suffixes)}; no such files in this folder; convert or rename"
        )
    return [table for path in sorted(found) for table in (_saved(path) if path.is_dir() else [_file(path)])]


def _is_data(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.endswith(suffixes) and not name.startswith(".") and name not in NOT_DATA
