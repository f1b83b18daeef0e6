import pytest

from counterpoint.data.split import opening, split_by_prompt
from counterpoint.types import Comparison, CounterpointError, Message

COMPARISONS = [
    Comparison(f"prompt {i}", f"good {j}", "bad", name) for i in range(10) for j in range(i % 3 + 1) for name in "ab"
]


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_on_both_sides_and_no_pair_is_lost(seed: int) -> None:
    seen, unseen = split_by_prompt(COMPARISONS, "a", 0.3, seed)
    assert not {c.prompt for c in seen} & {c.prompt for c in unseen}
    assert len({c.prompt for c in unseen}) == 3
    assert sorted(seen + unseen, key=COMPARISONS.index) == [c for c in COMPARISONS if c.dimension == "a"]


@pytest.mark.parametrize("seed", range(5))
def test_regression_cuts_of_one_conversation_stay_on_one_side(seed: int) -> None:
    """Each cut counted as a prompt of its own, and a longer one gave away a shorter."""
    turns = (Message("assistant", "yes"), Message("user", "and then?"))
    cuts = [
        Comparison((Message("user", f"ask {i}"), *turns * more), "good", "bad", "a")
        for i in range(6)
        for more in range(3)
    ]
    seen, unseen = split_by_prompt(cuts, "a", 0.34, seed)
    openings = [{c.prompt[0] for c in part} for part in (seen, unseen)]
    assert [len(found) for found in openings] == [4, 2]
    assert not openings[0] & openings[1]
    assert (len(seen), len(unseen)) == (12, 6)


def test_an_opening_is_the_first_that_the_user_says() -> None:
    assert opening("all of it") == "all of it"
    assert opening((Message("system", "s"), Message("user", "u"), Message("assistant", "a"))) == "u"


def test_the_seed_decides() -> None:
    held = {frozenset(c.prompt for c in split_by_prompt(COMPARISONS, "a", 0.3, seed)[1]) for seed in range(20)}
    assert len(held) > 10
    assert split_by_prompt(COMPARISONS, "a", 0.3, 7) == split_by_prompt(COMPARISONS, "a", 0.3, 7)


def test_at_least_two_prompts_measure() -> None:
    assert len({c.prompt for c in split_by_prompt(COMPARISONS, "a", 0.01, 0)[1]}) == 2


@pytest.mark.parametrize(("prompts", "share"), [(2, 0.5), (1, 0.5), (0, 0.5), (3, 0.99)])
def test_too_few_prompts(prompts: int, share: float) -> None:
    few = [Comparison(f"prompt {i}", "good", "bad", "a") for i in range(prompts)]
    with pytest.raises(CounterpointError, match=rf"dimension 'a': 0 comparisons .* from {prompts} different prompts"):
        split_by_prompt(few, "a", share, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(CounterpointError, match="must lie between 0 and 1"):
        split_by_prompt(COMPARISONS, "a", share, 0)
