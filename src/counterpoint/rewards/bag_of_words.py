"""A reward from counts of words and pairs of words, learned in a second: what a larger model has to beat.

    P(y+ over y-) = sigmoid(w . (n(y+) - n(y-)))

n(y) counts the 1- and 2-grams of a response; w is a logistic regression on differences, without an intercept, which is
a Bradley-Terry model that is linear in the counts. Each pair enters in both orders: with the chosen response always
first there would be one class only.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from counterpoint.artifacts import publish, read_json, write_json
from counterpoint.data.examples import of_dimension
from counterpoint.types import Comparison, CounterpointError, Prompt

FILE = "bag_of_words.json"
PARAMS = "bag_of_words.safetensors"


class BagOfWordsReward:
    """A `RewardFn` on one dimension, linear in counts; it does not look at the prompt."""

    def __init__(self, dimension: str, features: Sequence[str], params_F: np.ndarray) -> None:
        self.dimension = dimension
        self.features = tuple(features)
        self.params_F = np.asarray(params_F, dtype=float)
        self._counts = CountVectorizer(ngram_range=(1, 2), vocabulary=list(features))

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (self.dimension,)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores `[N, 1]`, in logits of preference; they have no zero."""
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        if not responses:
            return np.zeros((0, 1))
        scores_N: np.ndarray = self._counts.transform(responses) @ self.params_F
        return scores_N[:, None]

    def save(self, folder: Path) -> None:
        """Write the features as JSON and their params as safetensors, all or nothing."""
        with publish(folder) as staging:
            write_json(staging / FILE, {"dimension": self.dimension, "features": self.features})
            save_file({"params_F": torch.from_numpy(self.params_F)}, staging / PARAMS)

    @classmethod
    def load(cls, folder: Path) -> "BagOfWordsReward":
        """Read what `save` wrote."""
        record = read_json(folder / FILE)
        return cls(record["dimension"], record["features"], load_file(folder / PARAMS)["params_F"].numpy())


def learn_bag_of_words(
    comparisons: Sequence[Comparison], dimension: str, shrink: float = 3.0, least: int = 2
) -> BagOfWordsReward:
    """Fit the comparisons of a dimension, with the penalty `shrink / 2 |w|^2` against the summed loss of the pairs.

    Only 1- and 2-grams that stand in at least `least` responses count. Raises CounterpointError where no comparison is
    on the dimension, or where none of its words is as frequent.
    """
    own = of_dimension(comparisons, dimension)
    texts = [c.chosen for c in own] + [c.rejected for c in own]
    counter = CountVectorizer(ngram_range=(1, 2), min_df=least)
    try:
        counts_XF = counter.fit_transform(texts)
    except ValueError:  # sklearn's way to say that the vocabulary is empty
        raise CounterpointError(
            f"dimension {dimension!r}: in {len(own)} comparisons no word stands in {least} responses; give more of them"
        ) from None
    difference_PF = counts_XF[: len(own)] - counts_XF[len(own) :]
    both = np.repeat([1, 0], len(own))
    # each pair stands twice in the summed loss, so sklearn's C is half of 1 / shrink
    model = LogisticRegression(C=0.5 / shrink, fit_intercept=False, max_iter=1000)
    model.fit(vstack([difference_PF, -difference_PF]), both)
    return BagOfWordsReward(dimension, counter.get_feature_names_out().tolist(), model.coef_[0])
