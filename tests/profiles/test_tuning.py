import numpy as np
import pytest
from scipy.special import expit

from counterpoint.profiles import parse_profile
from counterpoint.profiles.elicit import draw, unsure
from counterpoint.profiles.tuning import Choice, Features, Rated, Tuning, direction, shortened, tuning_of
from counterpoint.profiles.zone import Zone
from counterpoint.types import CounterpointError, Dimension, Profile

DIMENSIONS = (
    Dimension("plain", axis="words"), Dimension("technical", axis="words"), Dimension("short"), Dimension("warm"),
)  # fmt: skip
NAMES = tuple(one.name for one in DIMENSIONS)


def session(tuning: Tuning, wish: Profile, choices: int, seed: int = 0, scale: float = 1.0) -> list[Choice]:
    """A person who likes answers by where their profiles point; features are those, `scale` times as large."""
    generator, w = np.random.default_rng(seed), direction(wish, NAMES)
    made: list[Choice] = []
    for _ in range(choices):
        pair = tuning.pair(tuning.believe(made), generator)
        a, b = (direction(profile, NAMES) for profile in pair)
        margin = 8 * sum(w[name] * (a[name] - b[name]) for name in NAMES)
        share = 1.0 if generator.random() < expit(margin) else 0.0
        made.append(Choice({n: scale * v for n, v in a.items()}, {n: scale * v for n, v in b.items()}, share))
    return made


def test_candidates_take_one_pole_of_an_axis() -> None:
    candidates = tuning_of(DIMENSIONS, "profiles").candidates
    assert 50 < len(candidates) <= 200
    assert all(not (p.weights["plain"] and p.weights["technical"]) for p in candidates)
    assert any(p.weights["plain"] and p.weights["warm"] for p in candidates)


@pytest.mark.parametrize("seed", range(3))
def test_thompson_shows_the_best_of_each_of_two_draws(seed: int) -> None:
    tuning = tuning_of(DIMENSIONS, "profiles")
    belief = tuning.believe([])
    directions_ND = np.array([[direction(p, NAMES)[name] for name in NAMES] for p in tuning.candidates])
    w_SD = draw(belief, 2, np.random.default_rng(seed)) / (np.sqrt(2) * directions_ND.std(axis=0))
    best = {int((directions_ND @ w_D).argmax()) for w_D in w_SD}
    assert len(best) == 2, "two draws that agree are taken again"
    shown = tuning.pair(belief, np.random.default_rng(seed), "thompson")
    assert {tuning.candidates.index(profile) for profile in shown} == best


@pytest.mark.parametrize("features", ["profiles", "rewards"])
def test_a_session_finds_the_wish(features: Features) -> None:
    wish = parse_profile("technical=1, short=1", NAMES)
    tuning = tuning_of(DIMENSIONS, features)
    verdict = tuning.verdict(tuning.believe(session(tuning, wish, 25)))
    assert verdict.profile is not None
    place = direction(verdict.profile, NAMES)
    assert sum(place[name] * value for name, value in direction(wish, NAMES).items()) > 0.85
    assert verdict.choices == 25
    assert verdict.sure > 0.6
    assert all(weight.low <= weight.weight <= weight.high for weight in verdict.dimensions.values())


def test_the_unit_of_rewards_does_not_matter() -> None:
    tuning = tuning_of(DIMENSIONS, "rewards")
    wish = parse_profile("warm", NAMES)
    small = tuning.believe(session(tuning, wish, 6))
    large = tuning.believe(session(tuning, wish, 6, scale=1000.0))
    assert large.mean_D == pytest.approx(small.mean_D, abs=1e-6)


def test_nothing_chosen_is_nothing_known() -> None:
    tuning = tuning_of(DIMENSIONS, "rewards")
    verdict = tuning.verdict(tuning.believe([]))
    assert verdict.choices == 0
    assert not verdict.settled
    assert verdict.sure < 0.5


def test_a_start_is_where_it_starts() -> None:
    start = unsure(NAMES, np.array([0.0, 0.0, 0.0, 2.0]))
    tuning = tuning_of(DIMENSIONS, "profiles", start)
    profile = tuning.verdict(tuning.believe([])).profile
    assert profile is not None
    assert profile.weights["warm"] > 0.8


def test_ratings_count_beside_choices() -> None:
    tuning = tuning_of(DIMENSIONS, "rewards")
    zero = dict.fromkeys(NAMES, 0.0)
    rated = [Rated({**zero, "warm": float(value)}, value) for value in range(5)]
    belief = tuning.believe([Choice({**zero, "short": 1.0}, zero, 1.0)], rated)
    assert belief.mean_D[NAMES.index("warm")] > 0.5
    assert belief.mean_D[NAMES.index("short")] > 0.0


def test_a_zone_makes_more_than_desired_worth_nothing() -> None:
    tuning = tuning_of(DIMENSIONS, "rewards", zones={"warm": Zone(0.0, 1.0)})
    zero = dict.fromkeys(NAMES, 0.0)
    choices = [Choice({**zero, "warm": 5.0}, {**zero, "warm": 2.0}, 1.0)] * 9
    assert tuning.believe(choices).mean_D[NAMES.index("warm")] == pytest.approx(0.0, abs=0.1)


def test_a_direction_by_hand() -> None:
    assert direction(Profile({"warm": 3.0, "short": 4.0}, 2.0), NAMES) == {
        "plain": 0.0, "technical": 0.0, "short": 0.8, "warm": 0.6
    }  # fmt: skip


def test_a_profile_is_said_shortly() -> None:
    said = shortened(Profile({"warm": 3.0, "short": 1.0, "plain": 0.001}, 1.5))
    assert (said.weights, said.strength) == ({"warm": 0.75, "short": 0.25}, 1.5)


def test_bad_input_is_named() -> None:
    with pytest.raises(CounterpointError, match="two dimensions or more; found warm"):
        tuning_of(DIMENSIONS[-1:], "rewards")
    tuning = tuning_of(DIMENSIONS, "rewards")
    with pytest.raises(CounterpointError, match="no value for 'technical'"):
        tuning.believe([Choice({"plain": 1.0}, {"plain": 0.0}, 1.0)])
