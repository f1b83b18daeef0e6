"""`counterpoint serve` under load: streams lost or crossed, memory, throughput, and the time to and between tokens.

    python -m benchmarks.serve --minutes 5 --json serve.json
    LLAMA_SERVER=FOLDER python -m benchmarks.serve --only llama

The server and its clients are processes of their own on one machine, so that the clients' part of it counts; nothing
else should run.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from scipy.stats import theilslopes

from benchmarks import llama_server
from benchmarks.models import prepare
from benchmarks.run import has_bf16_units, show
from benchmarks.serve_asks import Mix, eight, eight_for_llama_server
from benchmarks.serve_band import SMALL, large_band, small_band
from benchmarks.serve_check import unlike_offline, wrong_streams
from benchmarks.serve_load import Answer, Ask
from benchmarks.timing import Row
from counterpoint.artifacts import write_json

MIB = 1 << 20
TOKENS = 96
"""Of each answer against llama-server."""


@dataclass(frozen=True)
class Load:
    """What came of a load: answers, seconds, of clients and server the seconds of CPU, and the server's memory.

    For `asking` seconds clients asked again; it `took` until the last answer.
    """

    answers: list[Answer]
    asking: float
    took: float
    client_cpu: float
    server_cpu: float
    memory: list[tuple[float, float]]

    @property
    def tokens(self) -> int:
        return sum(len(answer.times) for answer in self.answers)

    @property
    def rate(self) -> float:
        """Tokens per second while every client is being answered: once all have begun, as long as they ask again."""
        begin = max(answer.times[0] for answer in self.answers if answer.asked < 1)
        said = sum(begin < t <= self.asking for answer in self.answers for t in answer.times)
        return said / (self.asking - begin)

    @property
    def first_token(self) -> list[float]:
        """Milliseconds from asking to the first token."""
        return [1e3 * (answer.times[0] - answer.asked) for answer in self.answers if answer.times]

    @property
    def between_tokens(self) -> list[float]:
        """Milliseconds between one token and the next."""
        return [1e3 * float(gap) for answer in self.answers for gap in np.diff(answer.times)]


class Serving:
    """A server that runs, ours or another: where, and as which process."""

    def __init__(self, address: str, process: int) -> None:
        self.address = address
        self._process = Path("/proc") / str(process)

    def load(self, clients: Sequence[Sequence[Ask]], seconds: float | None = None) -> Load:
        """Let clients ask, each its requests over and over for so many seconds, or once."""
        with TemporaryDirectory() as work:
            plan, out = Path(work) / "plan.json", Path(work) / "answers.json"
            plan.write_text(json.dumps({"address": self.address, "clients": clients, "seconds": seconds}))
            before, memory = self._cpu(), []
            client = subprocess.Popen([sys.executable, "-m", "benchmarks.serve_load", plan, out])
            start = time.perf_counter()
            while client.poll() is None:
                memory.append((time.perf_counter() - start, self._memory()))
                time.sleep(0.5)
            if client.returncode:
                raise RuntimeError("the clients failed")
            found = json.loads(out.read_text())
        answers = [Answer(**answer) for answer in found["answers"]]
        return Load(answers, seconds or 0.0, found["took"], found["cpu"], self._cpu() - before, memory)

    def _cpu(self) -> float:
        """Seconds of CPU so far, in user mode and in the kernel."""
        after_name = (self._process / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def _memory(self) -> float:
        """Resident memory in MiB."""
        return int((self._process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


@contextmanager
def serving(band: Path, dtype: str = "float32") -> Iterator[Serving]:
    """Our server, until the block ends, with room for 64 requests of the widest methods."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with TemporaryDirectory() as work, open(band / "server.log", "w") as log:
        settings = {"MAX_ROWS": "256", "MEMORY_GIB": "6", "DTYPE": dtype, "DATABASE": f"sqlite:///{work}/people.db"}
        command = [sys.executable, "-m", "counterpoint.cli", "serve", str(band), "--port", str(port)]
        process = subprocess.Popen(
            command,
            env={**os.environ, **{f"COUNTERPOINT_{name}": value for name, value in settings.items()}},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            _wait_for(port, process)
            yield Serving(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(1800):
        if process.poll() is not None:
            raise RuntimeError("the server ended; its log is server.log in the band")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the server did not get ready in three minutes")


@dataclass(frozen=True)
class Case:
    """A band that is served, in which type, and what its clients ask for."""

    name: str
    band: Callable[[Path], Path]
    dtype: str
    mix: Mix


LARGE = Case("135 M, bfloat16", large_band, "bfloat16", Mix(1, 49152, warmth=0.1))
LARGE_FLOAT32 = Case("135 M, float32", large_band, "float32", LARGE.mix)
TINY = Case("1 M, float32", small_band, "float32", Mix(1, SMALL.vocab_size))


def soak(folder: Path, minutes: float) -> Iterator[Row]:
    """64 streaming clients with 64 profiles and all methods, for minutes; every answer is made again offline."""
    band, mix = small_band(folder), Mix(64, SMALL.vocab_size, marked=True)
    clients = mix.asks(40)
    asks = [ask for own in clients for ask in own]
    with serving(band) as server:
        load = server.load(clients, 60 * minutes)
    wrong = wrong_streams(mix, load.answers, asks)
    unlike, compared = unlike_offline(band, [a for a in load.answers if not a.error], asks)
    name = f"64 clients, {minutes:g} min"
    yield Row(f"{name}: answers", len(load.answers), None, "")
    for what in ("failed", "lost", "crossed"):
        yield Row(f"{name}: {what}", wrong[what], None, "answers", "ours <= 0")
    yield Row(f"{name}: unlike the same offline", unlike, compared, "answers", "ratio <= 0.001")
    yield from _memory(name, load)
    yield Row(f"{name}: throughput", load.rate, None, "tok/s")
    yield from _latencies(name, load, None)
    yield Row(f"{name}: CPU of the clients: of the server", load.client_cpu, load.server_cpu, "s")


def _memory(name: str, load: Load) -> Iterator[Row]:
    """The slope of resident memory over the last four fifths (Theil and Sen).

    The last 10,000 answers are remembered, for feedback: until there are so many it grows by an answer's texts.
    """
    later = [(at, size) for at, size in load.memory if at > load.took / 5]
    times, sizes = zip(*later, strict=True)
    slope, _, low, high = map(float, theilslopes(sizes, times))
    yield Row(f"{name}: server's memory, median", statistics.median(sizes), None, "MiB")
    yield Row(f"{name}: its growth, low end of 95 %", 60 * low, None, "MiB/min")
    yield Row(f"{name}: its growth, high end of 95 %", 60 * high, None, "MiB/min")
    answered = sum(answer.asked > load.took / 5 for answer in load.answers)
    each = 1024 * slope * (times[-1] - times[0]) / answered
    yield Row(f"{name}: its growth for each answer", each, None, "KiB", "ours <= 2")


def _latencies(name: str, ours: Load, theirs: Load | None) -> Iterator[Row]:
    for what, kind in (("first token", "first_token"), ("between tokens", "between_tokens")):
        for percent in (50, 99):
            other = None if theirs is None else float(np.percentile(getattr(theirs, kind), percent))
            yield Row(f"{name}: {what}, p{percent}", float(np.percentile(getattr(ours, kind), percent)), other, "ms")


def one_profile(folder: Path, minutes: float) -> Iterator[Row]:
    """64 clients with 64 profiles, against the same requests with one profile."""
    for case in (LARGE, TINY):
        unlike, alike = (replace(case.mix, clients=64, alike=alike).asks(40) for alike in (False, True))
        ours, theirs = _for_a_while(case, folder, unlike, alike, minutes)
        name = f"64 clients, 64 profiles, {case.name}"
        yield Row(f"{name}: one profile", _rate(ours), _rate(theirs), "tok/s", "ratio >= 0.85")
        yield from _latencies(name, _joined(ours), _joined(theirs))


def one_at_a_time(folder: Path, minutes: float) -> Iterator[Row]:
    """16 clients who ask at once, against the same requests one after another."""
    for case in (LARGE, LARGE_FLOAT32, TINY):
        together = replace(case.mix, clients=16).asks(40)
        in_turn = [ask for turn in zip(*together, strict=True) for ask in turn]
        ours, theirs = _for_a_while(case, folder, together, [in_turn], minutes)
        name = f"16 clients, {case.name}: one at a time"
        yield Row(name, _rate(ours), _rate(theirs), "tok/s", "ratio >= 4")
        yield from _latencies(name, _joined(ours), _joined(theirs))


def llama(folder: Path, minutes: float) -> Iterator[Row]:
    """Eight clients with eight 4-adapter profiles over HTTP, against llama-server at equal precision."""
    built = llama_server.find()
    if built is None:
        return
    for dtype in ("float32", "bfloat16"):
        with serving(large_band(folder), dtype) as ours, llama_server.serving(built, prepare(folder), dtype) as theirs:
            other = Serving(theirs.address, theirs.process)
            fast, slow = _in_turn(
                partial(ours.load, eight(TOKENS)),
                partial(other.load, eight_for_llama_server(TOKENS)),
                _rounds(minutes) if dtype == "float32" else 1,
            )
        for load in (*fast, *slow):
            _check_complete(load)
        name = f"8 clients, 8 profiles, {dtype}"
        rates = _whole_rate(fast), _whole_rate(slow)
        yield Row(f"{name}: llama-server", *rates, "tok/s", "ratio >= 2.0", dtype == "bfloat16")
        yield from _latencies(f"{name}, llama-server", _joined(fast), _joined(slow))


def _check_complete(load: Load) -> None:
    for answer in load.answers:
        if answer.error or (answer.usage or {}).get("completion_tokens") != TOKENS:
            raise RuntimeError(f"an answer is not complete: {answer}")


def _for_a_while(
    case: Case, folder: Path, ours: Sequence[Sequence[Ask]], theirs: Sequence[Sequence[Ask]], minutes: float
) -> list[list[Load]]:
    """Two loads of one server in turn, each for up to 45 seconds, after ten that are thrown away."""
    seconds = min(45.0, 45 * minutes)
    with serving(case.band(folder), case.dtype) as server:
        for asks in (ours, theirs):
            server.load(asks, 10)
        rounds = [[server.load(asks, seconds) for asks in (ours, theirs)] for _ in range(_rounds(minutes))]
    return [list(column) for column in zip(*rounds, strict=True)]


def _rate(loads: Sequence[Load]) -> float:
    return statistics.median(load.rate for load in loads)


def _rounds(minutes: float) -> int:
    return 2 if minutes >= 5 else 1


def _in_turn(ours: Callable[[], Load], theirs: Callable[[], Load], rounds: int) -> list[list[Load]]:
    """What comes of both loads in so many rounds, after one that is thrown away."""
    found = [[load() for load in (ours, theirs)] for _ in range(rounds + 1)][1:]
    return [list(column) for column in zip(*found, strict=True)]


def _whole_rate(loads: Sequence[Load]) -> float:
    """Tokens per second, from the first request to the last token: the median of loads."""
    return statistics.median(_said(load) / load.took for load in loads)


def _said(load: Load) -> int:
    return sum((answer.usage or {}).get("completion_tokens", 0) for answer in load.answers)


def _joined(loads: Sequence[Load]) -> Load:
    """The answers of several loads."""
    return Load([answer for load in loads for answer in load.answers], 0.0, 0.0, 0.0, 0.0, [])


PARTS = (soak, one_profile, one_at_a_time, llama)


def main(
    minutes: Annotated[float, typer.Option(help="How long 64 clients ask.")] = 5,
    quick: Annotated[bool, typer.Option(help="A minute of 64 clients, and the rest in proportion.")] = False,
    out: Annotated[Path, typer.Option("--json", help="Where the rows go.")] = Path("serve.json"),
    folder: Annotated[Path, typer.Option(help="Where the random models are kept.")] = Path(".bench"),
    only: Annotated[str, typer.Option(help="Only the parts whose names hold this.")] = "",
) -> None:
    """Measure, print and write."""
    console, rows = Console(), []
    start = time.time()
    for part in PARTS:
        if only in part.__name__:
            with console.status(part.__name__):
                rows += list(part(folder, 1 if quick else minutes))
    show(console, rows, time.time() - start)
    write_json(out, [row.as_json(has_bf16_units()) for row in rows])


if __name__ == "__main__":
    typer.run(main)
