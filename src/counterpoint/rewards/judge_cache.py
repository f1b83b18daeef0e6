"""Replies that have been paid for, kept on disk by what was asked: a killed run goes on, and nothing is asked twice."""

import asyncio
import fcntl
import hashlib
import json
import sqlite3
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from counterpoint.artifacts import check_place
from counterpoint.decode.chats import Reply
from counterpoint.types import CounterpointError

WAIT_S = 0.05
"""How often a question that another process is asking is looked for."""

MAKING = 2**60
"""The byte to lock while the table is made; that of a question is below."""

BUSY_S = 60.0
"""How long to wait for another process that is writing, which takes it milliseconds."""


def key_of(body: Mapping[str, Any], repeat: int) -> str:
    """SHA-256 of a request's content and of which repetition it is; whom it is sent to is no part of it."""
    return hashlib.sha256(json.dumps([body, repeat], sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """Replies in an SQLite file on a local disk, or in memory where there is no path.

    A reply is with the system, as one transaction, before the next is asked for, so that a process killed at any point
    loses only what it was being told; a power cut may cost the last few besides. Raises CounterpointError for a file
    that cannot be opened or is no such cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._locks = None if path is None else _lock_file(path)
        try:
            self._db = _opened(path, self._locks)
        except sqlite3.Error as error:
            if self._locks is not None:
                self._locks.close()
            why = f"cannot keep a judge's replies there: {error}; name another file"
            raise CounterpointError(f"{path}: {why}") from None
        weakref.finalize(self, _close, self._db, self._locks)

    def get(self, key: str) -> Reply | None:
        """The reply to a request, if it has been paid for."""
        row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply(**json.loads(row[0]))

    def put(self, key: str, body: Mapping[str, Any], reply: Reply) -> None:
        """Keep a reply, and beside it what was asked, for people to read."""
        self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (key, json.dumps(body), _json(reply)))

    @asynccontextmanager
    async def claimed(self, key: str) -> AsyncIterator[None]:
        """Wait until no other process asks this, and let none ask it meanwhile.

        A lock on the byte of a file that the key names: the system drops it with the process, however that ends.
        """
        if self._locks is None:
            yield
            return
        place = int(key[:15], 16)
        while not _try_lock(self._locks, place):
            await asyncio.sleep(WAIT_S)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, place)


def _lock_file(path: Path) -> IO[bytes]:
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.lock").open("ab")


def _opened(path: Path | None, locks: IO[bytes] | None) -> sqlite3.Connection:
    """The database, with its table; one process at a time makes it."""
    # one thread at a time uses it: that of the event loop, or the caller's between two calls
    db = sqlite3.connect(path or ":memory:", BUSY_S, isolation_level=None, check_same_thread=False)
    if locks is not None:
        fcntl.lockf(locks, fcntl.LOCK_EX, 1, MAKING)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")  # else each reply waits 6 to 25 ms for the disk
        db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, asked TEXT, reply TEXT)")
        db.execute("SELECT key, asked, reply FROM replies LIMIT 1")
    except sqlite3.Error:
        db.close()
        raise
    finally:
        if locks is not None:
            fcntl.lockf(locks, fcntl.LOCK_UN, 1, MAKING)
    return db


def _try_lock(locks: IO[bytes], place: int) -> bool:
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except BlockingIOError:
        return False
    return True


def _close(db: sqlite3.Connection, locks: IO[bytes] | None) -> None:
    db.close()
    if locks is not None:
        locks.close()


def _json(reply: Reply) -> str:
    return json.dumps(asdict(reply))
