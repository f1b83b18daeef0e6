"""API keys. Tests that take a `database` hold for PostgreSQL too (`tests_postgres`)."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from counterpoint.serve.database import Database, open_database
from counterpoint.serve.keys import Keys, hashed
from counterpoint.types import CounterpointError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'people.db'}")
    yield database
    database.close()


def test_a_secret_finds_its_key_and_no_other_does(database: Database) -> None:
    keys = Keys(database)
    shop, secret = keys.add("shop", requests_per_minute=60)
    clinic, other = keys.add("clinic", admin=True, tokens_per_minute=5000)
    assert keys.find(secret) == shop
    assert keys.find(other) == clinic
    assert (shop.admin, shop.requests_per_minute, shop.tokens_per_minute) == (False, 60, None)
    assert (clinic.admin, clinic.requests_per_minute, clinic.tokens_per_minute) == (True, None, 5000)
    for wrong in ("", "cp-", secret[:-1], secret + "x", secret.upper(), f" {secret}", hashed(secret), "\ud800", "\x00"):
        assert keys.find(wrong) is None
    assert keys.all() == [clinic, shop]
    assert keys.named("shop") == shop


def test_there_is_a_key_as_long_as_one_is_not_revoked(database: Database) -> None:
    keys = Keys(database)
    assert not keys.any()
    keys.add("a")
    keys.add("b")
    keys.revoke("a")
    assert keys.any()
    keys.revoke("b")
    assert not keys.any()


def test_a_revoked_key_opens_nothing_and_says_since_when(database: Database) -> None:
    keys = Keys(database)
    key, secret = keys.add("shop")
    ended = keys.revoke("shop")
    assert keys.find(secret) is None
    assert ended.revoked is not None
    assert replace(ended, revoked=None) == key
    assert keys.revoke("shop") == ended
    assert keys.all() == [ended]


def test_a_renewed_key_has_its_people_and_a_new_secret_only(database: Database) -> None:
    keys = Keys(database)
    key, first = keys.add("shop")
    renewed, second = keys.renew("shop")
    assert renewed == key
    assert keys.find(first) is None
    assert keys.find(second) == key
    keys.revoke("shop")
    assert keys.find(keys.renew("shop")[1]) == key
    assert keys.find(second) is None


def test_names_are_checked(database: Database) -> None:
    keys = Keys(database)
    keys.add("shop")
    for name, said in (("shop", "is taken"), ("local", "is taken"), ("", "expected 1 to 256"), ("a\n", "control")):
        with pytest.raises(CounterpointError, match=said):
            keys.add(name)
    for call in (keys.revoke, keys.renew, keys.named):
        with pytest.raises(CounterpointError, match="unknown key 'shap'; did you mean 'shop'"):
            call("shap")
    assert [key.name for key in keys.all()] == ["shop"]


def test_secrets_are_256_bits_of_chance(database: Database) -> None:
    keys = Keys(database)
    secrets = [keys.add(f"key {i}")[1] for i in range(50)]
    assert len(set(secrets)) == 50
    assert all(re.fullmatch(r"cp-[A-Za-z0-9_-]{43}", secret) for secret in secrets)  # 43 characters of 6 bits hold 256


def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    with closing(open_database(str(tmp_path / "people.db"))) as database:
        _, secret = Keys(database).add("shop")
    found = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in found
    assert secret[3:].encode() not in found
