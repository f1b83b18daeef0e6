"""`counterpoint score`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from counterpoint.cli.app import AsJson, Device, Threads, app, check_out, out, set_threads
from counterpoint.cli.data import one_line, parse_columns
from counterpoint.cli.tell import tell_left_out
from counterpoint.types import CounterpointError, Prompt, RewardFn

if TYPE_CHECKING:
    from counterpoint.evaluate.scored import PairAccuracy, Scored
    from counterpoint.rewards.rules import Rewards


WIDTH = 60


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

    check_out(to, files)
    set_threads(threads)
    where = str(parse_device(device))
    parts = [part for text in reward for part in parse_reward(text, where)]
    reading = {"skip_bad": skip_bad, "columns": parse_columns(column or []), "transcripts": take_messages(parts)}
    scored = score_files(files, parts, dimension, seed, reading, written=to is not None)
    if to is not None:
        write_text(to, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored.rows))
    if as_json:
        print(json.dumps(as_numbers(scored)))
        return
    if each:
        print_rows(scored.rows)
    print_scored(scored)


def score_files(
    files: Sequence[Path], parts: Sequence[RewardFn], dimension: str | None, seed: int, reading: dict[str, Any],
    written: bool,
) -> "Scored":  # fmt: skip
    """Read what the files hold, and score it; `reading` are the arguments that both readers take.

    Where the rows are to be `written`, a column that scores would replace is refused before anything is scored.
    """
    from counterpoint.data.responses import hold_pairs
    from counterpoint.rewards.rules import Rewards

    rewards = Rewards(parts)
    if not hold_pairs(files, reading["columns"]):
        return of_responses(files, rewards, reading, written)
    only = rewards.dimensions[0] if len(rewards.dimensions) == 1 else None
    return of_pairs(files, rewards, dimension or only, seed, reading, written)


def of_pairs(
    files: Sequence[Path], rewards: "Rewards", dimension: str | None, seed: int, reading: dict[str, Any], written: bool
) -> "Scored":
    """Score both responses of each pair."""
    from counterpoint.data.comparisons import read_comparisons
    from counterpoint.evaluate.scored import PAIR_COLUMNS, check_columns, score_pairs
    from counterpoint.stages import Stages

    found = read_comparisons(files, dimension, **reading)
    tell_left_out(found.dropped)
    if written:
        check_columns(found.rest, PAIR_COLUMNS)
    asked = [(c.prompt, (c.chosen, c.rejected)) for c in found.comparisons]
    fit_P = fit(asked, rewards.parts, reading["skip_bad"])
    kept, rest = list(compress(found.comparisons, fit_P)), list(compress(found.rest, fit_P))
    with Stages().stage("scores", f"{len(kept)} pairs by {', '.join(rewards.dimensions)}") as bar:
        return score_pairs(kept, rest, rewards, seed, bar.task("responses"))


def of_responses(files: Sequence[Path], rewards: "Rewards", reading: dict[str, Any], written: bool) -> "Scored":
    """Score each response."""
    from counterpoint.data.responses import read_responses
    from counterpoint.evaluate.scored import check_columns, score_responses
    from counterpoint.stages import Stages

    found = read_responses(files, **reading)
    tell_left_out(found.dropped)
    if written:
        check_columns([r.row for r in found.responses], ["scores"])
    fit_N = fit([(r.prompt, (r.response,)) for r in found.responses], rewards.parts, reading["skip_bad"])
    kept = list(compress(found.responses, fit_N))
    with Stages().stage("scores", f"{len(kept)} responses by {', '.join(rewards.dimensions)}") as bar:
        return score_responses(kept, rewards, bar.task("responses"))


def fit(asked: Sequence[tuple[Prompt, Sequence[str]]], parts: Sequence[RewardFn], skip_bad: bool) -> list[bool]:
    """With `skip_bad`, whether all models can read the responses to each prompt; says which are left out."""
    from counterpoint.rewards.load import check_lengths

    found = [True] * len(asked)
    for index, (prompt, responses) in enumerate(asked if skip_bad else ()):
        try:
            check_lengths(parts, prompt, responses)
        except CounterpointError as error:
            tell_left_out([error])
            found[index] = False
    if not any(found):
        raise CounterpointError(f"all {len(found)} rows are too long for a reward model; shorten them")
    return found


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
                table.add_row(f"{number} {kind}".strip(), said, escape(one_line(row[kind or "response"], WIDTH)))
    out.print(table)


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
