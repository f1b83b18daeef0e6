"""`counterpoint sample`: roll-outs of a base or of a model on a server, with and without a preference's request."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Device, Threads, TopP, app, check_out, out, set_threads
from counterpoint.cli.data import parse_columns
from counterpoint.cli.preferences import Chosen, Preferences, read_dimensions
from counterpoint.cli.tell import tell_left_out
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from counterpoint.build.sample import Drawn
    from counterpoint.types import Prompt

MODEL = "What is sampled: a Hugging Face causal language model (a folder or an id), or a band's base."


@app.command()
def sample(
    prompts: Annotated[list[Path], typer.Option(help="What is answered: .txt (one a line) or rows with a prompt.")],
    to: Annotated[Path, typer.Option("--out", help="Where the samples go, as .jsonl; a killed run goes on there.")],
    model: Annotated[str | None, typer.Argument(help=MODEL)] = None,
    preferences: Preferences = None,
    dimension: Chosen = None,
    neutral: Annotated[bool, typer.Option(help="Also sample without a request.")] = True,
    samples: Annotated[int, typer.Option(help="Responses to each prompt and request.")] = 2,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    top_p: TopP = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest response, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same samples of a model here.")] = 0,
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server, as in http://host:8000/v1.")
    ] = None,
    remote_model: Annotated[str | None, typer.Option(help="The model's name on that server.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The environment variable that holds its key.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer of the server.")] = 120.0,
    concurrency: Annotated[int, typer.Option(help="Requests to the server at once.")] = 8,
    column: Annotated[list[str] | None, typer.Option(help="PART=COLUMN of the prompts, as in prompt=question.")] = None,
    skip_bad: Annotated[bool, typer.Option(help="Leave out bad lines and too long prompts, and list them.")] = False,
    threads: Threads = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Let a model answer prompts, asked for nothing and for each preference: what `counterpoint label` compares."""
    from counterpoint.build.sample import SampleConfig, sample_model
    from counterpoint.data.preferences import chosen
    from counterpoint.models.band_file import parse_endpoint
    from counterpoint.models.load import parse_device
    from counterpoint.stages import Stages

    check_source(model, endpoint, remote_model, api_key_env)
    check_out(to, prompts)
    wanted = chosen(read_dimensions(preferences), dimension or [])
    config = SampleConfig(samples, neutral, temperature, top_p, max_tokens, seed)
    if model is None:
        from counterpoint.build.sample_endpoint import sample_endpoint  # its client takes half a second to import

        entry = parse_endpoint(url=endpoint, model=remote_model, api_key_env=api_key_env, timeout_s=timeout)
        asked = read_asked(prompts, None, column or [], skip_bad)
        found = sample_endpoint(entry, config, asked, wanted, to, Stages(), concurrency, skip_bad)
    else:
        set_threads(threads)
        base = base_of(model)
        asked = read_asked(prompts, base, column or [], skip_bad)
        found = sample_model(base, config, asked, wanted, to, Stages(), str(parse_device(device)), skip_bad)
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
        return
    print_drawn(found)
    out.print(f"Make comparisons of them: counterpoint label {to} ...", markup=False, soft_wrap=True)


def check_source(model: str | None, endpoint: str | None, remote_model: str | None, api_key_env: str | None) -> None:
    """Refuse what names no model, or two."""
    if (model is None) == (endpoint is None):
        raise CounterpointError("expected a MODEL or an --endpoint with its --remote-model, and not both")
    if (endpoint is None) != (remote_model is None):
        raise CounterpointError("--endpoint and --remote-model go together: a server's address and which of its models")
    if endpoint is None and api_key_env is not None:
        raise CounterpointError(f"--api-key-env {api_key_env}: a key is for an --endpoint, and there is none")


def base_of(model: str) -> str:
    """A band's base; any other folder by its full path, and a hub id as it is."""
    from counterpoint.models.band_file import BAND, base_path, read_band

    folder = Path(model)
    if (folder / BAND).exists():
        model = base_path(folder, read_band(folder))
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def read_asked(files: Sequence[Path], base: str | None, column: Sequence[str], skip_bad: bool) -> "list[Prompt]":
    """Prompts as files hold them; of a model without a chat template, transcripts stay text."""
    from counterpoint.data.prompts import read_prompts
    from counterpoint.models.load import load_tokenizer

    chats = base is None or bool(load_tokenizer(base).chat_template)
    found = read_prompts(files, skip_bad, parse_columns(column), transcripts=chats)
    tell_left_out(found.dropped)
    return list(found.prompts)


def print_drawn(found: "Sequence[Drawn]") -> None:
    """What was said in answer to each request, as far as a count can tell."""
    table = Table("asked for", "samples", "words", "ended by itself", box=None)
    for one in found:
        table.add_row(" + ".join(one.asked) or "nothing", str(one.samples), f"{one.words:.1f}", f"{one.ended:.0%}")
    out.print(table)
