"""Who may ask, how often, with how much, and from which pages."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from counterpoint.decode.band import Band
from counterpoint.serve import auth
from counterpoint.serve.app import create_app
from counterpoint.serve.auth import KnownKeys
from counterpoint.serve.database import Database, StoreDown, open_database
from counterpoint.serve.keys import Key, Keys
from counterpoint.serve.settings import Settings
from counterpoint.serve.start import bind, check_reach
from counterpoint.serve.store import Store
from counterpoint.types import CounterpointError

ASKED = {"model": "base", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
CHAT = "/v1/chat/completions"
ERROR = {"message", "type", "param", "code"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(str(tmp_path / "people.db"))) as opened:
        yield opened


@pytest.fixture
def client(band: Band, database: Database) -> Callable[..., Any]:
    """`with client(require_keys=True) as http:` asks a server with these settings, from this machine."""

    @contextmanager
    def asking(**settings: Any) -> Iterator[TestClient]:
        app = create_app(band, Store(database), Settings(**settings))
        with TestClient(app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 5000)) as http:
            yield http

    return asking


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_without_a_key_anybody_here_may_ask_and_with_one_only_who_has_it(
    client: Callable[..., Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "FRESH_S", 0.0)
    with client() as http:
        assert http.post(CHAT, json=ASKED).status_code == 200
        _, secret = Keys(database).add("shop")
        assert http.post(CHAT, json=ASKED).status_code == 401
        assert http.post(CHAT, json=ASKED, headers=bearer(secret)).status_code == 200
        Keys(database).revoke("shop")
        assert http.post(CHAT, json=ASKED, headers=bearer(secret)).status_code == 401
        assert http.post(CHAT, json=ASKED).status_code == 401, "the last key's end must not let everybody in"


def test_a_refusal_tells_the_same_of_every_bad_key(client: Callable[..., Any], database: Database) -> None:
    keys = Keys(database)
    keys.add("shop")
    _, secret = keys.add("old")
    keys.revoke("old")
    tried: list[dict[str, str]] = [
        {}, bearer("cp-unknown"), bearer(secret), bearer(""), {"Authorization": f"Basic {secret}"},
        {"Authorization": secret},
    ]  # fmt: skip
    with client() as http:
        replies = [http.post(CHAT, json=ASKED, headers=headers) for headers in tried]
    assert {reply.status_code for reply in replies} == {401}
    assert len({reply.text for reply in replies}) == 1
    error = replies[0].json()["error"]
    assert set(error) == ERROR
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert {reply.headers["www-authenticate"] for reply in replies} == {"Bearer"}


def test_what_needs_no_key(client: Callable[..., Any]) -> None:
    with client(require_keys=True) as http:
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/"):
            assert http.get(path).status_code == 200, path
        for path in sorted(http.get("/openapi.json").json()["paths"]):
            if path not in auth.PUBLIC:
                assert http.get(path).status_code == 401, path
        for path in ("/static", "/nothing", "/healthz/x"):
            assert http.get(path).status_code == 401, path


def test_one_key_does_not_see_anothers_people(client: Callable[..., Any], database: Database) -> None:
    (_, one), (_, other) = Keys(database).add("one"), Keys(database).add("other")
    with client() as http:
        assert http.put("/v1/users/ada/profile", json={"profile": "terse"}, headers=bearer(one)).status_code == 200
        assert http.get("/v1/users/ada", headers=bearer(one)).status_code == 200
        assert http.get("/v1/users/ada", headers=bearer(other)).status_code == 404


def test_a_revoked_key_goes_on_for_a_moment_only(
    client: Callable[..., Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = Keys(database).add("shop")
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with client() as http:
        assert http.get("/v1/users", headers=bearer(secret)).status_code == 200
        Keys(database).revoke("shop")
        assert http.get("/v1/users", headers=bearer(secret)).status_code == 200
        now += auth.FRESH_S
        assert http.get("/v1/users", headers=bearer(secret)).status_code == 401


class Away:
    """Keys whose database comes and goes."""

    def __init__(self, key: Key | None) -> None:
        self.key = key
        self.away = False
        self.asked = 0

    def _reach(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreDown("away")

    def find(self, secret: str) -> Key | None:
        self._reach()
        return self.key if secret == "good" else None

    def any(self) -> bool:
        self._reach()
        return self.key is not None


def test_while_the_database_is_away_known_keys_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "FRESH_S", 0.0)
    away = Away(Key("key-1", "shop", 0))
    known = KnownKeys(cast(Keys, away))

    async def asking() -> None:
        assert await known.find("good") == away.key
        assert await known.find("bad") is None
        away.away = True
        assert await known.find("good") == away.key
        with pytest.raises(StoreDown):
            await known.find("bad")
        away.away = False
        away.key = None
        assert await known.find("good") is None

    asyncio.run(asking())


def test_that_no_key_is_needed_is_remembered_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "FRESH_S", 0.0)
    away = Away(None)
    known = KnownKeys(cast(Keys, away))

    async def asking() -> None:
        assert not await known.any()
        away.away = True
        assert not await known.any()
        away.away, away.key = False, Key("key-1", "shop", 0)
        assert await known.any()
        away.key = None
        assert await known.any()

    asyncio.run(asking())
    assert away.asked == 4, "at the start, three times, and no more once a key was there"


def test_nobody_slips_in_while_the_first_request_looks_for_keys(client: Callable[..., Any], database: Database) -> None:
    Keys(database).add("shop")
    with client() as http, ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: http.get("/v1/users").status_code, range(16)))
    assert set(codes) == {401}


def test_too_many_requests_are_told_when_to_come_again(client: Callable[..., Any], database: Database) -> None:
    (_, one), (_, other) = Keys(database).add("one"), Keys(database).add("other", requests_per_minute=1)
    with client(requests_per_minute=2) as http:
        first, second, third = (http.get("/v1/users", headers=bearer(one)) for _ in range(3))
        assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
        assert third.json()["error"]["code"] == "rate_limit_exceeded"
        assert third.json()["error"]["type"] == "rate_limit_error"
        assert 50 <= int(third.headers["retry-after"]) <= 60
        limits = [reply.headers["x-ratelimit-limit-requests"] for reply in (first, second, third)]
        left = [reply.headers["x-ratelimit-remaining-requests"] for reply in (first, second, third)]
        assert (limits, left) == (["2"] * 3, ["1", "0", "0"])
        assert 50 <= float(third.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        assert "x-ratelimit-limit-tokens" not in first.headers
        answers = [http.get("/v1/users", headers=bearer(other)).status_code for _ in range(2)]
        assert answers == [200, 429], "a key's own rate, and others' requests are not its own"


def test_tokens_are_counted_once_they_are_known(client: Callable[..., Any], database: Database) -> None:
    _, secret = Keys(database).add("shop")
    with client(tokens_per_minute=5) as http:
        first = http.post(CHAT, json=ASKED, headers=bearer(secret))
        used = first.json()["usage"]["total_tokens"]
        assert used > 5
        assert first.headers["x-ratelimit-remaining-tokens"] == "5"
        again = http.post(CHAT, json=ASKED, headers=bearer(secret))
    assert again.status_code == 429
    assert again.headers["x-ratelimit-limit-tokens"] == "5"
    assert again.headers["x-ratelimit-remaining-tokens"] == "0"


def test_every_prompt_of_a_call_is_counted_also_one_that_is_scored_alone(
    client: Callable[..., Any], database: Database
) -> None:
    _, secret = Keys(database).add("shop")
    asked = {"prompt": ["What does the owl eat?"] * 3, "max_tokens": 0, "echo": True, "logprobs": 0}
    with client(tokens_per_minute=1000) as http:
        used = http.post("/v1/completions", json=asked, headers=bearer(secret)).json()["usage"]["total_tokens"]
        after = http.get("/v1/users", headers=bearer(secret))
    assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - used


def test_probes_are_not_counted(client: Callable[..., Any]) -> None:
    with client(requests_per_minute=1) as http:
        assert {http.get("/healthz").status_code for _ in range(3)} == {200}
        assert http.get("/v1/users").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:1", "localhost", "LOCALHOST", "[::1]:8000"])
def test_hosts_that_are_this_machine(client: Callable[..., Any], host: str) -> None:
    with client() as http:
        assert http.get("/v1/users", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "", "[::2]"])
def test_a_page_that_points_its_name_here_is_refused(client: Callable[..., Any], database: Database, host: str) -> None:
    with client() as http:
        refused = http.get("/v1/users", headers={"Host": host})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
        _, secret = Keys(database).add("shop")
    with client() as http:
        assert http.get("/v1/users", headers={"Host": host} | bearer(secret)).status_code == 200
    with client(open=True, host="0.0.0.0") as http:
        assert http.get("/v1/users", headers={"Host": host} | bearer(secret)).status_code == 200


ORIGIN = {"Origin": "https://shop.example"}
PREFLIGHT = ORIGIN | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


def test_pages_elsewhere_may_not_ask_unless_they_are_named(client: Callable[..., Any]) -> None:
    with client() as http:
        assert "access-control-allow-origin" not in http.get("/v1/users", headers=ORIGIN).headers
        assert http.options(CHAT, headers=PREFLIGHT).status_code == 405
    with client(cors_origins=["https://shop.example"], require_keys=True) as http:
        allowed = http.options(CHAT, headers=PREFLIGHT)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://shop.example")
        refused = http.get("/v1/users", headers=ORIGIN)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
        other = http.options(CHAT, headers=PREFLIGHT | {"Origin": "https://other.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers


def test_a_form_of_another_page_is_no_request(client: Callable[..., Any]) -> None:
    """A browser sends text/plain across origins without asking first."""
    with client() as http:
        sent = http.post(CHAT, content=json.dumps(ASKED), headers={"Content-Type": "text/plain"} | ORIGIN)
    assert sent.status_code == 400


def test_only_admins_reload(client: Callable[..., Any], database: Database) -> None:
    (_, plain), (_, admin) = Keys(database).add("plain"), Keys(database).add("admin", admin=True)
    with client() as http:
        refused = http.post("/v1/band/reload", headers=bearer(plain))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_admin")
        assert http.post("/v1/band/reload", headers=bearer(admin)).status_code == 200


def test_an_open_server_is_not_reloaded_from_elsewhere(band: Band, database: Database) -> None:
    app = create_app(band, Store(database), Settings(open=True, host="0.0.0.0"))
    with TestClient(app, client=("203.0.113.9", 5000)) as http:
        assert http.post("/v1/band/reload").status_code == 403


def test_others_cannot_reach_a_server_that_has_no_key(database: Database) -> None:
    keys = Keys(database)
    check_reach(Settings(host="127.0.0.1"), keys)
    check_reach(Settings(host="0.0.0.0", open=True), keys)
    with pytest.raises(CounterpointError, match=r"'0\.0\.0\.0'.*no API key yet.*keys add.*--open"):
        check_reach(Settings(host="0.0.0.0"), keys)
    keys.add("shop")
    check_reach(Settings(host="0.0.0.0"), keys)


def test_an_address_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CounterpointError, match=f"127.0.0.1:{port}: cannot listen there: Address already in use"):
            bind("127.0.0.1", port)
    with pytest.raises(CounterpointError, match="cannot listen there"):
        bind("203.0.113.9", 0)
