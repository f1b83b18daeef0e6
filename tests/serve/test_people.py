"""`/v1/users` over HTTP: whose people they are, any name, and what is refused."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.responses import Response

from counterpoint.serve import errors, people
from counterpoint.serve.database import open_database
from counterpoint.serve.store import Feedback, Store
from counterpoint.types import CounterpointError, Profile

RATING = Feedback("r1", "rating", {"rated": {"terse": 0.5}}, rating=4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_database(str(tmp_path / "people.db"))) as database:
        yield Store(database)


def planned(profile: Profile, method: str) -> None:
    """Stands for a band's plan, which refuses what a method cannot serve."""
    if method == "mixture-prob" and profile.strength > 1:
        raise CounterpointError(f"mixture-prob: strength is {profile.strength:g}")


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    """The endpoints alone; who asks is in the header `owner`."""
    app = FastAPI()
    band = SimpleNamespace(dimensions=("terse", "warm"), plan=planned)
    app.state.counterpoint = SimpleNamespace(
        store=store, band=band, worker=SimpleNamespace(band=band), default=(None, "soup")
    )
    errors.install(app)
    app.include_router(people.router)

    @app.middleware("http")
    async def _whose(request: Request, answer: Callable[[Request], Any]) -> Response:
        request.state.owner = request.headers.get("owner", "local")
        response: Response = await answer(request)
        return response

    with TestClient(app) as client:
        yield client


def put(client: TestClient, user: str, owner: str = "local", **body: Any) -> Any:
    return client.put(f"/v1/users/{quote(user, safe='')}/profile", json=body, headers={"owner": owner})


def get(client: TestClient, path: str, owner: str = "local") -> Any:
    return client.get(path, headers={"owner": owner})


def test_a_profile_is_set_read_and_kept_in_the_history(client: TestClient, store: Store) -> None:
    first = put(client, "ann", profile="terse=0.7, warm=0.3", strength=1.5, method="moe")
    assert first.status_code == 200
    assert first.json() == get(client, "/v1/users/ann").json()
    updated = first.json()["updated"]
    assert first.json() == {
        "user": "ann", "profile": {"terse": 0.7, "warm": 0.3}, "strength": 1.5, "method": "moe", "source": "set",
        "updated": updated, "versions": 1, "choices": 0,
    }  # fmt: skip
    store.set_profile("local", "ann", Profile({"terse": 1.0}), "learned")
    put(client, "ann", profile={"warm": 2})
    found = get(client, "/v1/users/ann/history").json()["data"]
    assert [(v["profile"], v["strength"], v["method"], v["source"]) for v in found] == [
        ({"warm": 2.0}, 1.0, None, "set"),
        ({"terse": 1.0}, None, None, "learned"),
        ({"terse": 0.7, "warm": 0.3}, 1.5, "moe", "set"),
    ]
    assert {"updated", "created"} & set(found[0]) == {"created"}


def test_the_strength_of_the_body_wins_over_the_profiles(client: TestClient) -> None:
    assert put(client, "ann", profile="warm, strength=2").json()["strength"] == 2
    assert put(client, "ann", profile={"warm": 1, "strength": 2}, strength=0.5).json()["strength"] == 0.5


def test_what_a_put_leaves_out_stays_and_null_resets_it(client: TestClient) -> None:
    def kept(**body: Any) -> tuple[float, str | None]:
        found = put(client, "ann", profile=body.pop("profile", "warm"), **body).json()
        return found["strength"], found["method"]

    assert kept(strength=1.5, method="moe") == (1.5, "moe")
    assert kept() == (1.5, "moe")
    assert kept(profile="warm, strength=2") == (2.0, "moe")
    assert kept(method="soup") == (2.0, "soup")
    assert kept(profile={"warm": 1, "strength": 3}, method=None) == (3.0, None)
    assert kept(strength=None, method="moe") == (1.0, "moe")


def test_a_person_who_only_gave_feedback_has_no_profile(client: TestClient, store: Store) -> None:
    store.add_feedback("local", "ann", RATING)
    assert get(client, "/v1/users/ann").json() == {
        "user": "ann", "profile": None, "strength": None, "method": None, "source": None, "updated": None,
        "versions": 0, "choices": 1,
    }  # fmt: skip
    assert get(client, "/v1/users/ann/history").json() == {"data": []}


@pytest.mark.parametrize("path", ["", "/history", "/export"])
def test_another_keys_person_is_as_unknown_as_nobody(client: TestClient, path: str) -> None:
    put(client, "ann", "mine", profile="warm")
    theirs, nobody = (get(client, f"/v1/users/{name}{path}", "other") for name in ("ann", "bob"))
    assert get(client, f"/v1/users/ann{path}", "mine").status_code == 200
    assert (theirs.status_code, nobody.status_code) == (404, 404)
    assert theirs.text.replace("ann", "bob") == nobody.text
    assert theirs.json()["error"] == {
        "message": "there is no user 'ann'", "type": "not_found_error", "param": "user", "code": "user_not_found",
    }  # fmt: skip


def test_a_key_changes_and_deletes_its_own_people_only(client: TestClient) -> None:
    put(client, "ann", "mine", profile="warm")
    assert put(client, "ann", "other", profile="terse").json()["versions"] == 1
    assert get(client, "/v1/users/ann", "mine").json()["profile"] == {"warm": 1.0}
    assert client.delete("/v1/users/ann", headers={"owner": "other"}).status_code == 200
    assert client.delete("/v1/users/ann", headers={"owner": "other"}).status_code == 404
    assert get(client, "/v1/users/ann", "mine").status_code == 200


def test_everything_is_exported_and_then_deleted(client: TestClient, store: Store) -> None:
    put(client, "ann", profile="warm")
    store.add_feedback("local", "ann", RATING)
    assert get(client, "/v1/users/ann/export").json() == store.export("local", "ann")
    assert client.delete("/v1/users/ann").json() == {"deleted": True, "user": "ann"}
    assert get(client, "/v1/users/ann").status_code == 404
    assert store.export("local", "ann") is None
    assert get(client, "/v1/users").json() == {"data": [], "has_more": False}


NAMES = ["github/1", "x/history", "/", "//", "a b", "zoë ☂", "50%", "a%2Fb", "?q=1", "#", "a;b", "export", "%E4", "+"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_url_is_that_name_whatever_is_in_it(client: TestClient, store: Store, name: str) -> None:
    url = f"/v1/users/{quote(name, safe='')}"
    assert put(client, name, profile="warm").json()["user"] == name
    assert [user.name for user in store.users("local")[0]] == [name]
    assert get(client, url).json()["user"] == name
    assert len(get(client, f"{url}/history").json()["data"]) == 1
    assert get(client, f"{url}/export").json()["name"] == name
    assert client.delete(url).json() == {"deleted": True, "user": name}


def test_regression_a_person_and_the_history_of_another_are_not_the_same(client: TestClient) -> None:
    put(client, "x", profile="warm")
    put(client, "x/history", profile="terse")
    assert "data" in get(client, "/v1/users/x/history").json()
    assert get(client, "/v1/users/x%2Fhistory").json()["profile"] == {"terse": 1.0}


def test_pages(client: TestClient) -> None:
    for name in ("c", "a", "b"):
        put(client, name, profile="warm")
    first = get(client, "/v1/users?limit=2").json()
    rest = get(client, "/v1/users?limit=2&after=b").json()
    assert ([user["user"] for user in first["data"]], first["has_more"]) == (["a", "b"], True)
    assert ([user["user"] for user in rest["data"]], rest["has_more"]) == (["c"], False)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"profile": "tense"}, "unknown dimension 'tense'; did you mean 'terse'? Known: terse, warm"),
        ({"profile": {"terse": -1}}, "expected a finite number that is 0 or more"),
        ({"profile": {}}, "names no dimension"),
        ({"profile": "warm", "method": "soap"}, "unknown method 'soap'; did you mean 'soup'?"),
        ({"profile": "warm", "strength": -1}, "'strength' is -1"),
        ({"profile": "warm", "strength": 1e30}, "strength is 1e+30; expected at most 100"),
        ({"profile": "warm, strength=101"}, "strength is 101; expected at most 100"),
        ({"profile": "warm", "strength": 2, "method": "mixture-prob"}, "mixture-prob: strength is 2"),
        ({"profile": "warm", "strength": "2"}, "strength: Input should be a valid number"),
        ({"profile": {"warm": "1"}}, "Input should be a valid number"),
        ({"profile": {"warm": True}}, "Input should be a valid number"),
        ({"profile": "warm", "colour": 1}, "unknown field 'colour'; expected some of: profile, strength, method"),
        ({"strength": 1}, "profile: Field required"),
    ],
)
def test_a_profile_that_is_none_is_refused(client: TestClient, store: Store, body: Any, said: str) -> None:
    reply = put(client, "ann", **body)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]
    assert store.user("local", "ann") is None


@pytest.mark.parametrize("body", [b'{"profile": {"warm": NaN}}', b'{"profile": {"warm": 1e999}}', b"{", b"\xff"])
def test_a_body_that_is_no_json_or_no_number_is_refused(client: TestClient, body: bytes) -> None:
    reply = client.put("/v1/users/ann/profile", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/users/%00", "/v1/users/a%0Ab", f"/v1/users/{'x' * 257}", "/v1/users?after=%00"])
def test_a_name_that_is_none_is_a_400(client: TestClient, path: str) -> None:
    reply = get(client, path)
    assert reply.status_code == 400
    assert "user" in reply.json()["error"]["message"]


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x"])
def test_a_page_has_a_size(client: TestClient, limit: str) -> None:
    assert get(client, f"/v1/users?limit={limit}").status_code == 400


def test_while_the_database_is_away_every_endpoint_says_so_and_when_to_come_again(
    client: TestClient, tmp_path: Path
) -> None:
    put(client, "ann", profile="warm")
    (tmp_path / "people.db").rename(tmp_path / "elsewhere")
    for reply in (
        get(client, "/v1/users"),
        get(client, "/v1/users/ann"),
        get(client, "/v1/users/ann/history"),
        get(client, "/v1/users/ann/export"),
        put(client, "ann", profile="terse"),
        client.delete("/v1/users/ann"),
    ):
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        assert reply.json()["error"]["code"] == "database_away"
    (tmp_path / "elsewhere").rename(tmp_path / "people.db")
    assert get(client, "/v1/users/ann").json()["profile"] == {"warm": 1.0}
