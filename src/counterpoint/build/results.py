"""What an evaluation shows: the page, the numbers, and every answer."""

from pathlib import Path
from typing import Any

from counterpoint.artifacts import MANIFEST, check_folder, check_place, scratch_of, write_json
from counterpoint.build.evaluation import REFERENCES, Evaluation
from counterpoint.build.present import samples, texts, timed, write_responses
from counterpoint.evaluate.compare import Standings
from counterpoint.evaluate.judged import judged_dict
from counterpoint.evaluate.report import Report, summary, write_report
from counterpoint.profiles import format_profile
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError

ANSWERS = "answers"
"""The folder of each method's answers, which the base's are the first to be in."""

VERDICTS = "verdicts.sqlite"
"""The file of a judge's replies."""


def report_of(found: Evaluation, stages: Stages, title: str) -> Report:
    """The page of an evaluation."""
    answered = found.answered
    unit = "the rewards' own units"
    if found.scale is not None:
        unit = "standard deviations over the base's plain and prompted answers, the mean of its plain ones being 0"
    return Report(
        title=title,
        standings=found.standings,
        stages=timed(stages),
        about=(
            f"{len(answered.entries)} ways to answer {len(answered.prompts)} prompts for each of "
            f"{len(answered.profiles)} people."
        ),
        unit=unit,
        text=texts(answered),
        samples=samples(answered),
        notes=notes(found),
        judged=found.judged,
        judge=found.report,
    )


def notes(found: Evaluation) -> tuple[str, ...]:
    """What a reader must know."""
    by_reward = ("A profile's reward is the plain mean over the dimensions to which it gives any weight.",)
    strengths = ", ".join(f"{e.name} {e.strength:g}" for e in found.answered.entries if e.strength is not None)
    return (
        *(by_reward if found.standings else ()),
        f"Strengths: {strengths or 'those of the profiles'}.",
        "Intervals resample prompts, with all profiles of a prompt together.",
        *(f"{method} was left out: {why}" for method, why in found.trial.left_out.items()),
    )


def results_of(found: Evaluation, stages: Stages, title: str) -> dict[str, Any]:
    """All numbers as plain JSON: the report's, what rewards say, and under `judged` what a judge says."""
    return {
        **summary(report_of(found, stages, title)),
        **({} if found.standings is None else rewarded(found, found.standings)),
        "strengths": {entry.name: entry.strength for entry in found.answered.entries},
        "profiles": [format_profile(profile) for profile in found.answered.profiles],
        "left_out": dict(found.trial.left_out),
        **({} if found.judged is None else {"judged": {"judge": found.report, **judged_dict(found.judged)}}),
    }


def rewarded(found: Evaluation, standings: Standings) -> dict[str, Any]:
    """What rewards say: each entry against the base and the prompted base, mean scores, and the scale."""
    scale = found.scale
    return {
        "against": against(standings),
        "dimensions": list(found.answered.dimensions),
        "scores": scores_by_name(standings),
        "scale": None if scale is None else {
            name: {"zero": zero, "unit": unit}
            for name, zero, unit in zip(scale.dimensions, scale.mean, scale.std, strict=True)
        },
    }  # fmt: skip


def against(table: Standings) -> dict[str, dict[str, dict[str, dict[str, float]] | None]]:
    """Win rate and reward difference of each method to each reference; `None` to itself."""

    def pair(m: int, n: int) -> dict[str, dict[str, float]] | None:
        win, difference = table.win_MM[m][n], table.reward_difference_MM[m][n]
        if win is None or difference is None:
            return None
        return {"win_rate": win.to_dict(), "reward_difference": difference.to_dict()}

    return {
        method: {reference: pair(m, n) for n, reference in enumerate(REFERENCES)}
        for m, method in enumerate(table.methods)
    }


def scores_by_name(table: Standings) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores by method, profile and dimension."""
    return {
        method: {
            profile: dict(zip(table.dimensions, scores_D, strict=True))
            for profile, scores_D in zip(table.profiles, scores_RD, strict=True)
        }
        for method, scores_RD in zip(table.methods, table.score_MRD, strict=True)
    }


def claim_report(out: Path) -> None:
    """Refuse a place that cannot be written, or that holds anything but an earlier evaluation, whole or cut short."""
    check_place(out / "report.html")
    check_folder(out)
    if not out.exists() or not any(out.iterdir()):
        return
    first = out / ANSWERS / REFERENCES[0]
    if not ((first / MANIFEST).exists() or scratch_of(first).exists()) or (out / "summary.json").exists():
        raise CounterpointError(f"{out}: holds other files, of which some could be lost; name a new folder")


def write_evaluation(out: Path, found: Evaluation, stages: Stages, title: str) -> None:
    """Write `report.html`, `results.json` and `responses.jsonl`."""
    out.mkdir(parents=True, exist_ok=True)
    write_report(out / "report.html", report_of(found, stages, title))
    write_responses(out / "responses.jsonl", found.answered)
    write_json(out / "results.json", results_of(found, stages, title))
