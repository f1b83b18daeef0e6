"""Alive, ready, the figures, ids, bodies that are too long or too slow, and a band read anew."""

import math
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import add_expert, set_bounds
from counterpoint.serve.app import create_app
from counterpoint.serve.database import open_database
from counterpoint.serve.settings import Settings
from counterpoint.serve.store import Store
from counterpoint.testing import pico_adapter
from counterpoint.types import Expert

CHAT = "/v1/chat/completions"
ASKED = {"model": "soup:terse", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture
def app(band: Band, tmp_path: Path) -> Iterator[FastAPI]:
    with closing(open_database(str(tmp_path / "people.db"))) as database:
        yield create_app(band, Store(database), Settings(max_body=1000))


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client


def figures(http: Any) -> dict[tuple[str, ...], float]:
    """Each sample by its name and its labels' values in alphabetical order of the labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_alive_and_ready(http: TestClient) -> None:
    assert http.get("/healthz").json() == {"alive": True}
    assert http.get("/readyz").json() == {"ready": True, "engine": "ok", "database": "ok", "server": "ok"}


def test_what_is_not_ready_is_named(http: TestClient, app: FastAPI, tmp_path: Path) -> None:
    beside = app.state.operations
    (tmp_path / "people.db").rename(tmp_path / "elsewhere.db")
    away = http.get("/readyz")
    assert (away.status_code, away.json()["database"], away.json()["ready"]) == (503, "away", False)
    (tmp_path / "elsewhere.db").rename(tmp_path / "people.db")
    assert http.get("/readyz").status_code == 200
    beside.drain.begin(1)
    assert http.get("/readyz").json()["server"] == "draining"
    beside.worker.stop()
    assert http.get("/readyz").json()["engine"] == "stopped"
    assert http.get("/healthz").status_code == 503


def test_the_figures_are_those_of_what_was_asked(http: TestClient) -> None:
    usage = http.post(CHAT, json=ASKED).json()["usage"]
    assert http.post(CHAT, json=ASKED | {"model": "sope"}).status_code == 404
    assert http.post(CHAT, content=b"{" * 2000).status_code == 413
    found = figures(http)
    assert found["counterpoint_requests_total", "soup", CHAT, "200"] == 1
    assert found["counterpoint_requests_total", "", CHAT, "404"] == 1
    assert found["counterpoint_refused_total", "model_not_found"] == 1
    assert found["counterpoint_refused_total", "body_too_large"] == 1
    assert found["counterpoint_prompt_tokens_total",] == usage["prompt_tokens"]
    said = found["counterpoint_tokens_total",]
    assert usage["completion_tokens"] <= said <= usage["completion_tokens"] + 1, "the token that ends counts or not"
    assert found["counterpoint_first_token_seconds_count",] == 1
    assert found["counterpoint_between_tokens_seconds_count",] == said - 1
    assert 0 < found["counterpoint_first_token_seconds_sum",] <= found["counterpoint_request_seconds_sum", CHAT]
    assert (found["counterpoint_alive",], found["counterpoint_rows_limit",]) == (1, 64)
    assert found["counterpoint_waiting",] == found["counterpoint_rows",] == found["counterpoint_cells",] == 0


def test_what_is_under_way_is_promised_room(http: TestClient, band: Band) -> None:
    prompt = band.request(band.prompt("Hello"), band.plan(None, "base"), Sampling(max_tokens=20))
    reach = len(prompt.contexts[0]) + 20
    band.engine.submit(prompt)
    band.engine.submit(prompt)
    band.engine.submit(prompt)
    band.engine.advance()
    found = figures(http)
    assert found["counterpoint_cells",] == 4 * 2 ** math.ceil(math.log2(reach)), "rows and positions grow by doubling"
    assert found["counterpoint_cells_limit",] == band.engine.max_cells


def test_no_label_holds_what_a_client_made_up(http: TestClient) -> None:
    name = "Zebulon"
    http.put(f"/v1/users/{name}/profile", json={"profile": "terse"})
    http.get(f"/v1/users/{name}")
    http.get(f"/{name}")
    http.post(CHAT, json=ASKED | {"user": name, "model": f"soup:{name}"})
    http.post(f"/v1/users/{name}/pair", json={"messages": ASKED["messages"], "method": name})
    http.request(name, "/v1/users")
    http.get("/healthz", headers={"X-Request-Id": name, "Authorization": f"Bearer {name}"})
    text = http.get("/metrics").text
    assert name.lower() not in text.lower()
    assert 'path="/v1/users/{user}"' in text


def test_figures_of_two_servers_are_apart(http: TestClient, band: Band, tmp_path: Path) -> None:
    http.get("/healthz")
    with closing(open_database(str(tmp_path / "other.db"))) as database:
        other = create_app(band, Store(database), Settings())
        with TestClient(other, base_url="http://127.0.0.1") as client:
            assert ("counterpoint_requests_total", "", "/healthz", "200") not in figures(client)
    assert figures(http)["counterpoint_requests_total", "", "/healthz", "200"] == 1


def test_without_metrics_there_are_none(band: Band, tmp_path: Path) -> None:
    with closing(open_database(str(tmp_path / "people.db"))) as database:
        app = create_app(band, Store(database), Settings(metrics=False))
        with TestClient(app, base_url="http://127.0.0.1") as client:
            assert client.get("/metrics").status_code == 404


def test_ids_of_requests_come_back_where_they_fit_on_a_line(http: TestClient) -> None:
    assert http.get("/healthz", headers={"X-Request-Id": "job-7_a.b"}).headers["x-request-id"] == "job-7_a.b"
    for given in ("two words", "x" * 65, 'a"b', "a/b"):
        made = http.get("/nothing", headers={"X-Request-Id": given}).headers["x-request-id"]
        assert re.fullmatch("req-[0-9a-f]{24}", made)


def test_an_error_that_nobody_foresaw_tells_its_id_alone(http: TestClient, app: FastAPI) -> None:
    @app.get("/v1/broken")
    async def broken() -> None:
        raise ValueError("a secret")

    reply = http.get("/v1/broken", headers={"X-Request-Id": "job-7"})
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "failed"
    assert "job-7" in reply.json()["error"]["message"]
    assert "secret" not in reply.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_be_as_long_as_allowed_and_no_longer(http: TestClient, chunked: bool) -> None:
    def sent(size: int) -> Any:
        body = b" " * size
        return http.post(CHAT, content=iter([body[:10], body[10:]]) if chunked else body)

    assert sent(1000).status_code == 400, "blanks are no JSON"
    longer = sent(1001)
    assert (longer.status_code, longer.json()["error"]["code"]) == (413, "body_too_large")
    assert "1000 bytes" in longer.json()["error"]["message"]


def test_a_body_that_does_not_come_is_not_waited_for(serve: Callable[..., AbstractContextManager[Any]]) -> None:
    with serve(body_s=0.2) as server, socket.create_connection(server.http.base_url.netloc.split(b":")) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        begun = time.monotonic()
        assert b" 408 " in line.recv(1000).split(b"\r\n")[0]
        assert time.monotonic() - begun < 5


@pytest.fixture
def mine(band_folder: Path, tmp_path: Path) -> Path:
    """A copy of the band whose folder may be changed."""
    return Path(shutil.copytree(band_folder, tmp_path / "band"))


def test_a_band_is_read_anew(serve: Callable[..., AbstractContextManager[Any]], mine: Path) -> None:
    with serve(mine, bounds="warm >= 0.1") as server:
        adapter = pico_adapter(mine / "made" / "blunt", mine / "base", seed=14)
        asked = ASKED | {"model": "soup:blunt"}
        assert server.http.post(CHAT, json=asked).status_code == 400
        add_expert(mine, adapter, Expert("blunt", "blunt"))
        set_bounds(mine, "exact >= 0.2")
        from_a_page = server.http.post("/v1/band/reload", headers={"Sec-Fetch-Site": "cross-site"})
        assert (from_a_page.status_code, from_a_page.json()["error"]["code"]) == (403, "not_admin")
        reloaded = server.http.post("/v1/band/reload")
        assert reloaded.status_code == 200
        assert reloaded.json()["experts"] == ["terse", "warm", "exact", "blunt"]
        answer = server.http.post(CHAT, json=asked).json()
        assert answer["counterpoint"]["weights"] == pytest.approx({"blunt": 0.7, "exact": 0.2, "warm": 0.1})


def test_a_band_whose_bounds_now_contradict_the_settings_stays(
    serve: Callable[..., AbstractContextManager[Any]], mine: Path
) -> None:
    with serve(mine, bounds="warm >= 0.5") as server:
        set_bounds(mine, "warm <= 0.4")
        refused = server.http.post("/v1/band/reload")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_reloaded")
        assert "contradicts" in refused.json()["error"]["message"]
        answer = server.http.post(CHAT, json=ASKED).json()
        assert answer["counterpoint"]["weights"] == pytest.approx({"terse": 0.5, "warm": 0.5})
