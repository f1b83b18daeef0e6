"""The store on a real PostgreSQL, which is stopped and killed under it. `make test-postgres` runs this.

The server is started in a temporary folder and listens at a socket there. POSTGRES_BIN names the folder of initdb and
pg_ctl; without it they are looked for in PATH. Prints what is measured.
"""

import inspect
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from counterpoint.serve import database as module
from counterpoint.serve.database import Database, StoreDown, open_database
from counterpoint.serve.keys import Keys
from counterpoint.serve.store import Feedback, Store
from counterpoint.serve.tables import Base
from counterpoint.types import CounterpointError, Profile

if TYPE_CHECKING:
    from tests.serve import test_keys, test_store
    from tests.serve.test_store_faults import talker
else:
    import test_keys
    import test_store
    from test_store_faults import talker

CHOICE = Feedback("c", "choice", {"chosen": {"terse": 0.1}, "rejected": {"terse": -0.7}})
TERSE = Profile({"terse": 1.0})


class Postgres:
    """A server in a folder. It refuses to run as root, so that root runs it as the account `postgres`."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.folder = folder
        self.account = "postgres" if os.geteuid() == 0 else None
        self.url = f"postgresql://people@/postgres?host={folder}"

    def run(self, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=os.environ.get("POSTGRES_BIN"))
        if found is None:
            pytest.fail(f"there is no {program}; install PostgreSQL, and name its folder in POSTGRES_BIN")
        with (self.folder / "log").open("ab") as log:
            done = subprocess.run([found, *arguments], stdout=log, stderr=log, user=self.account, check=False)
        if done.returncode:
            pytest.fail(f"{program} failed:\n{(self.folder / 'log').read_text()[-3000:]}")

    def make(self) -> None:
        self.run("initdb", "-D", str(self.data), "-U", "people", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")

    def start(self) -> None:
        listen = f"-c listen_addresses= -c unix_socket_directories={self.folder}"
        self.run("pg_ctl", "start", "-w", "-D", str(self.data), "-o", listen)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self.data))

    def kill(self) -> None:
        """End every process of the server at once, as a power cut does, short of what the disk has not yet written."""
        postmaster = (self.data / "postmaster.pid").read_text().split()[0]
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", postmaster], capture_output=True, text=True, check=True)
        processes = [postmaster, *listed.stdout.split()]
        for process in processes:
            os.kill(int(process), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="people"))  # short, since a socket's name has 107 bytes at most
    server = Postgres(folder)
    if server.account:
        shutil.chown(folder, server.account)
    server.make()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """A database of the server that nobody has been in."""
    with closing(open_database(postgres.url)) as database:
        yield database
        Base.metadata.drop_all(database.engine)


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def laws() -> dict[str, object]:
    """Every test of the store and of keys that takes a database, which is this one here."""
    tests = {**vars(test_store), **vars(test_keys)}
    return {
        name: test
        for name, test in tests.items()
        if name.startswith("test_") and "database" in inspect.signature(test).parameters
    }


globals().update(laws())


def kept(store: Store) -> list[str]:
    return [event.id for event in store.feedback("k", "ann")]


def test_the_laws_are_here() -> None:
    assert len(laws()) >= 20


def test_a_server_that_is_stopped_is_missed_at_once_and_found_again(store: Store, postgres: Postgres) -> None:
    store.add_feedback("k", "ann", CHOICE)
    postgres.stop()
    try:
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(StoreDown, match="see that it is there") as down:
                store.user("k", "ann")
            assert down.value.status == 503
        with pytest.raises(StoreDown):
            store.add_feedback("k", "ann", replace(CHOICE, id="lost"))
        with pytest.raises(StoreDown):
            Keys(store.database).any()
        assert time.monotonic() - began < 5
    finally:
        postgres.start()
    store.database.check()
    store.add_feedback("k", "ann", replace(CHOICE, id="after"))
    assert kept(store) == ["c", "after"]


def test_a_server_that_is_not_there_yet_is_reported(database: Database, postgres: Postgres) -> None:
    database.close()
    postgres.stop()
    try:
        with pytest.raises(StoreDown, match=r"postgresql\+psycopg://people@/postgres"):
            open_database(postgres.url)
    finally:
        postgres.start()
    open_database(postgres.url).close()


def test_what_was_acknowledged_outlives_the_death_of_the_server(store: Store, postgres: Postgres) -> None:
    with talker(postgres.url, "a", 10**6) as talking:
        assert talking.stdout is not None
        said = [talking.stdout.readline().strip() for _ in range(100)]
        postgres.kill()
        said += talking.stdout.read().split()
    postgres.start()
    assert talking.returncode == 3
    found = kept(store)
    assert found[: len(said)] == said
    assert len(found) - len(said) <= 1  # one may have been written, and not yet said
    assert store.add_feedback("k", "ann", replace(CHOICE, id=said[0])).choices == len(found)


def test_two_processes_write_at_once_and_lose_nothing(store: Store, postgres: Postgres) -> None:
    began = time.perf_counter()
    talkers = [talker(postgres.url, who, 200) for who in "ab"]
    said = {line for one in talkers for line in one.communicate()[0].split()}
    print(f"\ntwo processes, 200 choices each: {time.perf_counter() - began:.1f} s with the start of the processes")
    assert [one.returncode for one in talkers] == [0, 0]
    assert len(said) == 400
    assert set(kept(store)) == said


def test_processes_that_start_at_once_make_the_tables_once(database: Database, postgres: Postgres) -> None:
    Base.metadata.drop_all(database.engine)
    talkers = [talker(postgres.url, who, 1) for who in "abcd"]
    assert [one.communicate()[0].split() for one in talkers] == [["a-0"], ["b-0"], ["c-0"], ["d-0"]]
    assert sorted(kept(Store(database))) == ["a-0", "b-0", "c-0", "d-0"]


def test_tables_that_went_missing_are_reported(store: Store) -> None:
    Base.metadata.drop_all(store.database.engine)
    with pytest.raises(StoreDown, match='relation "counterpoint_users" does not exist'):
        store.user("k", "ann")


def test_a_database_of_another_layout_is_refused(database: Database, postgres: Postgres) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE counterpoint_layout SET layout = 2"))
    with pytest.raises(CounterpointError, match="has layout 2, this Counterpoint reads layout 1; use the newer"):
        open_database(postgres.url)


def test_one_who_writes_does_not_hold_up_those_who_read(store: Store) -> None:
    store.set_profile("k", "ann", TERSE)
    with store.database.writing() as session:
        session.execute(text("UPDATE counterpoint_users SET created = 0"))
        found = store.user("k", "ann")
        assert found is not None
        assert found.created > 0
    found = store.user("k", "ann")
    assert found is not None
    assert found.created == 0


def test_somebody_who_holds_a_person_for_long_is_waited_for_and_then_reported(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_S", 1)
    with closing(open_database(postgres.url)) as database:
        store = Store(database)
        store.set_profile("k", "ann", TERSE)
        with database.writing() as session:
            session.execute(text("UPDATE counterpoint_users SET created = 0"))
            with pytest.raises(StoreDown, match="lock timeout"):
                store.add_feedback("k", "ann", CHOICE)
            assert store.add_feedback("k", "bob", CHOICE).choices == 1
        assert store.add_feedback("k", "ann", CHOICE).choices == 1
        Base.metadata.drop_all(database.engine)


def test_how_long_a_call_takes(store: Store) -> None:
    store.set_profile("k", "ann", TERSE)
    began = time.perf_counter()
    for _ in range(300):
        store.user("k", "ann")
    middle = time.perf_counter()
    for i in range(300):
        store.add_feedback("k", "ann", replace(CHOICE, id=f"{i}"))
    ended = time.perf_counter()
    print(
        f"\nread a person: {(middle - began) / 300 * 1e3:.2f} ms; add a choice: {(ended - middle) / 300 * 1e3:.2f} ms"
    )
    assert store.feedback("k", "ann")[-1].id == "299"
