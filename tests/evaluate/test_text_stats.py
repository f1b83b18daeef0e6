import pytest

from counterpoint.evaluate.text import TextStats, distinct_n, share_empty, text_stats, words


def test_words_keep_inner_apostrophes_and_hyphens() -> None:
    assert words("Don't stop, it’s a well-known -- rule_2!") == [
        "don't",
        "stop",
        "it’s",
        "a",
        "well-known",
        "rule",
        "2",
    ]


def test_distinct_n_by_hand() -> None:
    # "the cat the cat": words the cat the cat, 2 different of 4; pairs the-cat, cat-the, the-cat, 2 different of 3
    assert distinct_n(["the cat the cat"], 1) == 0.5
    assert distinct_n(["the cat the cat"], 2) == pytest.approx(2 / 3)


def test_no_pair_crosses_texts() -> None:
    assert distinct_n(["one", "two"], 2) is None
    assert distinct_n(["The cat.", "the cat"], 2) == 0.5
    with pytest.raises(ValueError, match="n = 0"):
        distinct_n(["one"], 0)


def test_white_space_is_empty() -> None:
    assert share_empty(["", " \n", "a", "."]) == 0.5
    assert share_empty([]) is None


def test_all_of_them() -> None:
    assert text_stats(["one two", ""]) == TextStats(words=1.0, distinct_1=1.0, distinct_2=1.0, empty=0.5)
    assert text_stats([]) == TextStats(None, None, None, None)
