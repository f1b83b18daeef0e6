import math
from pathlib import Path

import numpy as np
import pytest

from counterpoint.decode.band import Band
from counterpoint.evaluate.expert import PairLogps, expert_quality, pair_logps
from counterpoint.evaluate.ranking import Flips
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import Comparison

COMPARISONS = [Comparison("p", "the owl", "no", "kind"), Comparison("q", "and you", "", "kind")]


def test_measures_by_hand() -> None:
    # first pair: chosen rises from -4 to -1, rejected stays at -3: wrong before, right after, gap 3
    # second pair: chosen falls from -2 to -6, rejected stays at -5: right before, wrong after, gap -4
    logps = PairLogps(
        np.array([-1.0, -6.0]), np.array([-3.0, -5.0]), np.array([-4.0, -2.0]), np.array([-3.0, -5.0]),
        np.array([[2, 1], [2, 1]]),
    )  # fmt: skip
    quality = expert_quality(logps, COMPARISONS, beta=0.5, seed=0)
    assert (quality.reward_accuracy.value, quality.accuracy.value, quality.base_accuracy.value) == (0.5, 0.5, 0.5)
    assert quality.ranking.flips == Flips(stayed_right=0, became_right=1, became_wrong=1, stayed_wrong=0)
    losses = [math.log1p(math.exp(-1.5)), math.log1p(math.exp(2.0))]
    assert quality.loss.value == pytest.approx(sum(losses) / 2)
    # only the first is wrong before, by 1 nat
    assert quality.flip_loss == pytest.approx(math.log1p(math.exp(-0.5)))


def test_an_expert_that_changes_nothing_has_the_bases_numbers(tmp_path: Path) -> None:
    base = save_pico(tmp_path / "base")
    band = Band.assemble(base, {"kind": pico_adapter(tmp_path / "zero", base, spread=0.0)})
    told: list[tuple[int, int]] = []
    logps = pair_logps(band.bank, "kind", band.tokenizer, COMPARISONS, lambda *now: told.append(now), part=3)
    np.testing.assert_allclose(logps.chosen_P, logps.ref_chosen_P, atol=1e-5)
    np.testing.assert_allclose(logps.rejected_P, logps.ref_rejected_P, atol=1e-5)
    assert logps.lengths_P2[1, 1] == 1, "an empty response is its end"
    assert told == [(3, 4), (4, 4)]
    quality = expert_quality(logps, COMPARISONS, beta=0.1, seed=0)
    assert quality.loss.value == pytest.approx(math.log(2), abs=1e-5)
    assert quality.ranking.flips.became_right == quality.ranking.flips.became_wrong == 0
