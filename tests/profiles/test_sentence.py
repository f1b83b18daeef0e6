"""Sentences, with an embedding that counts words of a small vocabulary, and once with the real one."""

from collections.abc import Sequence

import numpy as np
import pytest

from counterpoint.profiles.elicit import profile_of
from counterpoint.profiles.sentence import as_prior, embedder, opposite, positive, read_sentence, split
from counterpoint.types import CounterpointError, Dimension

VOCABULARY = ("short", "formal", "casual", "funny", "owl")
DIMENSIONS = (
    Dimension("short", "short", "short"), Dimension("formal", "formal", "formal", "tone"),
    Dimension("casual", "casual", "casual", "tone"), Dimension("funny", "funny", "funny"),
)  # fmt: skip


def embed(texts: Sequence[str]) -> np.ndarray:
    counts_NE = np.array([[text.lower().count(word) for word in VOCABULARY] for text in texts], dtype=float)
    length_N = np.linalg.norm(counts_NE, axis=1, keepdims=True)
    return np.asarray(counts_NE / np.where(length_N > 0, length_N, 1))


def test_clauses() -> None:
    assert split("I am a nurse, keep it short.") == ["I am a nurse", "keep it short"]
    assert split("Short words and kind ones; please!") == ["Short words", "kind ones"]
    assert split("...") == []


def test_so_is_a_degree_and_parts_no_negation_from_what_it_negates() -> None:
    assert split("Don't be so friendly.") == ["Don't be so friendly"]


def test_negation_and_degree_are_taken_off() -> None:
    assert positive("not too formal") == "formal"
    assert positive("Don't be so formal") == "be formal"
    assert positive("never") == "never"


def test_two_wishes_of_one_sentence() -> None:
    reading = read_sentence("I like owls; short and funny.", DIMENSIONS, embed)
    assert reading.profile is not None
    assert set(reading.profile.weights) == {"short", "funny"}
    assert reading.dimensions["short"].confidence > 0.9
    assert reading.dimensions["formal"].weight == 0.0
    assert reading.not_understood == ("I like owls",)


def test_a_negated_pole_is_the_other_pole() -> None:
    reading = read_sentence("not too formal", DIMENSIONS, embed)
    assert reading.profile is not None
    assert set(reading.profile.weights) == {"casual"}


def test_a_negated_dimension_without_an_opposite_is_uncertain() -> None:
    reading = read_sentence("not funny", DIMENSIONS, embed)
    assert reading.profile is None
    assert reading.uncertain == ("not funny",)


def test_an_axis_of_three_poles_has_no_opposite() -> None:
    three = [Dimension(name, axis="tone") for name in ("formal", "casual", "funny")]
    assert opposite(three[0], three) is None


def test_nothing_said_is_no_profile() -> None:
    reading = read_sentence("The owl is an owl.", DIMENSIONS, embed)
    assert reading.profile is None
    assert reading.not_understood == ("The owl is an owl",)
    assert all(heard.weight == 0 for heard in reading.dimensions.values())


def test_a_sentence_is_where_choices_start() -> None:
    belief = as_prior(read_sentence("short", DIMENSIONS, embed), DIMENSIONS)
    profile = profile_of(belief)
    assert profile is not None
    assert max(profile.weights, key=lambda name: profile.weights[name]) == "short"
    assert belief.choices == 0
    assert np.diag(belief.covariance_DD) == pytest.approx(1.0)


def test_a_real_model_hears_a_nurse_who_has_no_time() -> None:
    poles = [
        Dimension("concise", "Says it in as few words as it can.", "Please be brief.", "length"),
        Dimension("informative", "Adds true details that were not asked for.", "Please give details.", "length"),
        Dimension("friendly", "Is warm to the person who asks.", "Please be friendly.", "style"),
        Dimension("unfriendly", "Is cold to the person who asks.", "Please be rude.", "style"),
        Dimension("elementary", "Says it in everyday words that a child can follow.", "Please use simple words."),
    ]
    reading = read_sentence("I am a nurse, keep it short.", poles, embedder())
    assert reading.profile is not None
    assert set(reading.profile.weights) == {"concise"}
    assert reading.not_understood == ("I am a nurse",)


def test_bad_input_is_named() -> None:
    with pytest.raises(CounterpointError, match="found '!'"):
        read_sentence("!", DIMENSIONS, embed)
    with pytest.raises(CounterpointError, match="found 1 dimensions"):
        read_sentence("short", DIMENSIONS[:1], embed)
