"""Who labels roll-outs and compares answers: language models, or in a dry run a rule."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.personalized_soups.settings import Settings

from counterpoint.build.label import ByReward, Labeller
from counterpoint.rewards.judge import LLMJudge
from counterpoint.rewards.judge_prompts import GENERAL
from counterpoint.rewards.judge_report import JudgeReport
from counterpoint.rewards.rules import Rule
from counterpoint.types import Dimension, Prompt, Question


def judges(settings: Settings, out: Path | None) -> tuple[Labeller, Labeller]:
    """The judges; in a folder their replies are kept, so that none is paid for twice."""
    labelling, comparing = (
        LLMJudge(replace(config, cache=out and out / f"{name}.judge"))
        for name, config in (("labels", settings.judge), ("verdicts", settings.comparing))
    )
    return labelling, comparing


def by_rule(preferences: Sequence[Dimension]) -> tuple[Labeller, Labeller]:
    """Of two responses the longer, and for every other preference the shorter."""
    names = [*(preference.name for preference in preferences), GENERAL.name]
    rule = ByReward([Rule(name, "length", _length(1 - index % 2 * 2)) for index, name in enumerate(names)])
    return rule, rule


def _length(sign: int) -> Callable[[Prompt, str], float]:
    return lambda _, response: sign * len(response)


def asking(labeller: Labeller, questions: Sequence[Question], forced: bool) -> str:
    """How much will be asked, and of whom."""
    if not isinstance(labeller, LLMJudge):
        return f"{len(questions)} are labelled by a rule"
    calls, kept = labeller.count(questions, forced)
    return f"{len(questions)} are asked in both orders: {calls} calls of {labeller.config.model}, {kept} known already"


def account_of(labeller: Labeller, asked: int) -> dict[str, Any]:
    """What was asked and what it cost, ready for JSON."""
    if isinstance(labeller, LLMJudge):
        return labeller.account()
    return {"model": "a rule in the place of a judge", **JudgeReport(questions=asked).to_dict(), "rejections": {}}
