"""The stages of a run, in their order."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from recipes.personalized_soups.compare import compare, evaluation
from recipes.personalized_soups.feedback import draw, label_each, labels, samples, tell_labels
from recipes.personalized_soups.learn import learn_expert, learn_reward, make_band, multitask, policies, rewards
from recipes.personalized_soups.run import Run, need, newcomers, prepare
from recipes.personalized_soups.settings import Settings

from counterpoint.data.samples import read_samples
from counterpoint.profiles import unknown_name
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError


def novel(run: Run) -> None:
    """Preferences that come later: only their own samples, labels, reward models and experts are new."""
    if not run.novel:
        raise CounterpointError("[preferences]: novel names none, so there is nothing for the stage novel to do")
    before, new = need(run.samples, "samples"), run.out / "samples-novel.jsonl"
    draw(run, run.novel, False, new)
    tell_labels(run, label_each(run, run.novel, read_samples([before, new]), run.preferences))
    for preference in run.novel:
        learn_reward(run, preference.name, [preference])
        learn_expert(run, preference)
    make_band(run)
    compare(run, newcomers(run.known, run.novel), "novel")


STAGES: Mapping[str, Callable[[Run], None]] = {
    "samples": samples,
    "labels": labels,
    "rewards": rewards,
    "policies": policies,
    "multitask": multitask,
    "evaluation": evaluation,
    "novel": novel,
}


def stages_of(text: str | None, settings: Settings, every: bool) -> list[str]:
    """The stages that were named, in their order; else all, of which `novel` only if asked for."""
    if text is None:
        return [name for name in STAGES if name != "novel" or (every and settings.preferences.novel)]
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in STAGES:
            raise CounterpointError(f"--stages: {unknown_name('stage', name, STAGES)}")
    return [name for name in STAGES if name in named]


def run_recipe(settings: Settings, out: Path, names: Iterable[str], rule: bool, stages: Stages) -> None:
    """Run stages; `rule` puts a rule in the place of the judges."""
    run = prepare(settings, out, stages, rule)
    for name in names:
        STAGES[name](run)
    stages.console.print(f"{stages.total:.0f} s in all; everything is in {out}", markup=False, highlight=False)
