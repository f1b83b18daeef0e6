"""What a build shows: the report, and every judged response."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from counterpoint.artifacts import write_text
from counterpoint.build.answer import Answered
from counterpoint.build.judge import Judged, Sweep, best_strengths, selected
from counterpoint.build.task import BuildConfig, Task
from counterpoint.data.responses import prompt_column
from counterpoint.evaluate.accuracy import RewardQuality
from counterpoint.evaluate.adherence import Adherence
from counterpoint.evaluate.compare import compare, profile_rewards
from counterpoint.evaluate.pareto import hypervolume_interval
from counterpoint.evaluate.ranking import Ranking
from counterpoint.evaluate.report import Dose, Report, RewardModel, Sample, Stage, TradeOff
from counterpoint.evaluate.report import Sweep as SweepSection
from counterpoint.evaluate.text import TextStats, text_stats
from counterpoint.profiles import format_profile
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.stages import Stages
from counterpoint.types import Profile, Prompt

REFERENCE = (-2.0, -2.0)
"""The point above which hypervolume is measured: two standard deviations below the base on both dimensions."""

SAMPLES = 3


@dataclass(frozen=True)
class Built:
    """All that a report is made from."""

    task: Task
    rewards: tuple[RewardQuality, ...]
    sweep: Sweep
    doses: Mapping[tuple[str, str], Adherence]
    judged: Judged
    rankings: Mapping[str, Ranking]


def report_of(built: Built, stages: Stages, config: BuildConfig, title: str) -> Report:
    """The report of a build; rewards are z-scores by the judge, not by the reward models that were optimised."""
    task, judged = built.task, built.judged
    best = best_strengths(built.sweep)
    methods = tuple(entry.name for entry in judged.entries)
    return Report(
        title=title,
        standings=compare(
            judged.scores_MPRD,
            selected(task, judged.profiles),
            np.full(len(task.names), 1e-9),
            methods=methods,
            profiles=tuple(map(profile_name, judged.profiles)),
            dimensions=task.names,
            seed=config.seed,
            correct_MPR=judged.correct_MPR,
        ),
        stages=timed(stages),
        about=about(built),
        text=texts(answered_of(built)),
        trade_off=trade_off(built, config),
        sweeps=tuple(
            SweepSection(method, tuple(by), tuple(by.values()), best[method]) for method, by in built.sweep.items()
        ),
        doses=tuple(Dose(method, name, found) for (method, name), found in built.doses.items()),
        reward_models=tuple(
            RewardModel(quality.dimension, quality.accuracy, {"length": quality.by_length}, quality.pairs)
            for quality in built.rewards
        ),
        samples=samples(answered_of(built)),
        notes=notes(built),
    )


def texts(answered: Answered) -> dict[str, TextStats]:
    """What each entry's answers look like."""
    said = zip(answered.entries, answered.texts_MPR, strict=True)
    return {entry.name: text_stats([text for row in texts_PR for text in row]) for entry, texts_PR in said}


def timed(stages: Stages) -> tuple[Stage, ...]:
    return tuple(Stage(name, seconds) for name, seconds in stages.seconds.items())


def profile_name(profile: Profile) -> str:
    return " + ".join(profile.weights)


def about(built: Built) -> str:
    judged = built.judged
    return (
        f"{len(judged.entries)} ways to answer {len(built.task.test_prompts)} held-out prompts for each of "
        f"{len(judged.profiles)} people, from one base model and {len(built.task.names)} experts. A name that ends in "
        "@best is the same method at the strength that scored best on training prompts."
    )


def notes(built: Built) -> tuple[str, ...]:
    """What a reader must know."""
    judged = built.judged
    wanted = selected(built.task, judged.profiles)
    by_models_M = profile_rewards(judged.model_scores_MPRD, wanted).mean(axis=(1, 2))
    said = ", ".join(f"{entry.name} {value:.2f}" for entry, value in zip(judged.entries, by_models_M, strict=True))
    ranked = ", ".join(f"{n} {r.accuracy:.2f} (base {r.reference_accuracy:.2f})" for n, r in built.rankings.items())
    return (
        "The reward is the exact judge's: 0 is the base's plain answers to training prompts, 1 a standard deviation "
        "over the pool, which holds answers to requests too.",
        "The experts were learned from what reward models liked or from the same comparisons, so the opinion of reward "
        f"models is no judgement; for the record it is: {said}.",
        "Ranking accuracy (arXiv 2405.19534): the share of comparisons, unseen by its reward model, in which an expert "
        f"finds the chosen response likelier: {ranked}.",
        "Strengths, and the expert of best-expert, were chosen on training prompts by the judge, with equally many "
        "tries for every method; mixture-prob cannot exceed 1.",
        "Intervals resample prompts, with all profiles of a prompt together. They do not cover another training seed.",
        "soup and moe with a constant weighting are the same function, and differ at most in the last digits.",
        "route with equal weights takes the dimension named first.",
        "prompted asks the base for all dimensions of a profile in words; how well it does depends on how many such "
        "requests the base's training text held.",
    )


def trade_off(built: Built, config: BuildConfig) -> TradeOff | None:
    """Mean scores on two dimensions, over the profiles that want both; the hypervolume is over all profiles' means."""
    task, judged = built.task, built.judged
    if task.trade_off is None:
        return None
    columns = [task.names.index(name) for name in task.trade_off]
    both = [r for r, profile in enumerate(judged.profiles) if set(task.trade_off) <= set(profile.weights)]
    if not both:
        return None
    points, volumes = {}, {}
    for m, entry in enumerate(judged.entries):
        scores_PRK = judged.scores_MPRD[m][..., columns]
        x, y = scores_PRK[:, both].mean(axis=(0, 1))
        points[entry.name] = ((float(x), float(y)),)
        volumes[entry.name] = hypervolume_interval(scores_PRK.swapaxes(0, 1), REFERENCE, seed=config.seed)
    return TradeOff(*task.trade_off, points, volumes, REFERENCE)


def answered_of(built: Built) -> Answered:
    """What was judged, by the judge's z-scores."""
    judged, task = built.judged, built.task
    texts_MPR = tuple(answers.texts_PR for answers in judged.answers_M)
    return Answered(judged.entries, task.test_prompts, judged.profiles, task.names, texts_MPR, judged.scores_MPRD)


def samples(answered: Answered) -> tuple[Sample, ...]:
    """A few prompts, each for another profile, answered by every method; with rewards where there are scores."""
    prompts, profiles = answered.prompts, answered.profiles
    reward_MPR = None
    if answered.dimensions:
        reward_MPR = profile_rewards(answered.scores_MPRD, profile_weights(profiles, answered.dimensions) > 0)
    names = [entry.name for entry in answered.entries]
    shown = []
    for index in range(min(SAMPLES, len(prompts))):
        p, r = index * len(prompts) // SAMPLES, index * len(profiles) // SAMPLES
        texts = [texts_PR[p][r] for texts_PR in answered.texts_MPR]
        rewards = None if reward_MPR is None else dict(zip(names, map(float, reward_MPR[:, p, r]), strict=True))
        shown.append(
            Sample(
                text_of(prompts[p]), profile_name(profiles[r]), dict(zip(names, texts, strict=True)), rewards
            )
        )  # fmt: skip
    return tuple(shown)


def text_of(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content


def written(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as files hold it; a single message as its text, which is read as a message again."""
    return text_of(prompt) if isinstance(prompt, str) or len(prompt) == 1 else prompt_column(prompt)


def write_responses(path: Path, answered: Answered) -> None:
    """Write every judged response with its scores as JSONL, so that anyone can judge it anew."""
    lines = []
    for m, (entry, texts_PR) in enumerate(zip(answered.entries, answered.texts_MPR, strict=True)):
        for p, prompt in enumerate(answered.prompts):
            for r, profile in enumerate(answered.profiles):
                scores = zip(answered.dimensions, answered.scores_MPRD[m, p, r].round(4).tolist(), strict=True)
                record = {
                    "method": entry.method, "strength": entry.served(profile).strength,
                    "profile": format_profile(profile), "prompt": written(prompt), "response": texts_PR[p][r],
                    "scores": dict(scores),
                }  # fmt: skip
                lines.append(json.dumps(record, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
