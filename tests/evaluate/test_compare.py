import dataclasses

import numpy as np
import pytest

from counterpoint.evaluate.bootstrap import mean_interval, paired_difference
from counterpoint.evaluate.compare import Standings, compare, profile_rewards
from counterpoint.evaluate.wins import average_pairwise_win_rate, average_win_share, verdict_table, win_matrix
from counterpoint.types import CounterpointError

METHODS, PROFILES, DIMENSIONS = ("base", "soup", "mope"), ("short", "kind", "both"), ("concise", "friendly")
SELECTED = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
TOLERANCE = np.array([0.1, 0.0])
SCORES = np.random.default_rng(0).normal(size=(3, 12, 3, 2)) + np.array([0, 0.5, 1])[:, None, None, None]
CORRECT = np.random.default_rng(1).uniform(size=(3, 12, 3)) > 0.2


def standings(scores: np.ndarray = SCORES) -> Standings:
    return compare(
        scores,
        SELECTED,
        TOLERANCE,
        methods=METHODS,
        profiles=PROFILES,
        dimensions=DIMENSIONS,
        seed=4,
        correct_MPR=CORRECT,
        resamples=300,
    )


def test_reward_is_the_mean_of_the_selected_dimensions() -> None:
    # scores 2 and 4: concise alone 2, friendly alone 4, both 3
    scores_PRD = np.broadcast_to([2.0, 4.0], (1, 3, 2))
    assert profile_rewards(scores_PRD, SELECTED).tolist() == [[2, 4, 3]]


def test_the_table_agrees_with_its_parts() -> None:
    table = standings()
    reward_MP = profile_rewards(SCORES, SELECTED).mean(axis=-1)
    assert table.reward_M[2] == mean_interval(reward_MP[2], seed=4, resamples=300)
    assert [cell.value for cell in table.average_win_M] == pytest.approx(
        average_pairwise_win_rate(SCORES, SELECTED, TOLERANCE).tolist()
    )
    values = [[None if cell is None else cell.value for cell in row] for row in table.win_MM]
    for got, expected in zip(values, win_matrix(SCORES, SELECTED, TOLERANCE), strict=True):
        assert got == pytest.approx(expected)
    assert [list(row) for row in table.decided_MM] == win_matrix(SCORES, SELECTED, TOLERANCE, "drop")
    assert table.reward_difference_MM[2][0] == paired_difference(reward_MP[2], reward_MP[0], seed=4, resamples=300)
    assert np.asarray(table.score_MRD) == pytest.approx(SCORES.mean(axis=1))
    assert table.correctness_M is not None
    assert table.correctness_M[1].value == pytest.approx(CORRECT[1].mean())


def test_a_profile_alone_is_a_table_of_one_profile() -> None:
    table = standings()
    share_MP = average_win_share(verdict_table(SCORES[:, :, [1]], SELECTED[[1]], TOLERANCE))
    assert [row[1].value for row in table.average_win_MR] == pytest.approx(share_MP.mean(axis=1).tolist())
    assert table.reward_MR[2][1].value == pytest.approx(SCORES[2, :, 1, 1].mean())
    assert [np.mean([cell.value for cell in row]) for row in table.reward_MR] == pytest.approx(
        [cell.value for cell in table.reward_M]
    )


def test_the_order_of_methods_does_not_matter() -> None:
    forward, backward = standings(), standings(SCORES[::-1])
    assert forward.reward_M == backward.reward_M[::-1]
    assert forward.average_win_M == backward.average_win_M[::-1]


def test_a_missing_score_is_named() -> None:
    scores = SCORES.copy()
    scores[1, 3, 2, 0] = np.nan
    with pytest.raises(CounterpointError, match="1 scores are not finite; the first is soup, prompt 3, both, concise"):
        standings(scores)


def test_names_must_fit_the_axes() -> None:
    with pytest.raises(CounterpointError, match="3 methods are named, the scores hold 2"):
        standings(SCORES[:2])
    with pytest.raises(CounterpointError, match="different names"):
        compare(SCORES, SELECTED, TOLERANCE, methods=("a", "a", "b"), profiles=PROFILES, dimensions=DIMENSIONS, seed=0)
    with pytest.raises(CounterpointError, match="correctness has the shape"):
        compare(
            SCORES,
            SELECTED,
            TOLERANCE,
            methods=METHODS,
            profiles=PROFILES,
            dimensions=DIMENSIONS,
            seed=0,
            correct_MPR=CORRECT[:2],
        )


def test_standings_are_plain_data() -> None:
    plain = dataclasses.asdict(standings())
    assert plain["win_MM"][0][0] is None
    assert isinstance(plain["score_MRD"][0][0][0], float)
