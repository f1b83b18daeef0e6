"""An expert without comparisons: it imitates the best of the base's own responses, by a reward.

Measured by what answers to other prompts earn from the same reward, which says what was learned and not whether the
reward is right: for that, judge by another.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.artifacts import make_once, write_json, write_text
from counterpoint.build.answer import requests_of, usable_prompts
from counterpoint.build.expert import claim_expert
from counterpoint.build.pairs import METRICS, claim_folder, outcome
from counterpoint.compose.plan import Plan, Row
from counterpoint.data.responses import prompt_column
from counterpoint.data.split import opening
from counterpoint.decode.band import Band
from counterpoint.decode.parts import run_in_parts
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.bootstrap import mean_interval, paired_difference
from counterpoint.rewards.scorer import Scorer
from counterpoint.stages import Bar, Stages
from counterpoint.train.best_of_n import best_of_n, to_examples
from counterpoint.train.run import hash_base
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Completion, CounterpointError, Prompt, RewardFn

RESPONSES = "responses.jsonl"
PLAIN = Plan((Row(),))
"""The base alone."""

Samples = list[tuple[Completion, ...]]


@dataclass(frozen=True)
class BestConfig:
    """What is sampled from the base, `samples` responses to each prompt, and how many of them are imitated.

    A share `holdout` of the prompts measures what was learned. Prompts that cannot be answered are an error unless
    `skip_bad`.
    """

    dimension: str
    samples: int = 16
    keep: int = 2
    temperature: float = 0.8
    max_tokens: int = 128
    holdout: float = 0.2
    skip_bad: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.keep < self.samples:
            raise CounterpointError(f"keep is {self.keep} of {self.samples} samples; expected 1 or more, and not all")

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed)


def learn_best(
    config: SftConfig,
    best: BestConfig,
    reward: RewardFn,
    prompts: Sequence[Prompt],
    out: Path,
    stages: Stages,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train an expert into `out` on the best of each prompt's samples; return what `out/metrics.json` says of it.

    The samples are kept in a folder beside it, `OUT.samples`, for another reward or another `keep`. `reward` scores
    the dimension alone. Raises CounterpointError where `out` holds anything but an expert, and for too few prompts.
    """
    claim_expert(out)
    base = Band.assemble(config.model, {}, device=device)
    usable, wrong = usable_prompts(base, PLAIN, list(dict.fromkeys(prompts)), best.skip_bad)
    for line in wrong:
        stages.console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    learned, held = split_prompts(usable, best.holdout, best.seed)
    why = f"{best.samples} responses of the base to each of {len(learned)} prompts; {len(wrong)} left out"
    with stages.stage("samples", why) as bar:
        completions_PN = sample(config.model, best, learned, base, out.with_name(f"{out.name}.samples"), bar)
    with stages.stage(f"expert for {best.dimension}", f"imitate the {best.keep} best of each prompt's") as bar:
        scores_PN = score_samples(reward, learned, completions_PN, bar)
        examples = to_examples(best_of_n(learned, completions_PN, scores_PN, best.keep), base.tokenizer)
        result = train_sft(config, examples, out, progress=bar.task("steps"))
        bar.note(outcome(result, config.steps))
        bar.note(f"{result.dropped} responses of more than {config.max_length} tokens left out")
    with stages.stage("held-out prompts", "see what answers to other prompts earn, beside the base's") as bar:
        band = Band.assemble(config.model, {best.dimension: out}, device=device)
        measured = gain(band, best, reward, held, bar)
    counts = {"prompts": len(learned), "responses": len(examples) - result.dropped, "prompts_left_out": len(wrong)}
    metrics = {
        "dimension": best.dimension, "learned": counts, "held_out": {"prompts": len(held)},
        "too_long": result.dropped, "max_length": config.max_length, "holdout": best.holdout, "seed": best.seed,
        "fresh": result.fresh, "last_loss": result.losses[-1], **measured,
    }  # fmt: skip
    write_json(out / METRICS, metrics)
    return metrics


def split_prompts(prompts: Sequence[Prompt], share: float, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """To learn from, and to measure by: a share of the prompts, at least two; those of one `opening` count as one."""
    if not 0 < share < 1:
        raise CounterpointError(f"the share of prompts that is held out is {share:g}; it must lie between 0 and 1")
    openings = list(dict.fromkeys(opening(prompt) for prompt in prompts))
    order = np.random.default_rng(seed).permutation(len(openings))
    count = max(2, round(len(openings) * share))
    if count >= len(openings):
        raise CounterpointError(
            f"{len(openings)} different prompts, of which {count} are held out: none is left to learn from; give more"
        )
    held = {openings[index] for index in order[:count]}
    return [p for p in prompts if opening(p) not in held], [p for p in prompts if opening(p) in held]


def sample(model: str, best: BestConfig, prompts: Sequence[Prompt], base: Band, out: Path, bar: Bar) -> Samples:
    """Sample the base into `out`, or read what an earlier run sampled; a killed run goes on where it was."""
    claim_folder(out, RESPONSES)
    columns = [prompt_column(prompt) for prompt in prompts for _ in range(best.samples)]
    inputs = {"base": hash_base(model), "prompts": hashlib.sha256(json.dumps(columns).encode()).hexdigest()}
    progress = bar.task("responses")

    def make(scratch: Path) -> None:
        asked = [prompt for prompt in prompts for _ in range(best.samples)]
        said = run_in_parts(base, requests_of(base, [PLAIN], asked, best.sampling), scratch / "work", progress)
        write_text(scratch / RESPONSES, "".join(_line(*pair) for pair in zip(columns, said, strict=True)))

    if not make_once(out, best.sampling, inputs, make):
        bar.note(f"were in {out} already")
    with (out / RESPONSES).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    said = [Completion(row["response"], tuple(row["tokens"]), row["finish"]) for row in rows]
    return [tuple(said[start : start + best.samples]) for start in range(0, len(said), best.samples)]


def _line(prompt: str | list[dict[str, str]], said: Completion) -> str:
    row = {"prompt": prompt, "response": said.text, "tokens": said.tokens, "finish": said.finish}
    return json.dumps(row, ensure_ascii=False) + "\n"


def score_samples(reward: RewardFn, prompts: Sequence[Prompt], completions_PN: Samples, bar: Bar) -> np.ndarray:
    """`scores_PN` of the samples."""
    texts = [completion.text for row in completions_PN for completion in row]
    asked = [prompt for prompt, row in zip(prompts, completions_PN, strict=True) for _ in row]
    scores_N1 = Scorer(reward, bar.task("scores"), len(texts))(asked, texts)
    return scores_N1.reshape(len(prompts), -1)


def gain(band: Band, best: BestConfig, reward: RewardFn, prompts: Sequence[Prompt], bar: Bar) -> dict[str, Any]:
    """Mean rewards of answers by the base and by the expert, and their paired difference, with intervals by prompt."""
    plans = [PLAIN, Plan((Row({best.dimension: 1.0}),))]
    requests = requests_of(band, plans, prompts, best.sampling)
    texts = [completion.text for completion in band.run(requests, bar.task("answers"))]
    asked = [prompt for prompt in prompts for _ in plans]
    base_P, expert_P = Scorer(reward)(asked, texts).reshape(len(prompts), 2).T
    return {
        "base_reward": mean_interval(base_P, seed=best.seed).to_dict(),
        "expert_reward": mean_interval(expert_P, seed=best.seed).to_dict(),
        "gain": paired_difference(expert_P, base_P, seed=best.seed).to_dict(),
    }
