"""What each way of answering is worth on held-out data, and how gates route it.

Two measures. What a policy prefers, which needs no generation:

    margin = (log p(y+|x) - log p0(y+|x)) - (log p(y-|x) - log p0(y-|x))      in nats; right where it is above 0

with p0 the base. And what it says: a bag of words for each preference, learned from conversations that no policy sees,
judges its answers to prompts of that preference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from experiments.pmol.probe_shares import Shares, shares_over
from experiments.pmol.texts_data import Texts
from experiments.pmol.texts_learn import DIMENSIONS, Learner
from experiments.pmol.texts_serve import Planned, Served
from torch import Tensor

from counterpoint.data.examples import example
from counterpoint.decode.sampling import Sampling
from counterpoint.models.logprobs import sequence_logp
from counterpoint.rewards.bag_of_words import BagOfWordsReward, learn_bag_of_words
from counterpoint.rewards.bradley_terry import margins
from counterpoint.rewards.length import learn_length
from counterpoint.types import Prompt

TEMPERATURE, TOKENS, ANSWERED = 0.7, 56, 50


@dataclass(frozen=True)
class Judge:
    """A bag of words for one preference, in standard deviations of what people and models said in the test part."""

    reward: BagOfWordsReward
    mean: float
    deviation: float

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        z_N: np.ndarray = (self.reward(prompts, texts)[:, 0] - self.mean) / self.deviation
        return z_N


def learn_judge(texts: Texts, dimension: str) -> Judge:
    reward = learn_bag_of_words(texts.of("judge", dimension), dimension)
    said = [text for c in texts.of("test", dimension) for text in (c.chosen, c.rejected)]
    scores = reward([""] * len(said), said)
    return Judge(reward, float(scores.mean()), float(scores.std()))


def judged_right(texts: Texts, judges: Mapping[str, Judge]) -> dict[str, Any]:
    """Which pairs of each preference its judge ranks right, and which the plain rule of length does.

    They are of all parts that the judge was not learned from, since those of the test are few.
    """
    found = {}
    for name, judge in judges.items():
        unseen = [c for part in ("read", "train", "tune", "test") for c in texts.of(part, name)]
        length = learn_length(texts.of("judge", name), name)
        found[name] = {"bag of words": _right(margins(judge.reward, unseen)), "length": _right(margins(length, unseen))}
    return found


def _right(margin_P: np.ndarray) -> list[float]:
    """1 where a margin is above 0, and half of that where it is 0."""
    right_P: list[float] = ((np.sign(margin_P) + 1) / 2).tolist()
    return right_P


@torch.no_grad()
def preferences(of: Learner, served: Served, part: str) -> dict[str, list[float]]:
    """log p(y+|x) - log p(y-|x) of a part's pairs by preference, in nats."""
    found = {}
    for name in DIMENSIONS:
        pairs, policy = of.texts.of(part, name), Planned(served.band, served.plans[name])
        chosen = [example(c.prompt, c.chosen, served.band.tokenizer) for c in pairs]
        rejected = [example(c.prompt, c.rejected, served.band.tokenizer) for c in pairs]
        found[name] = (sequence_logp(policy, chosen) - sequence_logp(policy, rejected)).tolist()
    return found


def across(of: Learner, experts: Served, base: Mapping[str, Sequence[float]]) -> dict[str, dict[str, list[float]]]:
    """The margins of every preference's own expert on the test pairs of every preference: what conflicts, and where.

    `base` is what `preferences` says of the base.
    """
    found = {}
    for expert in DIMENSIONS:
        one = Served(experts.band, dict.fromkeys(DIMENSIONS, experts.plans[expert]))
        found[expert] = margins_over(preferences(of, one, "test"), base)
    return found


def margins_over(own: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """By preference, what a policy's log-ratios are above those of the base."""
    return {name: np.subtract(own[name], base[name]).round(4).tolist() for name in DIMENSIONS}


def answers(of: Learner, served: Served) -> dict[str, list[str]]:
    """An answer to some prompts of the test part by preference; a prompt's noise is the same for all ways."""
    requests = [
        served.band.request(c.prompt, served.plans[name], Sampling(TEMPERATURE, max_tokens=TOKENS, seed=p))
        for name in DIMENSIONS
        for p, c in enumerate(of.texts.of("test", name)[:ANSWERED])
    ]
    texts = iter([said.text for said in served.band.run(requests)])
    return {name: [next(texts) for _ in of.texts.of("test", name)[:ANSWERED]] for name in DIMENSIONS}


def pair_loss(margin: Mapping[str, Sequence[float]], beta: float) -> float:
    """DPO's loss on margins, the mean over preferences."""
    return float(np.mean([np.logaddexp(0, -beta * np.asarray(margin_P)).mean() for margin_P in margin.values()]))


def routed(of: Learner, served: Served) -> dict[str, Any]:
    """For held-out data on each preference, the mass of each group and what the empty expert keeps.

    `response` and `prompt` are means over tokens and layers, `by_layer` those of a response for each of the model's
    layers. `told` says for each prompt whether the group of its preference has the largest share of all in it.
    """
    found: dict[str, Any] = {}
    for index, name in enumerate(DIMENSIONS):
        pairs = of.texts.of("test", name)
        shares = shares_over(served.band, "pmol", [example(c.prompt, c.chosen, served.band.tokenizer) for c in pairs])
        prompt_NG, response_NG = (by_group(part.mean(1), shares) for part in (shares.prompt_NJE, shares.response_NJE))
        layers = served.band.model.config.num_hidden_layers
        by_layer_NLE = shares.response_NJE.reshape(len(pairs), layers, -1, shares.response_NJE.shape[-1]).mean(2)
        found[name] = {
            "prompt": rounded(prompt_NG.mean(0)),
            "response": rounded(response_NG.mean(0)),
            "by_layer": [rounded(by_group(by_layer_NLE[:, layer], shares).mean(0)) for layer in range(layers)],
            "told": (prompt_NG[:, : len(DIMENSIONS)].argmax(1) == index).tolist(),
        }
    return found


def by_group(share_NE: Tensor, shares: Shares) -> Tensor:
    """The mass of each preference's experts, and last of none, `[N, G + 1]`."""
    masses = [share_NE[:, [k for k, group in enumerate(shares.groups) if group == name]].sum(1) for name in DIMENSIONS]
    return torch.stack([*masses, share_NE[:, -1]], 1)


def rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
