"""`counterpoint add`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterpoint.cli.app import AsJson, app, out

if TYPE_CHECKING:
    from counterpoint.models.assemble import Added
    from counterpoint.models.band_file import EndpointEntry, ExpertEntry
    from counterpoint.types import Dimension

EXPERT = (
    "A PEFT LoRA adapter's folder, a whole model's folder or hub id, or with --remote-model a server's address, as in "
    "http://host:8000/v1."
)


@app.command()
def add(
    band: Annotated[Path, typer.Argument(help="A band; where there is none, one is started.")],
    expert: Annotated[str, typer.Argument(help=EXPERT)],
    dimension: Annotated[str, typer.Option(help="What it is an expert for, such as concise.")],
    name: Annotated[str | None, typer.Option(help="The expert's name; without it, the dimension's.")] = None,
    description: Annotated[str, typer.Option(help="What the dimension gives, for people.")] = "",
    request: Annotated[str, typer.Option(help='How one asks for it in words: "Please be brief."')] = "",
    base: Annotated[str | None, typer.Option(help="A new band's base; else the one that the adapter names.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of one of that name.")] = False,
    remote_model: Annotated[str | None, typer.Option(help="The model's name on an OpenAI-compatible server.")] = None,
    top: Annotated[str | None, typer.Option(help="How many likely tokens to ask of it (default 20), or all.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The environment variable that holds its key.")] = None,
    on_failure: Annotated[str | None, typer.Option(help="If it does not answer: fail (default), or drop it.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for an answer (default 60).")] = None,
    trust_tokenizer: Annotated[
        bool, typer.Option("--trust-tokenizer", help="Take its token ids to be the base's without proof.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Ask the server whether it can be used.")] = True,
    as_json: AsJson = False,
) -> None:
    """Put an adapter, a whole model or a model on a server into a band, if it fits; start the band if need be."""
    from counterpoint.models.assemble import add as add_to
    from counterpoint.models.band_file import parse_endpoint
    from counterpoint.types import CounterpointError, Dimension

    wanted = Dimension(dimension, description, request)
    options = {"top": parse_top(top), "api_key_env": api_key_env, "on_failure": on_failure, "timeout_s": timeout}
    given = {name: value for name, value in options.items() if value is not None}
    if remote_model is not None:
        endpoint = parse_endpoint(url=expert, model=remote_model, trust_tokenizer=trust_tokenizer, **given)
        added = add_remote(band, endpoint, wanted, name or dimension, base, replace, check)
    elif given or trust_tokenizer or not check or "://" in expert:
        raise CounterpointError(f"{expert}: of a model on a server, --remote-model names which of its models is meant")
    else:
        added = add_to(band, expert, wanted, name or dimension, base, replace)
    if as_json:
        print(json.dumps(as_dict(added, name or dimension), indent=1))
        return
    for line in lines(added, name or dimension, band):
        out.print(line, markup=False, soft_wrap=True)


def parse_top(text: str | None) -> int | str | None:
    """A number, or what `EndpointEntry` makes of it."""
    return int(text) if text and text.isdecimal() else text


def add_remote(
    band: Path,
    endpoint: "EndpointEntry",
    dimension: "Dimension",
    name: str,
    base: str | None,
    replace: bool,
    check: bool,
) -> "Added":
    """As `counterpoint.models.assemble.add`, for a model on a server, which is asked before anything is written."""
    from counterpoint.models.assemble import Added, checked_base, describe, named_base, refuse_taken
    from counterpoint.models.band_file import BAND, ExpertEntry, add_endpoint, new_band
    from counterpoint.models.fit import Source
    from counterpoint.models.load import check_family, load_tokenizer
    from counterpoint.profiles import check_name
    from counterpoint.types import Expert

    check_name(name)
    check_name(dimension.name)
    source = Source("model", endpoint.url)
    new = not (band / BAND).exists()
    base = (base or named_base(source)) if new else checked_base(band, base)
    if not (new or replace):
        refuse_taken(band, name)
    if new:
        check_family(base)
        load_tokenizer(base)
    if check:
        check_server(ExpertEntry(name=name, dimension=dimension.name, endpoint=endpoint), base)
    if new:
        new_band(band, base, [dimension])
    file = add_endpoint(band, endpoint, Expert(name, dimension.name))
    describe(band, file, dimension)
    return Added(file, source, base, new, () if check else ("the server was not asked whether it can be used",))


def check_server(entry: "ExpertEntry", base: str) -> None:
    """Raise CounterpointError where a model on a server cannot be used beside a base."""
    from counterpoint.decode.remote import check_remote
    from counterpoint.models.fit import vocabulary
    from counterpoint.models.load import load_tokenizer
    from counterpoint.types import CounterpointError

    tokenizer = load_tokenizer(base)
    try:
        check_remote(entry, tokenizer, vocabulary(tokenizer))
    except CounterpointError as error:
        raise CounterpointError(f"{error}; a server that is down can be added with --no-check") from None


def as_dict(added: "Added", name: str) -> dict[str, object]:
    """What was added to what."""
    entry = next(entry for entry in added.file.experts if entry.name == name)
    return {
        "expert": name,
        "dimension": entry.dimension,
        "kind": entry.kind,
        "path": added.source.path,
        "base": added.base,
        "new": added.new,
        "notes": list(added.notes),
    }


def lines(added: "Added", name: str, band: Path) -> list[str]:
    """The same for people."""
    entry = next(entry for entry in added.file.experts if entry.name == name)
    begun = [f"started {band} on the base {added.base}"] if added.new else []
    kind = {"adapter": "adapter", "model": "whole model", "endpoint": "model on the server"}[entry.kind]
    done = f"added {kind} {added.source.path} as expert {name!r} for {entry.dimension!r}"
    return [*begun, f"{done}; the band has {len(added.file.experts)}", *(f"note: {note}" for note in added.notes)]
