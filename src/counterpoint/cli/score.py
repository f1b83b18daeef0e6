"""`counterpoint score`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Device, Threads, app, out, set_threads
from counterpoint.cli.data import parse_columns
from counterpoint.cli.tell import tell_left_out
from counterpoint.types import CounterpointError, RewardFn

if TYPE_CHECKING:
    from counterpoint.evaluate.scored import PairAccuracy, Scored


@app.command()
def score(
    files: Annotated[list[Path], typer.Argument(help="Responses (.jsonl with prompt and response, .txt) or pairs.")],
    reward: Annotated[list[str], typer.Option(help="DIMENSION=RULE, DIMENSION=FOLDER or FOLDER of trained models.")],
    each: Annotated[bool, typer.Option("--each", help="Show every response with its scores.")] = False,
    to: Annotated[Path | None, typer.Option("--out", help="Write the rows with their scores here, as .jsonl.")] = None,
    dimension: Annotated[str | None, typer.Option(help="The dimension of pairs without such a column.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="PART=COLUMN, such as response=answer.")] = None,
    skip_bad: Annotated[bool, typer.Option(help="Leave out bad lines, and list them.")] = False,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    threads: Threads = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score responses by rules and trained reward models; for pairs, say how often each agrees with their labels."""
    from counterpoint.artifacts import write_text
    from counterpoint.models.load import parse_device
    from counterpoint.rewards.load import parse_reward, take_messages
    from counterpoint.rewards.rules import Rewards

    check_out(to, files)
    set_threads(threads)
    where = str(parse_device(device))
    parts = [part for text in reward for part in parse_reward(text, where)]
    reading = {"skip_bad": skip_bad, "columns": parse_columns(column or []), "transcripts": take_messages(parts)}
    scored = score_files(files, Rewards(parts), dimension, seed, reading)
    if to is not None:
        write_text(to, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored.rows))
    if as_json:
        print(json.dumps(as_numbers(scored)))
        return
    if each:
        print_rows(scored.rows)
    print_scored(scored)


def check_out(to: Path | None, files: Sequence[Path]) -> None:
    """Refuse to write over what is read, or into a file of another kind."""
    if to is None:
        return
    if to.suffix != ".jsonl":
        raise CounterpointError(f"--out {to}: expected a file name that ends with .jsonl")
    if to.resolve() in [file.resolve() for file in files]:
        raise CounterpointError(f"--out {to}: is read as well, and would be lost; name another file")


def score_files(
    files: Sequence[Path], rewards: RewardFn, dimension: str | None, seed: int, reading: dict[str, Any]
) -> "Scored":
    """Read what the files hold, and score it; `reading` are the arguments that both readers take."""
    from counterpoint.data.comparisons import read_comparisons
    from counterpoint.data.responses import hold_pairs, read_responses
    from counterpoint.evaluate.scored import score_pairs, score_responses
    from counterpoint.stages import Stages

    names = ", ".join(rewards.dimensions)
    if hold_pairs(files, reading["columns"]):
        only = rewards.dimensions[0] if len(rewards.dimensions) == 1 else None
        pairs = read_comparisons(files, dimension or only, **reading)
        tell_left_out(pairs.dropped)
        with Stages().stage("scores", f"{len(pairs.comparisons)} pairs by {names}") as bar:
            return score_pairs(pairs.comparisons, rewards, seed, bar.task("responses"))
    found = read_responses(files, **reading)
    tell_left_out(found.dropped)
    with Stages().stage("scores", f"{len(found.responses)} responses by {names}") as bar:
        return score_responses(found.responses, rewards, bar.task("responses"))


def as_numbers(scored: "Scored") -> dict[str, Any]:
    """What `--json` prints."""
    rewards = {name: asdict(spread) for name, spread in scored.spreads.items()}
    accuracies = {name: asdict(accuracy) for name, accuracy in scored.accuracies.items()}
    return {"rewards": rewards, "accuracies": accuracies, "rows": scored.rows}


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Every response in the order of the files, cut to one line."""
    table = Table("", "scores", "response", box=None)
    for number, row in enumerate(rows, start=1):
        for kind in ("", "chosen", "rejected"):
            scores = row.get(f"{kind}_scores" if kind else "scores")
            if scores is not None:
                said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
                table.add_row(f"{number} {kind}".strip(), said, brief_line(row[kind or "response"]))
    out.print(table)


def brief_line(text: str) -> str:
    from rich.markup import escape

    line = " ".join(text.split())
    return escape(line if len(line) <= 60 else f"{line[:57]}...")


def print_scored(scored: "Scored") -> None:
    """A line per dimension; accuracy where the rows are pairs."""
    pairs = bool(scored.rows) and "chosen" in scored.rows[0]
    columns = ["accuracy [95 %]", "own pairs", "ties"] if pairs else []
    table = Table("dimension", "responses", "mean", "std", "lowest", "highest", *columns, box=None)
    for name, s in scored.spreads.items():
        numbers = [f"{value:.3f}" for value in (s.mean, s.std, s.lowest, s.highest)]
        table.add_row(name, str(s.responses), *numbers, *(accuracy_cells(scored.accuracies.get(name)) if pairs else []))
    out.print(table)


def accuracy_cells(found: "PairAccuracy | None") -> list[str]:
    if found is None:
        return ["-", "0", "-"]
    interval = "" if found.interval is None else f" [{found.interval.low:.0%}, {found.interval.high:.0%}]"
    return [f"{found.accuracy:.1%}{interval}", str(found.pairs), str(found.ties)]
