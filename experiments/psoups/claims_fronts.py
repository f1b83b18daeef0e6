"""What weights trade: hypervolume of every front, and whether rewards lie above the line between the two ends."""

from itertools import pairwise
from typing import Any

import numpy as np
from experiments.psoups.fronts import FRONTS, PAIRS, STEPS
from experiments.psoups.study import Study, figures, rounded

from counterpoint.evaluate.bootstrap import statistic_interval
from counterpoint.evaluate.claims import Claim
from counterpoint.evaluate.figures import trade_off_figure
from counterpoint.evaluate.pareto import hypervolume, hypervolume_interval

REFERENCE = (-2.0, -2.0)
"""Two standard deviations below the base on both dimensions, as in the report of a build."""
TITLES = tuple(f"{method}@{at}" for method, at in FRONTS)
RIVALS = (
    ("soup@best", "soup@1"), ("mixture-log@best", "mixture-log@1"), ("soup@1", "mixture-prob@1"),
    ("soup@1", "mixture-log@1"), ("soup@best", "mixture-prob@1"), ("soup@best", "mixture-log@best"),
)  # fmt: skip


def points_NPK(study: Study, pair: tuple[str, str], title: str) -> np.ndarray:
    """Both rewards at every weight: `N` weights, `P` prompts, `K` the two dimensions."""
    names = study.settings[0].task.names
    z_PND = study.z_PRD("fronts", f"{'-'.join(pair)} {title}")
    points: np.ndarray = z_PND[:, :, [names.index(name) for name in pair]].swapaxes(0, 1)
    return points


def claims_of_fronts(study: Study) -> list[Claim]:
    claims = []
    for pair in PAIRS[study.name]:
        points = {title: points_NPK(study, pair, title) for title in TITLES}
        for a, b in RIVALS:
            text = f"{a} covers more between {' and '.join(pair)} than {b}"
            metric = f"hypervolume above {REFERENCE}, in standard deviations"
            difference = statistic_interval(Covers(points[a], points[b]), points[a].shape[1], seed=0, resamples=500)
            claims.append(study.claim(text, a, b, difference, metric))
        for title in TITLES:
            text = f"between {' and '.join(pair)}, {title} earns more than the line between its ends"
            between_P, line_P = above_line(points[title])
            claims.append(study.earns_more(text, title, "the line", between_P, line_P))
    return claims


class Covers:
    """How much more one front covers than another, as a statistic of prompt weights."""

    def __init__(self, a_NPK: np.ndarray, b_NPK: np.ndarray) -> None:
        self.fronts = a_NPK, b_NPK

    def __call__(self, weight_P: np.ndarray) -> float:
        a, b = (hypervolume(np.einsum("npk,p->nk", front, weight_P), REFERENCE) for front in self.fronts)
        return a - b


def above_line(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means by prompt over inner weights and both dimensions: of the answers, and of the line (linear connectivity,
    Rewarded Soups, arXiv 2306.04488): r(w) against (1 - w) r(0) + w r(1)."""
    w_N11 = np.linspace(0, 1, STEPS + 1)[1:-1, None, None]
    line = (1 - w_N11) * points[:1] + w_N11 * points[-1:]
    return points[1:-1].mean(axis=(0, 2)), line.mean(axis=(0, 2))


def table_of_fronts(study: Study) -> dict[str, Any]:
    """By pair and front: both rewards at every weight, the hypervolume, and how often the path turns back."""
    table: dict[str, Any] = {}
    for pair in PAIRS[study.name]:
        for title in TITLES:
            points = points_NPK(study, pair, title)
            mean_NK = points.mean(axis=1)
            table[f"{' and '.join(pair)}: {title}"] = {
                "hypervolume": figures(hypervolume_interval(points, REFERENCE, seed=0, resamples=500)),
                "points": mean_NK.round(3).tolist(),
                "middle": rounded(points[STEPS // 2].mean(axis=1)),
                "turns_back": sum(int(b[1] < a[1]) for a, b in pairwise(mean_NK.tolist())),
            }
    return table


def figure_of_fronts(study: Study, pair: tuple[str, str]) -> str:
    """All fronts of one pair."""
    points = {title: points_NPK(study, pair, title).mean(axis=1) for title in TITLES}
    named = {title: [(float(x), float(y)) for x, y in found] for title, found in points.items()}
    return trade_off_figure(named, *pair, f"{pair[0]} against {pair[1]} at eleven weights, {study.name}")
