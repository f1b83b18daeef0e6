import numpy as np
import pytest

from counterpoint.rewards.bradley_terry import margins
from counterpoint.rewards.length import learn_length
from counterpoint.types import Comparison, CounterpointError

LONG = [Comparison("p", "a b c", "a", "full"), Comparison("p", "a b", "a", "full"), Comparison("p", "a", "b c", "full")]


def test_the_direction_is_learned() -> None:
    turned = [Comparison(c.prompt, c.rejected, c.chosen, "full") for c in LONG]
    for rows in (LONG, turned):
        reward = learn_length(rows, "full")
        assert reward.dimensions == ("full",)
        np.testing.assert_array_equal(margins(reward, rows), [2.0, 1.0, -1.0])


def test_how_much_longer_does_not_matter() -> None:
    # shorter twice, longer once, by far: the shorter is preferred
    rows = [Comparison("p", "a", "b c", "d"), Comparison("p", "a", "b c", "d"), Comparison("p", "a " * 50, "b", "d")]
    np.testing.assert_array_equal(learn_length(rows, "d")(["p"], ["one two"]), [[-2.0]])


def test_an_unknown_dimension_is_named() -> None:
    with pytest.raises(CounterpointError, match="no comparison is on the dimension 'kind'; dimensions found: full"):
        learn_length(LONG, "kind")
