"""`counterpoint evaluate`."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Column, Table

from counterpoint.cli.app import AsJson, BandFolder, Device, Dtype, MaxTokens, Temperature, Threads, app, load_band, out
from counterpoint.cli.data import parse_columns
from counterpoint.cli.judge import (
    PANEL,
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
from counterpoint.cli.preferences import read_dimensions
from counterpoint.cli.tell import tell, tell_left_out
from counterpoint.types import CounterpointError, Dimension, Profile, Prompt, RewardFn

if TYPE_CHECKING:
    from counterpoint.build.evaluation import Trial
    from counterpoint.decode.band import Band

CRITERIA = "A table of preferences, whose criteria a judge is told; else what the band says of its dimensions."


@app.command()
def evaluate(
    band: BandFolder,
    prompts: Annotated[list[Path], typer.Option(help="Prompts to answer: .txt (one a line) or .jsonl(.gz).")],
    reward: Annotated[list[str] | None, typer.Option(help="DIMENSION=RULE or DIMENSION=FOLDER.")] = None,
    rewards: Annotated[Path | None, typer.Option(help="Trained reward models; else the band's own.")] = None,
    profile: Annotated[list[str] | None, typer.Option(help="A person; else each dimension, and each two.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="A method; else all that serve the profiles.")] = None,
    strength: Annotated[str | None, typer.Option(help='For all methods; or "best": what the band found.')] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Write the report, results and answers here.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first so many prompts.")] = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.7,
    seed: Annotated[int, typer.Option(help="Of the answers and the intervals.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Keep the rewards' own units.")] = False,
    column: Annotated[list[str] | None, typer.Option(help="PART=COLUMN, such as prompt=question.")] = None,
    skip_bad: Annotated[bool, typer.Option(help="Leave out bad lines and prompts too long, and list them.")] = False,
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
    preferences: Annotated[Path | None, typer.Option(help=CRITERIA, rich_help_panel=PANEL)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much a judge would be asked.")] = False,
    threads: Threads = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Answer your prompts with every method for every profile, and see by your rewards which serves people best.

    Or by a judge, a language model behind an OpenAI-compatible server, which compares the answers: --judge.
    """
    from counterpoint.build.evaluation import evaluate as run
    from counterpoint.build.evaluation import most_calls
    from counterpoint.build.results import ANSWERS, VERDICTS, claim_report, results_of, write_evaluation
    from counterpoint.decode.sampling import Sampling
    from counterpoint.stages import Stages

    if folder is not None:
        claim_report(folder)
    dose = parse_strength(strength)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    by_model = find_judge(
        url=judge, model=judge_model, api_key_env=judge_key_env, temperature=judge_temperature,
        max_tokens=judge_max_tokens, concurrency=judge_concurrency, attempts=judge_attempts, repeats=judge_repeats,
        timeout_s=judge_timeout, price=judge_price, cache=judge_cache or (folder and folder / VERDICTS),
    )  # fmt: skip
    table = find_criteria(preferences, by_model is not None or dry_run)
    loaded = load_band(band, threads, device, dtype)
    scorer = find_rewards(band, reward or [], rewards, device, needed=by_model is None)
    people = find_profiles(loaded, profile or [], scorer)
    asked = find_prompts(loaded, prompts, parse_columns(column or []), limit, skip_bad)
    trial = make_trial(loaded, asked, people, method or [], dose, sampling, raw, table)
    if dry_run:
        print_most(most_calls(loaded, trial, judge_repeats), as_json)
        return
    if by_model is not None:
        tell_vague(loaded, trial)
    if by_model is not None and by_model.config.cache is None:
        tell("the judge's replies are not kept: to pay for none twice, name --out or --judge-cache")
    stages = Stages()
    found = run(loaded, band, trial, scorer, stages, None if folder is None else folder / ANSWERS, by_model)
    title = f"Counterpoint: {band.resolve().name}"
    if folder is not None:
        write_evaluation(folder, found, stages, title)
    results = results_of(found, stages, title)
    if as_json:
        print(json.dumps(results))
        return
    print_results(results)
    if folder is not None:
        out.print(f"{stages.total:.0f} s in all. Open {folder / 'report.html'}", markup=False, soft_wrap=True)


def find_criteria(table: Path | None, judged: bool) -> list[Dimension]:
    """The preferences of a table, if one is named; refuses one that nobody would read."""
    if table is None:
        return []
    if not judged:
        raise CounterpointError(f"--preferences {table}: its criteria are for a --judge, and none is named")
    return read_dimensions(table)


def tell_vague(band: "Band", trial: "Trial") -> None:
    """Say of which dimensions a judge is told their name alone."""
    from counterpoint.build.evaluation import criteria_of

    criteria, _ = criteria_of(band, trial.profiles, trial.preferences)
    vague = [dimension.name for dimension in criteria if not (dimension.criterion or dimension.description)]
    if vague:
        tell(
            f"a judge is told only the name of {', '.join(vague)}, for want of a criterion or description; name a "
            "table that has them with --preferences, such as one from `counterpoint preferences --json`"
        )


def find_rewards(
    band: Path, texts: Sequence[str], folder: Path | None, device: str, needed: bool = True
) -> RewardFn | None:
    """The rewards that were named, or the band's own; `None` where it has none and they are not needed."""
    from counterpoint.rewards.load import load_rewards, parse_reward
    from counterpoint.rewards.rules import Rewards

    if folder is None and not texts:
        folder = band / "rewards"
        if not folder.is_dir():
            if not needed:
                return None
            raise CounterpointError(
                f"{band}: holds no rewards of its own; pass --reward DIMENSION=RULE or --rewards, or ask a --judge"
            )
    parts = load_rewards(folder, device) if folder is not None else []
    return Rewards([*parts, *(part for text in texts for part in parse_reward(text, device))])


def find_profiles(band: "Band", texts: Sequence[str], reward: RewardFn | None) -> list[Profile]:
    """The people that were named, or one for each dimension that is scored and each two; no one twice.

    Without rewards a judge scores all dimensions.
    """
    from counterpoint.build.evaluation import everyone
    from counterpoint.profiles import format_profile, parse_profile

    scored = [name for name in band.dimensions if reward is None or name in reward.dimensions]
    if reward is not None and not scored:
        found = f"rewards for {', '.join(reward.dimensions)}, dimensions {', '.join(band.dimensions)}"
        raise CounterpointError(f"no reward scores a dimension of the band: found {found}")
    if not texts:
        tell_unscored(band.dimensions, scored)
        return everyone(scored)
    people = {format_profile(p): p for p in (parse_profile(text, band.dimensions) for text in texts)}
    for text, person in people.items():
        for name in person.weights:
            if name not in scored:
                raise CounterpointError(f"profile {text!r}: no reward scores {name!r}; pass --reward {name}=RULE")
    return list(people.values())


def tell_unscored(dimensions: Sequence[str], scored: Sequence[str]) -> None:
    missing = [name for name in dimensions if name not in scored]
    if missing:
        tell(f"no reward scores {', '.join(missing)}, so no profile asks for it")


def find_prompts(
    band: "Band", files: Sequence[Path], columns: Mapping[str, str], limit: int | None, skip_bad: bool
) -> list[Prompt]:
    """Different prompts as `chat` would ask them, that have room for an answer even when all is asked for in words."""
    from counterpoint.build.answer import usable_prompts
    from counterpoint.data.asked import as_asked
    from counterpoint.data.prompts import read_prompts

    if limit is not None and limit < 2:
        raise CounterpointError(f"--limit {limit}: an interval by prompt needs two prompts or more")
    read = read_prompts(files, skip_bad, columns, transcripts=bool(band.tokenizer.chat_template))
    tell_left_out(read.dropped)
    unlike = list(dict.fromkeys(as_asked(prompt, band.tokenizer) for prompt in read.prompts))
    everything = band.plan(Profile(dict.fromkeys(band.dimensions, 1.0)), "prompted")
    usable, wrong = usable_prompts(band, everything, unlike[:limit], skip_bad)
    tell_left_out(wrong)
    tell(f"{len(usable)} prompts, of {len(read.prompts)} that were read")
    return usable


def parse_strength(text: str | None) -> "float | Literal['best'] | None":
    """Read `--strength`, and refuse one that no method takes."""
    from counterpoint.build.evaluation import check_strength

    if text is None or text == "best":
        return text  # type: ignore[return-value]
    try:
        number = float(text)
    except ValueError:
        raise CounterpointError(f"--strength {text!r}: expected a number, or best") from None
    check_strength(number)
    return number


def make_trial(
    band: "Band", prompts: Sequence[Prompt], profiles: Sequence[Profile], methods: Sequence[str],
    strength: "float | Literal['best'] | None", sampling: Any, raw: bool, preferences: Sequence[Dimension],
) -> "Trial":  # fmt: skip
    """What is compared; says which methods cannot take part."""
    from counterpoint.build.evaluation import Trial, entries_for

    entries, left_out = entries_for(band, methods, profiles, strength)
    tell_left_out(f"{name}, since {why}" for name, why in left_out.items())
    return Trial(tuple(entries), tuple(prompts), tuple(profiles), left_out, sampling, raw, tuple(preferences))


def print_most(calls: int, as_json: bool) -> None:
    """How much a judge would be asked."""
    if as_json:
        print(json.dumps({"most_calls": calls}))
    else:
        out.print(f"at most {calls} calls of the judge: fewer where answers are equal, or judged before")


def print_results(results: dict[str, Any]) -> None:
    """What rewards say, and what a judge says."""
    if "against" in results:
        print_rewarded(results)
    if "judged" in results:
        print_judged(results["judged"])


def print_rewarded(results: dict[str, Any]) -> None:
    """The methods in the order of their reward."""
    references = list(results["against"]["base"])
    against = [f"beats {reference} [95 %]" for reference in references]
    table = Table("method", "reward [95 %]", "average win rate [95 %]", *against, box=None)
    for name, row in sorted(results["methods"].items(), key=lambda item: -item[1]["reward"]["value"]):
        wins = [results["against"][name][reference] for reference in references]
        shares = [share(win and win["win_rate"]) for win in wins]
        table.add_row(name, cell(row["reward"], ".2f"), cell(row["average_win_rate"], ".0%"), *shares)
    out.print(table)


def print_judged(judged: dict[str, Any]) -> None:
    """The methods in the order of their average win rate, each pair of methods, and what the judge is worth."""
    out.print(averages_table(judged))
    out.print(pairs_table(judged["summed"]["against"]))
    for line in said_of(judged["judge"]):
        out.print(line, markup=False, soft_wrap=True)


def averages_table(judged: dict[str, Any]) -> Table:
    """Average win rates: by the sum of a person's criteria, and by each criterion alone, ties as half."""
    alone = {**judged["by_criterion"], "general": judged["general"]}
    table = Table("by the judge", "average win rate [95 %]", "without ties", *alone, box=None)
    for name, row in sorted(judged["summed"]["average"].items(), key=lambda item: -value_of(item[1]["win_rate"])):
        rates = [criterion["average"][name]["win_rate"] for criterion in alone.values()]
        shares = ["-" if rate is None else f"{rate['value']:.0%}" for rate in rates]
        table.add_row(name, share(row["win_rate"]), share(row["win_rate_without_ties"]), *shares)
    return table


def pairs_table(against: dict[str, Any]) -> Table:
    """Each pair of methods once."""
    counts = ("wins", "ties", "losses", "unanswered")
    headers = ("win rate [95 %]", "without ties", "won", "tied", "lost", "no verdict")
    table = Table(Column("pair", no_wrap=True), *headers, box=None)
    for a, b in combinations(against, 2):
        pair = against[a][b]
        rates = [share(pair["win_rate"]), share(pair["win_rate_without_ties"])]
        table.add_row(f"{a} over {b}", *rates, *(str(pair[name]) for name in counts))
    return table


def share(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else cell(interval, ".0%")


def value_of(interval: dict[str, float] | None) -> float:
    return 0.0 if interval is None else interval["value"]


def cell(interval: dict[str, float], form: str) -> str:
    value, low, high = (round(interval[name], 6) + 0.0 for name in ("value", "low", "high"))  # no "-0.00"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
