"""Which way of combining a band's experts serves people best, on a user's own prompts."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from counterpoint.artifacts import hash_files, make_once, read_json, write_json
from counterpoint.build.answer import Answered, Entry, Progress, Texts, answer_entry, entry_requests
from counterpoint.build.pairs import claim_folder
from counterpoint.compose.weighers.controller import FILE, TENSORS
from counterpoint.compose.weighers.gate import FILE as GATE_FILE
from counterpoint.compose.weighers.gate import GATES, KINDS, LEARNED
from counterpoint.data.responses import prompt_column
from counterpoint.decode.band import METHODS, Band
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.compare import Standings, compare
from counterpoint.evaluate.judged import Judged, gather, judge_methods, most_questions, questions_of
from counterpoint.models.band_file import BAND
from counterpoint.profiles import format_profile
from counterpoint.rewards.calibrate import ZScore, fit_zscore, profile_weights
from counterpoint.rewards.judge import LLMJudge
from counterpoint.rewards.judge_prompts import GENERAL
from counterpoint.rewards.scorer import Scorer
from counterpoint.stages import Bar, Stages
from counterpoint.types import CounterpointError, Dimension, Profile, Prompt, RewardFn

REFERENCES = ("base", "prompted")
"""Always answered: what a band is to be better than, and what sets the unit of reward."""

TEXTS = "texts.json"


@dataclass(frozen=True)
class Answering:
    """How answers are drawn; with the band, the prompts and the profiles it says which answers are the same."""

    method: str
    strength: float | None
    temperature: float
    max_tokens: int
    seed: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Trial:
    """What is compared: entries, of which `REFERENCES` are the first, on prompts, for profiles.

    `left_out` says why a method is not among the entries. `raw` leaves scores in the rewards' own units. `preferences`
    say what a judge looks at for the dimensions that they name, in place of what the band says.
    """

    entries: tuple[Entry, ...]
    prompts: tuple[Prompt, ...]
    profiles: tuple[Profile, ...]
    left_out: Mapping[str, str]
    sampling: Sampling
    raw: bool = False
    preferences: tuple[Dimension, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) < 2:
            raise CounterpointError(f"{len(self.prompts)} prompts: an interval by prompt needs two or more that differ")


@dataclass(frozen=True)
class Evaluation:
    """What was answered, and how good that was by rewards and by a judge: each is `None` where there is no such.

    `scale` is what scores were divided by, `None` for the rewards' own units. `report` is the judge's, ready for JSON.
    """

    trial: Trial
    answered: Answered
    standings: Standings | None
    scale: ZScore | None
    judged: Judged | None = None
    report: Mapping[str, Any] | None = None


def everyone(dimensions: Sequence[str]) -> list[Profile]:
    """A person for each dimension alone, and one for each two of them."""
    named = [names for size in (1, 2) for names in combinations(dimensions, size)]
    return [Profile(dict.fromkeys(names, 1.0)) for names in named]


def check_strength(strength: float | Literal["best"] | None) -> None:
    """Refuse a strength that no method takes."""
    if isinstance(strength, int | float) and not 0 <= strength < math.inf:
        raise CounterpointError(f"strength is {strength:g}; it must be finite and at least 0, or best")


def entries_for(
    band: Band, methods: Sequence[str], profiles: Sequence[Profile], strength: float | Literal["best"] | None
) -> tuple[list[Entry], dict[str, str]]:
    """The baselines and the methods asked for, or all that serve these profiles, with why the others do not.

    Of gates, those that the band has: an Arrow that nobody made takes part where it is asked for.
    `strength` replaces the profiles' own; "best" is what the band found in training for each method. Raises
    CounterpointError where a method that was asked for cannot serve a profile, and for a strength that none can.
    """
    check_strength(strength)
    entries = [Entry(name, name) for name in REFERENCES]
    left_out: dict[str, str] = {}
    for method in methods or [name for name in METHODS if name not in KINDS or name in band.gates]:
        if method in REFERENCES:
            continue
        entry = Entry(method, method, band.file.strengths.get(method) if strength == "best" else strength)
        try:
            for profile in profiles:
                band.plan(entry.served(profile), method)
        except CounterpointError as error:
            if methods:
                raise
            left_out[method] = str(error)
        else:
            entries.append(entry)
    return list(dict.fromkeys(entries)), left_out


def evaluate(
    band: Band, folder: Path, trial: Trial, reward: RewardFn | None, stages: Stages, work: Path | None = None,
    judge: LLMJudge | None = None,
) -> Evaluation:  # fmt: skip
    """Answer every prompt for every profile by every entry, and compare the entries by rewards, by a judge, or by both.

    `folder` is the band's. With `work`, answers are kept there by method: a killed run goes on, and other rewards cost
    no new answers. Raises CounterpointError for a dimension without a unit.
    """
    texts_MPR = answer_all(band, folder, trial, stages, work)
    shape = (len(trial.entries), len(trial.prompts), len(trial.profiles), 0)
    answered = Answered(trial.entries, trial.prompts, trial.profiles, (), texts_MPR, np.zeros(shape))
    found = Evaluation(trial, answered, None, None)
    if reward is not None:
        found = score(found, reward, stages)
    return found if judge is None else judge_answers(found, band, judge, stages)


def answer_all(band: Band, folder: Path, trial: Trial, stages: Stages, work: Path | None) -> tuple[Texts, ...]:
    """`texts_MPR`: what every entry answers."""
    prompts, profiles, entries = trial.prompts, trial.profiles, trial.entries
    count = len(entries) * len(profiles) * len(prompts)
    why = f"{len(entries)} methods for {len(profiles)} profiles on {len(prompts)} prompts: {count} answers"
    with stages.stage("answers", why) as bar:
        inputs = {} if work is None else inputs_of(folder, trial)
        places = [None if work is None else work / entry.name for entry in entries]
        return tuple(
            answers_of(
                band, entry, trial, inputs | ({} if work is None else steered_by(folder, entry.method)), place, bar
            )
            for entry, place in zip(entries, places, strict=True)
        )


def score(found: Evaluation, reward: RewardFn, stages: Stages) -> Evaluation:
    """An evaluation with scores by rewards, and how the entries stand by them."""
    trial, answered = found.trial, found.answered
    with stages.stage("scores", f"score them on {', '.join(reward.dimensions)}") as bar:
        scores_MPRD = score_all(reward, answered.prompts, answered.texts_MPR, bar.task("answers"))
        scale = None if trial.raw else fit_scale(scores_MPRD, reward.dimensions)
    scaled_MPRD = scores_MPRD if scale is None else scale(scores_MPRD)
    scored = replace(answered, dimensions=reward.dimensions, scores_MPRD=scaled_MPRD)
    return replace(found, answered=scored, standings=stand(scored, trial.sampling.seed), scale=scale)


def criteria_of(
    band: Band, profiles: Sequence[Profile], preferences: Sequence[Dimension] = ()
) -> tuple[list[Dimension], np.ndarray]:
    """What a judge is asked of each profile: its dimensions, `wanted_RC`, and of all of them the general quality.

    The last criterion is the general one, for which `wanted_RC` has no column. `preferences` are as in `Trial`.
    """
    told = {preference.name: preference for preference in preferences}
    names = [name for name in band.dimensions if any(profile.weights.get(name) for profile in profiles)]
    wanted_RC = np.array([[bool(profile.weights.get(name)) for name in names] for profile in profiles])
    return [*(told.get(name) or band.file.dimension(name) for name in names), GENERAL], wanted_RC


def asked_of(wanted_RC: np.ndarray) -> np.ndarray:
    """The criteria that a judge is asked, with the general one for everybody."""
    return np.hstack([wanted_RC, np.ones((len(wanted_RC), 1), dtype=bool)])


def most_calls(band: Band, trial: Trial, repeats: int) -> int:
    """How many calls a judge is asked for at most: each question in two orders, each order `repeats` times."""
    _, wanted_RC = criteria_of(band, trial.profiles)
    return 2 * repeats * most_questions(len(trial.entries), len(trial.prompts), asked_of(wanted_RC))


def judge_answers(found: Evaluation, band: Band, judge: LLMJudge, stages: Stages) -> Evaluation:
    """An evaluation with a judge's verdicts on each two entries' answers, one criterion at a time."""
    trial, answered = found.trial, found.answered
    criteria, wanted_RC = criteria_of(band, trial.profiles, trial.preferences)
    places, questions = questions_of(trial.prompts, answered.texts_MPR, criteria, asked_of(wanted_RC))
    calls, kept = judge.count(questions, forced=False)
    why = f"{len(questions)} questions, both orders: {calls} calls of {judge.config.model}, {kept} known from before"
    with stages.stage("verdicts", why) as bar:
        verdicts = judge.compare(questions, forced=False, progress=bar.task("calls"))
    shape = (len(trial.entries), len(trial.prompts), len(trial.profiles), len(criteria))
    judged = judge_methods(
        gather(places, verdicts, shape),
        wanted_RC,
        methods=[entry.name for entry in trial.entries],
        profiles=[format_profile(profile) for profile in trial.profiles],
        criteria=[dimension.name for dimension in criteria[:-1]],
        seed=trial.sampling.seed,
        general=True,
    )
    return replace(found, judged=judged, report=judge.account())


def inputs_of(folder: Path, trial: Trial) -> dict[str, str]:
    """The hashes of what answers depend on."""
    columns = json.dumps([prompt_column(prompt) for prompt in trial.prompts])
    parts = [path for path in (folder / BAND, folder / "experts") if path.exists()]
    return {
        "band": hash_files(*parts),
        "prompts": hashlib.sha256(columns.encode()).hexdigest(),
        "profiles": "; ".join(format_profile(profile) for profile in trial.profiles),
    }


def steered_by(folder: Path, method: str) -> dict[str, str]:
    """The hash of what answers of a method depend on besides: a controller, or a gate with its own experts."""
    if method == "mope":
        parts = [folder / "controller" / name for name in (FILE, "config.json", TENSORS)]
    else:
        parts = [folder / GATES / method / name for name in (GATE_FILE, LEARNED, "experts")]
    found = [path for path in parts if path.exists()]
    return {"controller" if method == "mope" else "gate": hash_files(*found)} if found else {}


def answers_of(
    band: Band, entry: Entry, trial: Trial, inputs: Mapping[str, str], place: Path | None, bar: Bar
) -> Texts:
    """One entry's answers, read from `place` where an earlier run left them."""
    prompts, profiles, sampling = trial.prompts, trial.profiles, trial.sampling
    progress = bar.task(entry.name)
    requests = entry_requests(band, entry, profiles, prompts, sampling)
    if place is None:
        return answer_entry(band, requests, len(prompts), len(profiles), progress)

    def make(scratch: Path) -> None:
        found = answer_entry(band, requests, len(prompts), len(profiles), progress, scratch / "work")
        write_json(scratch / TEXTS, found)

    how = Answering(
        entry.method, entry.strength, sampling.temperature, sampling.max_tokens, sampling.seed, str(band.model.dtype),
        band.model.device.type,
    )  # fmt: skip
    claim_folder(place, TEXTS)
    if not make_once(place, how, inputs, make):
        bar.note(f"{entry.name} had answered before")
    return tuple(map(tuple, read_json(place / TEXTS)))


def score_all(
    reward: RewardFn, prompts: Sequence[Prompt], texts_MPR: Sequence[Texts], progress: Progress
) -> np.ndarray:
    """`scores_MPRD` of every answer."""
    profiles = len(texts_MPR[0][0])
    asked = [prompt for _ in texts_MPR for prompt in prompts for _ in range(profiles)]
    said = [text for texts_PR in texts_MPR for row in texts_PR for text in row]
    scores_ND = Scorer(reward, progress, len(said))(asked, said)
    return scores_ND.reshape(len(texts_MPR), len(prompts), profiles, -1)


def fit_scale(scores_MPRD: np.ndarray, dimensions: Sequence[str]) -> ZScore:
    """The base's mean is 0, and the standard deviation over its answers and those to requests in words is 1.

    So the unit does not depend on which methods take part. `scores_MPRD` begins with `REFERENCES`.
    """
    try:
        std = fit_zscore(scores_MPRD[: len(REFERENCES)].reshape(-1, len(dimensions)), dimensions).std
    except CounterpointError as error:
        raise CounterpointError(f"{error}; or pass --raw to keep the rewards' own units") from None
    return ZScore(tuple(dimensions), tuple(scores_MPRD[0].mean(axis=(0, 1)).tolist()), std)


def stand(answered: Answered, seed: int) -> Standings:
    """Rewards and win rates of all entries."""
    return compare(
        answered.scores_MPRD,
        profile_weights(answered.profiles, answered.dimensions) > 0,
        np.full(len(answered.dimensions), 1e-9),
        methods=[entry.name for entry in answered.entries],
        profiles=[format_profile(profile) for profile in answered.profiles],
        dimensions=answered.dimensions,
        seed=seed,
    )
