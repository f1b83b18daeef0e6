"""What is said to be kept is kept, whatever happens to the process or the file; a file that was away is found again."""

import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from counterpoint.serve import database as module
from counterpoint.serve.database import Database, StoreDown, open_database
from counterpoint.serve.store import Feedback, Store
from counterpoint.types import CounterpointError, Profile

CHOICE = Feedback("c", "choice", {"chosen": {"terse": 0.1}, "rejected": {"terse": -0.7}})

TALKER = """
import sys
from counterpoint.serve.database import StoreDown, open_database
from counterpoint.serve.store import Feedback, Store

store, who, events = Store(open_database(sys.argv[1])), sys.argv[2], int(sys.argv[3])
features = {"chosen": {"terse": 0.1}, "rejected": {"terse": -0.7}}
for i in range(events):
    try:
        store.add_feedback("k", "ann", Feedback(f"{who}-{i}", "choice", features))
    except StoreDown:
        sys.exit(3)
    print(f"{who}-{i}", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(open_database(str(path))) as database:
        yield Store(database)


def talker(database: Path | str, who: str, events: int) -> "subprocess.Popen[str]":
    """A process that gives feedback, says each id once it was acknowledged, and exits with 3 where it is not."""
    arguments = [sys.executable, "-c", TALKER, str(database), who, str(events)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def kept(store: Store) -> list[str]:
    return [event.id for event in store.feedback("k", "ann")]


def test_two_processes_write_at_once_and_lose_nothing(store: Store, path: Path) -> None:
    talkers = [talker(path, who, 60) for who in "ab"]
    said = {line for one in talkers for line in one.communicate()[0].split()}
    assert [one.returncode for one in talkers] == [0, 0]
    assert len(said) == 120
    assert set(kept(store)) == said


def test_what_was_acknowledged_outlives_a_kill(store: Store, path: Path) -> None:
    with talker(path, "a", 10**6) as talking:
        assert talking.stdout is not None
        said = [talking.stdout.readline().strip() for _ in range(40)]
        talking.send_signal(signal.SIGKILL)
        said += talking.stdout.read().split()
    found = kept(store)
    assert talking.returncode == -signal.SIGKILL
    assert found[: len(said)] == said
    assert len(found) - len(said) <= 1  # one may have been written, and not yet said
    assert store.add_feedback("k", "ann", replace(CHOICE, id=said[0])).choices == len(found)


def test_a_commit_waits_for_the_disk_and_people_are_nobodys_business(store: Store, path: Path) -> None:
    with store.database.reading() as session:
        found = {
            pragma: session.scalar(text(f"PRAGMA {pragma}"))
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    assert [file.stat().st_mode & 0o777 for file in path.parent.iterdir()] == [0o600] * 3


def test_of_a_person_who_is_deleted_the_files_hold_no_byte(store: Store, path: Path) -> None:
    texts = {"prompt": "My name is Ann Xylophone. " * 400}
    keeping = Store(store.database, keep_texts=True)
    for name in ("xylophone", "bob"):
        keeping.set_profile("k", name, Profile({"terse": 1.0}))
        keeping.add_feedback("k", name, replace(CHOICE, id=f"of-{name}", texts=texts if name != "bob" else None))
    assert b"xylophone" in on_disk(path).lower()
    keeping.delete("k", "xylophone")
    assert b"xylophone" not in on_disk(path).lower()
    assert b"of-bob" in on_disk(path)


def on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """A full disk, for what this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_it_says_so_and_what_was_kept_stays(store: Store, path: Path) -> None:
    store.add_feedback("k", "ann", replace(CHOICE, id="before"))
    log = path.with_name("people.db-wal")
    with no_file_grows_beyond(log.stat().st_size), pytest.raises(StoreDown, match=r"has room") as down:
        store.add_feedback("k", "ann", replace(CHOICE, id="lost"))
    assert (down.value.status, down.value.retry_after) == (503, module.RETRY_S)
    assert kept(store) == ["before"]
    store.add_feedback("k", "ann", replace(CHOICE, id="after"))
    assert kept(store) == ["before", "after"]


def test_a_database_that_reached_its_size_says_that_it_is_full(store: Store) -> None:
    with store.database.reading() as session:
        pages = session.scalar(text("PRAGMA page_count"))
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
    keeping = Store(store.database, keep_texts=True)
    with pytest.raises(StoreDown, match="database or disk is full"):
        keeping.add_feedback("k", "ann", replace(CHOICE, texts={"prompt": "x" * 10**6}))
    assert store.user("k", "ann") is None


def test_a_file_that_is_taken_away_is_missed_at_once_and_found_again(store: Store, path: Path) -> None:
    store.add_feedback("k", "ann", CHOICE)
    path.rename(path.with_name("elsewhere"))
    for call in (lambda: kept(store), lambda: store.add_feedback("k", "ann", replace(CHOICE, id="lost"))):
        with pytest.raises(StoreDown, match="unable to open database file; see that it is there"):
            call()
    with pytest.raises(StoreDown):
        store.database.check()
    assert not path.exists()
    path.with_name("elsewhere").rename(path)
    store.database.check()
    store.add_feedback("k", "ann", replace(CHOICE, id="after"))
    assert kept(store) == ["c", "after"]


def test_a_copy_that_takes_the_files_place_is_what_is_read(store: Store, path: Path) -> None:
    store.add_feedback("k", "ann", CHOICE)
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        old.backup(copy)
    store.add_feedback("k", "ann", replace(CHOICE, id="after the copy"))
    assert len(kept(store)) == 2
    path.with_name("copy").rename(path)
    for rest in ("people.db-wal", "people.db-shm"):
        path.with_name(rest).unlink(missing_ok=True)
    assert kept(store) == ["c"]


def test_a_file_that_may_not_be_written_can_still_be_read(store: Store) -> None:
    store.add_feedback("k", "ann", CHOICE)
    only_read(store.database, True)
    with pytest.raises(StoreDown, match=r"attempt to write a readonly database; .* may be written"):
        store.add_feedback("k", "ann", replace(CHOICE, id="lost"))
    assert kept(store) == ["c"]
    only_read(store.database, False)
    assert store.add_feedback("k", "ann", replace(CHOICE, id="after")).choices == 2


def only_read(database: Database, on: bool) -> None:
    """What a change of the file's mode does, and would not do to root."""
    with database.reading() as session:
        session.execute(text(f"PRAGMA query_only = {'ON' if on else 'OFF'}"))


def test_somebody_who_writes_for_long_is_waited_for_and_then_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.1)
    with closing(open_database(str(path))) as database, closing(sqlite3.connect(path)) as other:
        store = Store(database)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreDown, match="database is locked"):
            store.add_feedback("k", "ann", CHOICE)
        assert kept(store) == []
        other.rollback()
        assert store.add_feedback("k", "ann", CHOICE).choices == 1


def test_nobody_writes_between_what_a_writer_reads_and_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.1)
    with closing(open_database(str(path))) as one, closing(open_database(str(path))) as other:
        with one.writing() as session:
            assert session.scalar(text("SELECT count(*) FROM counterpoint_users")) == 0
            with pytest.raises(StoreDown, match="database is locked"):
                Store(other).add_feedback("k", "ann", CHOICE)
            session.execute(text("DELETE FROM counterpoint_users"))
        assert Store(other).add_feedback("k", "ann", CHOICE).choices == 1


def test_a_file_that_was_overwritten_is_reported(store: Store, path: Path) -> None:
    store.database.close()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreDown, match="file is not a database"):
        kept(store)
    with pytest.raises(StoreDown, match="file is not a database"):
        open_database(str(path))


@pytest.mark.parametrize(("layout", "word"), [(0, "older"), (2, "newer")])
def test_a_database_of_another_layout_is_refused(path: Path, layout: int, word: str) -> None:
    open_database(str(path)).close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE counterpoint_layout SET layout = ?", (layout,))
        other.execute("DROP TABLE counterpoint_keys")
    with pytest.raises(CounterpointError, match=f"has layout {layout}, .* reads layout 1; use the {word} version"):
        open_database(str(path))
    with closing(sqlite3.connect(path)) as other:
        assert "counterpoint_keys" not in [name for (name,) in other.execute("SELECT name FROM sqlite_master")]


def test_tables_of_others_stay_as_they_are(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE users (name TEXT)")
        other.execute("INSERT INTO users VALUES ('somebody')")
    with closing(open_database(str(path))) as database:
        Store(database).set_profile("k", "ann", Profile({"terse": 1.0}))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT * FROM users").fetchall() == [("somebody",)]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root:secret@host/db", r"mysql://root:\*\*\*@host/db: expected sqlite:///FILE or postgresql://"),
        ("what://", "expected sqlite:///FILE"),
        ("post gres://user:secret@host", "cannot be read"),
        ("sqlite://", "names no file"),
        (":memory:", "names no file"),
        ("", "names no file"),
    ],
)
def test_other_addresses_are_refused_and_no_password_is_said(url: str, said: str) -> None:
    with pytest.raises(CounterpointError, match=said) as refused:
        open_database(url)
    assert "secret" not in str(refused.value)


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CounterpointError, match="is a file, not a folder"):
        open_database(f"sqlite:///{tmp_path / 'file' / 'people.db'}")
    with pytest.raises(CounterpointError, match="Is a directory"):
        open_database(str(tmp_path))
    with pytest.raises(CounterpointError, match="there is no such file"):
        open_database(str(tmp_path / "people.db"), make=False)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StoreDown, match=r"postgresql\+psycopg://ann:\*\*\*@127.0.0.1:1/people: .*refused") as down:
        open_database("postgres://ann:secret@127.0.0.1:1/people")
    assert "secret" not in str(down.value)


def test_without_its_driver_postgresql_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(CounterpointError, match=r"ann:\*\*\*@host/people: .*pip install 'counterpoint\[postgres\]'"):
        open_database("postgresql://ann:secret@host/people")
