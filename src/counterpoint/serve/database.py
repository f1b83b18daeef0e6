"""Where people are kept: an SQLite file or PostgreSQL, and what is said when it is away."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection

from sqlalchemy import URL, Engine, create_engine, event, make_url, select, text
from sqlalchemy import Connection as SqlConnection
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, InvalidatePoolError, TimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from counterpoint.artifacts import check_place
from counterpoint.serve.errors import Refused
from counterpoint.serve.tables import LAYOUT, Base, LayoutRow
from counterpoint.types import CounterpointError

BUSY_S = 5
"""How long to wait for a connection, or for another process that is writing, which takes it milliseconds; seconds."""

MAKING = 0x636F756E74657270
"""PostgreSQL's advisory lock under which one process at a time makes the tables."""

RETRY_S = 2.0


class StoreDown(Refused):
    """The database does not answer, or cannot write; it is asked again with the next request."""

    public = "people cannot be read or written at this moment; ask again"

    def __init__(self, message: str) -> None:
        super().__init__(message, 503, "database_away", retry_after=RETRY_S)


class Database:
    """A database with its tables. Any thread may use it; each `reading` and `writing` is one transaction."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.dialect = engine.dialect.name
        self.engine = engine
        self._writer = engine.execution_options(begin="BEGIN IMMEDIATE")
        self._bare = engine.execution_options(begin=None)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads. Raises `StoreDown` where the database is away."""
        with self._reached(), Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is on the disk when the block has ended. Raises `StoreDown` as `reading` does."""
        with self._reached(), Session(self._writer) as session, session.begin():
            yield session

    def check(self) -> None:
        """Raise `StoreDown` unless the database answers."""
        with self.reading() as session:
            session.execute(select(LayoutRow.layout))

    def wipe(self) -> None:
        """Empty SQLite's log of changes into the file, where what was deleted is zeros."""
        if self.dialect == "sqlite":
            with self._reached(), Session(self._bare) as session:
                session.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError):  # what was written is at fault, not the database
            raise
        except (DBAPIError, TimeoutError, InvalidatePoolError) as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise StoreDown(
                f"database {self.name}: {reason}; see that it is there, has room and may be written; nothing needs "
                "restarting once it is back"
            ) from error


def open_database(url: str, make: bool = True) -> Database:
    """Open `sqlite:///FILE`, a bare file name or `postgresql://USER:PASSWORD@HOST/NAME`, and make what is missing.

    `make=False` makes no file. Raises CounterpointError for another address, a missing file or a database of another
    layout, `StoreDown` for one that is away.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        _check_file(Path(parsed.database or ""), make)
        engine = _sqlite(parsed)
    else:
        engine = _postgresql(parsed)
    database = Database(engine, parsed.render_as_string(hide_password=True))
    try:
        _make_tables(database)
    except BaseException:
        database.close()
        raise
    return database


def parse_url(url: str) -> URL:
    """The address of a database; PostgreSQL is spoken to through psycopg. Errors name no password."""
    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError:
        raise CounterpointError(f"a database's address cannot be read; expected {EXPECTED}") from None
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite":
        raise CounterpointError(f"database {parsed.render_as_string()}: expected {EXPECTED}")
    if parsed.database in (None, "", ":memory:"):
        raise CounterpointError(f"database {url!r}: names no file; expected {EXPECTED}")
    return parsed


EXPECTED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"


def _check_file(path: Path, make: bool) -> None:
    """Make an empty file that only its owner may read, since people are in it; one that is there keeps its mode."""
    if not make and not path.exists():
        raise CounterpointError(f"database {path}: there is no such file; name the one that the server uses")
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise CounterpointError(f"database {path}: cannot be written: {error.strerror}; name another") from None


def _sqlite(url: URL) -> Engine:
    """An engine that never makes the file anew, so that a file taken away is an error until it is back."""
    path = Path(url.database or "").absolute()
    engine = create_engine(
        url.set(database=path.as_uri(), query={"mode": "rw", "uri": "true"}),
        pool_timeout=BUSY_S,
        connect_args={"timeout": BUSY_S},
    )

    @event.listens_for(engine, "connect")
    def _opened(connection: Connection, entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # `_begin` begins, which lets a writer lock before it reads
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        entry.info["file"] = _file(path)

    @event.listens_for(engine, "checkout")
    def _still_there(_: Connection, entry: ConnectionPoolEntry, __: PoolProxiedConnection) -> None:
        if entry.info["file"] != _file(path):  # else the connection would go on writing to a file without a name
            raise InvalidatePoolError(f"{path} is not the file that was opened")

    @event.listens_for(engine, "begin")
    def _begin(connection: SqlConnection) -> None:
        begin = connection.get_execution_options().get("begin", "BEGIN")
        if begin is not None:
            connection.exec_driver_sql(begin)

    return engine


def _postgresql(url: URL) -> Engine:
    """An engine that finds out when its server was restarted, and asks a silent one's host for signs of life."""
    alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
    waits = {"connect_timeout": BUSY_S, **alive}
    try:
        engine = create_engine(url, pool_pre_ping=True, pool_timeout=BUSY_S, connect_args=waits)
    except ModuleNotFoundError:
        raise CounterpointError(
            f"database {url.render_as_string()}: psycopg, which speaks to PostgreSQL, is not installed; "
            "pip install 'counterpoint[postgres]'"
        ) from None

    @event.listens_for(engine, "begin")
    def _begin(connection: SqlConnection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_S}s'")

    return engine


def _file(path: Path) -> tuple[int, int] | None:
    """Which file a name stands for at this moment."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_tables(database: Database) -> None:
    """Make what is missing, one process at a time. Raises CounterpointError for another layout, and changes nothing."""
    with database.writing() as session:
        if database.dialect == "postgresql":
            session.execute(text(f"SELECT pg_advisory_xact_lock({MAKING})"))
        Base.metadata.create_all(session.connection(), [Base.metadata.tables[LayoutRow.__tablename__]])
        layout = session.scalar(select(LayoutRow.layout))
        if layout is None:
            Base.metadata.create_all(session.connection())
            session.add(LayoutRow(layout=LAYOUT))
        elif layout != LAYOUT:
            raise CounterpointError(
                f"database {database.name}: has layout {layout}, this Counterpoint reads layout {LAYOUT}; use the "
                f"{'newer' if layout > LAYOUT else 'older'} version that made it, or name another database"
            )
