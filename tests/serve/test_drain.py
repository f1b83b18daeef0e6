"""A real server as a process of its own: how it begins, how signals end it, and what is left after the worst of them.

A fork server imports everything once, so that each process starts within a moment.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from counterpoint.cli import main
from counterpoint.models.band_file import add_expert
from counterpoint.serve.drain import Drain
from counterpoint.testing import pico_adapter
from counterpoint.types import Expert

PATIENCE_S = 60.0
CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "soup:terse", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Running:
    """A server's process, what it printed, and a client of it."""

    process: BaseProcess
    told: dict[str, Any]
    log: Path
    http: httpx2.Client

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        self.process.join(PATIENCE_S)
        return self.process.exitcode

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def run_in(folder: str, arguments: list[str]) -> None:
    """Run `counterpoint ARGUMENTS` in this process, its output going into files of a folder."""
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["counterpoint", *arguments]
    main()


@pytest.fixture(scope="session")
def forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_drain", "counterpoint.serve.app"])
    return context


@pytest.fixture
def running(forks: Any, band_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """`with running("--max-rows", 1) as server:` is the process of `counterpoint serve` on the pico band."""

    @contextmanager
    def starting(*flags: object, band: Path = band_folder) -> Iterator[Running]:
        arguments = ["serve", str(band), "--port", "0", "--threads", "1", "--json", *map(str, flags)]
        process = forks.Process(target=run_in, args=(str(tmp_path), arguments))
        (tmp_path / "out").unlink(missing_ok=True)
        process.start()
        try:
            told = json.loads(wait_for(lambda: read(tmp_path / "out"), process))
            with httpx2.Client(base_url=told["url"], timeout=PATIENCE_S) as http:
                yield Running(process, told, tmp_path / "err", http)
        finally:
            process.kill()
            process.join()

    return starting


def read(path: Path) -> str:
    """A file's first line, once it is whole."""
    text = path.read_text() if path.exists() else ""
    return text if text.endswith("\n") else ""


def wait_for(what: Callable[[], Any], process: BaseProcess | None = None) -> Any:
    """The first truth that a function gives."""
    until = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until, "waited in vain"
        assert process is None or process.is_alive(), "the server ended as it began"
        time.sleep(0.01)
    return found


def long_answer(server: Running, answers: int = 4) -> Any:
    """A stream that takes a second or more: with one row, its answers come one after another."""
    asked = ASKED | {"n": answers, "max_tokens": 200, "stream": True, "temperature": 1.0, "seed": 1}
    return server.http.stream("POST", CHAT, json=asked)


def test_it_says_where_it_is_and_what_it_offers(running: Callable[..., Any], band_folder: Path) -> None:
    with running() as server:
        assert server.told["dimensions"] == ["terse", "warm", "exact"]
        assert server.told["band"] == str(band_folder)
        assert {"soup", "moe", "mixture-prob", "base"} <= set(server.told["methods"])
        assert "pmol" not in server.told["methods"]
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", server.told["url"])
        server.send(signal.SIGTERM)
        assert server.ended() == 0
        assert server.lines() == []


def test_those_under_way_finish_and_nobody_else_comes_in(running: Callable[..., Any]) -> None:
    with running("--max-rows", 1) as server, long_answer(server) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.send(signal.SIGTERM)
        refused = wait_for(lambda: new_one_is_refused(server))
        assert refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["retry-after"]) > 0
        assert httpx2.get(f"{server.told['url']}/healthz").status_code == 200
        ready = httpx2.get(f"{server.told['url']}/readyz")
        assert (ready.status_code, ready.json()["server"]) == (503, "draining")
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        finished = {choice["index"] for line in rest[:-1] for choice in ended(line)}
        assert finished == set(range(4))
        assert server.ended() == 0
        assert [line["status"] for line in server.lines() if line["path"] == CHAT][-1] == 200


def new_one_is_refused(server: Running) -> Any:
    reply = httpx2.post(f"{server.told['url']}{CHAT}", json=ASKED | {"max_tokens": 1}, timeout=PATIENCE_S)
    return reply if reply.status_code == 503 else None


def ended(line: str) -> list[dict[str, Any]]:
    return [choice for choice in json.loads(line.removeprefix("data: "))["choices"] if choice["finish_reason"]]


def test_who_is_not_done_in_time_is_told(running: Callable[..., Any], tmp_path: Path) -> None:
    (settings := tmp_path / "short.toml").write_text("drain_s = 0.1\n")
    with running("--max-rows", 1, "--settings", settings) as server, long_answer(server) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.send(signal.SIGTERM)
        rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "stopped"
        assert server.ended() == 0
        assert [line["event"] for line in server.lines()] == ["request"]


def test_a_second_signal_ends_it_at_once(running: Callable[..., Any]) -> None:
    with running("--max-rows", 1) as server, long_answer(server) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.send(signal.SIGINT)
        wait_for(lambda: new_one_is_refused(server))
        server.send(signal.SIGTERM)  # a shell may have had its background jobs ignore SIGINT, which then ends nobody
        with pytest.raises(httpx2.RemoteProtocolError):
            list(lines)
        assert server.ended() == -signal.SIGTERM


def test_a_hangup_reads_the_band_anew(running: Callable[..., Any], band_folder: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(band_folder, tmp_path / "band"))
    with running(band=mine) as server:
        adapter = pico_adapter(mine / "made" / "blunt", mine / "base", seed=14)
        add_expert(mine, adapter, Expert("blunt", "blunt"))
        server.send(signal.SIGHUP)
        (reloaded,) = wait_for(server.lines)
        assert (reloaded["event"], reloaded["experts"][-1]) == ("reloaded", "blunt")
        broken = mine / "experts" / "blunt" / "adapter_model.safetensors"
        broken.write_bytes(b"\xff" * 64)
        server.send(signal.SIGHUP)
        failed = wait_for(lambda: server.lines()[1:])[0]
        assert (failed["level"], failed["event"]) == ("error", "not reloaded")
        assert str(broken) in failed["reason"]
        asked = ASKED | {"model": "soup:blunt", "max_tokens": 2}
        assert server.http.post(CHAT, json=asked).status_code == 200


def test_no_acknowledged_feedback_is_lost_by_a_kill(running: Callable[..., Any]) -> None:
    acknowledged: list[str] = []
    with running() as server:
        one, other = (server.http.post(CHAT, json=ASKED | {"max_tokens": 2}).json()["id"] for _ in range(2))

        def give_feedback_for_ever() -> None:
            while True:
                given = {"user": "ada", "id": f"f{len(acknowledged)}", "chosen": one, "rejected": other}
                assert server.http.post("/v1/feedback", json=given).status_code == 201
                acknowledged.append(given["id"])

        threading.Timer(0.5, server.send, [signal.SIGKILL]).start()
        with pytest.raises(httpx2.TransportError):
            give_feedback_for_ever()
        assert server.ended() == -signal.SIGKILL
    with running() as server:
        found = [event["event"] for event in server.http.get("/v1/users/ada/export").json()["feedback"]]
        assert server.http.get("/v1/users/ada/belief").json()["choices"] == len(found)
    assert acknowledged
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1, "one more was written, and not yet told"


def test_the_end_is_reached_when_nobody_is_left_or_time_is_up() -> None:
    drain = Drain()
    assert not drain.begun
    assert not drain.over
    drain.under_way = 1
    drain.begin(60)
    assert drain.begun
    assert not drain.over
    drain.under_way = 0
    assert drain.over
    drain.under_way = 1
    drain.begin(0)
    assert drain.over
