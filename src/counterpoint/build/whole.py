"""The whole path: prompts and rewards -> comparisons -> reward models -> experts -> a band -> a judged report.

The experts are learned by way of reward models, or from the comparisons; everything is judged by the rewards that
labelled the comparisons, on prompts that no stage before has seen.
"""

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np

from counterpoint.artifacts import write_json
from counterpoint.build.judge import (
    best_strengths,
    dose_responses,
    entries_of,
    fit_scale,
    judge,
    measure_experts,
    rank_experts,
    sweep_strengths,
)
from counterpoint.build.learn import train_experts, train_rewards
from counterpoint.build.pool import Pool, sample_pool
from counterpoint.build.present import Built, answered_of, report_of, timed, write_responses
from counterpoint.build.task import BuildConfig, Task
from counterpoint.data.comparisons import write_comparisons
from counterpoint.decode.band import Band
from counterpoint.evaluate.bootstrap import Interval
from counterpoint.evaluate.report import summary, write_picture, write_report
from counterpoint.models.band_file import new_band, write_band
from counterpoint.models.load import check_family
from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.rewards.compare import label_comparisons
from counterpoint.rewards.rules import Rewards
from counterpoint.stages import Bar, Stages
from counterpoint.types import Comparison


def build(task: Task, out: Path, config: BuildConfig, stages: Stages, title: str) -> Built:
    """Run the whole path: `out/band`, `out/report.html`, `out/methods.svg`, `out/summary.json`, `out/responses.jsonl`.

    Training stages that an earlier run finished on the same data are not done again; a killed one resumes.
    """
    check_family(task.model)
    folder = out / "band"
    with stages.stage("pool", "sample the base, to have responses to compare") as bar:
        new_band(folder, task.model, task.dimensions)
        band = Band.load(folder)
        pool = sample_pool(task, band, config, bar.task("responses"))
        judge_scores_PND = pool.scores(task, task.judge)
        bar.note(f"{sum(map(len, pool.completions_PN))} responses to {len(pool.prompts)} prompts")
    with stages.stage("comparisons", "label which of two responses has more of each dimension") as bar:
        comparisons = task.comparisons or label(task, pool, judge_scores_PND, config, bar)
        write_comparisons(out / "comparisons.jsonl", comparisons)
        bar.note(f"{len(comparisons)} comparisons")
    with stages.stage("rewards", "learn a Bradley-Terry reward model per dimension from the comparisons") as bar:
        rewards, long = train_rewards(task, comparisons, folder, config, bar.task("reward models"))
        models = Rewards([BradleyTerryReward.load(folder / "rewards" / name) for name in task.names])
        bar.note("right on " + ", ".join(f"{q.dimension} {show(q.accuracy)}" for q in rewards))
        note_long(bar, long)
    with stages.stage("experts", f"learn a LoRA expert per dimension ({config.experts})") as bar:
        model_scores_PND = pool.scores(task, models)
        long = train_experts(
            task, pool, model_scores_PND, comparisons, band.tokenizer, folder, config, bar.task("experts")
        )
        note_long(bar, long)
        band = Band.load(folder)
    with stages.stage("strengths", "choose each method's strength, and the best expert, on training prompts") as bar:
        scale = fit_scale(task, task.judge, judge_scores_PND, band, config)
        model_scale = fit_scale(task, models, model_scores_PND, band, config)
        measure_experts(task, band, scale, config)
        sweep = sweep_strengths(task, band, scale, config, bar.task("methods and strengths"))
        best = best_strengths(sweep)
        band.file.strengths = best
        write_band(folder, band.file)
        bar.note(", ".join(f"{method} {strength:g}" for method, strength in best.items()))
    with stages.stage("doses", "see whether more weight on a dimension gives more of it") as bar:
        doses = dose_responses(task, band, scale, config, bar.task("methods and doses"))
    with stages.stage("judging", "answer held-out prompts with every method, and score the answers") as bar:
        judged = judge(task, band, entries_of(best), (scale, model_scale), models, config, bar.task("methods"))
    with stages.stage("ranking", "see whether experts find the preferred responses likelier than the base does"):
        rankings = rank_experts(task, comparisons, band, config)
    with stages.stage("report", "write what came out"):
        built = Built(task, tuple(rewards), sweep, doses, judged, rankings)
        report = report_of(built, stages, config, title)
        write_report(out / "report.html", report)
        write_picture(out / "methods.svg", report)
        write_responses(out / "responses.jsonl", answered_of(built))
    quality = {q.dimension: {**q.accuracy.to_dict(), "pairs": q.pairs} for q in rewards}
    write_json(out / "summary.json", {**summary(replace(report, stages=timed(stages))), "reward_models": quality})
    return built


def show(interval: Interval) -> str:
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def note_long(bar: Bar, dropped: int) -> None:
    if dropped:
        bar.note(f"{dropped} left out, longer than max_length")


def label(task: Task, pool: Pool, scores_PND: np.ndarray, config: BuildConfig, bar: Bar) -> tuple[Comparison, ...]:
    """Pairs of the pool's responses, labelled by the judge's scores of them."""
    pairs = min(config.pairs_per_prompt, comb(scores_PND.shape[1], 2))
    labelled = label_comparisons(pool.prompts, pool.texts_PN, scores_PND, task.names, pairs, config.seed)
    bar.note(f"{sum(labelled.ties.values())} ties and {labelled.unusable} equal or empty pairs left out")
    return labelled.comparisons
