"""What goes wrong outside the server: clients that vanish, dawdle or send rubbish, a database or a disk that fails,
files that break. Each gives what docs/SERVING.md says, and the next request is served as if nothing had been."""

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import uvicorn
from sqlalchemy import event, text

from counterpoint.decode.band import Band
from counterpoint.models.band_file import add_endpoint, parse_endpoint
from counterpoint.serve.app import create_app
from counterpoint.serve.database import open_database
from counterpoint.serve.settings import Settings
from counterpoint.serve.start import address_of, bind
from counterpoint.serve.store import Store
from counterpoint.types import Expert

CHAT = "/v1/chat/completions"
FEEDBACK = "/v1/feedback"
ASKED: dict[str, Any] = {
    "model": "soup:terse",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 2,
}
LONG = ASKED | {"n": 16, "max_tokens": 100, "stream": True, "seed": 1}
PATIENCE_S = 60.0

Serve = Callable[..., AbstractContextManager[Any]]


def served_as_ever(server: Any) -> None:
    assert server.http.post(CHAT, json=ASKED).status_code == 200


def is_error(reply: Any, status: int, code: str | None = None) -> None:
    """An error in OpenAI's shape."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if code is not None:
        assert error["code"] == code


def wait_until(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


@contextmanager
def line_to(server: Any, body: Any, buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection of its own on which a chat was asked for; with a small buffer the server soon has to wait."""
    host, port = server.http.base_url.host, server.http.base_url.port
    with closing(socket.socket()) as line:
        if buffer:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        line.connect((host, port))
        sent = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        line.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        yield line


def test_a_client_that_vanishes_frees_its_rows(serve: Serve) -> None:
    with serve(max_rows=1) as server:
        worker = server.state.worker
        with line_to(server, LONG) as line:
            assert line.recv(4096)
            assert worker.live_rows + worker.waiting > 0
        wait_until(lambda: worker.live_rows == worker.waiting == 0)
        assert worker.cancelled > 0
        served_as_ever(server)
        assert worker.tokens_said < 16 * 100
        assert "counterpoint_gone_total 1.0" in server.http.get("/metrics").text


def test_a_client_that_vanishes_before_its_answer_frees_its_rows(serve: Serve) -> None:
    with serve(max_rows=1) as server:
        worker = server.state.worker
        with line_to(server, LONG | {"stream": False}):
            wait_until(lambda: worker.live_rows == 1)
        wait_until(lambda: worker.live_rows == worker.waiting == 0)
        assert worker.cancelled > 0


@contextmanager
def with_small_buffers(band: Band, path: Path) -> Iterator[tuple[Any, Any]]:
    """A server whose system holds next to nothing of what a client has not read, as (address and client, figures)."""
    with closing(open_database(str(path))) as database, bind("127.0.0.1", 0) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        app = create_app(band, Store(database), Settings())
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            with httpx2.Client(base_url=address_of(taken), timeout=PATIENCE_S) as http:
                yield SimpleNamespace(http=http), app.state.operations
        finally:
            server.should_exit = True
            thread.join()


def test_who_reads_slowly_holds_up_nobody_and_gets_all(band: Band, tmp_path: Path) -> None:
    wordy = LONG | {"logprobs": True, "top_logprobs": 20, "max_tokens": 12}
    with (
        with_small_buffers(band, tmp_path / "people.db") as (server, beside),
        line_to(server, wordy, buffer=8192) as slow,
    ):
        assert slow.recv(10)
        for _ in range(5):
            served_as_ever(server)
        wait_until(lambda: beside.worker.live_rows == 0)
        assert beside.drain.under_way == 1, "all is said, and waits for its reader"
        read = b"".join(iter(lambda: slow.recv(65536), b""))
    assert len(read) > 150_000
    assert b"data: [DONE]" in read
    assert read.count(b'"finish_reason":"length"') + read.count(b'"finish_reason":"stop"') == 16


RUBBISH: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"model": "soup", "messages": [',
    "no JSON": b"model=soup&profile=terse",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "half a character": b'{"model": "\\ud800", "user": "\\udc00"}',
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 100_000,
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "a long number": b'{"seed": ' + b"9" * 5000 + b"}",
    "an infinite number": b'{"temperature": 1e999}',
    "NaN": b'{"temperature": NaN, "strength": Infinity, "rating": NaN}',
}


@pytest.mark.parametrize("body", RUBBISH.values(), ids=RUBBISH.keys())
def test_rubbish_is_a_mistake_of_the_client(server: Any, body: bytes) -> None:
    for path, verb in sorted(with_bodies(server)):
        reply = server.http.request(verb, path, content=body, headers={"Content-Type": "application/json"})
        is_error(reply, 400)
    served_as_ever(server)


def with_bodies(server: Any) -> Iterator[tuple[str, str]]:
    """Every path that takes JSON, and its verb."""
    for path, operations in server.http.get("/openapi.json").json()["paths"].items():
        for verb, operation in operations.items():
            if "requestBody" in operation:
                yield path.replace("{user}", "ada"), verb.upper()


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-Infinity", "-1", "1e999", '"1"', "true", "null"])
@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, json.dumps(ASKED)), ("/v1/users/ada/profile", '{"user": 0}')],
)
def test_a_weight_that_is_no_amount_is_refused(server: Any, path: str, body: str, weight: str) -> None:
    start = body.replace('"user": 0', "").removesuffix("}")
    comma = ", " if len(start) > 1 else ""
    sent = f'{start}{comma}"profile": {{"terse": {weight}}}}}'
    verb = "PUT" if path.endswith("profile") else "POST"
    is_error(server.http.request(verb, path, content=sent, headers={"Content-Type": "application/json"}), 400)


def test_ten_megabytes_are_refused_and_the_line_lives_on(server: Any) -> None:
    for body in (b" " * 10_000_000, iter([b" " * 1_000_000] * 10)):
        is_error(server.http.post(CHAT, content=body), 413, "body_too_large")
        served_as_ever(server)


def test_while_the_database_is_away_those_without_a_name_are_served(serve: Serve) -> None:
    with serve() as server:
        assert server.http.put("/v1/users/ada/profile", json={"profile": "warm"}).status_code == 200
        path = Path(server.state.settings.database.removeprefix("sqlite:///"))
        path.rename(path.with_suffix(".away"))
        served_as_ever(server)
        for verb, where, body in (
            ("GET", "/v1/users/ada", None),
            ("PUT", "/v1/users/ada/profile", {"profile": "terse"}),
            ("POST", CHAT, ASKED | {"user": "ada"}),
        ):
            reply = server.http.request(verb, where, json=body)
            is_error(reply, 503, "database_away")
            assert int(reply.headers["retry-after"]) > 0
            assert str(path) not in reply.text, "where it lies is for the operator"
        path.with_suffix(".away").rename(path)
        answer = server.http.post(CHAT, json=ASKED | {"model": "soup", "user": "ada"}).json()
        assert answer["counterpoint"]["weights"] == {"warm": 1.0}
        assert "counterpoint_database_errors_total 3.0" in server.http.get("/metrics").text


def test_on_a_full_disk_nothing_is_acknowledged_and_nothing_lost(serve: Serve) -> None:
    with serve() as server:
        one, other = (server.http.post(CHAT, json=ASKED | {"seed": seed}).json()["id"] for seed in (1, 2))

        def feedback(number: int) -> Any:
            body = {"user": "ada", "id": f"f{number}", "chosen": one, "rejected": other}
            return server.http.post(FEEDBACK, json=body)

        assert feedback(0).status_code == 201
        with full(server.state.store.database.engine):
            acknowledged = 1
            while (reply := feedback(acknowledged)).status_code == 201:
                acknowledged += 1
                assert acknowledged < 1000, "the disk was never full"
            is_error(reply, 503, "database_away")
            served_as_ever(server)
        assert server.http.get("/v1/users/ada").json()["choices"] == acknowledged
        assert feedback(acknowledged).status_code == 201
        events = server.http.get("/v1/users/ada/export").json()["feedback"]
        assert [found["event"] for found in events] == [f"f{number}" for number in range(acknowledged + 1)]


@contextmanager
def full(engine: Any) -> Iterator[None]:
    """SQLite's file may not grow inside the block."""

    def at(connection: Any, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with engine.connect() as asked:
        pages = asked.execute(text("PRAGMA page_count")).scalar_one()
        limit = asked.execute(text("PRAGMA max_page_count")).scalar_one()

    def checkout(connection: Any, *_: Any) -> None:
        at(connection, pages)

    event.listen(engine, "checkout", checkout)
    try:
        yield
    finally:
        event.remove(engine, "checkout", checkout)
        with engine.connect() as asked:
            at(asked.connection, limit)


@pytest.fixture
def mine(band_folder: Path, tmp_path: Path) -> Path:
    """A copy of the band whose files may be broken."""
    return Path(shutil.copytree(band_folder, tmp_path / "band"))


def test_an_adapter_that_breaks_on_the_disk_is_used_as_it_was(serve: Serve, mine: Path) -> None:
    """A regression test as well: adapters were mapped, and overwriting one ended the process (SIGBUS)."""
    with serve(mine) as server:
        asked = ASKED | {"profile": {"terse": 1, "warm": 1}, "temperature": 0, "max_tokens": 8}
        before = server.http.post(CHAT, json=asked).json()["choices"]
        broken = mine / "experts" / "warm" / "adapter_model.safetensors"
        broken.write_bytes(b"\xff" * 64)
        refused = server.http.post("/v1/band/reload")
        is_error(refused, 409, "not_reloaded")
        assert str(broken) in refused.json()["error"]["message"]
        assert server.http.post(CHAT, json=asked).json()["choices"] == before


@pytest.mark.parametrize(("method", "file"), [("x-lora", "gates/x-lora/gate.json"), ("mope", "controller/head.json")])
def test_what_is_broken_of_a_method_hinders_those_alone_who_want_it(
    serve: Serve, mine: Path, method: str, file: str
) -> None:
    (mine / file).parent.mkdir(parents=True)
    (mine / file).write_text("{}")
    with serve(mine) as server:
        broken = server.http.post(CHAT, json=ASKED | {"model": f"{method}:terse"})
        is_error(broken, 503, "file_broken")
        (card,) = [card for card in server.http.get("/v1/band").json()["methods"] if card["name"] == method]
        assert not card["available"]
        assert str(mine) not in broken.text + card["why"], "where it lies is for the operator"
        served_as_ever(server)


@pytest.mark.filterwarnings("ignore:expert 'far'")
def test_an_expert_that_is_away_hinders_those_alone_who_want_it(serve: Serve, mine: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        port = deaf.getsockname()[1]
    entry = parse_endpoint(url=f"http://127.0.0.1:{port}/v1", model="far", timeout_s=0.05)
    add_endpoint(mine, entry, Expert("far", "far"))
    with serve(mine) as server:
        away = server.http.post(CHAT, json=ASKED | {"model": "mixture-prob:terse+far"})
        is_error(away, 503, "expert_away")
        assert str(port) not in away.text, "where it is asked is for the operator"
        served_as_ever(server)
        assert server.http.post(CHAT, json=ASKED | {"model": "mixture-prob:terse+warm"}).status_code == 200


def test_nothing_in_a_request_names_a_file(server: Any, tmp_path: Path) -> None:
    """Every text of every request is the path of a file that is there, in each way that a path can be said."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"secret": "Rumpelstiltskin"}')
    opened: list[str] = []
    watched = True

    def note(name: str, arguments: tuple[Any, ...]) -> None:
        if watched and name == "open" and "secret" in str(arguments[0]):
            opened.append(str(arguments[0]))

    sys.addaudithook(note)
    try:
        document = server.http.get("/openapi.json").json()
        for path in (str(secret), f"../../../../../..{secret}\x00.json"):
            for reply in every_request(server, document, path):
                assert "Rumpelstiltskin" not in reply.text
                assert reply.status_code < 500, reply.text
    finally:
        watched = False
    assert opened == []


def every_request(server: Any, document: dict[str, Any], text: str) -> Iterator[Any]:
    """Each operation of an OpenAPI document, with a text in the place of every text, one at a time and all at once."""
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            where = path.replace("{user}", "ada").replace("{name}", "x").replace("{model}", "x")
            for body in bodies(schema, document, text) if schema else [None]:
                yield server.http.request(verb, where, json=body)
            if "{" in path:
                yield server.http.request(verb, path.replace(path[path.index("{") : path.index("}") + 1], quote(text)))


def bodies(schema: dict[str, Any], document: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    fields = resolved(schema, document).get("properties", {})
    base = {"messages": ASKED["messages"], "model": "soup", "max_tokens": 2, "user": "ada", "text": "be terse"}
    known = {name: value for name, value in base.items() if name in fields}
    for name in fields:
        yield known | {name: text}
        yield known | {name: [text]}
        yield known | {name: {text: 1, "terse": text}}
    yield dict.fromkeys(fields, text)


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found
