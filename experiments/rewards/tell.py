"""What was measured: a table of every dimension and method, and the claims."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from experiments.rewards.learn import BACKBONES, Measured, Results
from experiments.rewards.split import Split

from counterpoint.evaluate.bootstrap import mean_interval, paired_difference
from counterpoint.evaluate.calibration import brier, brier_score, calibration_error, confidence, means_by
from counterpoint.evaluate.claims import Claim, make_claim

EACH, HEADS = (tuple(f"{backbone}, {kind}" for backbone in BACKBONES) for kind in ("a model each", "one of K heads"))
ALL = "all dimensions"
Splits = Mapping[str, Split]
Values = dict[str, float]
"""By source: the mean over its pairs, over the seeds and over dimensions."""


@dataclass(frozen=True)
class Run:
    """What every claim says of the run that it comes from."""

    seeds: tuple[int, ...]
    command: str
    seconds: float


def methods(results: Results) -> list[str]:
    return list(dict.fromkeys(method for method, _, _ in results))


def of(results: Results, method: str, dimension: str) -> list[Measured]:
    """One per seed."""
    return [found for (m, d, _), found in results.items() if (m, d) == (method, dimension)]


def table(splits: Splits, results: Results) -> dict[str, Any]:
    """How many pairs there are, and a row for every dimension and method."""
    cells = product(splits, methods(results))
    rows = [{"dimension": n, "method": m, **row(splits[n], of(results, m, n))} for n, m in cells]
    return {"pairs": {name: dict(pairs.counts) for name, pairs in splits.items()}, "rows": rows}


def row(pairs: Split, found: Sequence[Measured]) -> dict[str, Any]:
    """The figures of one method on one dimension; seeds are pooled, each with its own scale."""
    raw_X = np.concatenate([m.margin_X for m in found])
    scaled_X = np.concatenate([m.scale * m.margin_X for m in found])
    sources = pairs.sources * len(found)
    return {
        "sources": len(set(sources)),
        "accuracy": mean_interval(means_by(sources, confidence(raw_X)[1]), seed=0).to_dict(),
        "ece": calibration_error(raw_X, sources, seed=0).to_dict(),
        "ece_scaled": calibration_error(scaled_X, sources, seed=0).to_dict(),
        "brier": brier_score(raw_X, sources, seed=0).to_dict(),
        "brier_scaled": brier_score(scaled_X, sources, seed=0).to_dict(),
        "scale": [round(m.scale, 4) for m in found],
    }


def claims(splits: Splits, results: Results, run: Run) -> list[Claim]:
    """Which method ranks more pairs right, and whether temperature lowers Brier's score."""
    return [*ranking_claims(splits, results, run), *temperature_claims(splits, results, run)]


def ranking_claims(splits: Splits, results: Results, run: Run) -> Iterator[Claim]:
    """Bag of words against the other ways, on each dimension and over all; the other ways, over all."""
    apart = [("bag of words", EACH[0]), ("bag of words", EACH[1]), ("bag of words", "length")]
    over_all = [*apart, (EACH[1], EACH[0]), *zip(HEADS, EACH, strict=True)]
    for (a, b), name in [*product(apart, splits), *((pair, ALL) for pair in over_all)]:
        names = list(splits) if name == ALL else [name]
        values = (rights(splits, results, a, names), rights(splits, results, b, names))
        yield claim(f"{a} ranks more pairs right than {b} on {name}", "accuracy on held-out pairs", a, b, values, run)


def temperature_claims(splits: Splits, results: Results, run: Run) -> Iterator[Claim]:
    for method in methods(results):
        raw, scaled = (penalties(splits, results, method, scaled) for scaled in (False, True))
        what = f"temperature lowers Brier's score of {method} on {ALL}"
        yield claim(what, "mean Brier score on held-out pairs", "as it is", "with temperature", (raw, scaled), run)


def claim(what: str, metric: str, a: str, b: str, values: tuple[Values, Values], run: Run) -> Claim:
    sources = sorted(values[0])
    a_P, b_P = ([of_source[source] for source in sources] for of_source in values)
    return make_claim(
        what, metric=metric, a=a, b=b, difference=paired_difference(a_P, b_P, seed=0), prompts=len(sources),
        seeds=run.seeds, command=run.command, seconds=run.seconds,
    )  # fmt: skip


def rights(splits: Splits, results: Results, method: str, names: Sequence[str]) -> Values:
    return by_source(splits, [(n, confidence(m.margin_X)[1]) for n in names for m in of(results, method, n)])


def penalties(splits: Splits, results: Results, method: str, scaled: bool) -> Values:
    found = [(n, m.margin_X, m.scale if scaled else 1.0) for n in splits for m in of(results, method, n)]
    return by_source(splits, [(n, brier(scale * margin_X)) for n, margin_X, scale in found])


def by_source(splits: Splits, values: Sequence[tuple[str, np.ndarray]]) -> Values:
    sources = [source for name, _ in values for source in splits[name].sources]
    means = means_by(sources, np.concatenate([value_X for _, value_X in values]))
    return dict(zip(dict.fromkeys(sources), means.tolist(), strict=True))
