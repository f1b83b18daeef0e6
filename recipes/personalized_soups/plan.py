"""What a run would do and need, before it is begun."""

import math
from collections.abc import Sequence
from dataclasses import replace

from recipes.personalized_soups.hardware import Line, memory_of
from recipes.personalized_soups.learn import iterations_of, steps_of
from recipes.personalized_soups.methods import plans_of
from recipes.personalized_soups.run import everybody, newcomers, preferences_of
from recipes.personalized_soups.settings import MORL, MULTITASK, RLHF, Settings
from rich.console import Console
from rich.table import Table

from counterpoint.data.preferences import opposites_of
from counterpoint.types import Dimension, Profile


def work_of(settings: Settings, train: int, test: int) -> list[Line]:
    """What there is to do, in responses, calls and steps."""
    known, novel = preferences_of(settings.preferences)
    labelled = len(known) + (RLHF in settings.evaluation.methods)
    lines = feedback_lines(settings, len(known) + 1, labelled, train)
    lines += expert_lines(settings, known, known, train) + baseline_lines(settings, known, train)
    lines += under("evaluation", evaluation_lines(settings, everybody(known), test))
    if novel:
        later = feedback_lines(settings, len(novel), len(novel), train)
        later += expert_lines(settings, novel, (*known, *novel), train)
        lines += under("novel", later + evaluation_lines(settings, newcomers(known, novel), test))
    return lines


def under(stage: str, lines: Sequence[Line]) -> list[Line]:
    return [replace(line, what=f"{stage}: {line.what}") for line in lines]


def feedback_lines(settings: Settings, ways: int, criteria: int, train: int) -> list[Line]:
    """Roll-outs, and calls to label two answers to the same request."""
    each, calls = settings.sample.samples, 2 * settings.judge.repeats
    most = train * (each // 2) * criteria * calls
    return [
        Line("roll-outs", f"{train} prompts x {ways} ways of asking x {each}", f"{train * ways * each}"),
        Line("calls to label", f"{train} x {each // 2} pairs x {criteria} criteria x {calls}", f"{most} at most"),
    ]


def pairs_of(settings: Settings, preference: Dimension, table: Sequence[Dimension], train: int) -> int:
    """Pairs on one preference, if all responses differ and every pair has a label."""
    samples = settings.sample.samples
    opposite = samples * len(opposites_of(preference, table))
    of_kind = {"same": samples // 2, "neutral": samples, "opposite": opposite, "neutral-opposite": opposite}
    return train * sum(of_kind[kind] for kind in settings.preferences.pairs)


def expert_lines(
    settings: Settings, preferences: Sequence[Dimension], table: Sequence[Dimension], train: int
) -> list[Line]:
    """Steps of a reward model and of a policy for each preference; those of as many pairs are one line."""
    names: dict[int, list[str]] = {}
    for preference in preferences:
        names.setdefault(pairs_of(settings, preference, table, train), []).append(preference.name)
    lines = [steps_line(settings, f"{', '.join(own)} each", pairs) for pairs, own in names.items()]
    what = f"each of {len(preferences)} experts"
    return [*lines, rounds_line(settings, what, train, settings.learning.policy_passes)]


def baseline_lines(settings: Settings, known: Sequence[Dimension], train: int) -> list[Line]:
    """What P-MORL, RLHF and multitask fine-tuning add, as far as they are compared."""
    learning, m = settings.learning, settings.multitask
    every = sum(pairs_of(settings, preference, known, train) for preference in known)
    plain = train * (settings.sample.samples // 2)
    lines = {
        MORL: [steps_line(settings, MORL, every), rounds_line(settings, MORL, train, learning.morl_passes)],
        RLHF: [steps_line(settings, RLHF, plain), rounds_line(settings, RLHF, train, learning.policy_passes)],
        MULTITASK: [Line("multitask steps", f"of {m.batch} x {m.accumulate} answers", f"{m.steps}")],
    }
    return [line for method, own in lines.items() if method in settings.evaluation.methods for line in own]


def steps_line(settings: Settings, what: str, pairs: int) -> Line:
    config, passes, share = settings.reward, settings.learning.reward_passes, 1 - settings.learning.holdout
    how = f"{passes:g} x {share:g} x {pairs} pairs / {config.batch * config.accumulate}"
    return Line(f"reward steps, {what}", how, f"{steps_of(round(pairs * share), config, passes)} at most")


def rounds_line(settings: Settings, what: str, train: int, passes: float) -> Line:
    """Iterations of PPO; an early stop takes fewer steps."""
    c = settings.policy
    n, each = iterations_of(train, c, passes), c.prompts_per_iteration * c.samples
    steps = c.epochs * math.ceil(each / c.minibatch)
    how = f"{passes:g} x {train} prompts / {c.prompts_per_iteration}; {each} answers, up to {steps} steps in each"
    return Line(f"PPO iterations, {what}", how, f"{n}: {n * each} answers, {n * steps} steps")


def evaluation_lines(settings: Settings, people: Sequence[Profile], test: int) -> list[Line]:
    """Answers, and calls to compare them: by what each person wants, and by quality on the whole."""
    how, calls = settings.evaluation, 2 * settings.comparing.repeats
    plans = sum(len(plans_of(method, people, how.rlhf_asked)) for method in how.methods)
    pairs, criteria = math.comb(len(how.methods), 2), sum(len(person.weights) + 1 for person in people)
    said = f"{pairs} pairs of methods x {test} x {criteria} criteria x {calls}"
    return [
        Line("answers", f"{test} prompts x {plans} of method and person", f"{test * plans}"),
        Line("calls to compare", said, f"{pairs * test * criteria * calls} at most"),
    ]


def print_plan(settings: Settings, console: Console) -> None:
    """Print what the run would do and need. Prompts are counted by the files' limits, and files are not opened."""
    work = work_of(settings, settings.prompts.train_limit, settings.prompts.test_limit)
    for title, lines in (("work", work), ("memory, at least (GiB)", memory_of(settings))):
        table = Table(title, "from", "in all", box=None)
        for line in lines:
            table.add_row(line.what, line.how, line.number)
        console.print(table)
    models = settings.models
    here = f"sampled here in {models.dtype}, {settings.evaluation.rows} answers at once"
    where = here if models.sampler_url is None else f"served at {models.sampler_url}"
    console.print(f"The sampler {models.sampler} is {where}; its memory is not counted.", markup=False)
    console.print("Workspace comes on top. Where it does not fit, lower at_once, batch, rows or max_tokens.")
