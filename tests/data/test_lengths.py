import re

import pytest

from counterpoint.data.lengths import LeftOut, fit_lengths
from counterpoint.types import CounterpointError


def test_keeps_what_fits_and_says_why_not() -> None:
    prompts = [[1, 2], [1, 2, 3], [1] * 6, [], [1]]
    chosen = [[3, 4], [4, 5], [1], [1], [1]]
    rejected = [[3, 4, 5], [4, 5, 6], [1], [1], []]
    fit = fit_lengths(prompts, chosen, rejected, max_length=5)
    assert fit.kept == (0,)
    assert fit.dropped == (
        LeftOut(1, 6, "prompt and response have 3 + 3 tokens"),
        LeftOut(2, 7, "the prompt alone has 6 tokens"),
        LeftOut(3, 1, "the prompt has no tokens"),
        LeftOut(4, 2, "a response has no tokens"),
    )
    assert str(fit) == (
        "4 of 5 examples left out (max_length 5, the longest has 7 tokens), the first because prompt and response "
        "have 3 + 3 tokens"
    )


def test_says_so_when_all_fit() -> None:
    assert str(fit_lengths([[1]], [[2]], max_length=2)) == "all 1 examples fit 2 tokens"
    assert fit_lengths([], [], max_length=2).kept == ()


def test_nothing_that_fits_is_an_error() -> None:
    with pytest.raises(CounterpointError, match=re.escape("1 of 1 examples left out (max_length 2, the longest has 4")):
        fit_lengths([[1, 2]], [[3, 4]], max_length=2)
