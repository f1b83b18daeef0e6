"""A file of samples that grows while they are drawn, so that a killed run goes on where it was.

Beside `samples.jsonl` lies `samples.jsonl.run` with the run's configuration; both are plain JSON. Samples are in the
order in which they were asked for, so that what is done is the beginning of the file.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterpoint.artifacts import read_json, write_json
from counterpoint.data.places import brief
from counterpoint.data.samples import Ask, Sample, parse_sample, sample_row
from counterpoint.data.tables import parse_object
from counterpoint.types import CounterpointError


class SampleLog:
    """The samples of one run, appended durably; `done` is how many there are.

    Opened again after a kill it keeps whole parts of `part` lines (and all of a finished file): what is drawn together
    must be drawn together again, or it could differ in the last bit. Raises CounterpointError for a file that is not of
    this run: begun with another configuration, or changed since.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], asks: Sequence[Ask], part: int) -> None:
        self.path = path
        self._claim(config)
        lines = self._whole_lines()
        kept = lines if len(lines) == len(asks) else lines[: len(lines) - len(lines) % part]
        self._check(kept, asks)
        os.truncate(path, sum(map(len, kept)))
        self.done = len(kept)

    def append(self, samples: Sequence[Sample]) -> None:
        """Write samples to the end of the file; they are on the disk when this returns."""
        text = "".join(json.dumps(sample_row(sample), ensure_ascii=False) + "\n" for sample in samples)
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.done += len(samples)

    def _claim(self, config: Mapping[str, Any]) -> None:
        """Begin the file, or see that it was begun with the same configuration."""
        run, wanted = run_file(self.path), json.loads(json.dumps(config))
        if self.path.exists() and not run.exists():
            raise CounterpointError(
                f"{self.path}: is there, but not {run.name}, which says how it was made; name another file"
            )
        if self.path.exists():
            begun = read_json(run)
            for field in (name for name in {**wanted, **begun} if begun.get(name) != wanted.get(name)):
                raise CounterpointError(
                    f"{self.path}: was begun with {field} {brief(begun.get(field))}, and this run has "
                    f"{brief(wanted.get(field))}; finish it as it was begun, name another file, or delete it"
                )
            return
        write_json(run, wanted)
        self.path.touch()

    def _whole_lines(self) -> list[bytes]:
        """All lines but a torn last one."""
        return [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def _check(self, lines: Sequence[bytes], asks: Sequence[Ask]) -> None:
        if len(lines) > len(asks):
            raise CounterpointError(f"{self.path}: has {len(lines)} lines, expected at most {len(asks)}; delete it")
        for number, (line, ask) in enumerate(zip(lines, asks, strict=False), start=1):
            sample = self._sample(line, number)
            if (sample.prompt, sample.asked, sample.index, sample.seed) != tuple(vars(ask).values()):
                raise CounterpointError(
                    f"{self.path}:{number}: is not the sample that this run wrote there; the file was changed since, "
                    "so name another one, or delete it"
                )

    def _sample(self, line: bytes, number: int) -> Sample:
        try:
            return parse_sample(parse_object(line.decode("utf-8", errors="replace")))
        except CounterpointError as error:
            raise CounterpointError(f"{self.path}:{number}: {error}; name another file, or delete it") from None


def run_file(path: Path) -> Path:
    """Where the configuration lies of the run that wrote a file of samples."""
    return path.with_name(f"{path.name}.run")
