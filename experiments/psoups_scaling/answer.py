"""What one way of answering earns: several answers to every prompt for every profile, kept in a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experiments.psoups_scaling.base import in_words, sampling
from experiments.psoups_scaling.setting import Setting

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose.plan import Plan
from counterpoint.data.chat import prompt_ids
from counterpoint.data.examples import Example
from counterpoint.decode.band import Band
from counterpoint.models.logprobs import sequence_logp
from counterpoint.rewards.calibrate import profile_weights, scalarise
from counterpoint.types import Completion, Profile, Prompt


@dataclass(frozen=True)
class Way:
    """How profiles are served: a plan for each, and whether its words stand before the prompt."""

    name: str
    plan: Callable[[Profile], Plan]
    worded: bool = True


@dataclass(frozen=True)
class Answers:
    """Axes: `P` prompts, `R` profiles; both are means over draws.

    `base_PR` is the mean log-probability of a token under the base that is asked for nothing, in nats: how much like
    the base an answer reads. `dimensions` has the reward `[P]` of each, a mean over the profiles that want it.
    """

    reward_PR: np.ndarray
    base_PR: np.ndarray
    dimensions: dict[str, np.ndarray]


def answer(
    way: Way, setting: Setting, band: Band, prompts: Sequence[Prompt], people: Sequence[Profile], draws: int, file: Path
) -> Answers:
    """Answer every prompt for every profile, unless the file has the answers, and judge them."""
    asked = [(prompt, profile) for prompt in prompts for profile in people for _ in range(draws)]
    if not file.exists():
        write_json(file, said(way, band, asked))
    found = read_json(file)
    rewards_ND = setting.rewards([prompt for prompt, _ in asked], found["texts"])
    rewards_PRD = rewards_ND.reshape(len(prompts), len(people), draws, -1).mean(2)
    w_RD = profile_weights(people, setting.task.names)
    dimensions = {
        name: rewards_PRD[:, w_RD[:, d] > 0, d].mean(1) for d, name in enumerate(setting.task.names) if w_RD[:, d].any()
    }
    base_PR = np.array(found["base"]).reshape(len(prompts), len(people), draws).mean(-1)
    return Answers(scalarise(rewards_PRD, w_RD), base_PR, dimensions)


def said(way: Way, band: Band, asked: Sequence[tuple[Prompt, Profile]]) -> dict[str, list[str] | list[float]]:
    words = [tuple(profile.weights) if way.worded else () for _, profile in asked]
    requests = [
        band.request(in_words(prompt, names), way.plan(profile), sampling(index))
        for index, ((prompt, profile), names) in enumerate(zip(asked, words, strict=True))
    ]
    completions = band.run(requests)
    return {"texts": [c.text for c in completions], "base": base_logp(band, asked, completions)}


def base_logp(band: Band, asked: Sequence[tuple[Prompt, Profile]], completions: Sequence[Completion]) -> list[float]:
    """The mean over an answer's tokens of their log-probability under the base; an empty answer counts as 0."""
    examples = [
        Example(tuple(prompt_ids(prompt, band.tokenizer)), completion.tokens)
        for (prompt, _), completion in zip(asked, completions, strict=True)
    ]
    with band.bank.gated(None):
        logp_N = sequence_logp(band.model, [example for example in examples if example.response_ids])
    found = iter(logp_N)
    return [float(next(found)) / len(e.response_ids) if e.response_ids else 0.0 for e in examples]
