import re
from xml.etree import ElementTree

import numpy as np
import pytest

from counterpoint.evaluate.adherence import adherence
from counterpoint.evaluate.bootstrap import mean_interval
from counterpoint.evaluate.doses import FALL, Curve, dose_claims, dose_curve
from counterpoint.evaluate.figures import dose_figure, standalone

STRENGTHS = (0.0, 0.5, 1.0, 1.5)
NOISE = np.random.default_rng(0).normal(size=30)


def curve(*means: float, method: str = "soup", dimension: str = "terse") -> Curve:
    """Every question moves alike, so that differences between strengths are known exactly."""
    strengths = STRENGTHS[: len(means)]
    return dose_curve(method, dimension, strengths, np.array(means)[:, None] + NOISE, seed=0, resamples=100)


def claims_of(found: Curve) -> dict[str, tuple[bool, float]]:
    """By claim: whether it holds, and the value."""
    claims = dose_claims(found, seeds=[0], command="make", seconds=1.0)
    return {claim.claim: (claim.holds, round(claim.difference.value, 9)) for claim in claims}


def test_a_curve_holds_what_adherence_and_intervals_say() -> None:
    score_SP = np.random.default_rng(1).normal(size=(4, 20))
    found = dose_curve("soup", "terse", STRENGTHS, score_SP, seed=3, resamples=50)
    assert found.follows == adherence(STRENGTHS, score_SP, seed=3, resamples=50)
    assert found.means[2] == mean_interval(score_SP[2], seed=3, resamples=50)
    assert found.prompts == 20


def test_beyond_one_by_hand() -> None:
    beyond = curve(0, 0.4, 0.8, 0.6).beyond
    assert beyond is not None
    assert [beyond.value, beyond.low, beyond.high] == pytest.approx([-0.2] * 3)
    assert curve(0, 0.4, 0.8).beyond is None


def test_a_rising_curve_is_claimed_in_four_ways() -> None:
    # slope: strengths .5 apart, scores .4 apart
    assert claims_of(curve(0, 0.4, 0.8, 1.2)) == {
        "more strength of soup gives more terse, by rank": (True, 1.0),
        "more strength of soup gives more terse, on average": (True, 0.8),
        f"no step up in strength of soup costs {FALL:g} of terse or more": (True, FALL),
        "soup at strength 1.5 gives more terse than at 1": (True, 0.4),
    }


def test_a_curve_that_falls_beyond_one_fails_where_it_must() -> None:
    found = claims_of(curve(0, 0.4, 0.8, 0.6))
    # ranks 1 2 4 3: rho = 1 - 6 * 2 / (4 * 15) = .8; slope (-.75 * 0 - .25 * .4 + .25 * .8 + .75 * .6) / 1.25 = .44
    assert found["more strength of soup gives more terse, by rank"] == (True, 0.8)
    assert found["more strength of soup gives more terse, on average"] == (True, 0.44)
    assert found[f"no step up in strength of soup costs {FALL:g} of terse or more"] == (False, -0.1)
    assert found["soup at strength 1.5 gives more terse than at 1"] == (False, -0.2)


def test_a_flat_curve_claims_no_rank() -> None:
    found = claims_of(curve(0.5, 0.5, 0.5))
    assert list(found) == [
        "more strength of soup gives more terse, on average",
        f"no step up in strength of soup costs {FALL:g} of terse or more",
    ]
    assert found["more strength of soup gives more terse, on average"][0] is False


def test_one_is_needed_to_go_beyond_it() -> None:
    with pytest.raises(ValueError, match="not in list"):
        dose_curve("soup", "terse", (0.0, 1.5), np.zeros((2, 5)), seed=0)


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(standalone(svg))
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_figure_has_a_panel_per_dimension_and_a_line_per_method() -> None:
    soup = [curve(0, 0.4, 0.8, 1.2, dimension=name) for name in ("terse", "warm")]
    prob = [curve(0, 0.2, 0.5, method="prob", dimension=name) for name in ("terse", "warm")]
    svg = dose_figure([*soup, *prob], "score", 'a "quoted" < alt')
    said = texts(svg)
    for name in ("terse", "warm", "soup", "prob", "strength →", "score →"):
        assert said.count(name) == 1
    assert 'aria-label="a &quot;quoted&quot; &lt; alt"' in svg
    assert {"--c0", "--c1"} <= set(re.findall(r"--c\d", svg))


def test_methods_that_nowhere_differ_share_a_line() -> None:
    one = [curve(0, 0.4, 0.8, 1.2, method="soup", dimension=d) for d in ("terse", "warm")]
    same = [curve(0, 0.4, 0.81, 1.2, method="moe", dimension=d) for d in ("terse", "warm")]
    other = [curve(0, 0.4, 0.8, 1.2, method="log"), curve(0, 0.4, 0.8, 1.0, method="log", dimension="warm")]
    said = texts(dose_figure([*one, *same, *other], "score", ""))
    assert "soup = moe" in said
    assert "log" in said
    assert "soup" not in said
