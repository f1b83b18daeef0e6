"""The tables of people, their profiles and feedback, and of API keys. Times are seconds since 1970."""

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

LAYOUT = 1
"""Raised by one whenever a table changes; a database of another layout is refused."""

Name = String(256).with_variant(String(256, "C"), "postgresql")
"""Compared and sorted by code point in every database, whatever its language."""


class Base(DeclarativeBase):
    """All tables. Whole numbers have 64 bits; SQLite's always do, and count rows up only as INTEGER."""

    type_annotation_map: ClassVar[dict[type, Any]] = {int: BigInteger().with_variant(Integer, "sqlite")}


class LayoutRow(Base):
    """One row: which layout the database has."""

    __tablename__ = "counterpoint_layout"

    layout: Mapped[int] = mapped_column(primary_key=True)


class KeyRow(Base):
    """An API key, of which only a hash is kept."""

    __tablename__ = "counterpoint_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    admin: Mapped[bool]
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    created: Mapped[int]
    revoked: Mapped[int | None]


class UserRow(Base):
    """A person, as the owner of a key calls them. `owner` is no foreign key: "local" has no key."""

    __tablename__ = "counterpoint_users"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    name: Mapped[str] = mapped_column(Name)
    created: Mapped[int]


class ProfileRow(Base):
    """One version of a person's profile; the one with the highest id is in force."""

    __tablename__ = "counterpoint_profiles"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(UserRow.id, ondelete="CASCADE"), index=True)
    weights: Mapped[dict[str, float]] = mapped_column(JSON)
    strength: Mapped[float]
    method: Mapped[str | None]
    source: Mapped[str]
    created: Mapped[int]


class FeedbackRow(Base):
    """One choice, tie or rating. `event` is the client's id, so that saying it twice counts once."""

    __tablename__ = "counterpoint_feedback"
    __table_args__ = (UniqueConstraint("user_id", "event"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(UserRow.id, ondelete="CASCADE"), index=True)
    event: Mapped[str] = mapped_column(Name)
    kind: Mapped[str]
    features: Mapped[dict[str, dict[str, float]]] = mapped_column(JSON)
    measure: Mapped[str]
    rating: Mapped[int | None]
    completions: Mapped[list[str]] = mapped_column(JSON)
    texts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created: Mapped[int]
