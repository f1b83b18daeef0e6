"""A file of samples that grows while they are drawn, so that a killed run goes on where it was.

Beside `samples.jsonl` lies `samples.jsonl.run` with the run's configuration; both are plain JSON. Samples are there in
the order in which they came, and in that of asking once the run has finished.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from counterpoint.artifacts import check_place, read_json, write_json, write_text
from counterpoint.data.places import brief
from counterpoint.data.samples import Ask, Sample, parse_sample, sample_row
from counterpoint.data.tables import parse_object
from counterpoint.types import CounterpointError


class SampleLog:
    """The samples of one run, appended durably; `left` is what is still to be drawn, in the order of asking.

    Opened again after a kill it keeps whole parts of `part` lines (and all of a finished file): what is drawn together
    must be drawn together again, or it could differ in the last bit. Raises CounterpointError for a file that is not of
    this run: begun with another configuration, or changed since.
    """

    def __init__(self, path: Path, file: IO[bytes], config: Mapping[str, Any], asks: Sequence[Ask], part: int) -> None:
        self.path = path
        self._file = file
        self._asks = asks
        self._claim(config)
        lines = self._whole_lines()
        kept = lines if len(lines) == len(asks) else lines[: len(lines) - len(lines) % part]
        found = self._found(kept)
        os.truncate(path, sum(map(len, kept)))
        self.done = len(kept)
        self.left = [ask for ask in asks if ask not in found]

    def append(self, samples: Sequence[Sample]) -> None:
        """Write samples to the end of the file; they are on the disk when this returns."""
        self._file.write("".join(map(_line, samples)).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done += len(samples)

    def finish(self) -> list[Sample]:
        """Put what was drawn into the order of asking, and return it."""
        lines = self._whole_lines()
        found = self._found(lines)
        samples = [found[ask] for ask in self._asks if ask in found]
        text = "".join(map(_line, samples))
        if text.encode() != b"".join(lines):
            write_text(self.path, text)
        return samples

    def _claim(self, config: Mapping[str, Any]) -> None:
        """Begin a file that holds nothing, or see that it was begun with the same configuration."""
        run, wanted = run_file(self.path), json.loads(json.dumps(config))
        if self.path.stat().st_size == 0:
            write_json(run, wanted)
            return
        if not run.exists():
            raise CounterpointError(
                f"{self.path}: is there, but not {run.name}, which says how it was made; name another file"
            )
        begun = read_json(run)
        for field in (name for name in {**wanted, **begun} if begun.get(name) != wanted.get(name)):
            raise CounterpointError(
                f"{self.path}: was begun with {field} {brief(begun.get(field))}, and this run has "
                f"{brief(wanted.get(field))}; finish it as it was begun, name another file, or delete it"
            )

    def _whole_lines(self) -> list[bytes]:
        """All lines but a torn last one."""
        return [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def _found(self, lines: Sequence[bytes]) -> dict[Ask, Sample]:
        """The sample of each line, by what was asked; each line is one that this run would write, and none is twice."""
        found: dict[Ask, Sample] = {}
        asks = set(self._asks)
        for number, line in enumerate(lines, start=1):
            sample = self._sample(line, number)
            ask = Ask(sample.prompt, sample.asked, sample.index, sample.seed)
            if ask not in asks or ask in found:
                raise CounterpointError(
                    f"{self.path}:{number}: is not a sample that this run wrote there; the file was changed since, "
                    "so name another one, or delete it"
                )
            found[ask] = sample
        return found

    def _sample(self, line: bytes, number: int) -> Sample:
        try:
            return parse_sample(parse_object(line.decode("utf-8", errors="replace")))
        except CounterpointError as error:
            raise CounterpointError(f"{self.path}:{number}: {error}; name another file, or delete it") from None


def run_file(path: Path) -> Path:
    """Where the configuration lies of the run that wrote a file of samples."""
    return path.with_name(f"{path.name}.run")


@contextmanager
def open_log(path: Path, config: Mapping[str, Any], asks: Sequence[Ask], part: int) -> Iterator[SampleLog]:
    """The log at `path`, which no other run may write meanwhile; the system drops the lock with the process."""
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CounterpointError(
                f"{path}: another run is writing it; wait until that has ended, or name another file"
            ) from None
        yield SampleLog(path, file, config, asks, part)


def _line(sample: Sample) -> str:
    return json.dumps(sample_row(sample), ensure_ascii=False) + "\n"
