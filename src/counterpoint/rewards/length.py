"""The plainest baseline: prefer the shorter response, or the longer, whichever the comparisons favour."""

from collections.abc import Sequence

import numpy as np

from counterpoint.data.examples import of_dimension
from counterpoint.rewards.rules import parse_rule, words
from counterpoint.types import Comparison, RewardFn


def learn_length(comparisons: Sequence[Comparison], dimension: str) -> RewardFn:
    """The rule `length` or `-length`: the chosen response is the longer one more often than the shorter, or not.

    Learned, since which one wins differs: helpful answers tend to be long, and concise ones do not. As many of either
    give `length`. Raises CounterpointError where no comparison is on the dimension.
    """
    signs_P = [np.sign(words(c.chosen) - words(c.rejected)) for c in of_dimension(comparisons, dimension)]
    return parse_rule(f"{dimension}={'length' if np.mean(signs_P) >= 0 else '-length'}")[1]
