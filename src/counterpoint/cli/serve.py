"""`counterpoint serve`."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import AsJson, app, out, set_threads
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from counterpoint.decode.band import Band
    from counterpoint.serve.database import Database
    from counterpoint.serve.drain import Server
    from counterpoint.serve.settings import Resolved, Settings

T = TypeVar("T")
File = Annotated[
    Path | None, typer.Option("--settings", help="A TOML file of settings; flags and COUNTERPOINT_... win.")
]


@app.command()
def serve(
    context: typer.Context,
    band: Annotated[Path | None, typer.Argument(help="A band: a folder with band.json.")] = None,
    file: File = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at; 127.0.0.1 unless given.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 unless given; 0 takes a free one.")] = None,
    database: Annotated[str | None, typer.Option(help="People, keys, feedback: a file or postgresql://...")] = None,
    require_keys: Annotated[bool | None, typer.Option(help="Ask for an API key before one is made.")] = None,
    open: Annotated[bool | None, typer.Option(help="Let anybody who reaches the address ask.")] = None,
    method: Annotated[str | None, typer.Option(help="Of requests that name none; soup unless given.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of requests and people without one.")] = None,
    strict_users: Annotated[bool | None, typer.Option(help="Unknown users are an error.")] = None,
    bounds: Annotated[str | None, typer.Option(help='Besides the band\'s own: "harmless >= 0.3".')] = None,
    max_rows: Annotated[int | None, typer.Option(help="Rows of one forward; 64 unless given.")] = None,
    memory_gib: Annotated[float | None, typer.Option(help="For keys and values; 2 unless given.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer; 1024 unless given.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Of each API key; no limit unless given.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Of each API key; no limit unless given.")] = None,
    keep_texts: Annotated[bool | None, typer.Option(help="Keep prompts and answers with feedback.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; every core unless given.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    print_settings: Annotated[bool, typer.Option("--print-settings", help="Show all settings, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve a band to OpenAI's clients: a profile per request, or per person."""
    from counterpoint.serve.settings import Settings, read_settings

    flags = {name: value for name, value in context.params.items() if name in Settings.model_fields}
    resolved = read_settings(flags, file)
    if print_settings:
        show(resolved, as_json)
    elif band is None:
        raise CounterpointError("no band is named; give its folder, as in `counterpoint serve demo/band`")
    else:
        run(band, resolved.settings, as_json)


def run(folder: Path, settings: "Settings", as_json: bool) -> None:
    """Load a band and serve it until a signal ends it; what can be wrong is looked for before the model is loaded."""
    from counterpoint.models.band_file import read_band
    from counterpoint.serve.database import open_database
    from counterpoint.serve.keys import Keys
    from counterpoint.serve.logs import take_over
    from counterpoint.serve.start import address_of, bind, check_reach

    read_band(folder)
    with closing(open_database(settings.database)) as database:
        check_reach(settings, Keys(database))
        with bind(settings.host, settings.port) as taken:
            take_over(words=settings.log_prompts)
            app = apart(lambda: make_app(load(folder, settings), database, settings))
            told = {"url": address_of(taken), "band": str(folder), **apart(lambda: offered(app))}
            said = json.dumps(told) if as_json else as_lines(told)
            make_server(app, settings, lambda: print(said, flush=True)).run(sockets=[taken])


def apart(function: Callable[[], T]) -> T:
    """Run in a thread that ends, and with it the OpenMP threads that it made.

    OpenMP all but stops spinning where it has more threads than cores, which makes the engine's slower by a third.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def load(folder: Path, settings: "Settings") -> "Band":
    from counterpoint.decode.band import Band
    from counterpoint.models.load import parse_device, parse_dtype

    set_threads(settings.threads)
    with Console(stderr=True).status(f"loading {escape(str(folder))}"):
        return Band.load(folder, parse_dtype(settings.dtype), parse_device(settings.device))


def make_app(band: "Band", database: "Database", settings: "Settings") -> "FastAPI":
    from counterpoint.serve.app import create_app
    from counterpoint.serve.logs import make_log
    from counterpoint.serve.store import Store

    return create_app(band, Store(database, settings.keep_texts), settings, make_log(settings.log_level))


def make_server(app: "FastAPI", settings: "Settings", announce: Callable[[], None]) -> "Server":
    """A server that ends as the settings say, and leaves the log of requests to the application."""
    import uvicorn

    from counterpoint.serve.drain import Server

    beside = app.state.operations
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="on")
    return Server(config, beside.drain, settings.drain_s, announce, beside.reload_if_possible, beside.worker.stop)


def offered(app: "FastAPI") -> dict[str, Any]:
    """The base, the dimensions, and the methods that can serve them, which reads the band's controllers and gates."""
    from counterpoint.serve.playground import methods

    band = app.state.counterpoint.band
    served = [card.name for card in methods(band) if card.available]
    return {"base": band.file.base, "dimensions": list(band.dimensions), "methods": served}


def as_lines(told: dict[str, Any]) -> str:
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello!"}]}
    if told["dimensions"]:
        body["profile"] = told["dimensions"][0]
    return (
        f"{told['band']} (on {told['base']}) at {told['url']}: {', '.join(told['dimensions'])}; by "
        f"{', '.join(told['methods'])}\n"
        f"try: curl {told['url']}/v1/chat/completions --json '{json.dumps(body)}'"
    )


def show(resolved: "Resolved", as_json: bool) -> None:
    """All settings, and where each came from; the database without its password."""
    from counterpoint.serve.database import parse_url

    values = resolved.settings.model_dump()
    values["database"] = parse_url(values["database"]).render_as_string(hide_password=True)
    if as_json:
        print(json.dumps({"settings": values, "origins": resolved.origins}, indent=1))
        return
    table = Table("setting", "value", "from", box=None)
    for name, value in values.items():
        table.add_row(
            name, escape(json.dumps(value, ensure_ascii=False)), escape(resolved.origins.get(name, "default"))
        )
    out.print(table)
