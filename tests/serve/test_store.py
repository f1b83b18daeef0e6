"""People are kept as they were told. Tests that take a `database` hold for PostgreSQL too (`tests_postgres`)."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from counterpoint.serve.database import Database, open_database
from counterpoint.serve.errors import Refused
from counterpoint.serve.store import Feedback, Kind, Store, new_id
from counterpoint.types import CounterpointError, Profile

TERSE = Profile({"terse": 1.0, "warm": 0.1 + 0.2}, 1.3)
WARM = Profile({"warm": 2.0})
CHOICE = Feedback("c1", "choice", {"chosen": {"terse": 0.1}, "rejected": {"terse": -0.7}}, completions=("x", "y"))
TIE = Feedback("t1", "tie", {"a": {"terse": 0.5}, "b": {"terse": 0.6}}, measure="profiles")
RATING = Feedback("r1", "rating", {"rated": {"terse": 1e-9}}, rating=4)
ODD = ("zoë ☂ 猫", "a/b?c#d%2F", "auth0|17", "'; DROP TABLE users; --", "  ", "x" * 256, "🦉" * 256, "%_\\")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'people.db'}")
    yield database
    database.close()


def test_a_profile_is_read_as_it_was_set(database: Database) -> None:
    store = Store(database)
    assert store.user("k", "ann") is None
    told = store.set_profile("k", "ann", TERSE, method="moe")
    assert told == store.user("k", "ann")
    assert told.current is not None
    assert (told.current.profile, told.current.method, told.current.source) == (TERSE, "moe", "set")
    assert (told.name, told.versions, told.choices) == ("ann", 1, 0)


def test_the_last_profile_is_in_force_and_the_others_stay(database: Database) -> None:
    store = Store(database)
    store.set_profile("k", "ann", TERSE, method="moe")
    store.set_profile("k", "bob", TERSE)
    now = store.set_profile("k", "ann", WARM, "learned")
    versions = store.history("k", "ann")
    assert versions is not None
    assert [(v.profile, v.source, v.method) for v in versions] == [(WARM, "learned", None), (TERSE, "set", "moe")]
    assert now.current == versions[0]
    assert now.versions == 2
    assert store.history("k", "nobody") is None


def test_a_weight_of_a_profile_keeps_every_digit(database: Database) -> None:
    store = Store(database)
    weights = {"a": 1e-300, "b": 1 / 3, "c": 1.7976931348623157e308, "d": 5e-324, "e": 0.0}
    found = store.set_profile("k", "ann", Profile(weights, 2 / 3)).current
    assert found is not None
    assert found.profile == Profile(weights, 2 / 3)
    assert list(found.profile.weights) == list(weights)


def test_an_owner_sees_their_own_people_only(database: Database) -> None:
    store = Store(database)
    store.set_profile("mine", "ann", TERSE)
    store.set_profile("theirs", "ann", WARM)
    store.add_feedback("mine", "ann", CHOICE)
    theirs = store.user("theirs", "ann")
    assert theirs is not None
    assert theirs.current is not None
    assert (theirs.current.profile, theirs.versions, theirs.choices) == (WARM, 1, 0)
    assert store.feedback("theirs", "ann") == []
    assert store.user("other", "ann") is None
    assert store.history("other", "ann") is None
    assert store.export("other", "ann") is None
    assert not store.delete("other", "ann")
    assert store.users("other") == ([], False)
    assert [user.name for user in store.users("mine")[0]] == ["ann"]


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_printed_characters_is_a_name(database: Database, name: str) -> None:
    store = Store(database)
    store.set_profile("k", name, TERSE)
    found = store.user("k", name)
    assert found is not None
    assert found.name == name
    assert [user.name for user in store.users("k")[0]] == [name]
    assert store.delete("k", name)


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "a\x00", "\x7f", "\ud800", ".", ".."])
def test_other_names_are_refused_everywhere(database: Database, name: str) -> None:
    store = Store(database)
    for call in (
        lambda: store.user("k", name),
        lambda: store.set_profile("k", name, TERSE),
        lambda: store.history("k", name),
        lambda: store.add_feedback("k", name, CHOICE),
        lambda: store.feedback("k", name),
        lambda: store.export("k", name),
        lambda: store.delete("k", name),
    ):
        with pytest.raises(CounterpointError, match="user"):
            call()
    assert store.users("k") == ([], False)


def test_names_that_look_alike_are_not_the_same(database: Database) -> None:
    store = Store(database)
    names = ["Ann", "ann", "ann ", "zoe\u0308", "zoë"]
    for name in names:
        store.set_profile("k", name, TERSE)
    assert [user.name for user in store.users("k")[0]] == sorted(names)


def test_pages_hold_everybody_once_in_the_order_of_code_points(database: Database) -> None:
    store = Store(database)
    names = ["b", "B", "ä", "a", "_", "🦉", "10", "9", "z"]
    for name in names:
        store.set_profile("k", name, TERSE)
    seen, after, more = [], "", True
    while more:
        page, more = store.users("k", after, 4)
        seen += [user.name for user in page]
        after = seen[-1]
        assert len(page) == 4 or not more
    assert seen == sorted(names)
    assert store.users("k", limit=9)[1] is False


def test_feedback_comes_back_in_the_order_it_was_given(database: Database) -> None:
    store = Store(database)
    for event in (CHOICE, TIE, RATING):
        told = store.add_feedback("k", "ann", event)
    assert (told.choices, told.current, told.versions) == (3, None, 0)
    found = store.feedback("k", "ann")
    assert [replace(event, created=0) for event in found] == [CHOICE, TIE, RATING]
    assert store.feedback("k", "bob") == []


def test_feedback_that_is_repeated_counts_once(database: Database) -> None:
    store = Store(database)
    store.add_feedback("k", "ann", CHOICE)
    nearly = {"chosen": {"terse": 0.1000001}, "rejected": {"terse": -0.7}}
    assert store.add_feedback("k", "ann", replace(CHOICE, features=nearly)).choices == 1
    assert store.feedback("k", "ann")[0].features == CHOICE.features
    assert store.add_feedback("k", "bob", CHOICE).choices == 1
    for other in (replace(RATING, id="c1"), replace(TIE, id="c1"), replace(CHOICE, completions=("y", "x"))):
        with pytest.raises(Refused, match="'c1': was given before and said something else") as refused:
            store.add_feedback("k", "ann", other)
        assert refused.value.status == 409
    assert len(store.feedback("k", "ann")) == 1


def test_ids_that_are_made_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("kind", "features", "rating", "said"),
    [
        ("choice", {"chosen": {"terse": 1.0}}, None, r"found features of \['chosen'\], expected \['chosen', 'reje"),
        ("rating", {"rated": {"terse": 1.0}}, None, "found the rating None"),
        ("rating", {"rated": {"terse": 1.0}}, 6, "found the rating 6"),
        ("tie", {"a": {}, "b": {}}, 3, "found the rating 3"),
        ("tie", {"a": {"terse": float("nan")}, "b": {"terse": 1.0}}, None, "a, terse: found nan"),
    ],
)
def test_feedback_that_says_nothing_is_refused(
    database: Database, kind: Kind, features: dict[str, dict[str, float]], rating: int | None, said: str
) -> None:
    store = Store(database)
    with pytest.raises(CounterpointError, match=said):
        store.add_feedback("k", "ann", Feedback("f", kind, features, rating=rating))
    assert store.user("k", "ann") is None


def test_texts_are_kept_only_where_the_operator_says_so(database: Database) -> None:
    said = replace(CHOICE, texts={"prompt": "Say ☂.", "chosen": "☂", "odd": "\x00\ud800"})
    Store(database).add_feedback("k", "ann", said)
    Store(database, keep_texts=True).add_feedback("k", "ann", replace(said, id="c2"))
    assert [event.texts for event in Store(database).feedback("k", "ann")] == [None, said.texts]


def test_an_export_is_all_there_is_and_nothing_of_others(database: Database) -> None:
    store = Store(database, keep_texts=True)
    for name in ("ann", "bob"):
        store.set_profile("k", name, TERSE, "sentence", "moe")
        store.add_feedback("k", name, replace(RATING, texts={"prompt": f"I am {name}."}))
    found = store.export("k", "ann")
    assert found is not None
    created = found["created"]
    assert found == {
        "owner": "k",
        "name": "ann",
        "created": created,
        "profiles": [
            {"weights": TERSE.weights, "strength": 1.3, "method": "moe", "source": "sentence", "created": created}
        ],
        "feedback": [
            {"event": "r1", "kind": "rating", "features": {"rated": {"terse": 1e-9}}, "measure": "rewards", "rating": 4,
             "completions": [], "texts": {"prompt": "I am ann."}, "created": created}
        ],
    }  # fmt: skip


def test_of_a_person_who_is_deleted_nothing_is_left(database: Database) -> None:
    store = Store(database)
    for name in ("ann", "bob"):
        store.set_profile("k", name, TERSE)
        store.add_feedback("k", name, CHOICE)
    assert store.delete("k", "ann")
    assert not store.delete("k", "ann")
    assert store.user("k", "ann") is None
    assert store.export("k", "ann") is None
    bob = store.user("k", "bob")
    assert bob is not None
    assert (bob.versions, bob.choices) == (1, 1)
    again = store.set_profile("k", "ann", WARM)
    assert (again.versions, again.choices) == (1, 0)


def test_many_threads_make_one_person_and_lose_nothing(database: Database) -> None:
    store = Store(database)

    def say(thread: int) -> None:
        for i in range(10):
            store.add_feedback("k", "ann", replace(CHOICE, id=f"{thread}-{i}"))
            store.set_profile("k", "ann", WARM, "learned")

    threads = [threading.Thread(target=say, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.user("k", "ann")
    assert found is not None
    assert (found.choices, found.versions) == (80, 80)
    assert len(store.users("k")[0]) == 1
