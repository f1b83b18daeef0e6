"""`counterpoint build`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from counterpoint.cli.app import AsJson, Threads, app, out, set_threads
from counterpoint.cli.preferences import read_dimensions
from counterpoint.cli.tell import tell_left_out
from counterpoint.data.asked import as_asked
from counterpoint.types import CounterpointError, Dimension, Prompt

if TYPE_CHECKING:
    from counterpoint.build.task import Task

REWARD = (
    "DIMENSION=RULE: length, ari, coleman-liau, sentiment, words:a,b, regex:P, bag-of-words:pairs.jsonl, "
    "python:f.py:g, or a trained folder."
)

OF_TABLE = "A table (see `counterpoint preferences`) that says the requests and axes of what has a --reward."


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="A Hugging Face causal language model: a folder or an id.")],
    prompts: Annotated[list[Path], typer.Option(help="Prompts to learn from: .txt (one a line) or .jsonl(.gz).")],
    reward: Annotated[list[str], typer.Option(help=REWARD)],
    folder: Annotated[Path, typer.Option("--out", help="Where the band and the report go.")],
    test_prompts: Annotated[list[Path] | None, typer.Option(help="Prompts to judge by; else a quarter.")] = None,
    axis: Annotated[list[str] | None, typer.Option(help="Opposed dimensions, such as short,long.")] = None,
    request: Annotated[list[str] | None, typer.Option(help='DIMENSION="Please ...": how to ask for it.')] = None,
    preferences: Annotated[Path | None, typer.Option(help=OF_TABLE)] = None,
    comparisons: Annotated[list[Path] | None, typer.Option(help="Preference data, instead of rule labels.")] = None,
    skip_bad: Annotated[bool, typer.Option(help="Leave out bad lines of the data, and list them.")] = False,
    experts: Annotated[str, typer.Option(help="best-of-n, sft (on preferred responses) or dpo.")] = "best-of-n",
    samples: Annotated[int, typer.Option(help="Responses per prompt to choose from.")] = 16,
    expert_steps: Annotated[int, typer.Option(help="Training steps per expert.")] = 60,
    reward_steps: Annotated[int, typer.Option(help="Training steps per reward model.")] = 120,
    learning_rate: Annotated[float, typer.Option(help="Of the experts.")] = 2e-3,
    lora_rank: Annotated[int, typer.Option(help="Rank of the experts.")] = 8,
    batch: Annotated[int, typer.Option(help="Examples per training step.")] = 32,
    temperature: Annotated[float, typer.Option(help="Of the judged answers.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Longest response, in tokens.")] = 64,
    tune_prompts: Annotated[int, typer.Option(help="Training prompts on which strengths are chosen.")] = 24,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0 writes none.")] = 0,
    workers: Annotated[int, typer.Option(help="Models trained at once; 2 suits small models on two cores.")] = 1,
    seed: Annotated[int, typer.Option(help="Of sampling and training.")] = 0,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Learn an expert per dimension, combine them in every way, and judge the result: the whole path."""
    from counterpoint.artifacts import read_json
    from counterpoint.build.task import BuildConfig
    from counterpoint.build.whole import build as run
    from counterpoint.stages import Stages

    set_threads(threads)
    table = read_dimensions(preferences) if preferences else ()
    task = make_task(
        model, prompts, test_prompts or [], reward, axis or [], request or [], comparisons or [], skip_bad, table
    )
    asked = 2 if any(dimension.request for dimension in task.dimensions) else 0
    config = BuildConfig(
        samples=samples, asked=asked, experts=experts, expert_steps=expert_steps,  # type: ignore[arg-type]
        reward_steps=reward_steps, expert_learning_rate=learning_rate, lora_rank=lora_rank, batch=batch,
        temperature=temperature, max_tokens=max_tokens, tune_prompts=tune_prompts, checkpoint_every=checkpoint_every,
        workers=workers, seed=seed,
    )  # fmt: skip
    stages = Stages()
    run(task, folder, config, stages, f"Counterpoint: {Path(model).name}")
    summary = read_json(folder / "summary.json")
    if as_json:
        print(json.dumps(summary))
        return
    print_summary(summary)
    out.print(f"{stages.total:.0f} s in all. Open {folder / 'report.html'}, and try:", soft_wrap=True)
    example = f'counterpoint chat {folder / "band"} "..." --profile "{task.names[0]}=1"'
    out.print(f"  {example}", markup=False, soft_wrap=True)


def make_task(
    model: str, prompts: list[Path], test_prompts: list[Path], reward: list[str], axis: list[str], request: list[str],
    comparisons: list[Path], skip_bad: bool, table: Sequence[Dimension] = (),
) -> "Task":  # fmt: skip
    """Read everything that a build is given, and say what was left out.

    `table` says what is asked for and opposed where `request` and `axis` do not. For a model with a chat template a
    prompt in plain text is a user's message, as it is to `chat`.
    """
    from counterpoint.build.task import Task
    from counterpoint.data.comparisons import read_comparisons
    from counterpoint.data.preferences import axes_of
    from counterpoint.data.prompts import read_prompts
    from counterpoint.models.load import check_family, load_tokenizer
    from counterpoint.rewards.load import parse_reward
    from counterpoint.rewards.rules import Rewards

    rewards = Rewards([part for text in reward for part in parse_reward(text)])
    asked = dict(split_pair(text, "--request") for text in request)
    for name in [*asked, *(pole for poles in axis for pole in poles.split(","))]:
        if name.strip() not in rewards.dimensions:
            raise CounterpointError(f"{name!r} has no --reward; there are rewards for {', '.join(rewards.dimensions)}")
    check_family(model)
    tokenizer = load_tokenizer(model)
    chats = tokenizer.chat_template is not None
    learned = read_prompts(prompts, skip_bad, transcripts=chats)
    tested = read_prompts(test_prompts, skip_bad, transcripts=chats) if test_prompts else None

    given = (
        read_comparisons(comparisons, known=rewards.dimensions, skip_bad=skip_bad, transcripts=chats)
        if comparisons
        else None
    )
    tell_left_out([*learned.dropped, *(tested.dropped if tested else ()), *(given.dropped if given else ())])
    train = unique_as_asked(learned.prompts, tokenizer)
    cut = len(train) - len(train) // 4
    dimensions = described(rewards.dimensions, asked, table)
    opposed = [tuple(pole.strip() for pole in poles.split(",")) for poles in axis] or axes_of(dimensions)
    return Task(
        model=model,
        dimensions=dimensions,
        train_prompts=train if tested else train[:cut],
        test_prompts=unique_as_asked(tested.prompts, tokenizer) if tested else train[cut:],
        judge=rewards,
        axes=tuple(opposed),
        trade_off=(rewards.dimensions[0], rewards.dimensions[1]) if len(rewards.dimensions) > 1 else None,
        comparisons=tuple(
            replace(c, prompt=as_asked(c.prompt, tokenizer)) for c in (given.comparisons if given else ())
        ),
    )


def described(names: Sequence[str], requests: Mapping[str, str], table: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Dimensions as a table has them, or by their name alone; a request given by hand comes before the table's."""
    known = {dimension.name: dimension for dimension in table}
    found = [known.get(name, Dimension(name)) for name in names]
    return tuple(replace(d, request=requests.get(d.name, d.request)) for d in found)


def unique_as_asked(prompts: Sequence[Prompt], tokenizer: Any) -> tuple[Prompt, ...]:
    """Prompts as `chat` would put them, each once."""
    return tuple(dict.fromkeys(as_asked(prompt, tokenizer) for prompt in prompts))


def split_pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise CounterpointError(f"{option} {text!r}: expected NAME=TEXT")
    return name.strip(), value.strip()


def print_summary(summary: dict[str, Any]) -> None:
    """The methods in the order of their reward."""
    table = Table("method", "reward [95 %]", "average win rate [95 %]", "correct", box=None)

    def cell(interval: dict[str, float]) -> str:
        return f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"

    for name, row in sorted(summary["methods"].items(), key=lambda item: -item[1]["reward"]["value"]):
        correct = "-" if row["correctness"] is None else f"{row['correctness']['value']:.2f}"
        table.add_row(name, cell(row["reward"]), cell(row["average_win_rate"]), correct)
    out.print(table)
