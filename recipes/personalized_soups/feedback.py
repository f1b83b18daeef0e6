"""Roll-outs, and which of two has more of a preference."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recipes.personalized_soups.judges import asking
from recipes.personalized_soups.run import Run, need
from recipes.personalized_soups.settings import RLHF

from counterpoint.build.label import LabelledPairs, Tally, find_pairs, label, to_ask, write_labelled
from counterpoint.build.sample import sample_model
from counterpoint.build.sample_endpoint import sample_endpoint
from counterpoint.cli.judge import said_of
from counterpoint.cli.label import print_tallies
from counterpoint.cli.train import accelerator
from counterpoint.data.pair_types import Kind
from counterpoint.data.samples import Sample, read_samples
from counterpoint.models.band_file import parse_endpoint
from counterpoint.models.load import parse_dtype
from counterpoint.rewards.judge import LLMJudge
from counterpoint.rewards.judge_prompts import GENERAL
from counterpoint.types import CounterpointError, Dimension


def samples(run: Run) -> None:
    """Answers to the training prompts, asked for nothing and for each preference."""
    draw(run, run.known, True, run.samples)


def draw(run: Run, preferences: Sequence[Dimension], neutral: bool, out: Path) -> None:
    """Sample the model here or on its server; a prompt that the server will not take is left out, and told."""
    models, config = run.settings.models, replace(run.settings.sample, neutral=neutral)
    if models.sampler_url is None:
        sample_model(
            models.sampler, config, run.train, preferences, out, run.stages, accelerator(),
            dtype=parse_dtype(models.dtype), max_rows=run.settings.evaluation.rows,
        )  # fmt: skip
        return
    entry = parse_endpoint(
        url=models.sampler_url, model=models.sampler, api_key_env=models.sampler_key_env, timeout_s=models.timeout_s
    )
    sample_endpoint(entry, config, run.train, preferences, out, run.stages, models.concurrency, skip_bad=True)


def labels(run: Run) -> None:
    """Which of two answers has more of a preference, and which is better on the whole."""
    found = read_samples(need(run.samples, "samples"))
    tallies = label_each(run, run.known, found, run.known)
    if run.does(RLHF):
        plain = [replace(sample, asked=(GENERAL.name,)) for sample in found if not sample.asked]
        tallies += label_pairs(run, GENERAL, plain, ("same",), ())
    tell_labels(run, tallies)


def label_each(
    run: Run, preferences: Sequence[Dimension], found: Sequence[Sample], table: Sequence[Dimension]
) -> tuple[Tally, ...]:
    """Label several preferences' pairs; their opposites are those in the table."""
    kinds = run.settings.preferences.pairs
    return tuple(tally for p in preferences for tally in label_pairs(run, p, found, kinds, table))


def label_pairs(
    run: Run, preference: Dimension, found: Sequence[Sample], kinds: Sequence[Kind], table: Sequence[Dimension]
) -> tuple[Tally, ...]:
    """Label one preference's pairs; those of two answers to the same request are written apart, to be imitated."""
    pairs = find_pairs(found, [preference], kinds, table)
    questions = to_ask(pairs, check=False)
    why = f"{len(pairs)} pairs, of which {asking(run.labelling, questions, forced=True)}"
    with run.stages.stage(f"labels of {preference.name}", why) as bar:
        labelled = label(pairs, run.labelling, progress=bar.task("asked"))
    same = [row for row in labelled.rows if row.kind == "same"]
    if not same:
        raise CounterpointError(f"{preference.name}: none of {len(questions)} pairs has a label, all ties or refused")
    write_labelled(run.labels(preference.name), labelled.rows)
    write_labelled(run.labels(f"{preference.name}.same"), same)
    return labelled.tallies


def tell_labels(run: Run, tallies: Sequence[Tally]) -> None:
    """What became of the pairs, and what the judge is worth."""
    print_tallies(LabelledPairs((), tuple(tallies)), check=False)
    if isinstance(run.labelling, LLMJudge):
        for line in said_of(run.labelling.account()):
            run.stages.console.print(line, markup=False, highlight=False)
