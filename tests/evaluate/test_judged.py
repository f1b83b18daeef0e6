"""Win rates from verdicts: those of scores where both can be had, and by hand where a verdict is missing."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from counterpoint.evaluate.bootstrap import resample_counts
from counterpoint.evaluate.compare import Standings, compare
from counterpoint.evaluate.judged import (
    Judged,
    Votes,
    gather,
    judge_methods,
    judged_dict,
    most_questions,
    pair_table,
    questions_of,
    ratio_interval,
    sum_criteria,
)
from counterpoint.evaluate.wins import average_win_share, criterion_verdicts, verdict_table, win_matrix_of
from counterpoint.types import Dimension, Verdict

METHODS, PROMPTS, PROFILES = ("base", "soup", "moe", "route"), 7, ("a", "b", "a and b")
CRITERIA = ("a", "b", "c")
WANTED = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=bool)
SEED = 3


def scores(levels: int = 3) -> np.ndarray:
    """Few levels, so that criteria tie often."""
    shape = (len(METHODS), PROMPTS, len(PROFILES), len(CRITERIA))
    return np.random.default_rng(SEED).integers(0, levels, size=shape).astype(float)


def votes_of(scores_MPRC: np.ndarray) -> Votes:
    """What a judge says that sees these scores."""
    verdict = criterion_verdicts(scores_MPRC[:, None], scores_MPRC[None], 0.0)
    return Votes(verdict, np.ones(verdict.shape, dtype=bool))


def judged(votes: Votes, **options: Any) -> Judged:
    return judge_methods(
        votes, WANTED, methods=METHODS, profiles=PROFILES, criteria=CRITERIA, seed=SEED, resamples=200, **options
    )


@pytest.fixture
def standings() -> Standings:
    return compare(
        scores(), WANTED, np.zeros(3), methods=METHODS, profiles=PROFILES, dimensions=CRITERIA, seed=SEED, resamples=200
    )


def test_with_every_verdict_there_rates_and_intervals_are_those_of_scores(standings: Standings) -> None:
    found = judged(votes_of(scores()))
    for a, b in product(range(4), repeat=2):
        ours, theirs = found.summed.win_MM[a][b], standings.win_MM[a][b]
        if ours is None or theirs is None:
            assert a == b
            continue
        assert list(ours.to_dict().values()) == pytest.approx(list(theirs.to_dict().values()), abs=1e-9)
        decided = found.summed.decided_MM[a][b]
        assert (decided and decided.value) == pytest.approx(standings.decided_MM[a][b])
    for ours, theirs in zip(found.summed.average_M, standings.average_win_M, strict=True):
        assert ours is not None
        assert list(ours.to_dict().values()) == pytest.approx(list(theirs.to_dict().values()), abs=1e-9)


def test_each_criterion_alone_is_judged_where_it_is_asked_for() -> None:
    found = judged(votes_of(scores()))
    assert list(found.by_criterion) == ["a", "b"], "nobody asks for c"
    for c, name in enumerate(("a", "b")):
        alone = verdict_table(
            scores()[:, :, WANTED[:, c]], WANTED[WANTED[:, c]] * np.eye(3, dtype=bool)[c], np.zeros(3)
        )
        for a, b in product(range(4), repeat=2):
            rate = found.by_criterion[name].win_MM[a][b]
            assert (rate and rate.value) == pytest.approx(win_matrix_of(alone)[a][b])


def test_each_profile_alone() -> None:
    found = judged(votes_of(scores()))
    for r, name in enumerate(PROFILES):
        share_MP = average_win_share(verdict_table(scores()[:, :, [r]], WANTED[[r]], np.zeros(3)))
        rates = [rate.value for rate in found.by_profile[name].average_M if rate is not None]
        assert rates == pytest.approx(share_MP.mean(axis=1).tolist())


def test_the_general_criterion_is_for_everybody_and_in_no_sum() -> None:
    votes = votes_of(scores())
    general = np.where(np.arange(4)[:, None] < np.arange(4), 1, -1) * ~np.eye(4, dtype=bool)
    wider = np.broadcast_to(general[:, :, None, None, None], (4, 4, PROMPTS, 3, 1)).astype(np.int8)
    both = Votes(np.concatenate([votes.verdict, wider], -1), np.ones((4, 4, PROMPTS, 3, 4), dtype=bool))
    found = judged(both, general=True)
    assert found.summed == judged(votes).summed
    assert found.general is not None
    assert [rate and rate.value for rate in found.general.average_M] == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_three_criteria_by_hand() -> None:
    """+1 +1 -1 sums to a win, +1 -1 to a tie, and what a profile does not ask for does not count."""
    verdict = np.zeros((2, 2, 1, 3, 3), dtype=np.int8)
    verdict[0, 1] = [1, 1, -1]
    verdict[1, 0] = -verdict[0, 1]
    wanted = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=bool)
    summed = sum_criteria(Votes(verdict, np.ones(verdict.shape, dtype=bool)), wanted)
    assert summed.verdict[0, 1].tolist() == [[1, 0, -1]]
    assert summed.verdict[1, 0].tolist() == [[-1, 0, 1]]
    assert summed.known.all()


def test_a_sum_that_lacks_a_verdict_is_not_known_and_not_a_tie() -> None:
    """Of three prompts a wins the first, ties the second, and the third lacks one of two criteria.

    (1 + 1/2) / 2 with ties as half, 1 / 1 without; as a tie the third would have made it 2 / 3.
    """
    places = [(0, 1, p, 0, c) for p in range(3) for c in range(2)]
    given: list[Verdict | None] = [1, 0, 0, 0, 1, None]
    votes = gather(places, given, (2, 3, 1, 2))
    summed = sum_criteria(votes, [[True, True]])
    table = pair_table(summed, seed=0, resamples=50)
    half, decided = table.win_MM[0][1], table.decided_MM[0][1]
    assert half is not None
    assert decided is not None
    assert (half.value, decided.value) == (0.75, 1.0)
    assert (table.wins_MM[0][1], table.ties_MM[0][1], table.wins_MM[1][0], table.unanswered_MM[0][1]) == (1, 1, 0, 1)
    assert table.unanswered_MM[0][0] == 0


def test_verdicts_are_gathered_both_ways_round() -> None:
    places = [(0, 1, 0, 0, 0), (0, 2, 0, 0, 0), (1, 2, 0, 0, 0)]
    votes = gather(places, [1, None, -1], (3, 1, 1, 1))
    assert votes.verdict[..., 0, 0, 0].tolist() == [[0, 1, 0], [-1, 0, -1], [0, 1, 0]]
    assert votes.known[..., 0, 0, 0].tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_what_was_never_judged_has_no_rate() -> None:
    votes = gather([(0, 1, p, 0, 0) for p in range(3)], [None] * 3, (2, 3, 1, 1))
    table = pair_table(sum_criteria(votes, [[True]]), seed=0, resamples=20)
    assert (table.win_MM[0][1], table.average_M, table.unanswered_MM[0][1]) == (None, (None, None), 3)


def test_a_ratio_of_sums_weighs_prompts_by_what_they_have() -> None:
    """1 of 1 and 1 of 3 are 2 of 4; resamples of one prompt twice are 1 and 1/3; without a whole there is none."""
    counts_SP = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    found = ratio_interval([[1, 1]], [[1, 3]], counts_SP)
    assert found is not None
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile([1, 1 / 3, 0.5], [2.5, 97.5])), abs=1e-9)
    assert ratio_interval([[0, 0]], [[0, 0]], counts_SP) is None
    one_sided = ratio_interval([[1, 0]], [[2, 0]], counts_SP)
    assert one_sided is not None
    assert (one_sided.low, one_sided.value, one_sided.high) == (0.5, 0.5, 0.5), "the draw of nothing is left out"


def test_intervals_shrink_as_prompts_are_added() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for prompts in (10, 1000):
        win_P = rng.integers(0, 2, size=(1, prompts))
        found = ratio_interval(win_P, np.ones((1, prompts)), resample_counts(prompts, 500, 0))
        assert found is not None
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 5


def test_each_two_methods_are_asked_about_what_is_wanted() -> None:
    texts = [[[f"{method} {p} {r}" for r in range(3)] for p in range(PROMPTS)] for method in METHODS]
    prompts = [f"prompt {p}" for p in range(PROMPTS)]
    places, questions = questions_of(prompts, texts, [Dimension(name) for name in CRITERIA], WANTED)
    assert len(questions) == len(places) == most_questions(4, PROMPTS, WANTED) == 6 * 7 * 4
    for (a, b, p, r, c), question in zip(places, questions, strict=True):
        assert a < b
        assert WANTED[r, c]
        assert (question.first, question.second) == (f"{METHODS[a]} {p} {r}", f"{METHODS[b]} {p} {r}")
        assert (question.prompt, question.dimension.name) == (prompts[p], CRITERIA[c])


def test_as_json_every_pair_is_there_both_ways() -> None:
    found = judged_dict(judged(votes_of(scores())))
    against = found["summed"]["against"]
    for a, b in product(METHODS, repeat=2):
        assert (b in against[a]) == (a != b)
        if a != b:
            assert against[a][b]["wins"] == against[b][a]["losses"]
            assert against[a][b]["win_rate"]["value"] == pytest.approx(1 - against[b][a]["win_rate"]["value"])
            counts = sum(against[a][b][name] for name in ("wins", "ties", "losses", "unanswered"))
            assert counts == PROMPTS * len(PROFILES)
    assert found["general"] is None


def test_a_single_method_has_no_opponent() -> None:
    votes = Votes(np.zeros((1, 1, 2, 1, 1), dtype=np.int8), np.ones((1, 1, 2, 1, 1), dtype=bool))
    with pytest.raises(ValueError, match="at least 2 methods, got 1"):
        judge_methods(votes, [[True]], methods=["base"], profiles=["a"], criteria=["a"], seed=0)
