"""Can a router see which preference data is on? What a linear rule reads from the base's hidden states.

A router scores each token by a linear map of what its layer reads. So a logistic regression on the hidden states of
single tokens says about how well any router could do without help from the layers before it; one on the mean over a
whole text says what is there, but is told to no router.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from experiments.pmol.texts_learn import DIMENSIONS, Learner
from experiments.pmol.texts_serve import serve
from sklearn.linear_model import LogisticRegression

from counterpoint.data.examples import Example, example

TRAIN, TEST = 120, 80
"""Chosen responses of one preference."""
EVERY = 4
"""Of the tokens that a rule is learned from, one in so many is taken."""


def visible(of: Learner) -> dict[str, list[float]]:
    """Held-out accuracy by layer, the embeddings first, for single tokens of a response and for their mean.

    Preferences count alike, so that chance is 1/3.
    """
    train, test = states(of, "train", TRAIN), states(of, "test", TEST)
    layers = range(len(train[0]))
    return {
        "token": [accuracy(tokens(train, layer, EVERY), tokens(test, layer, 1)) for layer in layers],
        "mean": [accuracy(means(train, layer), means(test, layer)) for layer in layers],
    }


States = list[list[list[np.ndarray]]]
"""By preference, layer and response, `[T, I]`."""


def states(of: Learner, part: str, most: int) -> States:
    """Hidden states of the base over chosen responses."""
    band = serve(of, "base").band
    found = []
    for name in DIMENSIONS:
        pairs = of.texts.of(part, name)[:most]
        rows = [response_states(band.model, example(c.prompt, c.chosen, band.tokenizer)) for c in pairs]
        found.append([list(layer) for layer in zip(*rows, strict=True)])
    return found


@torch.no_grad()
def response_states(model: Any, text: Example) -> list[np.ndarray]:
    """`[T, I]` of each layer."""
    ids_1T = torch.tensor([[*text.prompt_ids, *text.response_ids]])
    hidden = model(input_ids=ids_1T, output_hidden_states=True).hidden_states
    return [layer_1TI[0, len(text.prompt_ids) :].numpy() for layer_1TI in hidden]


def tokens(found: States, layer: int, every: int) -> list[np.ndarray]:
    return [np.concatenate(of_layer[layer])[::every] for of_layer in found]


def means(found: States, layer: int) -> list[np.ndarray]:
    return [np.stack([state_TI.mean(0) for state_TI in of_layer[layer]]) for of_layer in found]


def accuracy(train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> float:
    """Of a rule that is learned from rows of each class, the mean over classes of the share that it tells right."""
    rule = LogisticRegression(max_iter=500, class_weight="balanced")
    rule.fit(np.concatenate(train), np.repeat(range(len(train)), [len(rows) for rows in train]))
    return round(float(np.mean([(rule.predict(rows) == index).mean() for index, rows in enumerate(test)])), 4)
