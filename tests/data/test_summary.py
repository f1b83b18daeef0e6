"""What pairs are like, counted by hand."""

from counterpoint.data.summary import Agreement, DimensionSummary, Words, agreements, summarise
from counterpoint.types import Comparison

PAIRS = [
    Comparison("q", "a b c", "a", "d"),
    Comparison("q", "a", "b c", "d"),
    Comparison("q", "a", "b c", "d"),  # repeats
    Comparison("q", "b c", "a", "d"),  # contradicts
    Comparison("other", "b c", "a", "d"),
    Comparison("q", "x", "y", "e"),
]


def test_a_summary_by_hand() -> None:
    """Words of the better responses: 3, 1, 1, 2, 2; of the worse: 1, 2, 2, 1, 1."""
    assert summarise(PAIRS) == {
        "d": DimensionSummary(
            comparisons=5,
            chosen=Words(mean=9 / 5, median=2, most=3),
            rejected=Words(mean=7 / 5, median=1, most=2),
            longer=3 / 5,
            equal=0.0,
            duplicates=1,
            contradictions=1,
        ),
        "e": DimensionSummary(1, Words(1, 1, 1), Words(1, 1, 1), longer=0.0, equal=1.0, duplicates=0, contradictions=0),
    }


def test_agreement_by_hand() -> None:
    """Of three pairs that both compare, they prefer the same in one; a pair in both orders is no verdict."""
    first = [Comparison(prompt, "x", "y", "a") for prompt in "123"] + [
        Comparison("4", "x", "y", "a"), Comparison("4", "y", "x", "a"), Comparison("5", "x", "y", "a"),
    ]  # fmt: skip
    second = [
        Comparison("1", "x", "y", "b"), Comparison("2", "y", "x", "b"), Comparison("3", "y", "x", "b"),
        Comparison("4", "x", "y", "b"), Comparison("6", "x", "y", "b"), Comparison("5", "x", "z", "b"),
    ]  # fmt: skip
    assert agreements([*first, *second]) == [Agreement("a", "b", 3, 1 / 3)]
    assert agreements([*second, *first, Comparison("7", "x", "y", "c")]) == [Agreement("a", "b", 3, 1 / 3)]


def test_dimensions_without_a_common_pair_are_left_out() -> None:
    assert agreements(PAIRS) == []
