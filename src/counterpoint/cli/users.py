"""`counterpoint users`: the people that a server keeps; see, export and delete what is stored of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import AsJson, app, out
from counterpoint.cli.keys import PEOPLE, AtDatabase, day, opened_database, print_json
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from counterpoint.serve.store import Store, Version

T = TypeVar("T")
users = typer.Typer(help="People that a server keeps: list, show, export, delete.", no_args_is_help=True)
app.add_typer(users, name="users")

Owner = Annotated[str, typer.Option(help="The name of the key whose people they are; local: of no key.")]
Person = Annotated[str, typer.Argument(metavar="USER", help="The person, as requests call them.")]
LOCAL = "local"


@users.command("list")
def list_users(
    owner: Owner = LOCAL,
    after: Annotated[str, typer.Option(help="The last name of the page before.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="People of a page.")] = 100,
    database: AtDatabase = PEOPLE,
    as_json: AsJson = False,
) -> None:
    """Show people by name, with the profile in force."""
    with people_of(database, owner) as (store, owner_id):
        found, more = store.users(owner_id, after, limit)
    if as_json:
        print_json({"data": [asdict(user) for user in found], "has_more": more})
        return
    table = Table("user", "profile", "method", "source", "updated", "versions", "choices", box=None)
    for user in found:
        table.add_row(escape(user.name), *map(escape, cells(user.current)), str(user.versions), str(user.choices))
    out.print(table if found else f"no people of {owner!r}; --owner names the key of others")
    if more:
        out.print(f"more: --after {found[-1].name!r}", markup=False, soft_wrap=True)


@users.command()
def show(user: Person, owner: Owner = LOCAL, database: AtDatabase = PEOPLE, as_json: AsJson = False) -> None:
    """Show one person and every version of their profile, newest first."""
    with people_of(database, owner) as (store, owner_id):
        found = checked(store.user(owner_id, user), user, owner)
        versions = store.history(owner_id, user) or []
    if as_json:
        print_json({**asdict(found), "history": [asdict(version) for version in versions]})
        return
    out.print(f"{found.name}: choices {found.choices}, versions {found.versions}", markup=False, soft_wrap=True)
    table = Table("profile", "method", "source", "set", box=None)
    for version in versions:
        table.add_row(*map(escape, cells(version)))
    out.print(table)


@users.command()
def export(
    user: Person,
    owner: Owner = LOCAL,
    to: Annotated[Path | None, typer.Option("--out", help="Write it here instead of printing it.")] = None,
    database: AtDatabase = PEOPLE,
) -> None:
    """Everything stored of one person, as JSON."""
    from counterpoint.artifacts import write_json

    with people_of(database, owner) as (store, owner_id):
        found = checked(store.export(owner_id, user), user, owner)
    if to is None:
        print_json(found)
    else:
        write_json(to, found)


@users.command()
def delete(
    user: Person,
    owner: Owner = LOCAL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    database: AtDatabase = PEOPLE,
    as_json: AsJson = False,
) -> None:
    """Remove everything stored of one person. It cannot be undone."""
    with people_of(database, owner) as (store, owner_id):
        found = checked(store.user(owner_id, user), user, owner)
        if not yes:
            typer.confirm(f"delete {user!r}: {found.versions} profiles, {found.choices} choices?", abort=True, err=True)
        store.delete(owner_id, user)
    if as_json:
        print_json({"deleted": True, "user": user})
        return
    out.print(f"deleted {user!r}", markup=False, soft_wrap=True)


@contextmanager
def people_of(database: str, owner: str) -> "Iterator[tuple[Store, str]]":
    """The store, and the id of an owner's key."""
    from counterpoint.serve.keys import Keys
    from counterpoint.serve.store import Store

    with opened_database(database) as found:
        yield Store(found), LOCAL if owner == LOCAL else Keys(found).named(owner).id


def checked(found: T | None, user: str, owner: str) -> T:
    if found is None:
        raise CounterpointError(f"{owner!r} has no user {user!r}; `counterpoint users list` shows them (see --owner)")
    return found


def cells(version: "Version | None") -> tuple[str, str, str, str]:
    """A profile as a table shows it; nothing for none."""
    from counterpoint.profiles import format_profile

    if version is None:
        return "", "", "", ""
    return format_profile(version.profile), version.method or "", version.source, day(version.created)
