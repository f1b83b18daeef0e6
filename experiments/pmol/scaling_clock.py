"""How long a part took, over all the times that it was started."""

import time
from pathlib import Path

from counterpoint.artifacts import read_json, write_json


class Clock:
    """Seconds since it was made, and those that the file has of earlier runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before: float = read_json(file) if file.exists() else 0.0
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """All of them, which are written to the file too."""
        total = round(self._before + time.perf_counter() - self._start, 1)
        write_json(self._file, total)
        return total
