"""People: their profiles with every version, and what they chose. Each method is one transaction."""

import math
import secrets
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import Row, Select, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from counterpoint.serve.database import Database
from counterpoint.serve.errors import Refused
from counterpoint.serve.tables import FeedbackRow, ProfileRow, UserRow
from counterpoint.types import CounterpointError, Profile

Source = Literal["set", "learned", "sentence"]
Kind = Literal["choice", "tie", "rating"]
Measure = Literal["rewards", "profiles"]

LONGEST_NAME = 256
INSERT: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Both know ON CONFLICT, each in its own module."""


@dataclass(frozen=True)
class Version:
    """A profile as it was at some time, and where it came from; `created` in seconds since 1970.

    The profile's strength counts where it is the version's `strength` alone.
    """

    profile: Profile
    method: str | None
    source: Source
    created: int

    @property
    def strength(self) -> float | None:
        """Of a profile that somebody set; choices and sentences tell directions alone."""
        return self.profile.strength if self.source == "set" else None


def strength_for(version: Version | None, method: str, strengths: Mapping[str, float]) -> float:
    """At which strength a method serves a person: their own, else what did best with it (`strengths`), else 1."""
    own = version.strength if version else None
    return strengths.get(method, 1.0) if own is None else own


@dataclass(frozen=True)
class User:
    """A person: the profile in force, if any, and how many versions and feedback events there are."""

    name: str
    created: int
    current: Version | None
    versions: int
    choices: int


@dataclass(frozen=True)
class Feedback:
    """A person chose one response over another, could not say, or rated one.

    `features` are rewards, or coefficients of the profile where there are no scorers (`measure`), by response and
    dimension: of "chosen" and "rejected" for a choice, "a" and "b" for a tie, "rated" for a rating.
    """

    id: str
    kind: Kind
    features: Mapping[str, Mapping[str, float]]
    measure: Measure = "rewards"
    rating: int | None = None
    completions: tuple[str, ...] = ()
    texts: Mapping[str, Any] | None = None
    created: int = 0


RESPONSES: Mapping[str, set[str]] = {"choice": {"chosen", "rejected"}, "tie": {"a", "b"}, "rating": {"rated"}}
RATINGS: Mapping[str, tuple[int | None, ...]] = {"choice": (None,), "tie": (None,), "rating": (1, 2, 3, 4, 5)}


def new_id() -> str:
    """An id for feedback that came without one."""
    return f"fb-{secrets.token_hex(12)}"


def check_user(name: str) -> None:
    """Raise CounterpointError for a name that could not be stored everywhere, printed on a line or said in a URL."""
    check_text("user", name)
    if name in (".", ".."):
        raise CounterpointError(f"user {name!r}: is a step in a path, so no URL can name it; choose another name")


def check_text(what: str, text: str) -> None:
    if not 1 <= len(text) <= LONGEST_NAME:
        raise CounterpointError(f"{what}: found {len(text)} characters, expected 1 to {LONGEST_NAME}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise CounterpointError(f"{what} {text!r}: has control characters or half a character; leave them out")


class Store:
    """People and their feedback in a database. `owner` is a key's id or "local", and sees its own people only.

    What a method of writing was told is on the disk when it returns. `texts` of feedback are dropped unless
    `keep_texts`. Every method raises `StoreDown` where the database is away, and CounterpointError for a name that
    `check_user` refuses.
    """

    def __init__(self, database: Database, keep_texts: bool = False) -> None:
        self.database = database
        self.keep_texts = keep_texts

    def user(self, owner: str, name: str) -> User | None:
        """A person; None for one that is unknown or another owner's."""
        check_user(name)
        with self.database.reading() as session:
            found = session.execute(_described(owner).where(UserRow.name == name)).one_or_none()
            return None if found is None else _as_user(found)

    def users(self, owner: str, after: str = "", limit: int = 100) -> tuple[list[User], bool]:
        """The next people by name, and whether there are more."""
        if after:
            check_user(after)
        with self.database.reading() as session:
            page = _described(owner).where(UserRow.name > after).order_by(UserRow.name)
            rows = session.execute(page.limit(limit + 1)).all()
            return [_as_user(row) for row in rows[:limit]], len(rows) > limit

    def set_profile(
        self, owner: str, name: str, profile: Profile, source: Source = "set", method: str | None = None
    ) -> User:
        """Add a version of a person's profile, which is in force from now on; the person is made where unknown."""
        check_user(name)
        with self.database.writing() as session:
            row = ProfileRow(
                user_id=self._made(session, owner, name),
                weights=dict(profile.weights),
                strength=profile.strength,
                method=method,
                source=source,
                created=_now(),
            )
            session.add(row)
            session.flush()
            return _described_by_id(session, owner, row.user_id)

    def history(self, owner: str, name: str) -> list[Version] | None:
        """All versions of a profile, newest first; None for an unknown person."""
        check_user(name)
        with self.database.reading() as session:
            user = _row(session, owner, name)
            return None if user is None else [_as_version(row) for row in _profiles(session, user)]

    def add_feedback(self, owner: str, name: str, feedback: Feedback) -> User:
        """Keep a choice, a tie or a rating; the person is made where unknown.

        An id that is there already changes nothing, so that a client may repeat what it is not sure of. Raises
        `Refused` (409) where that id said something else, CounterpointError for features that are none.
        """
        check_user(name)
        _check_feedback(feedback)
        with self.database.writing() as session:
            user_id = self._made(session, owner, name)
            said = select(FeedbackRow).where(FeedbackRow.user_id == user_id, FeedbackRow.event == feedback.id)
            before = session.scalar(said)
            if before is None:
                session.add(_feedback_row(user_id, feedback, self.keep_texts))
                session.flush()
            elif _gist(_as_feedback(before)) != _gist(feedback):
                raise Refused(f"feedback {feedback.id!r}: was given before and said something else", 409, param="id")
            return _described_by_id(session, owner, user_id)

    def feedback(self, owner: str, name: str) -> list[Feedback]:
        """What a person said, oldest first; nothing for an unknown one."""
        check_user(name)
        with self.database.reading() as session:
            user = _row(session, owner, name)
            return [] if user is None else [_as_feedback(row) for row in _events(session, user)]

    def export(self, owner: str, name: str) -> dict[str, Any] | None:
        """Everything stored of a person, as JSON; None for an unknown one."""
        check_user(name)
        with self.database.reading() as session:
            user = _row(session, owner, name)
            if user is None:
                return None
            return {
                **_columns(user),
                "profiles": [_columns(row) for row in _profiles(session, user)],
                "feedback": [_columns(row) for row in _events(session, user)],
            }

    def delete(self, owner: str, name: str) -> bool:
        """Remove all that is stored of a person; whether there was anything.

        SQLite overwrites it with zeros, in its log of changes too. PostgreSQL's files hold it until the next VACUUM.
        """
        check_user(name)
        with self.database.writing() as session:
            gone = delete(UserRow).where(UserRow.owner == owner, UserRow.name == name).returning(UserRow.id)
            found = session.scalar(gone) is not None
        self.database.wipe()
        return found

    def _made(self, session: Session, owner: str, name: str) -> int:
        """The id of a person's row, made where it was missing, and locked until the transaction ends."""
        insert = INSERT[self.database.dialect](UserRow).values(owner=owner, name=name, created=_now())
        made = insert.on_conflict_do_update(index_elements=["owner", "name"], set_={"name": name})
        made_id: int = session.execute(made.returning(UserRow.id)).scalar_one()
        return made_id


def _described(owner: str) -> Select[UserRow, ProfileRow, int, int]:
    """An owner's people with the profile in force (or None), and how many versions and feedback events there are."""
    versions = select(func.count(ProfileRow.id)).where(ProfileRow.user_id == UserRow.id).correlate(UserRow)
    choices = select(func.count(FeedbackRow.id)).where(FeedbackRow.user_id == UserRow.id).correlate(UserRow)
    latest = select(func.max(ProfileRow.id)).where(ProfileRow.user_id == UserRow.id).correlate(UserRow)
    counts = versions.scalar_subquery(), choices.scalar_subquery()
    people = select(UserRow, ProfileRow, *counts).outerjoin(ProfileRow, ProfileRow.id == latest.scalar_subquery())
    return people.where(UserRow.owner == owner)


def _described_by_id(session: Session, owner: str, user_id: int) -> User:
    return _as_user(session.execute(_described(owner).where(UserRow.id == user_id)).one())


def _row(session: Session, owner: str, name: str) -> UserRow | None:
    return session.scalar(select(UserRow).where(UserRow.owner == owner, UserRow.name == name))


def _profiles(session: Session, user: UserRow) -> Sequence[ProfileRow]:
    """Newest first."""
    return session.scalars(select(ProfileRow).where(ProfileRow.user_id == user.id).order_by(ProfileRow.id.desc())).all()


def _events(session: Session, user: UserRow) -> Sequence[FeedbackRow]:
    """Oldest first."""
    return session.scalars(select(FeedbackRow).where(FeedbackRow.user_id == user.id).order_by(FeedbackRow.id)).all()


def _as_user(found: Row[UserRow, ProfileRow | None, int, int]) -> User:
    row, current, versions, choices = found
    return User(row.name, row.created, None if current is None else _as_version(current), versions, choices)


def _as_version(row: ProfileRow) -> Version:
    return Version(Profile(row.weights, row.strength), row.method, cast(Source, row.source), row.created)


def _as_feedback(row: FeedbackRow) -> Feedback:
    return Feedback(
        row.event,
        cast(Kind, row.kind),
        row.features,
        cast(Measure, row.measure),
        row.rating,
        tuple(row.completions),
        row.texts,
        row.created,
    )


def _feedback_row(user_id: int, feedback: Feedback, keep_texts: bool) -> FeedbackRow:
    return FeedbackRow(
        user_id=user_id,
        event=feedback.id,
        kind=feedback.kind,
        features={response: dict(rewards) for response, rewards in feedback.features.items()},
        measure=feedback.measure,
        rating=feedback.rating,
        completions=list(feedback.completions),
        texts=dict(feedback.texts) if feedback.texts and keep_texts else None,
        created=_now(),
    )


def _gist(feedback: Feedback) -> tuple[object, ...]:
    """What two reports of the same event have in common; rewards may differ in their last digits."""
    return feedback.kind, feedback.rating, feedback.completions


def _check_feedback(feedback: Feedback) -> None:
    check_text("feedback id", feedback.id)
    if set(feedback.features) != RESPONSES[feedback.kind]:
        raise CounterpointError(
            f"feedback of kind {feedback.kind!r}: found features of {sorted(feedback.features)}, expected "
            f"{sorted(RESPONSES[feedback.kind])}"
        )
    if feedback.rating not in RATINGS[feedback.kind]:
        raise CounterpointError(
            f"feedback of kind {feedback.kind!r}: found the rating {feedback.rating}, expected one of "
            f"{RATINGS[feedback.kind]}"
        )
    for response, rewards in feedback.features.items():
        for dimension, reward in rewards.items():
            if not math.isfinite(reward):
                raise CounterpointError(f"feedback: {response}, {dimension}: found {reward}, expected a finite number")


def _columns(row: UserRow | ProfileRow | FeedbackRow) -> dict[str, Any]:
    """A row by the names of its columns, but for the ids that tie it to others."""
    return {
        column.key: getattr(row, column.key)
        for column in row.__mapper__.column_attrs
        if column.key not in ("id", "user_id")
    }


def _now() -> int:
    return int(time.time())
