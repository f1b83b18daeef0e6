"""A line per request, and nothing on it that people wrote, were told or are called."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from counterpoint.decode.band import Band
from counterpoint.decode.request import Said
from counterpoint.serve.app import create_app
from counterpoint.serve.database import Database, open_database
from counterpoint.serve.keys import Keys
from counterpoint.serve.logs import make_log, take_over, trail
from counterpoint.serve.settings import Settings
from counterpoint.serve.store import Store

CHAT = "/v1/chat/completions"
ASKED = {
    "model": "soup:terse",
    "messages": [{"role": "user", "content": "Rumpelstiltskin"}],
    "user": "Zebulon",
    "max_tokens": 4,
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(str(tmp_path / "people.db"))) as opened:
        yield opened


@pytest.fixture
def logged(band: Band, database: Database) -> Callable[..., Any]:
    """`with logged(level) as (http, lines):` gives a client, and the lines that were logged so far."""

    @contextmanager
    def running(level: str = "info", **settings: Any) -> Iterator[tuple[TestClient, Callable[[], list[Any]]]]:
        said = io.StringIO()
        app = create_app(band, Store(database), Settings(**settings), make_log(level, said))

        @app.get("/v1/broken")
        async def broken() -> None:
            raise ValueError("Rumpelstiltskin")

        with TestClient(app, base_url="http://127.0.0.1") as http:
            yield http, lambda: [json.loads(line) for line in said.getvalue().splitlines()]

    return running


def test_the_line_of_a_request(logged: Callable[..., Any]) -> None:
    with logged() as (http, lines):
        usage = http.post(CHAT, json=ASKED, headers={"X-Request-Id": "job-7"}).json()["usage"]
        (line,) = lines()
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert {name: line[name] for name in ("level", "event", "id", "verb", "path", "status", "method")} == {
        "level": "info", "event": "request", "id": "job-7", "verb": "POST", "path": CHAT, "status": 200,
        "method": "soup",
    }  # fmt: skip
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert 0 < line["first_token_s"] <= line["seconds"]


def test_nothing_of_people_is_on_it(logged: Callable[..., Any], database: Database) -> None:
    _, secret = Keys(database).add("shop")
    (key,) = Keys(database).all()
    with logged("debug") as (http, lines):
        http.headers["Authorization"] = f"Bearer {secret}"
        answer = http.post(CHAT, json=ASKED).json()["choices"][0]["message"]["content"]
        http.put("/v1/users/Zebulon/profile", json={"profile": "warm"})
        http.get("/v1/users/Zebulon?after=Zebulon")
        http.get("/v1/broken")
        http.get("/healthz", headers={"Authorization": "Bearer Zebulon"})
        found = lines()
    assert len(found) == 5
    assert [line.get("key") for line in found] == [key.id] * 4 + [None]
    text = json.dumps(found, ensure_ascii=False)
    for private in ("Rumpelstiltskin", "Zebulon", secret, answer):
        assert len(private) > 2
        assert private not in text
    broken = found[3]
    assert (broken["level"], broken["event"], broken["status"]) == ("error", "failed", 500)
    assert broken["trail"][-1] == "ValueError"
    assert any("test_logs.py" in place and place.endswith(" broken") for place in broken["trail"])


def test_an_operator_may_ask_for_texts(logged: Callable[..., Any]) -> None:
    with logged(log_prompts=True) as (http, lines):
        answer = http.post(CHAT, json=ASKED).json()["choices"][0]["message"]["content"]
        http.get("/v1/broken")
        said, broken = lines()
    assert "Rumpelstiltskin" in said["prompts"][0]
    assert said["answers"] == [answer]
    assert "Zebulon" in said["owners"][0]
    assert broken["error"] == "Rumpelstiltskin"


def test_probes_are_logged_only_where_everything_is(logged: Callable[..., Any]) -> None:
    with logged() as (http, lines):
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
            http.get(path)
        assert [line["path"] for line in lines()] == ["/v1/models"]
    with logged("error") as (http, lines):
        http.get("/v1/models")
        assert lines() == []


def test_what_was_refused_says_why(logged: Callable[..., Any]) -> None:
    with logged(max_body=1000) as (http, lines):
        http.post(CHAT, json=ASKED | {"model": "sope"})
        http.post(CHAT, content=b"{" * 1001)
        http.get("/nothing")
        assert [line["refused"] for line in lines()] == ["model_not_found", "body_too_large", "not_found"]


def test_what_failed_is_named_for_the_operator_alone(logged: Callable[..., Any], tmp_path: Path) -> None:
    with logged("warning") as (http, lines):
        path = tmp_path / "people.db"
        path.rename(path.with_suffix(".away"))
        reply = http.get("/v1/users/Zebulon")
        path.with_suffix(".away").rename(path)
        http.get("/v1/users/Zebulon")
        (line,) = lines()
    assert (reply.status_code, line["status"], line["refused"]) == (503, 503, "database_away")
    assert "unable to open database file" in line["fault"]
    assert "unable to open" not in reply.text
    assert "Zebulon" not in str(line)


def test_what_fails_in_a_stream_is_named_too(
    logged: Callable[..., Any], band: Band, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logged("warning") as (http, lines):
        steps = [band.engine.advance] * 2

        def advance() -> list[Said]:
            return steps.pop()()

        monkeypatch.setattr(band.engine, "advance", advance)
        reply = http.post(CHAT, json=ASKED | {"stream": True})
        (line,) = lines()
    assert "engine_failed" in reply.text
    assert line["status"] == 200
    assert "the engine failed" in line["fault"]


def test_a_trail_holds_causes_and_no_words() -> None:
    try:
        try:
            json.loads("{Rumpelstiltskin")
        except ValueError as error:
            raise KeyError("Zebulon") from error
    except KeyError as error:
        found = trail(error)
    assert [place for place in found if " " not in place] == ["JSONDecodeError", "KeyError"]
    assert "Rumpelstiltskin" not in str(found)
    assert "Zebulon" not in str(found)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The process's own logging, which is put back afterwards."""
    found = logging.getLogger()
    before = found.handlers[:], found.level
    yield found
    found.handlers[:] = before[0]
    found.setLevel(before[1])
    logging.captureWarnings(False)


def test_libraries_log_in_the_same_form(root: logging.Logger) -> None:
    said = io.StringIO()
    take_over(to=said)
    logging.getLogger("uvicorn.error").info("as usual")
    logging.getLogger("library").warning("odd %s", "thing")
    fail()
    take_over(words=True, to=said)
    fail()
    odd, failed, worded = [json.loads(line) for line in said.getvalue().splitlines()]
    assert list(odd)[:3] == ["timestamp", "level", "event"]
    assert (odd["event"], odd["level"], odd["logger"]) == ("odd thing", "warning", "library")
    assert failed["trail"][-1] == "ValueError"
    assert "Zebulon" not in str(failed)
    assert worded["exception"].endswith("ValueError: Zebulon")


def fail() -> None:
    try:
        raise ValueError("Zebulon")
    except ValueError:
        logging.getLogger("library").exception("failed")


def test_making_a_log_leaves_the_process_alone() -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    make_log("debug", io.StringIO()).info("said")
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
