"""What one way of answering earns: its answers to held-out prompts, judged by the exact rules, kept in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experiments.mope.setting import Setting

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose.plan import Plan
from counterpoint.data.chat import prompt_ids
from counterpoint.data.examples import Example
from counterpoint.decode.sampling import Sampling
from counterpoint.models.logprobs import sequence_logp
from counterpoint.rewards.calibrate import bt_reward
from counterpoint.rewards.scorer import Scorer
from counterpoint.train.controller import references
from counterpoint.types import Completion

TEMPERATURE = 0.7


@dataclass(frozen=True)
class Measured:
    """Axes: `P` prompts, `R` profiles, `D` dimensions. `z_PRD` are the judge's scores, `bt_PRD` those of beating the
    base's greedy answer; `ratio_PR` is the mean over an answer's tokens of log p - log p_base, in nats a token."""

    z_PRD: np.ndarray
    bt_PRD: np.ndarray
    correct_PR: np.ndarray | None
    ratio_PR: np.ndarray
    length_PR: np.ndarray


def measure(setting: Setting, name: str, plans: Sequence[Plan] | None, out: Path) -> Measured:
    """Answer the test prompts by each profile's plan, unless `out` has the answers, and judge them."""
    file = out / f"{name}.json"
    if not file.exists() and plans is not None:
        write_json(file, answer(setting, plans))
    found = read_json(file)
    prompts = setting.task.test_prompts
    texts, each = found["texts"], len(found["texts"]) // len(prompts)
    asked = [prompt for prompt in prompts for _ in range(each)]
    z_PRD = Scorer(setting.judge)(asked, texts).reshape(len(prompts), each, -1)
    reference_P1D = setting.judge(prompts, references(setting.band, prompts, setting.max_tokens, out / "base"))[:, None]
    correct = setting.task.correct
    shape = (len(prompts), each)
    return Measured(
        z_PRD,
        bt_reward(z_PRD, reference_P1D),
        correct(asked, texts).reshape(shape) if correct else None,
        np.array(found["ratio"]).reshape(shape),
        np.array(found["length"]).reshape(shape),
    )


def answer(setting: Setting, plans: Sequence[Plan]) -> dict[str, list[float] | list[str]]:
    """Every test prompt through every plan, plans changing fastest; a prompt's noise is the same for all methods."""
    prompts = setting.task.test_prompts
    requests = [
        setting.band.request(prompt, plan, Sampling(TEMPERATURE, max_tokens=setting.max_tokens, seed=p), "token")
        for p, prompt in enumerate(prompts)
        for plan in plans
    ]
    said = setting.band.run(requests)
    base_N = base_logp(setting, said, len(plans))
    lengths = [len(c.trace.tokens) if c.trace else 0 for c in said]
    own = [float(c.trace.logp_T.sum()) if c.trace else 0.0 for c in said]
    ratio = [(a - b) / length for a, b, length in zip(own, base_N, lengths, strict=True)]
    return {"texts": [c.text for c in said], "ratio": ratio, "length": [float(n) for n in lengths]}


def base_logp(setting: Setting, said: Sequence[Completion], profiles: int) -> np.ndarray:
    """What the base, asked for nothing, would give to each answer, end token included."""
    band = setting.band
    contexts = [tuple(prompt_ids(prompt, band.tokenizer)) for prompt in setting.task.test_prompts]
    examples = [Example(contexts[n // profiles], c.trace.tokens if c.trace else ()) for n, c in enumerate(said)]
    with band.bank.gated(None):
        return sequence_logp(band.model, examples)
