"""Is a reward model as often right as it says? Of pairs that it finds 80 % likely, 80 % should hold.

Which response of a pair is called the first is arbitrary. With the chosen response always first, the event "the first
wins" would always happen, and a model would count as badly calibrated for every probability below one. So a pair is
seen from its favourite, the response that scores higher:

    confidence = sigmoid(|m|) >= 1/2,   m = r(x, y+) - r(x, y-),   right = [m > 0]   (1/2 for m = 0)

This is what presenting every pair in both orders comes to: a pair's two orders fall into bins that mirror each other,
with the same gap. A coin for the order would give the same in expectation, and add its own noise.

Axes: `X` pairs, `P` prompts (any source that pairs share, and by which they are resampled). A prompt counts once,
however many pairs it has.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterpoint.evaluate.bootstrap import RESAMPLES, Interval, mean_interval, statistic_interval

BINS = 10


def confidence(margin_X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`confidence_X` in the favourite of each pair, and `right_X`: whether it was the chosen one."""
    margin = np.asarray(margin_X, dtype=np.float64)
    return (1 + np.tanh(np.abs(margin) / 2)) / 2, (np.sign(margin) + 1) / 2


def means_by(prompt_X: Sequence[Hashable], value_X: ArrayLike) -> NDArray[np.float64]:
    """`mean_P`: the mean over each prompt's pairs, in the order of their first pair."""
    place = {prompt: p for p, prompt in enumerate(dict.fromkeys(prompt_X))}
    of_X = np.array([place[prompt] for prompt in prompt_X], dtype=int)
    mean: NDArray[np.float64] = np.bincount(of_X, np.asarray(value_X, dtype=np.float64)) / np.bincount(of_X)
    return mean


def brier(margin_X: ArrayLike) -> NDArray[np.float64]:
    """Brier's score of each pair, `(1 - sigmoid(m))^2`, the same for both orders: 0 is sure and right, 1/4 a coin.

    Brier (1950). A proper score: its mean falls with better calibration, and with better ranking.
    """
    return np.asarray(((1 - np.tanh(np.asarray(margin_X, dtype=np.float64) / 2)) / 2) ** 2)


def brier_score(
    margin_X: ArrayLike, prompt_X: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """The mean of `brier` over prompts, and its interval by prompt."""
    return mean_interval(means_by(prompt_X, brier(margin_X)), seed=seed, resamples=resamples)


def calibration_error(
    margin_X: ArrayLike, prompt_X: Sequence[Hashable], *, seed: int, bins: int = BINS, resamples: int = RESAMPLES
) -> Interval:
    """Expected calibration error over bins of about equal mass, and its interval by prompt.

        ECE = sum_b |mean over prompts of (right - confidence) [confidence in bin b]|

    Naeini, Cooper and Hauskrecht (AAAI 2015), with bins between quantiles of the confidence, equal confidences in one
    bin. The bins stay as they are over resamples. The surprising part: noise only ever adds to a sum of absolute
    values, so even perfect confidences have an error above zero, about `sum_b sqrt(2/pi) s_b` with `s_b` the standard
    error of a bin's term, and resamples lie higher still, since they add their noise to the sample's.
    """
    confidence_X, right_X = confidence(margin_X)
    edges = np.quantile(confidence_X, np.arange(1, bins) / bins)
    bin_X = np.searchsorted(edges, confidence_X, side="right")
    gap_BP = np.stack([means_by(prompt_X, (bin_X == b) * (right_X - confidence_X)) for b in range(bins)])

    def error(weight_P: NDArray[np.float64]) -> float:
        return float(np.abs(gap_BP @ weight_P).sum())

    return statistic_interval(error, gap_BP.shape[1], seed=seed, resamples=resamples)
