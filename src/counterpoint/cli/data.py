"""`counterpoint data`: a dry run that says how preference data is understood, and what learning from it would meet."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, app, check_out, out
from counterpoint.types import Comparison, CounterpointError

if TYPE_CHECKING:
    from counterpoint.data.comparisons import Comparisons
    from counterpoint.data.reports import FileReport
    from counterpoint.data.scores import Scoring
    from counterpoint.data.summary import Agreement, DimensionSummary

SHOWN = 10
"""Rows that were left out, as far as the text lists them; `--json` lists all."""

EXAMPLES = 2
WIDTH = 100

FILES = (
    "Preference data: .jsonl, .json, .csv, .tsv (also .gz), .parquet, folders of them, folders saved by datasets "
    "(FOLDER or FOLDER:SPLIT), or data sets of the Hugging Face hub (ORG/NAME or ORG/NAME:SPLIT)."
)
COLUMN = (
    "PART=COLUMN, as in chosen=good, once for each; the parts are prompt, messages, chosen, rejected, dimension, "
    "response_a, response_b, preference, NAME_preference, response, completions."
)
SCORES = "Columns of scores, as in helpfulness,concise=-verbosity (a minus: less is better); they become pairs."


@app.command()
def data(
    files: Annotated[list[Path], typer.Argument(help=FILES)],
    dimension: Annotated[str | None, typer.Option(help="The dimension of rows that name none.")] = None,
    column: Annotated[list[str] | None, typer.Option(help=COLUMN)] = None,
    scores: Annotated[str | None, typer.Option(help=SCORES)] = None,
    margin: Annotated[float, typer.Option(help="Scores of a pair differ by so much or more; 0: at all.")] = 0.0,
    pairs_per_prompt: Annotated[int, typer.Option(help="Of each prompt the so many largest differences; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides among equal differences.")] = 0,
    keep_transcripts: Annotated[
        bool, typer.Option("--keep-transcripts", help='Leave dialogues with "Human:" and "Assistant:" as text.')
    ] = False,
    skip_bad: Annotated[bool, typer.Option(help="Count and list bad rows instead of stopping at the first.")] = False,
    to: Annotated[Path | None, typer.Option("--out", help="Write the comparisons here, as .jsonl.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check preference data: what was understood, what is wrong with the rest, and what the pairs are like."""
    from counterpoint.data.comparisons import read_comparisons, write_comparisons
    from counterpoint.data.scores import Scoring, parse_scores
    from counterpoint.data.summary import agreements, summarise

    scoring = Scoring(parse_scores(scores), margin, pairs_per_prompt or None, seed) if scores is not None else None
    found = read_comparisons(
        files,
        dimension,
        skip_bad=skip_bad,
        columns=parse_columns(column or []),
        scoring=scoring,
        transcripts=not keep_transcripts,
    )
    if to is not None:
        check_out(to, [Path(file.name) for file in found.files])
        write_comparisons(to, found.comparisons)
    summaries, agreed = summarise(found.comparisons), agreements(found.comparisons)
    if as_json:
        print(json.dumps(as_numbers(found, summaries, agreed), ensure_ascii=False, indent=1))
        return
    for file in found.files:
        print_file(file)
    if scoring is not None:
        print_scoring(scoring)
    print_summaries(summaries)
    print_agreements(agreed)
    print_examples(found.comparisons)
    print_dropped(found)


def parse_columns(texts: Sequence[str]) -> dict[str, str]:
    """Read `part=column` entries; a column's name may hold an equals sign."""
    columns: dict[str, str] = {}
    for text in texts:
        part, equals, name = (piece.strip() for piece in text.partition("="))
        if not (equals and part and name):
            raise CounterpointError(f"--column {text!r}: expected PART=COLUMN, as in chosen=good")
        if part in columns:
            raise CounterpointError(f"--column {text!r}: the part {part!r} is given twice; name it once")
        columns[part] = name
    return columns


def as_numbers(
    found: "Comparisons", summaries: "dict[str, DimensionSummary]", agreed: "Sequence[Agreement]"
) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "comparisons": found.counts,
        "files": [{**vars(file), "unused": sorted(file.unused)} for file in found.files],
        "dimensions": {name: asdict(summary) for name, summary in summaries.items()},
        "agreement": [asdict(agreement) for agreement in agreed],
        "examples": [asdict(comparison) for comparison in found.comparisons[:EXAMPLES]],
        "extra_columns": list(found.extra_columns),
        "dropped": [
            {"file": bad.place.source, "row": bad.place.row, "line": bad.place.line, "reason": bad.reason}
            for bad in found.dropped
        ],
    }


def say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def print_file(file: "FileReport") -> None:
    """What one file was taken for."""
    say(f"{file.name}: {file.format}, {file.rows + file.dropped} rows")
    for layout, rows in file.layouts.items():
        say(f"  columns{'' if len(file.layouts) == 1 else f' of {rows} rows'}: {layout}")
    if file.unused:
        say(f"  columns not used: {', '.join(sorted(file.unused))}")
    say(f"  comparisons: {counts(file.comparisons)}")
    if file.undecided:
        say(f"  ties, or nothing said: {counts(file.undecided)}")
    if file.transcripts:
        say(f"  transcripts: {file.transcripts} rows became messages; --keep-transcripts leaves them as text")
    if file.prompts:
        say(f"  scored: {file.prompts} prompts, of which {file.alone} have one response and make no pair")
    if file.dropped:
        say(f"  left out: {file.dropped} rows")


def print_scoring(scoring: "Scoring") -> None:
    """How scores became pairs."""
    columns = (f"{c.dimension} by {'less' if c.sign < 0 else 'more'} {c.column}" for c in scoring.columns)
    margin = f"{scoring.margin:g} or more" if scoring.margin else "any"
    kept = "all" if scoring.pairs_per_prompt is None else f"the largest {scoring.pairs_per_prompt}"
    say(f"scores: {', '.join(columns)}; differences: {margin}; of each prompt: {kept}")


def counts(found: "dict[str, int]") -> str:
    return ", ".join(f"{name} {count}" for name, count in found.items()) or "none"


def print_summaries(summaries: "dict[str, DimensionSummary]") -> None:
    """Lengths and repeats, a line per dimension."""
    names = ("comparisons", "words chosen", "rejected", "chosen longer", "as long", "duplicates", "contradictions")
    table = Table("dimension", *names, box=None)
    for name, found in summaries.items():
        words = (f"{words.mean:.1f} (to {words.most})" for words in (found.chosen, found.rejected))
        shares = (f"{share:.1%}" for share in (found.longer, found.equal))
        table.add_row(name, str(found.comparisons), *words, *shares, str(found.duplicates), str(found.contradictions))
    out.print(table)
    say('"chosen longer" is what a judge that counts words would get right; far from half, length explains the pairs')


def print_agreements(agreed: "Sequence[Agreement]") -> None:
    """How far each two dimensions prefer the same responses."""
    if not agreed:
        return
    table = Table("dimensions", "pairs of both", "prefer the same", box=None)
    for found in agreed:
        table.add_row(f"{found.first}, {found.second}", str(found.pairs), f"{found.share:.1%}")
    out.print(table)


def print_examples(comparisons: Sequence[Comparison]) -> None:
    """The first comparisons, each text cut to one line."""
    for comparison in comparisons[:EXAMPLES]:
        prompt = comparison.prompt
        asked = prompt if isinstance(prompt, str) else f"({len(prompt)} messages) {prompt[-1].content}"
        say(f"{comparison.dimension}: {one_line(asked)}")
        say(f"  chosen: {one_line(comparison.chosen)}")
        say(f"  rejected: {one_line(comparison.rejected)}")


def one_line(text: str, width: int = WIDTH) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def print_dropped(found: "Comparisons") -> None:
    """The first rows that were left out, and how many more there are."""
    for bad in found.dropped[:SHOWN]:
        say(f"left out: {bad}")
    if len(found.dropped) > SHOWN:
        say(f"left out: {len(found.dropped) - SHOWN} more; --json lists all")
