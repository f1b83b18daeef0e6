"""`counterpoint keys`: who may ask a server. A secret is shown once, since only its hash is stored."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import AsJson, app, out

if TYPE_CHECKING:
    from counterpoint.serve.database import Database
    from counterpoint.serve.keys import Key, Keys

keys = typer.Typer(help="API keys of a server: add, list, renew, revoke.", no_args_is_help=True)
app.add_typer(keys, name="keys")

DATABASE = "The server's database: sqlite:///FILE, a file, or postgresql://USER:PASSWORD@HOST/NAME."
AtDatabase = Annotated[str, typer.Option("--database", envvar="COUNTERPOINT_DATABASE", help=DATABASE)]
PEOPLE = "sqlite:///people.db"

Rate = Annotated[int | None, typer.Option(min=0, help="0: no limit; not given: as the server has it.")]
Name = Annotated[str, typer.Argument(help="The key's name, for people.")]


@keys.command()
def add(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="May also reload the band.")] = False,
    requests_per_minute: Rate = None,
    tokens_per_minute: Rate = None,
    database: AtDatabase = PEOPLE,
    as_json: AsJson = False,
) -> None:
    """Make a key and show its secret, this once. A server that has a key serves nobody without one."""
    with opened_keys(database, make=True) as found:
        print_secret(*found.add(name, admin, requests_per_minute, tokens_per_minute), as_json)


@keys.command()
def renew(name: Name, database: AtDatabase = PEOPLE, as_json: AsJson = False) -> None:
    """Give a key a new secret, also a revoked one. The old one ends, on a server that runs within ten seconds.

    The key's people stay.
    """
    with opened_keys(database) as found:
        print_secret(*found.renew(name), as_json)


@keys.command()
def revoke(name: Name, database: AtDatabase = PEOPLE, as_json: AsJson = False) -> None:
    """End a key, on a server that runs within ten seconds.

    Its people stay stored; `counterpoint users` exports and deletes them.
    """
    with opened_keys(database) as found:
        key = found.revoke(name)
    if as_json:
        print_json(asdict(key))
        return
    out.print(f"revoked key {key.name!r}; its people stay stored", markup=False, soft_wrap=True)


@keys.command("list")
def list_keys(database: AtDatabase = PEOPLE, as_json: AsJson = False) -> None:
    """Show the keys, without their secrets."""
    with opened_keys(database) as found:
        rows = found.all()
    if as_json:
        print_json([asdict(key) for key in rows])
        return
    table = Table("name", "made", "revoked", "admin", "requests/min", "tokens/min", box=None)
    for key in rows:
        about = day(key.created), day(key.revoked), "yes" if key.admin else ""
        table.add_row(escape(key.name), *about, rate(key.requests_per_minute), rate(key.tokens_per_minute))
    out.print(table if rows else "no keys: the server asks for none")


@contextmanager
def opened_database(url: str, make: bool = False) -> "Iterator[Database]":
    from counterpoint.serve.database import open_database

    database = open_database(url, make)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def opened_keys(url: str, make: bool = False) -> "Iterator[Keys]":
    from counterpoint.serve.keys import Keys

    with opened_database(url, make) as database:
        yield Keys(database)


def print_secret(key: "Key", secret: str, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(key), "secret": secret})
        return
    out.print(f"key {key.name!r} ({key.id}); it is shown this once:", markup=False, soft_wrap=True)
    out.print(secret, markup=False, soft_wrap=True)


def day(seconds: int | None) -> str:
    """A date in UTC, nothing for none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def rate(allowed: int | None) -> str:
    return "server's" if allowed is None else str(allowed or "no limit")


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))
