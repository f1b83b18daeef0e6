"""Streaming clients as one process, apart from the server that they load: what each was told, and when.

    python -m benchmarks.serve_load PLAN.json ANSWERS.json

It reads HTTP with httptools alone: a general client would take more of the machine than the server's own HTTP does.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools

Ask = dict[str, Any]
"""One request: its `number`, `path` and `body`."""


@dataclass
class Answer:
    """What came of a request: what was said and when, in seconds since the load began."""

    number: int
    asked: float
    status: int = 0
    text: str = ""
    times: list[float] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] | None = None
    error: str = ""


class Connection(asyncio.Protocol):
    """A connection on which one request after another is streamed."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._over: asyncio.Future[None] | None = None
        self._bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"the connection was lost: {error}")

    def on_body(self, body: bytes) -> None:
        *whole, self._bytes = (self._bytes + body).split(b"\n\n")
        for event in whole:
            self._read(event.removeprefix(b"data: "))

    def on_message_complete(self) -> None:
        if self._answer and self._parser.get_status_code() != 200:
            self._answer.error = self._bytes.decode()
        self._end("")

    async def ask(self, number: int, path: str, body: Any) -> Answer:
        self._answer = answer = Answer(number, self._now)
        self._over = asyncio.get_running_loop().create_future()
        self._bytes = b""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await self._over
        return answer

    @property
    def _now(self) -> float:
        return round(time.perf_counter() - self._start, 5)

    def _read(self, event: bytes) -> None:
        if self._answer is None or event == b"[DONE]":
            return
        said = json.loads(event)
        self._answer.error = self._answer.error or json.dumps(said["error"]) if "error" in said else self._answer.error
        self._answer.usage = said.get("usage") or self._answer.usage
        for choice in said.get("choices", ()):
            plain, finish = "text" in choice, choice["finish_reason"]
            text = choice["text"] if plain else choice["delta"].get("content", "")
            self._answer.text += text
            if text or (plain and not finish):  # llama-server's vocabulary is padded with tokens without a text
                self._answer.times.append(self._now)
            self._answer.finish = finish or self._answer.finish

    def _end(self, error: str) -> None:
        if self._answer and self._over and not self._over.done():
            self._answer.status = 0 if error else self._parser.get_status_code()
            self._answer.error = self._answer.error or error
            self._over.set_result(None)


async def load(address: str, clients: Sequence[Sequence[Ask]], seconds: float | None) -> tuple[list[Answer], float]:
    """Let clients ask, each its requests in turn: again and again for so many seconds, or once; answers, how long."""
    start = time.perf_counter()
    where = urlsplit(address)
    place = str(where.hostname), int(where.port or 80)
    answers: list[Answer] = []

    async def run(asks: Iterable[Ask]) -> None:
        _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(start), *place)
        for ask in asks:
            answers.append(await connection.ask(ask["number"], ask["path"], ask["body"]))
            if answers[-1].status == 0 or (seconds and time.perf_counter() - start > seconds):
                break
        connection._transport.close()

    await asyncio.gather(*(run(cycle(asks) if seconds else asks) for asks in clients))
    return answers, time.perf_counter() - start


def main(plan: Path, out: Path) -> None:
    given = json.loads(plan.read_text())
    before = time.process_time()
    answers, took = asyncio.run(load(given["address"], given["clients"], given["seconds"]))
    cpu = time.process_time() - before
    out.write_text(json.dumps({"answers": [asdict(answer) for answer in answers], "took": took, "cpu": cpu}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
