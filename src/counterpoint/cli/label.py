"""`counterpoint label`: from samples to comparisons, by rules, reward models, a judge, or by construction."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Device, Threads, app, check_out, out, set_threads
from counterpoint.cli.judge import (
    JudgeAttempts,
    JudgeCache,
    JudgeConcurrency,
    JudgeKey,
    JudgeMaxTokens,
    JudgeModel,
    JudgePrice,
    JudgeRepeats,
    JudgeTemperature,
    JudgeTimeout,
    JudgeUrl,
    find_judge,
    said_of,
)
from counterpoint.cli.preferences import Chosen, Preferences, read_dimensions
from counterpoint.cli.tell import tell
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from counterpoint.build.label import LabelledPairs, Labeller
    from counterpoint.data.samples import Sample
    from counterpoint.rewards.judge import LLMJudge
    from counterpoint.types import Dimension, Question, RewardFn

PAIRS = "Kinds of pairs: same (which is labelled), neutral, opposite, neutral-opposite (known by construction)."
ALL = "same,neutral,opposite,neutral-opposite"


@app.command()
def label(
    files: Annotated[list[Path], typer.Argument(help="Samples of `counterpoint sample`.")],
    to: Annotated[Path, typer.Option("--out", help="Where the comparisons go, as .jsonl.")],
    reward: Annotated[list[str] | None, typer.Option(help="DIMENSION=RULE, DIMENSION=FOLDER or FOLDER.")] = None,
    preferences: Preferences = None,
    dimension: Chosen = None,
    pairs: Annotated[str, typer.Option(help=PAIRS)] = ALL,
    check: Annotated[bool, typer.Option("--check", help="Count how often a label by construction is wrong.")] = False,
    judge: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key_env: JudgeKey = None,
    judge_temperature: JudgeTemperature = 0.0,
    judge_max_tokens: JudgeMaxTokens = 512,
    judge_concurrency: JudgeConcurrency = 8,
    judge_attempts: JudgeAttempts = 3,
    judge_repeats: JudgeRepeats = 1,
    judge_timeout: JudgeTimeout = 120.0,
    judge_price: JudgePrice = None,
    judge_cache: JudgeCache = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much a judge would be asked.")] = False,
    threads: Threads = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Pair samples and label the pairs. Without --dimension: all that were asked for and that a --reward can label.

    A judge's replies are kept in OUT.judge, or in --judge-cache, so that none is paid for twice.
    """
    from counterpoint.build.label import find_pairs, to_ask, write_labelled
    from counterpoint.build.label import label as label_pairs
    from counterpoint.data.pair_types import parse_kinds
    from counterpoint.data.sample_log import run_file
    from counterpoint.data.samples import read_samples
    from counterpoint.models.load import parse_device
    from counterpoint.stages import Stages

    kinds = parse_kinds(pairs)
    check_out(to, files)
    if run_file(to).exists():
        raise CounterpointError(f"--out {to}: holds samples of a run, which would be lost; name another file")
    set_threads(threads)
    parts = parse_rewards(reward or [], str(parse_device(device)))
    by_model = find_judge(
        url=judge, model=judge_model, api_key_env=judge_key_env, temperature=judge_temperature,
        max_tokens=judge_max_tokens, concurrency=judge_concurrency, attempts=judge_attempts, repeats=judge_repeats,
        timeout_s=judge_timeout, price=judge_price, cache=judge_cache or to.with_name(f"{to.name}.judge"),
    )  # fmt: skip
    labeller = choose(parts, by_model)
    table, samples = read_dimensions(preferences), read_samples(files)
    wanted = labelled_dimensions(table, samples, dimension or [], parts)
    found = find_pairs(samples, wanted, kinds, table)
    if by_model is not None or dry_run:
        tell_calls(by_model, to_ask(found, check))
    if dry_run:
        return
    with Stages().stage("labels", f"{len(found)} pairs on {', '.join(d.name for d in wanted)}") as bar:
        labelled = label_pairs(found, labeller, check, bar.task("asked"))
    if not labelled.rows:
        raise CounterpointError(
            f"no comparison came of {len(found)} pairs: all are ties, without a verdict, empty or equal"
        )
    write_labelled(to, labelled.rows)
    if as_json:
        print(json.dumps(as_numbers(labelled, by_model)))
        return
    print_tallies(labelled, check)
    for line in said_of(by_model.account()) if by_model else ():
        out.print(line, markup=False, soft_wrap=True)
    out.print(f"Learn from them: counterpoint train reward MODEL --comparisons {to} ...", markup=False, soft_wrap=True)


def parse_rewards(texts: Sequence[str], device: str) -> "Sequence[RewardFn]":
    """The rewards that were named, of which no two score one dimension."""
    from counterpoint.rewards.load import parse_reward
    from counterpoint.rewards.rules import Rewards

    return Rewards([part for text in texts for part in parse_reward(text, device)]).parts if texts else ()


def choose(parts: "Sequence[RewardFn]", by_model: "LLMJudge | None") -> "Labeller | None":
    """Who labels: rewards or a judge, if either is named."""
    from counterpoint.build.label import ByReward

    if parts and by_model:
        raise CounterpointError("--reward and --judge: name one; run once for each, with --dimension, to use both")
    return ByReward(parts) if parts else by_model


def tell_calls(by_model: "LLMJudge | None", questions: "Sequence[Question]") -> None:
    """How much will be asked."""
    if by_model is None:
        tell(f"{len(questions)} pairs would be labelled; name a judge to see how often it would be asked")
        return
    new, kept = by_model.count(questions, forced=True)
    tell(f"{len(questions)} pairs for the judge: {new} calls to make, if each reply can be read, and {kept} known")


def labelled_dimensions(
    table: "Sequence[Dimension]", samples: "Sequence[Sample]", named: Sequence[str], parts: "Sequence[RewardFn]"
) -> "list[Dimension]":
    """The preferences that are labelled: those named, or those that samples were asked for and rewards know."""
    from counterpoint.data.preferences import chosen

    if named:
        return chosen(table, named)
    asked = list(dict.fromkeys(name for sample in samples for name in sample.asked))
    if not asked:
        raise CounterpointError(f"none of {len(samples)} samples was asked for a preference; sample with some")
    known = [name for part in parts for name in part.dimensions] or asked
    wanted = [dimension for dimension in chosen(table, asked) if dimension.name in known]
    if not wanted:
        raise CounterpointError(
            f"samples were asked for {', '.join(asked)}, and rewards score {', '.join(known)}: nothing is in both"
        )
    return wanted


def as_numbers(labelled: "LabelledPairs", by_model: "LLMJudge | None") -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "comparisons": len(labelled.rows),
        "pairs": [asdict(tally) for tally in labelled.tallies],
        "judge": by_model.account() if by_model else None,
    }


def print_tallies(labelled: "LabelledPairs", check: bool) -> None:
    """What became of the pairs; of those that nobody was asked about there are no ties."""
    columns = ["dimension", "pairs of", "pairs", "kept", "unusable", "ties", "no verdict"]
    table = Table(*columns, *(["found wrong"] if check else []), box=None)
    for tally in labelled.tallies:
        known = tally.kind != "same"
        counts = [tally.pairs, tally.kept, tally.unusable, *(("-", "-") if known else (tally.ties, tally.unanswered))]
        wrong = [f"{tally.against} of {tally.checked}" if known else "-"] if check else []
        table.add_row(tally.dimension, tally.kind, *map(str, counts), *wrong)
    out.print(table)
    out.print("same: labelled; the others: known by construction; unusable: a response is empty, or both are equal")
