"""The whole path: prompts and rewards -> comparisons -> reward models -> experts -> a band -> a judged comparison.

Each stage is a function; `build` runs them in turn. The experts are chosen by learned reward models, and everything is
judged by the rewards that labelled the comparisons, on prompts that no stage before has seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from counterpoint.artifacts import write_json
from counterpoint.compose.plan import Plan, Row
from counterpoint.data.comparisons import write_comparisons
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.evaluate.compare import profile_rewards
from counterpoint.models.band_file import add_expert, new_band, read_band, write_band
from counterpoint.profiles import corners, format_profile
from counterpoint.rewards.bradley_terry import BradleyTerryReward, accuracy
from counterpoint.rewards.calibrate import ZScore, fit_zscore, profile_weights
from counterpoint.rewards.compare import label_comparisons
from counterpoint.rewards.rules import Rewards
from counterpoint.stages import Stages
from counterpoint.train.best_of_n import best_of_n, to_examples
from counterpoint.train.dpo import DpoConfig, train_dpo
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Comparison, Completion, CounterpointError, Dimension, Expert, Profile, Prompt, RewardFn

Correct = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]

COMPOSED = ("route", "soup", "moe", "mixture-prob", "mixture-log")


@dataclass(frozen=True)
class Task:
    """What is learned and by what it is judged.

    `axes` name opposed dimensions: a profile takes one pole of each. `judge` scores every dimension; `correct` says, as
    a further score, whether a response is right at all.
    """

    model: str
    dimensions: tuple[Dimension, ...]
    axes: tuple[tuple[str, ...], ...]
    train_prompts: tuple[Prompt, ...]
    test_prompts: tuple[Prompt, ...]
    judge: RewardFn
    correct: Correct | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)


@dataclass(frozen=True)
class BuildConfig:
    """How much of everything; lengths in tokens.

    The pool holds `samples` plain responses per training prompt and `asked` more per dimension that can be asked for in
    words. `expert_steps` are steps of supervised fine-tuning on the best of the pool, or of DPO on the comparisons.
    `strengths` are tried for every method that has one, on `tune_prompts` training prompts (mixture-prob, which cannot
    exceed 1, gets as many between 0 and 1).
    """

    samples: int = 4
    asked: int = 2
    pool_temperature: float = 1.0
    pairs_per_prompt: int = 6
    held_out: float = 0.2
    reward_steps: int = 40
    reward_learning_rate: float = 1e-3
    experts: Literal["best-of-n", "dpo"] = "best-of-n"
    expert_steps: int = 50
    expert_learning_rate: float = 2e-3
    batch: int = 32
    lora_rank: int = 8
    temperature: float = 0.7
    max_tokens: int = 64
    tune_prompts: int = 24
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    checkpoint_every: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Pool:
    """Responses of the base to training prompts, and the judge's scores of them."""

    prompts: tuple[Prompt, ...]
    completions_PN: tuple[tuple[Completion, ...], ...]
    scores_PND: np.ndarray

    @property
    def texts_PN(self) -> list[list[str]]:
        return [[completion.text for completion in row] for row in self.completions_PN]


@dataclass(frozen=True)
class RewardQuality:
    """Accuracy of a reward model on comparisons of held-out prompts, beside always preferring the shorter or longer."""

    dimension: str
    pairs: int
    accuracy: Interval
    by_length: Interval


@dataclass(frozen=True)
class Entry:
    """A method as it is judged: its name in tables, the method, and the strength of its profiles."""

    name: str
    method: str
    strength: float = 1.0


@dataclass(frozen=True)
class Judged:
    """Scores of every entry on test prompts: z-scored by rules and by reward models, and the texts themselves."""

    entries: tuple[Entry, ...]
    profiles: tuple[Profile, ...]
    scores_MPRD: np.ndarray
    model_scores_MPRD: np.ndarray
    correct_MPR: np.ndarray | None
    texts_MPR: tuple[tuple[tuple[str, ...], ...], ...]


@dataclass(frozen=True)
class Built:
    """All that a report is made from."""

    task: Task
    rewards: tuple[RewardQuality, ...]
    sweep: Mapping[str, Mapping[float, float]]
    judged: Judged


def build(task: Task, out: Path, config: BuildConfig, stages: Stages) -> Built:
    """Run the whole path and leave a band in `out`. Finished training stages of an earlier run are not done again."""
    check(task)
    with stages.stage("pool", "sample the base, to have responses to compare") as bar:
        new_band(out, task.model, task.dimensions)
        band = Band.load(out)
        pool = sample_pool(task, band, config, bar.task("responses"))
        bar.note(f"{sum(map(len, pool.completions_PN))} responses to {len(pool.prompts)} prompts")
    with stages.stage("comparisons", "label which of two responses has more of each dimension") as bar:
        labelled = label_comparisons(
            pool.prompts, pool.texts_PN, pool.scores_PND, task.names, config.pairs_per_prompt, config.seed
        )
        write_comparisons(out / "comparisons.jsonl", labelled.comparisons)
        bar.note(f"{len(labelled.comparisons)} comparisons; {sum(labelled.ties.values())} ties left out")
    with stages.stage("rewards", "learn a Bradley-Terry reward model per dimension") as bar:
        qualities = []
        for name in task.names:
            quality = train_reward(task, name, labelled.comparisons, band, out, config, bar.task(name))
            qualities.append(quality)
            bar.note(f"{name} {quality.accuracy.value:.2f}")
        models = Rewards([BradleyTerryReward.load(out / "rewards" / name) for name in task.names])
    with stages.stage("experts", "learn a LoRA expert per dimension") as bar:
        model_scores_PND = model_scores_of(models, pool)
        for column, dimension in enumerate(task.dimensions):
            scores_PN = model_scores_PND[..., column]
            train_expert(
                task, dimension, pool, scores_PN, labelled.comparisons, band, out, config, bar.task(dimension.name)
            )
        band = Band.load(out)
    profiles = task_profiles(task)
    with stages.stage("strengths", "choose each method's strength and best expert on training prompts") as bar:
        scale = fit_scale(task, task.judge, band, config)
        model_scale = fit_scale(task, models, band, config)
        band = measure_experts(task, band, out, scale, config)
        sweep = sweep_strengths(task, band, profiles, scale, config, bar.task("methods x strengths"))
        best = {method: max(by_strength, key=lambda s: by_strength[s]) for method, by_strength in sweep.items()}
        band.file.strengths.update(best)
        write_band(out, band.file)
        bar.note(", ".join(f"{method} {strength:g}" for method, strength in best.items()))
    with stages.stage("judging", "answer held-out prompts with every method, and score the answers") as bar:
        entries = [Entry("base", "base"), Entry("prompted", "prompted")]
        for method in ("best-expert", *COMPOSED):
            entries += [Entry(method, method), Entry(f"{method}@best", method, best[method])]
        judged = judge(task, band, entries, profiles, (scale, model_scale), models, config, bar.task("methods"))
    return Built(task, tuple(qualities), sweep, judged)


def check(task: Task) -> None:
    """Raise CounterpointError for a task that cannot be run."""
    missing = [name for name in task.names if name not in task.judge.dimensions]
    if missing:
        raise CounterpointError(f"no reward scores the dimension {missing[0]!r}")
    if not task.train_prompts or not task.test_prompts:
        raise CounterpointError(
            f"{len(task.train_prompts)} training prompts and {len(task.test_prompts)} test prompts: both are needed"
        )


def task_profiles(task: Task) -> list[Profile]:
    """One pole per axis."""
    return corners(task.axes)


def sample_pool(task: Task, band: Band, config: BuildConfig, progress: Callable[[int, int], None]) -> Pool:
    """Sample plain responses, and ones to requests in words, which are then compared without the request."""
    wanted: list[Profile | None] = [None] * config.samples
    for dimension in task.dimensions:
        if dimension.request:
            wanted += [Profile({dimension.name: 1.0})] * config.asked
    prompts = [prompt for prompt in task.train_prompts for _ in wanted]
    sampling = Sampling(temperature=config.pool_temperature, max_tokens=config.max_tokens, seed=config.seed)
    completions = band.respond(prompts, wanted * len(task.train_prompts), "prompted", sampling, progress)
    n = len(wanted)
    scores_ND = task_scores(task, task.judge, prompts, [c.text for c in completions])
    rows = tuple(tuple(completions[start : start + n]) for start in range(0, len(completions), n))
    return Pool(task.train_prompts, rows, scores_ND.reshape(len(rows), n, -1))


def task_scores(task: Task, reward: RewardFn, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
    """`scores_ND` with the columns in the task's order."""
    columns = [reward.dimensions.index(name) for name in task.names]
    scores: np.ndarray = reward(prompts, responses)[:, columns]
    return scores


def model_scores_of(models: RewardFn, pool: Pool) -> np.ndarray:
    """The reward models' scores `[P, N, D]` of a pool."""
    n = len(pool.completions_PN[0])
    prompts = [prompt for prompt in pool.prompts for _ in range(n)]
    scores_ND = models(prompts, [text for row in pool.texts_PN for text in row])
    return scores_ND.reshape(len(pool.prompts), n, -1)


def train_reward(
    task: Task,
    name: str,
    comparisons: Sequence[Comparison],
    band: Band,
    out: Path,
    config: BuildConfig,
    progress: Callable[[int, int], None],
) -> RewardQuality:
    """Train one dimension's reward model on some of the prompts and measure it on the others."""
    prompts = list(dict.fromkeys(task.train_prompts))
    cut = max(1, round(len(prompts) * config.held_out))
    shuffled = np.random.default_rng(config.seed).permutation(len(prompts))
    held = {prompts[index] for index in shuffled[:cut]}
    own = [c for c in comparisons if c.dimension == name]
    seen, unseen = [c for c in own if c.prompt not in held], [c for c in own if c.prompt in held]
    if not seen or not unseen:
        raise CounterpointError(
            f"dimension {name!r}: {len(seen)} comparisons to learn from and {len(unseen)} to measure by; its reward "
            "hardly tells the base's responses apart, so sample more of them or use another reward"
        )
    settings = RewardModelConfig(
        model=task.model, dimension=name, steps=config.reward_steps, batch=config.batch, seed=config.seed,
        learning_rate=config.reward_learning_rate, checkpoint_every=config.checkpoint_every,
    )  # fmt: skip
    folder = out / "rewards" / name
    train_reward_model(settings, seen, folder, bare_model(band), progress)
    right_P = accuracy(BradleyTerryReward.load(folder), unseen)
    return RewardQuality(
        name,
        len(unseen),
        by_prompt(right_P, unseen, config.seed),
        by_prompt(length_accuracy(seen, unseen), unseen, config.seed),
    )


def by_prompt(right_P: np.ndarray, comparisons: Sequence[Comparison], seed: int) -> Interval:
    """The mean over prompts of each prompt's accuracy, with its interval."""
    of: dict[Prompt, list[float]] = {}
    for right, comparison in zip(right_P, comparisons, strict=True):
        of.setdefault(comparison.prompt, []).append(float(right))
    return mean_interval([float(np.mean(values)) for values in of.values()], seed=seed)


def length_accuracy(seen: Sequence[Comparison], unseen: Sequence[Comparison]) -> np.ndarray:
    """How often the longer response (or the shorter, whichever `seen` favours) is the chosen one; a tie is half."""

    def longer(comparisons: Sequence[Comparison]) -> np.ndarray:
        signs = [np.sign(len(c.chosen.split()) - len(c.rejected.split())) for c in comparisons]
        return (np.array(signs) + 1) / 2

    return longer(unseen) if longer(seen).mean() >= 0.5 else 1 - longer(unseen)


def train_expert(
    task: Task,
    dimension: Dimension,
    pool: Pool,
    scores_PN: np.ndarray,
    comparisons: Sequence[Comparison],
    band: Band,
    out: Path,
    config: BuildConfig,
    progress: Callable[[int, int], None],
) -> None:
    """Train one dimension's expert and put it into the band."""
    folder = out / "made" / dimension.name
    shared = {
        "model": task.model, "steps": config.expert_steps, "batch": config.batch, "seed": config.seed,
        "learning_rate": config.expert_learning_rate, "lora_rank": config.lora_rank,
        "lora_alpha": 2 * config.lora_rank, "checkpoint_every": config.checkpoint_every,
    }  # fmt: skip
    if config.experts == "dpo":
        train_dpo(DpoConfig(dimension=dimension.name, **shared), comparisons, folder, bare_model(band), progress)  # type: ignore[arg-type]
        how = f"DPO on {sum(c.dimension == dimension.name for c in comparisons)} comparisons"
    else:
        examples = to_examples(best_of_n(pool.prompts, pool.completions_PN, scores_PN), band.tokenizer)
        train_sft(SftConfig(**shared), examples, folder, bare_model(band), progress)  # type: ignore[arg-type]
        how = f"the best of {scores_PN.shape[1]} responses to each of {scores_PN.shape[0]} prompts"
    add_expert(out, folder, Expert(dimension.name, dimension.name, how))


def bare_model(band: Band) -> object:
    """The band's base without the bank around its layers; the band must not be used after."""
    band.bank.unwrap()
    return band.model


def fit_scale(task: Task, reward: RewardFn, band: Band, config: BuildConfig) -> ZScore:
    """z-scores by the base's own responses to training prompts: the base is 0, one is its standard deviation."""
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)
    prompts = task.train_prompts
    responses = [c.text for c in band.respond(prompts, [None] * len(prompts), "base", sampling)]
    return fit_zscore(task_scores(task, reward, prompts, responses), task.names)


def measure_experts(task: Task, band: Band, out: Path, scale: ZScore, config: BuildConfig) -> Band:
    """Write each expert's mean scores on training prompts into the band, which is what `best-expert` goes by."""
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)
    prompts = task.train_prompts[: config.tune_prompts]
    for entry in band.file.experts:
        plan = Plan((Row({entry.name: 1.0}),))
        requests = [band.request(p, plan, replace(sampling, seed=config.seed + i)) for i, p in enumerate(prompts)]
        texts = [completion.text for completion in band.engine.run(requests)]
        means = scale(task_scores(task, task.judge, prompts, texts)).mean(axis=0)
        entry.scores = {name: round(float(mean), 4) for name, mean in zip(task.names, means, strict=True)}
    write_band(out, band.file)
    return band


def strengths_of(method: str, config: BuildConfig) -> tuple[float, ...]:
    """The strengths to try: the same number for every method."""
    if method != "mixture-prob":
        return config.strengths
    return tuple((index + 1) / len(config.strengths) for index in range(len(config.strengths)))


def sweep_strengths(
    task: Task,
    band: Band,
    profiles: Sequence[Profile],
    scale: ZScore,
    config: BuildConfig,
    progress: Callable[[int, int], None],
) -> dict[str, dict[float, float]]:
    """Mean reward of every method at every strength, on the same training prompts."""
    settings = [(m, s) for m in ("best-expert", *COMPOSED) for s in strengths_of(m, config)]
    sweep: dict[str, dict[float, float]] = {}
    for done, (method, strength) in enumerate(settings):
        progress(done, len(settings))
        prompts = task.train_prompts[: config.tune_prompts]
        scores_PRD, _ = answer_all(task, band, Entry(method, method, strength), profiles, prompts, config, task.judge)
        reward_PR = profile_rewards(scale(scores_PRD), profile_weights(profiles, task.names) > 0)
        sweep.setdefault(method, {})[strength] = float(reward_PR.mean())
    progress(len(settings), len(settings))
    return sweep


def answer_all(
    task: Task,
    band: Band,
    entry: Entry,
    profiles: Sequence[Profile],
    prompts: Sequence[Prompt],
    config: BuildConfig,
    judge: RewardFn,
) -> tuple[np.ndarray, list[list[str]]]:
    """Answer every prompt for every profile; raw scores `[P, R, D]` and texts `[P][R]`.

    A prompt's noise is the same for every profile and method, so that comparisons are paired.
    """
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens)
    served = profiles if entry.method != "base" else profiles[:1]
    plans = [band.plan(replace(profile, strength=entry.strength), entry.method) for profile in served]
    requests = [
        band.request(prompt, plan, replace(sampling, seed=config.seed + index))
        for index, prompt in enumerate(prompts)
        for plan in plans
    ]
    texts = [completion.text for completion in band.engine.run(requests)]
    asked = [prompt for prompt in prompts for _ in plans]
    scores_PRD = task_scores(task, judge, asked, texts).reshape(len(prompts), len(plans), -1)
    rows = [texts[start : start + len(plans)] for start in range(0, len(texts), len(plans))]
    if len(plans) < len(profiles):
        scores_PRD = scores_PRD.repeat(len(profiles), axis=1)
        rows = [row * len(profiles) for row in rows]
    return scores_PRD, rows


def judge(
    task: Task,
    band: Band,
    entries: Sequence[Entry],
    profiles: Sequence[Profile],
    scales: tuple[ZScore, ZScore],
    models: RewardFn,
    config: BuildConfig,
    progress: Callable[[int, int], None],
) -> Judged:
    """Answer the test prompts with every entry and score the answers by rules and by reward models."""
    scores, model_scores, correct, texts = [], [], [], []
    prompts = task.test_prompts
    for done, entry in enumerate(entries):
        progress(done, len(entries))
        scores_PRD, rows = answer_all(task, band, entry, profiles, prompts, config, task.judge)
        asked = [prompt for prompt in prompts for _ in profiles]
        flat = [text for row in rows for text in row]
        scores.append(scales[0](scores_PRD))
        model_scores.append(scales[1](task_scores(task, models, asked, flat)).reshape(scores_PRD.shape))
        if task.correct:
            correct.append(task.correct(asked, flat).reshape(len(prompts), len(profiles)))
        texts.append(tuple(map(tuple, rows)))
    progress(len(entries), len(entries))
    return Judged(
        tuple(entries), tuple(profiles), np.stack(scores), np.stack(model_scores),
        np.stack(correct) if correct else None, tuple(texts),
    )  # fmt: skip


def write_responses(path: Path, built: Built) -> None:
    """Write every judged response with its scores, so that anyone can judge it anew."""
    judged = built.judged
    rows = [
        {
            "method": entry.name, "strength": entry.strength, "profile": format_profile(profile), "prompt": index,
            "response": judged.texts_MPR[m][index][r],
            "scores": dict(zip(built.task.names, np.round(judged.scores_MPRD[m, index, r], 4).tolist(), strict=True)),
        }
        for m, entry in enumerate(judged.entries)
        for r, profile in enumerate(judged.profiles)
        for index in range(len(built.task.test_prompts))
    ]  # fmt: skip
    write_json(path, rows)


__all__ = ["BuildConfig", "Built", "Task", "build", "read_band", "write_responses"]
