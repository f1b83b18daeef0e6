"""Rows of Arrow tables: Parquet files, folders written by `datasets`' `save_to_disk`, data sets of the hub.

Apart from its callers, which import it when such a source is named: `datasets` takes a second to import.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from counterpoint.data.places import Place
from counterpoint.data.tables import Rows, Table
from counterpoint.types import CounterpointError

BATCH = 1000
HUB_SECONDS = 20.0


def parquet_table(path: Path) -> Table:
    """The rows of a Parquet file, read in batches; raises CounterpointError for a file that is none."""
    return Table(str(path), "Parquet", lambda: _numbered(str(path), _parquet_batches(path)))


def saved_tables(folder: Path, split: str | None = None) -> list[Table]:
    """The splits of a data set that `save_to_disk` wrote, or the one named; they are mapped, not loaded."""
    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CounterpointError(f"{folder}: not a data set that `datasets` can load: {_first_line(error)}") from None
    return _tables(str(folder), "folder of datasets", found, split)


def hub_tables(name: str, split: str | None = None) -> list[Table]:
    """The splits of a data set of the Hugging Face hub, or the one named.

    Raises CounterpointError where there is none, or no way to it. With HF_HUB_OFFLINE=1 `datasets` takes what it
    fetched before.
    """
    try:
        _knock(name)
        found = load_dataset(name, split=split)
    except (DatasetsError, OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise CounterpointError(
            f"{name}: there is no such file or folder, and no data set of that name could be had from the Hugging Face "
            f"hub: {_first_line(error)}; check the path, or fetch the files and name those"
        ) from None
    return _tables(name, "data set of the Hugging Face hub", found, split)


def _knock(name: str) -> None:
    """Ask the hub for the data set once: `load_dataset` tries for half a minute before it says that it is offline."""
    with suppress(OfflineModeIsEnabled):  # then the user wants what was fetched before
        HfApi().dataset_info(name, timeout=HUB_SECONDS)


def _tables(name: str, label: str, found: Dataset | DatasetDict, split: str | None) -> list[Table]:
    if not isinstance(found, dict):
        return [_table(name if split is None else f"{name}:{split}", label, found)]
    if split is not None and split not in found:
        raise CounterpointError(f"{name}: there is no split {split!r}; there are {', '.join(found)}")
    return [_table(f"{name}:{key}", label, part) for key, part in found.items() if split in (None, key)]


def _table(name: str, label: str, dataset: Dataset) -> Table:
    return Table(name, label, lambda: _numbered(name, dataset.with_format("arrow").iter(BATCH)))


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH)


def _numbered(name: str, batches: Iterator[pa.RecordBatch | pa.Table]) -> Rows:
    row = 0
    try:
        for batch in batches:
            for values in batch.to_pylist():
                row += 1
                yield Place(name, row), values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CounterpointError(f"{name}: cannot be read after row {row}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
