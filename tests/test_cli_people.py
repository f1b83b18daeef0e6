"""`counterpoint keys` and `counterpoint users` as a person meets them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from counterpoint.cli import app
from counterpoint.cli.app import out
from counterpoint.serve.database import open_database
from counterpoint.serve.keys import Keys
from counterpoint.serve.store import Feedback, Store
from counterpoint.types import Profile

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command means the same file."""
    monkeypatch.setenv("COUNTERPOINT_DATABASE", f"sqlite:///{tmp_path / 'people.db'}")
    monkeypatch.setattr(out, "width", 200)


@contextmanager
def stored(folder: Path) -> Iterator[tuple[Store, Keys]]:
    database = open_database(str(folder / "people.db"))
    yield Store(database), Keys(database)
    database.close()


def said(command: Command, *arguments: str) -> str:
    code, output, error = command(*arguments)
    assert (code, error) == (0, "")
    return output


def told(command: Command, *arguments: str) -> Any:
    return json.loads(said(command, *arguments))


def test_a_key_is_made_shown_once_listed_renewed_and_revoked(command: Command, tmp_path: Path) -> None:
    secret = said(command, "keys", "add", "shop [x]", "--requests-per-minute", "5").split()[-1]
    admin = told(command, "keys", "add", "boss", "--admin", "--json")
    with stored(tmp_path) as (_, keys):
        shop, boss = keys.find(secret), keys.find(admin["secret"])
    assert shop is not None
    assert boss is not None
    assert (shop.name, shop.requests_per_minute, shop.admin) == ("shop [x]", 5, False)
    assert (boss.id, boss.name, boss.admin) == (admin["id"], "boss", True)
    table = said(command, "keys", "list")
    assert "shop [x]" in table
    assert not any(hidden in table for hidden in (secret, admin["secret"]))
    renewed = said(command, "keys", "renew", "shop [x]").split()[-1]
    assert "revoked key 'boss'" in said(command, "keys", "revoke", "boss")
    with stored(tmp_path) as (_, keys):
        assert keys.find(secret) is None
        assert keys.find(renewed) == shop
        assert keys.find(admin["secret"]) is None
    assert [key["revoked"] is None for key in told(command, "keys", "list", "--json")] == [False, True]


def test_people_are_listed_shown_exported_and_deleted(command: Command, tmp_path: Path) -> None:
    with stored(tmp_path) as (store, _):
        store.set_profile("local", "ann [b]", Profile({"terse": 1.0}))
        store.set_profile("local", "ann [b]", Profile({"warm": 0.5}, 2.0), "learned", "moe")
        store.add_feedback("local", "bob", Feedback("f", "rating", {"rated": {"warm": 1.0}}, rating=5))
        everything = store.export("local", "ann [b]")
    table = " ".join(said(command, "users", "list").split())
    assert "ann [b] warm=0.5, strength=2 moe learned" in table
    page = told(command, "users", "list", "--limit", "1", "--json")
    assert ([user["name"] for user in page["data"]], page["has_more"]) == (["ann [b]"], True)
    assert told(command, "users", "list", "--after", "ann [b]", "--json")["data"][0]["choices"] == 1
    shown = told(command, "users", "show", "ann [b]", "--json")
    assert [version["profile"]["weights"] for version in shown["history"]] == [{"warm": 0.5}, {"terse": 1.0}]
    assert "choices 0, versions 2" in said(command, "users", "show", "ann [b]")
    assert told(command, "users", "export", "ann [b]") == everything
    said(command, "users", "export", "ann [b]", "--out", str(tmp_path / "ann.json"))
    assert json.loads((tmp_path / "ann.json").read_text()) == everything
    assert told(command, "users", "delete", "ann [b]", "--yes", "--json") == {"deleted": True, "user": "ann [b]"}
    with stored(tmp_path) as (store, _):
        assert [user.name for user in store.users("local")[0]] == ["bob"]


def test_a_person_is_deleted_only_by_somebody_who_means_it(tmp_path: Path) -> None:
    with stored(tmp_path) as (store, _):
        store.set_profile("local", "ann", Profile({"terse": 1.0}))
        no = CliRunner().invoke(app, ["users", "delete", "ann"], input="n\n")
        assert (no.exit_code, store.user("local", "ann") is None) == (1, False)
        assert "delete 'ann': 1 profiles, 0 choices?" in no.output
        yes = CliRunner().invoke(app, ["users", "delete", "ann"], input="y\n")
        assert (yes.exit_code, store.user("local", "ann")) == (0, None)


def test_people_of_a_key_are_asked_for_by_its_name(command: Command, tmp_path: Path) -> None:
    with stored(tmp_path) as (store, keys):
        key, _ = keys.add("shop")
        store.set_profile(key.id, "ann", Profile({"terse": 1.0}))
    assert "no people of 'local'; --owner names the key" in said(command, "users", "list")
    assert told(command, "users", "list", "--owner", "shop", "--json")["data"][0]["name"] == "ann"
    assert "versions 1" in said(command, "users", "show", "ann", "--owner", "shop")


def test_mistakes_end_in_one_line(command: Command, tmp_path: Path) -> None:
    missing = ["--database", str(tmp_path / "other.db")]
    for arguments, why in (
        (["keys", "list", *missing], "other.db: there is no such file; name the one that the server uses"),
        (["users", "list", *missing], "there is no such file"),
        (["keys", "list", "--database", "oracle://x"], "expected sqlite:///FILE or postgresql://"),
    ):
        assert_mistake(command, arguments, why)
    assert not (tmp_path / "other.db").exists()
    said(command, "keys", "add", "shop")
    for arguments, why in (
        (["keys", "add", "shop"], "the name is taken"),
        (["keys", "revoke", "shap"], "did you mean 'shop'?"),
        (["users", "show", "ann"], "'local' has no user 'ann'"),
        (["users", "delete", "ann", "--yes"], "'local' has no user 'ann'"),
        (["users", "list", "--owner", "shap"], "unknown key 'shap'"),
    ):
        assert_mistake(command, arguments, why)


def assert_mistake(command: Command, arguments: list[str], why: str) -> None:
    code, output, error = command(*arguments)
    assert (code, output) == (2, "")
    assert why in error
    assert error.count("\n") == 1
