import numpy as np
import pytest

from counterpoint.evaluate.wins import (
    average_pairwise_win_rate,
    average_win_share,
    criterion_verdicts,
    verdict_table,
    verdicts,
    win_matrix,
    win_rate,
    win_share,
)

ZERO = np.zeros(3)


def scores(seed: int = 0, methods: int = 4, levels: int = 3) -> np.ndarray:
    """Few levels, so that criteria tie often."""
    return np.random.default_rng(seed).integers(0, levels, size=(methods, 7, 5, 3)).astype(float)


SELECTED = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]], dtype=bool)


def test_a_gap_of_exactly_the_tolerance_is_a_tie() -> None:
    # gaps 0.5, 0.75, -0.75, 0 with tolerance 0.5: tie, a, b, tie
    assert criterion_verdicts([1.0, 1.25, 0.0, 2.0], [0.5, 0.5, 0.75, 2.0], 0.5).tolist() == [0, 1, -1, 0]
    with pytest.raises(ValueError, match="must not be negative"):
        criterion_verdicts([1.0], [0.0], [-0.1])


def test_two_narrow_wins_outvote_a_wide_loss() -> None:
    a, b = np.array([[[1.0, 1.0, -9.0]]]), np.zeros((1, 1, 3))
    # criteria +1 +1 -1 = +1 for all three, +1 -1 = 0 for the outer two, -1 for the last alone
    for chosen, expected in (([1, 1, 1], 1), ([1, 0, 1], 0), ([0, 0, 1], -1)):
        assert verdicts(a, b, np.array([chosen]), ZERO).tolist() == [[expected]]


def test_a_profile_that_selects_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"profiles \[1\] select no dimension"):
        verdicts(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), np.array([[1, 0, 0], [0, 0, 0]]), ZERO)


def test_both_win_rates_by_hand() -> None:
    # 3 wins, 1 loss, 2 ties: (3 + 1) / 6 = 2/3 with ties as half, 3 / 4 without them
    verdict = np.array([[1, 1, 0], [1, -1, 0]])
    assert win_rate(verdict) == pytest.approx(2 / 3)
    assert win_rate(verdict, "drop") == 0.75
    assert win_rate(np.zeros((2, 2)), "drop") is None
    assert win_rate(np.zeros((2, 2))) == 0.5
    assert win_rate(np.zeros(0)) is None


@pytest.mark.parametrize("ties", ["half", "drop"])
def test_the_win_matrix_is_antisymmetric(ties: str) -> None:
    matrix = win_matrix(scores(), SELECTED, ZERO, "half" if ties == "half" else "drop")
    for a, row in enumerate(matrix):
        assert row[a] is None
        for b, cell in enumerate(row):
            opposite = matrix[b][a]
            if a != b:
                assert cell is not None
                assert opposite is not None
                assert cell + opposite == pytest.approx(1)


def test_average_pairwise_win_rate_equals_four_loops() -> None:
    table = scores(3)
    methods, prompts, profiles, dimensions = table.shape
    tolerance = [0.0, 1.0, 0.5]
    rates = np.zeros((methods, methods))
    for a in range(methods):
        for b in range(methods):
            for p in range(prompts):
                for r in range(profiles):
                    total = 0
                    for d in range(dimensions):
                        gap = table[a, p, r, d] - table[b, p, r, d]
                        total += int(SELECTED[r, d]) * (int(gap > tolerance[d]) - int(gap < -tolerance[d]))
                    rates[a, b] += ((total > 0) + 0.5 * (total == 0)) / (prompts * profiles)
    expected = [np.mean([rates[a, b] for b in range(methods) if b != a]) for a in range(methods)]
    assert average_pairwise_win_rate(table, SELECTED, tolerance) == pytest.approx(expected)
    share = win_share(verdict_table(table, SELECTED, tolerance)).mean(axis=-1)
    assert share == pytest.approx(rates)


def test_average_win_rates_average_to_one_half_and_depend_on_the_opponents() -> None:
    table = scores(1)
    rate = average_pairwise_win_rate(table, SELECTED, ZERO)
    assert rate.mean() == pytest.approx(0.5)
    with_weak = np.concatenate([table, np.full_like(table[:1], -5)])
    assert (average_pairwise_win_rate(with_weak, SELECTED, ZERO)[:4] > rate).all()


def test_one_method_alone_has_no_win_rate() -> None:
    with pytest.raises(ValueError, match="at least 2 methods, got 1"):
        average_win_share(verdict_table(scores(methods=1), SELECTED, ZERO))
