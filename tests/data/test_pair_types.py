import pytest

from counterpoint.data.pair_types import KINDS, pairs_of, parse_kinds
from counterpoint.data.samples import Sample
from counterpoint.types import CounterpointError, Dimension

CONCISE = Dimension("concise", axis="detail")


def sample(prompt: str, response: str, *asked: str, index: int = 0) -> Sample:
    return Sample(prompt, asked, response, index, True, 0)


SAMPLES = [
    sample("p", "n0"), sample("p", "n1", index=1),
    sample("p", "c0", "concise"), sample("p", "c1", "concise", index=1), sample("p", "c2", "concise", index=2),
    sample("p", "i0", "informative"), sample("p", "i1", "informative", index=1),
    sample("p", "both", "concise", "friendly"),
    sample("q", "qc", "concise"), sample("q", "qi", "informative"),
]  # fmt: skip


def texts(*kinds: str) -> list[tuple[object, str, str]]:
    found = pairs_of(SAMPLES, CONCISE, ["informative"], parse_kinds(",".join(kinds)))
    assert all(pair.question.dimension is CONCISE for pair in found)
    return [(pair.question.prompt, pair.question.first, pair.question.second) for pair in found]


def test_pairs_of_each_kind_by_hand() -> None:
    """Three concise, two informative and two neutral samples of p; of q one concise and one informative."""
    assert texts("same") == [("p", "c0", "c1")]
    assert texts("neutral") == [("p", "c0", "n0"), ("p", "c1", "n1")]
    assert texts("opposite") == [("p", "c0", "i0"), ("p", "c1", "i1"), ("q", "qc", "qi")]
    assert texts("neutral-opposite") == [("p", "n0", "i0"), ("p", "n1", "i1")]


def test_only_pairs_of_one_request_need_a_label() -> None:
    found = pairs_of(SAMPLES, CONCISE, ["informative"], KINDS)
    assert len(found) == 8
    assert {pair.kind for pair in found if not pair.by_construction} == {"same"}
    assert [pair.kind for pair in found[-1:]] == ["opposite"], "prompt by prompt"


def test_several_opposites_each_make_pairs_and_none_makes_none() -> None:
    samples = [sample("p", "k", "kind"), sample("p", "r", "rude"), sample("p", "s", "snide"), sample("p", "n")]
    kind = Dimension("kind")
    found = pairs_of(samples, kind, ["rude", "snide"], KINDS)
    assert [(pair.kind, pair.question.first, pair.question.second) for pair in found] == [
        ("neutral", "k", "n"), ("opposite", "k", "r"), ("opposite", "k", "s"),
        ("neutral-opposite", "n", "r"), ("neutral-opposite", "n", "s"),
    ]  # fmt: skip
    assert [pair.kind for pair in pairs_of(samples, kind, [], KINDS)] == ["neutral"]


@pytest.mark.parametrize(("first", "second", "usable"), [("a", "b", True), ("a", " a\n", False), ("", "b", False)])
def test_empty_and_equal_responses_make_no_usable_pair(first: str, second: str, usable: bool) -> None:
    (pair,) = pairs_of([sample("p", first, "concise"), sample("p", second)], CONCISE, [], ["neutral"])
    assert pair.usable == usable


def test_kinds_are_read_in_a_fixed_order() -> None:
    assert parse_kinds("opposite, same") == ("same", "opposite")
    with pytest.raises(CounterpointError, match="unknown kind of pairs 'neutrl'; did you mean 'neutral'"):
        parse_kinds("same,neutrl")
    with pytest.raises(CounterpointError, match="expected one or more of same, neutral"):
        parse_kinds(" ")
