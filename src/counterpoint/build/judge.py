"""How good every method is, at strength 1 and at the strength that was best on training prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.build.answer import Entry, Progress, Texts, answer_entry, entry_requests, requests_of
from counterpoint.build.task import BuildConfig, Task
from counterpoint.compose.plan import Plan, Row
from counterpoint.data.split import split_by_prompt
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.adherence import Adherence, adherence
from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.evaluate.compare import profile_rewards
from counterpoint.evaluate.expert import pair_logps
from counterpoint.evaluate.ranking import Ranking, ranking
from counterpoint.rewards.calibrate import ZScore, fit_zscore, profile_weights
from counterpoint.rewards.scorer import Scorer
from counterpoint.types import Comparison, Profile, Prompt, RewardFn

COMPOSED = ("route", "soup", "moe", "mixture-prob", "mixture-log")
DOSES = (0.25, 0.5, 0.75, 1.0)
RANKED = 100
"""How many comparisons measure an expert's ranking accuracy, at most."""


@dataclass(frozen=True)
class Answers:
    """Texts and raw scores of one entry: `texts_PR[p][r]` and `scores_PRD`."""

    texts_PR: Texts
    scores_PRD: np.ndarray


@dataclass(frozen=True)
class Judged:
    """Scores of every entry on test prompts, z-scored: by the judge and by the reward models."""

    entries: tuple[Entry, ...]
    profiles: tuple[Profile, ...]
    answers_M: tuple[Answers, ...]
    scores_MPRD: np.ndarray
    model_scores_MPRD: np.ndarray
    correct_MPR: np.ndarray | None


Sweep = Mapping[str, Mapping[float, Interval]]


def sampling_of(config: BuildConfig) -> Sampling:
    return Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)


def selected(task: Task, profiles: Sequence[Profile]) -> np.ndarray:
    """Which dimensions each profile wants: `[R, D]`."""
    chosen: np.ndarray = profile_weights(profiles, task.names) > 0
    return chosen


def fit_scale(task: Task, reward: RewardFn, pool_PND: np.ndarray, band: Band, config: BuildConfig) -> ZScore:
    """z-scores on training prompts: the base's plain answers are 0, one is the standard deviation over the pool.

    The pool's, because plain answers hardly differ on what is rarely done unasked, and would make it count the most.
    """
    prompts = task.train_prompts
    responses = [c.text for c in band.respond(prompts, [None] * len(prompts), "base", sampling_of(config))]
    mean_D = task.scores(reward, prompts, responses).mean(axis=0)
    std = fit_zscore(pool_PND.reshape(-1, pool_PND.shape[-1]), task.names).std
    return ZScore(task.names, tuple(mean_D.tolist()), std)


def measure_experts(task: Task, band: Band, scale: ZScore, config: BuildConfig) -> None:
    """Write each expert's mean scores on training prompts into the band file, which is what `best-expert` goes by."""
    prompts = task.train_prompts[: config.tune_prompts]
    plans = [Plan((Row({entry.name: 1.0}),)) for entry in band.file.experts]
    texts = [said.text for said in band.run(requests_of(band, plans, prompts, sampling_of(config)))]
    asked = [prompt for prompt in prompts for _ in plans]
    means_KD = scale(task.scores(task.judge, asked, texts)).reshape(len(prompts), len(plans), -1).mean(axis=0)
    for entry, means_D in zip(band.file.experts, means_KD, strict=True):
        entry.scores = {name: round(float(mean), 4) for name, mean in zip(task.names, means_D, strict=True)}


def answer(
    task: Task,
    band: Band,
    entries: Sequence[Entry],
    profiles: Sequence[Profile],
    prompts: Sequence[Prompt],
    config: BuildConfig,
    progress: Progress,
) -> list[Answers]:
    """Answer every prompt for every profile by every entry, and score the answers."""
    found = []
    asked = [prompt for prompt in prompts for _ in profiles]
    for done, entry in enumerate(entries, start=1):
        requests = entry_requests(band, entry, profiles, prompts, sampling_of(config))
        texts_PR = answer_entry(band, requests, len(prompts), len(profiles), lambda *_: None)
        scores_ND = task.scores(Scorer(task.judge), asked, [text for row in texts_PR for text in row])
        found.append(Answers(texts_PR, scores_ND.reshape(len(prompts), len(profiles), -1)))
        progress(done, len(entries))
    return found


def strengths_of(method: str, config: BuildConfig) -> tuple[float, ...]:
    """The strengths to try: the same number for every method."""
    if method != "mixture-prob":
        return config.strengths
    return tuple((index + 1) / len(config.strengths) for index in range(len(config.strengths)))


def sweep_strengths(task: Task, band: Band, scale: ZScore, config: BuildConfig, progress: Progress) -> Sweep:
    """Mean reward of every method at every strength, on the same training prompts."""
    settings = [(method, s) for method in ("best-expert", *COMPOSED) for s in strengths_of(method, config)]
    entries = [Entry(method, method, strength) for method, strength in settings]
    profiles, prompts = task.profiles, task.train_prompts[: config.tune_prompts]
    sweep: dict[str, dict[float, Interval]] = {}
    answers = answer(task, band, entries, profiles, prompts, config, progress)
    for (method, strength), given in zip(settings, answers, strict=True):
        reward_PR = profile_rewards(scale(given.scores_PRD), selected(task, profiles))
        sweep.setdefault(method, {})[strength] = mean_interval(reward_PR.mean(axis=1), seed=config.seed)
    return sweep


def best_strengths(sweep: Sweep) -> dict[str, float]:
    """Per method the strength of the highest reward; of equals, the smaller."""
    return {method: max(by_strength, key=lambda s: by_strength[s].value) for method, by_strength in sweep.items()}


def dose_responses(
    task: Task, band: Band, scale: ZScore, config: BuildConfig, progress: Progress
) -> dict[tuple[str, str], Adherence]:
    """Per method and dimension, whether a larger dose of it alone gives more of it, on training prompts."""
    prompts = task.train_prompts[: config.tune_prompts]
    singles = [Profile({name: 1.0}) for name in task.names]
    methods = ("soup", "mixture-prob", "mixture-log")
    entries = [Entry("base", "base"), *(Entry(method, method, dose) for method in methods for dose in DOSES)]
    base, *dosed = answer(task, band, entries, singles, prompts, config, progress)
    found = {}
    for index, method in enumerate(methods):
        given = [base, *dosed[index * len(DOSES) : (index + 1) * len(DOSES)]]
        own_SPD = np.stack([np.einsum("pdd->pd", scale(answers.scores_PRD)) for answers in given])
        for d, name in enumerate(task.names):
            found[method, name] = adherence((0.0, *DOSES), own_SPD[..., d], seed=config.seed)
    return found


def rank_experts(task: Task, comparisons: Sequence[Comparison], band: Band, config: BuildConfig) -> dict[str, Ranking]:
    """Each expert's ranking accuracy on comparisons of prompts that its reward model was not trained on."""
    found = {}
    for name in task.names:
        unseen = split_by_prompt(comparisons, name, config.held_out, config.seed)[1][:RANKED]
        logps = pair_logps(band.bank, name, band.tokenizer, unseen)
        found[name] = ranking(*logps.four, lengths_P2=logps.lengths_P2)
    return found


def entries_of(best: Mapping[str, float]) -> list[Entry]:
    """The baselines, and every composed method at strength 1 and at its best."""
    entries = [Entry("base", "base"), Entry("prompted", "prompted")]
    for method, strength in best.items():
        entries += [Entry(method, method), Entry(f"{method}@best", method, strength)]
    return entries


def judge(
    task: Task, band: Band, entries: Sequence[Entry], scales: tuple[ZScore, ZScore], models: RewardFn,
    config: BuildConfig, progress: Progress,
) -> Judged:  # fmt: skip
    """Answer the test prompts with every entry and score the answers by the judge and by the reward models."""
    profiles, prompts = task.profiles, task.test_prompts
    answers = answer(task, band, entries, profiles, prompts, config, progress)
    asked = [prompt for _ in entries for prompt in prompts for _ in profiles]
    texts = [text for given in answers for row in given.texts_PR for text in row]
    shape = (len(entries), len(prompts), len(profiles), len(task.names))
    return Judged(
        entries=tuple(entries),
        profiles=tuple(profiles),
        answers_M=tuple(answers),
        scores_MPRD=np.stack([scales[0](given.scores_PRD) for given in answers]),
        model_scores_MPRD=scales[1](task.scores(Scorer(models), asked, texts)).reshape(shape),
        correct_MPR=task.correct(asked, texts).reshape(shape[:3]) if task.correct else None,
    )
