"""API keys: who may ask, and how often. A key is shown once; what is stored is its SHA-256.

A hash that is slow on purpose protects what people think up, which can be guessed. A secret here is 256 random bits,
which cannot, so that a fast hash is enough, and each request pays for one. The database looks the hash up in an index:
how long that takes tells of the hash at most, and no secret follows from a part of it.
"""

import hashlib
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from counterpoint.profiles import unknown_name
from counterpoint.serve.database import Database
from counterpoint.serve.store import check_text
from counterpoint.serve.tables import KeyRow
from counterpoint.types import CounterpointError

PREFIX = "cp-"
LOCAL = "local"
"""The owner of people where the server runs without keys."""


@dataclass(frozen=True)
class Key:
    """A key without its secret; `id` owns people. A rate of None is the server's own."""

    id: str
    name: str
    created: int
    revoked: int | None = None
    admin: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Keys:
    """The keys of a database. Every method raises `StoreDown` where that is away."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def find(self, secret: str) -> Key | None:
        """The key of a secret; None for one that is unknown or revoked."""
        known = select(KeyRow).where(KeyRow.sha256 == hashed(secret), KeyRow.revoked.is_(None))
        with self.database.reading() as session:
            row = session.scalar(known)
            return None if row is None else _as_key(row)

    def any(self) -> bool:
        """Is there a key that is not revoked? Then the server asks for one."""
        with self.database.reading() as session:
            return session.scalar(select(KeyRow.id).where(KeyRow.revoked.is_(None)).limit(1)) is not None

    def all(self) -> list[Key]:
        """Every key by name, revoked ones too."""
        with self.database.reading() as session:
            return [_as_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.name))]

    def named(self, name: str) -> Key:
        """A key by its name. Raises CounterpointError where there is none."""
        with self.database.reading() as session:
            return _as_key(_named(session, name))

    def add(
        self,
        name: str,
        admin: bool = False,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> tuple[Key, str]:
        """Make a key, and give its secret. Raises CounterpointError for a name that is taken."""
        check_text("key", name)
        secret = new_secret()
        row = KeyRow(
            id=f"key-{secrets.token_hex(8)}",
            name=name,
            sha256=hashed(secret),
            admin=admin,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            created=int(time.time()),
            revoked=None,
        )
        with self.database.writing() as session:
            if name == LOCAL or session.scalar(select(KeyRow.id).where(KeyRow.name == name)) is not None:
                raise CounterpointError(f"key {name!r}: the name is taken; choose another, or renew the key")
            session.add(row)
            session.flush()
            return _as_key(row), secret

    def renew(self, name: str) -> tuple[Key, str]:
        """Give a key a new secret, also one that was revoked; the old one ends at once, and the key's people stay."""
        secret = new_secret()
        with self.database.writing() as session:
            row = _named(session, name)
            row.sha256, row.revoked = hashed(secret), None
            return _as_key(row), secret

    def revoke(self, name: str) -> Key:
        """End a key; its people stay stored, and can be reached again once it is renewed."""
        with self.database.writing() as session:
            row = _named(session, name)
            row.revoked = row.revoked or int(time.time())
            return _as_key(row)


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _named(session: Session, name: str) -> KeyRow:
    row = session.scalar(select(KeyRow).where(KeyRow.name == name))
    if row is None:
        raise CounterpointError(unknown_name("key", name, session.scalars(select(KeyRow.name).order_by(KeyRow.name))))
    return row


def _as_key(row: KeyRow) -> Key:
    return Key(row.id, row.name, row.created, row.revoked, row.admin, row.requests_per_minute, row.tokens_per_minute)
