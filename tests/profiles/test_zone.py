import re

import numpy as np
import pytest

from counterpoint.profiles.elicit import believe, unsure
from counterpoint.profiles.zone import Zone, fit_zone, format_zones, parse_zones, satisfaction, satisfactions
from counterpoint.types import CounterpointError


def test_zones_are_read_from_text_and_written_back() -> None:
    zones = parse_zones("concise=0:1, warm = -0.5 : 0.5", ("concise", "warm"))
    assert zones == {"concise": Zone(0.0, 1.0), "warm": Zone(-0.5, 0.5)}
    assert parse_zones(format_zones(zones), ("concise", "warm")) == zones
    assert parse_zones(" ", ()) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("concis=0:1", "zones 'concis=0:1': unknown dimension 'concis'; did you mean 'concise'?"),
        ("concise=0", "found 'concise=0'; expected NAME=ADEQUATE:DESIRED, such as 'concise=0:1'"),
        ("concise=a:1", "found 'concise=a:1'; expected"),
        ("concise=0:1:2", "found 'concise=0:1:2'; expected"),
        ("concise", "found 'concise'; expected"),
        ("concise=0:1,", "unknown dimension ''"),
        ("concise=0:1, concise=0:2", "'concise' is given twice"),
        ("concise=2:1", "concise: found a zone from 2.0 to 1.0"),
        ("concise=0:nan", "concise: found a zone from 0.0 to nan"),
    ],
)
def test_text_that_is_no_zones_is_refused(text: str, said: str) -> None:
    with pytest.raises(CounterpointError, match=re.escape(said)):
        parse_zones(text, ("concise", "warm"))


def test_satisfaction_by_hand() -> None:
    assert satisfaction(np.array([-1.0, 0.0, 0.5, 2.0, 9.0]), Zone(0.0, 2.0)).tolist() == [0.0, 0.0, 0.25, 1.0, 1.0]


def test_satisfaction_never_falls_and_has_its_limits() -> None:
    z_N = np.linspace(-50, 50, 1001)
    for zone in (Zone(-1, 1), Zone(0, 0), Zone(2, 2.001)):
        s_N = satisfaction(z_N, zone)
        assert (np.diff(s_N) >= 0).all()
        assert (s_N[0], s_N[-1]) == (0.0, 1.0)


def test_a_zone_of_no_width_is_a_step() -> None:
    assert satisfaction(np.array([0.999, 1.0, 1.001]), Zone(1.0, 1.0)).tolist() == [0.0, 1.0, 1.0]


def test_less_desired_is_sooner_met() -> None:
    z_N = np.linspace(-2, 4, 50)
    assert (satisfaction(z_N, Zone(0, 1)) >= satisfaction(z_N, Zone(0, 3))).all()


@pytest.mark.parametrize(("adequate", "desired", "spread"), [(-0.5, 0.8, 0.4), (10.0, 14.0, 3.0), (0.0, 0.3, 0.2)])
def test_cut_points_come_back_from_ratings(adequate: float, desired: float, spread: float) -> None:
    generator = np.random.default_rng(0)
    z_N = generator.normal((adequate + desired) / 2, 3 * spread, size=1500)
    felt_N = z_N + spread * generator.normal(size=len(z_N))
    found = fit_zone(z_N, np.where(felt_N < adequate, -1, np.where(felt_N > desired, 1, 0)))
    assert found.adequate == pytest.approx(adequate, abs=0.2 * spread)
    assert found.desired == pytest.approx(desired, abs=0.2 * spread)
    assert found.spread == pytest.approx(spread, rel=0.2)


def test_ratings_that_part_perfectly_have_a_finite_zone_between() -> None:
    z_N = np.arange(9.0)
    zone = fit_zone(z_N, np.array([-1, -1, -1, 0, 0, 0, 1, 1, 1]))
    assert 2 < zone.adequate < 3
    assert 5 < zone.desired < 6


def test_ratings_of_one_kind_put_the_zone_to_one_side() -> None:
    z_N = np.arange(9.0)
    assert fit_zone(z_N, np.ones(9)).desired < fit_zone(z_N, -np.ones(9)).adequate


def test_weights_are_learned_on_satisfaction() -> None:
    # between 5 and 9 nothing is left to want on a, so those choices are of b alone
    zones = [Zone(0, 1), Zone(0, 10)]
    first_ND, second_ND = np.tile([5.0, 8.0], (20, 1)), np.tile([9.0, 2.0], (20, 1))
    d_ND = satisfactions(first_ND, zones) - satisfactions(second_ND, zones)
    assert d_ND[0].tolist() == pytest.approx([0.0, 0.6])
    belief = believe(d_ND, unsure("ab"))
    assert belief.mean_D[1] > 0.5
    assert abs(belief.mean_D[0]) < 0.1


def test_bad_input_is_named() -> None:
    for z, ratings, message in (
        ([1.0, 2.0], [1], "found shapes (2,) and (1,)"),
        ([1.0, 2.0], [1, 2], "found the rating 2"),
        ([1.0, np.nan], [1, 0], "not finite"),
        ([1.0, 1.0], [1, 0], "all 2 rated responses score 1"),
    ):
        with pytest.raises(CounterpointError, match=re.escape(message)):
            fit_zone(np.array(z), np.array(ratings))
    with pytest.raises(CounterpointError, match="adequate at most desired"):
        Zone(2.0, 1.0)
