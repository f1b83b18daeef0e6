"""Real text: helpful, harmless and empathetic answers, mixed by PMoL and by its rivals on a model of 260 K parameters.

    COUNTERPOINT_SHARED=... python -m experiments.pmol.run --parts texts

The base is stories260k, which was trained on stories for children and then reads 100 batches of answers; no more than
a few words of what it says make sense. So whether a policy prefers what people preferred, which needs no generation,
tells more than what it says. Killed, it goes on where it was; `seconds` in the claims are those of the last run.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.pmol.texts_data import FEW, MOST, Texts, read_texts
from experiments.pmol.texts_learn import (
    DIMENSIONS,
    EXPERTS,
    GATES,
    LEARNED,
    ONE_LORA,
    WHOLE,
    Effort,
    Learner,
    equal_rank,
    learn,
    learn_base,
)
from experiments.pmol.texts_measure import (
    across,
    answers,
    judged_right,
    learn_judge,
    margins_over,
    pair_loss,
    preferences,
    routed,
)
from experiments.pmol.texts_serve import OWN, WAYS, serve
from experiments.pmol.texts_visible import visible

from counterpoint.artifacts import read_json, write_json
from counterpoint.models.load import load_tokenizer

RATES: Mapping[str, tuple[float, ...]] = {
    EXPERTS: (1e-3, 3e-3, 1e-2),
    "pmol": (6e-4, 2e-3, 6e-3),
    "pmol-router": (2e-3, 6e-3, 2e-2),
    ONE_LORA: (3e-4, 1e-3, 3e-3),
    WHOLE: (1e-4, 3e-4, 1e-3),
}
"""What is tried on the first seed; a variant of PMoL takes its rate."""
BETA = 0.1


@dataclass(frozen=True)
class Sizes:
    """The seeds, how much each learns, and of how many pairs."""

    seeds: tuple[int, ...]
    effort: Effort
    most: Mapping[str, int]


FULL, QUICK = Sizes((0, 1, 2), Effort(), MOST), Sizes((0,), Effort(steps=3, batch=4, reading=2), FEW)


def run(work: Path, shared: Path | None, quick: bool = False) -> None:
    """Learn and measure seed by seed; `texts.json` has the seeds that are done so far."""
    if shared is None:
        print("texts: left out, since COUNTERPOINT_SHARED names no folder of data", flush=True)
        return
    sizes, stories, seeds = QUICK if quick else FULL, str(shared / "models" / "stories260k"), []
    texts = texts_of(shared / "data", stories, sizes.most)
    judges = {name: learn_judge(texts, name) for name in DIMENSIONS}
    for seed in sizes.seeds:
        of = Learner(texts, stories, work / "texts" / str(seed), seed, sizes.effort)
        learn_base(of)
        first = work / "texts" / str(sizes.seeds[0]) / "rates.json"
        if not first.exists():
            write_json(first, choose_rates(of))
        seeds.append(of_seed(of, read_json(first)["best"]))
        write_json(
            work / "texts.json",
            {
                "pairs": texts.counts(),
                "judges": judged_right(texts, judges),
                "rates": read_json(first),
                "equal_rank": equal_rank(stories),
                "seeds": [{**found, "reward": rewards(of, judges, found["texts"])} for found in seeds],
            },
        )


def texts_of(data: Path, stories: str, most: Mapping[str, int]) -> Texts:
    tokenizer = load_tokenizer(stories)
    tokenizer.model_max_length = sys.maxsize  # what is too long is left out: no warning is needed
    return read_texts(data, tokenizer, most)


def choose_rates(of: Learner) -> dict[str, Any]:
    """The learning rates with the least DPO loss on the part that is there to choose by."""
    base = preferences(of, serve(of, "base"), "tune")
    tried: dict[str, dict[str, float]] = {}
    for name, rates in RATES.items():
        tried[name] = {f"{rate:g}": tune(of, name, rate, base) for rate in rates}
        best = min(tried[name], key=tried[name].__getitem__)
        shutil.copytree(of.out / f"{name}@{best}", of.out / name, dirs_exist_ok=True)
        print(f"texts, rates of {name}: {tried[name]}", flush=True)
    return {"tried": tried, "best": {name: float(min(t, key=t.__getitem__)) for name, t in tried.items()}}


def tune(of: Learner, name: str, rate: float, base: Mapping[str, list[float]]) -> float:
    folder = learn(of, name, rate, f"{name}@{rate:g}")
    found = preferences(of, serve(of, OWN if name == EXPERTS else name, folder), "tune")
    return round(pair_loss(margins_over(found, base), BETA), 5)


def of_seed(of: Learner, rates: Mapping[str, float]) -> dict[str, Any]:
    """Every method trained, every way of answering measured, and every gate's routing."""
    start = time.perf_counter()
    for name in LEARNED:
        learn(of, name, rates.get(name, rates["pmol"]), name)
        print(f"texts, seed {of.seed}: learned {name}", flush=True)
    measured = {way: measure(of, way) for way in WAYS}
    base = measured["base"]["preference"]
    return {
        "seed": of.seed,
        "margin": {way: margins_over(found["preference"], base) for way, found in measured.items()},
        "across": across(of, serve(of, OWN), base),
        "texts": {way: found["texts"] for way, found in measured.items()},
        "routing": {name: routed(of, serve(of, name)) for name in GATES},
        "visible": visible(of),
        "seconds": round(time.perf_counter() - start, 1),
    }


def measure(of: Learner, way: str) -> dict[str, Any]:
    """What a way of answering prefers and says, kept in a file."""
    file = of.out / "measured" / f"{way}.json"
    if not file.exists():
        served = serve(of, way)
        write_json(file, {"preference": preferences(of, served, "test"), "texts": answers(of, served)})
        print(f"texts, seed {of.seed}: measured {way}", flush=True)
    found: dict[str, Any] = read_json(file)
    return found


def rewards(of: Learner, judges: Mapping[str, Any], said: Mapping[str, Mapping[str, list[str]]]) -> dict[str, Any]:
    """What each preference's judge gives to each answer to its prompts."""
    prompts = {name: [c.prompt for c in of.texts.of("test", name)] for name in DIMENSIONS}
    return {
        way: {d: judges[d](prompts[d][: len(texts)], texts).round(4).tolist() for d, texts in by_preference.items()}
        for way, by_preference in said.items()
    }
