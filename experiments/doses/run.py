"""Does more strength give more of it? Every method over rising strengths, on held-out questions of the embedded world.

python -m experiments.doses.run demo/seeds/0 demo/seeds/1 demo/seeds/2     about 4 minutes a folder on one core

A folder is what `python recipes/demo.py --out FOLDER --seed SEED` leaves. Scores are by the world's exact rules: 0 is
the base's plain answers, 1 a standard deviation over the base's answers, plain and to requests in words. They are means
over the folders before they are resampled by question. Everything is written beside this file.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import numpy as np
import torch
from recipes.demo import world_task

from counterpoint.artifacts import read_json, write_json, write_text
from counterpoint.build.answer import Entry, Progress
from counterpoint.build.judge import Answers, answer, selected
from counterpoint.build.task import BuildConfig, Task
from counterpoint.decode.band import Band
from counterpoint.evaluate.claims import write_claims
from counterpoint.evaluate.doses import Curve, dose_claims, dose_curve
from counterpoint.evaluate.figures import dose_figure, standalone
from counterpoint.rewards.calibrate import ZScore, fit_zscore
from counterpoint.stages import Stages
from counterpoint.types import Profile

HERE = Path(__file__).parent
CONFIG = BuildConfig()
"""How the demo's answers are drawn; a question's noise is the same for every method and strength."""
METHODS = ("soup", "moe", "route", "mixture-prob", "mixture-log")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
Scores = dict[tuple[str, str], np.ndarray]
"""By (method, dimension): `score_SP`."""


def strengths_of(method: str) -> tuple[float, ...]:
    return tuple(s for s in STRENGTHS if s <= 1 or method != "mixture-prob")


def measure(band: Band, task: Task, profiles: Sequence[Profile], progress: Progress) -> Scores:
    """Answer every test question at every strength, and score each dimension over the profiles that want it."""
    doses = [Entry(method, method, s) for method in METHODS for s in strengths_of(method)[1:]]
    base, *dosed = answer(task, band, [Entry("base", "base"), *doses], profiles, task.test_prompts, CONFIG, progress)
    scale = fit_scale(band, task, base)
    wanted_RD = selected(task, profiles)
    share_RD = wanted_RD / wanted_RD.sum(axis=0)
    own = {entry: np.einsum("prd,rd->dp", scale(a.scores_PRD), share_RD) for entry, a in zip(doses, dosed, strict=True)}
    plain_DP = np.einsum("prd,rd->dp", scale(base.scores_PRD), share_RD)
    return {
        (method, name): np.stack([plain_DP[d], *(own_DP[d] for entry, own_DP in own.items() if entry.method == method)])
        for method in METHODS
        for d, name in enumerate(task.names)
    }


def measure_folder(folder: Path, stages: Stages) -> dict[str, Scores]:
    """Every dimension by itself, and with two others of which as much is wanted."""
    band, task = Band.load(folder / "band"), world_task(folder / "band" / "base")
    wishes = {"alone": [Profile({name: 1.0}) for name in task.names], "of three": task.profiles}
    found = {}
    for name, profiles in wishes.items():
        with stages.stage(f"{folder.name}, {name}", f"{len(profiles)} profiles at every strength") as bar:
            found[name] = measure(band, task, profiles, bar.task("methods and strengths"))
    return found


def fit_scale(band: Band, task: Task, base: Answers) -> ZScore:
    """The base alone sets the scale, so that no method moves it: plain answers, and one to each request in words."""
    alone = [Profile({name: 1.0}) for name in task.names]
    (asked,) = answer(task, band, [Entry("prompted", "prompted")], alone, task.test_prompts, CONFIG, lambda *_: None)
    plain_PD = base.scores_PRD[:, 0]
    pool_ND = np.concatenate([plain_PD, asked.scores_PRD.reshape(-1, len(task.names))])
    return ZScore(task.names, tuple(plain_PD.mean(axis=0).tolist()), fit_zscore(pool_ND, task.names).std)


def curves_of(measured: Sequence[Scores]) -> list[Curve]:
    """Curves of the mean over folders."""
    return [
        dose_curve(method, name, strengths_of(method), np.mean([of[method, name] for of in measured], axis=0), seed=0)
        for method, name in measured[0]
    ]


def said(curve: Curve) -> str:
    """A curve in one line, which also tells of a figure what it shows."""
    follows = curve.follows
    rank = "flat" if follows.correlation is None else f"{follows.correlation.value:.2f}"
    means = " ".join(f"{mean.value:.2f}" for mean in curve.means)
    return f"{curve.method}, {curve.dimension}: {means} (rank {rank}, largest drop {follows.largest_drop.value:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start, stages = time.perf_counter(), Stages()
    measured = [measure_folder(folder, stages) for folder in arguments.folders]
    curves = {name: curves_of([scores[name] for scores in measured]) for name in measured[0]}
    write_json(HERE / "curves.json", {name: list(map(asdict, of)) for name, of in curves.items()})
    write_figures(curves)
    seeds = [read_json(folder / "summary.json")["seed"] for folder in arguments.folders]
    command = "python -m experiments.doses.run " + " ".join(map(str, arguments.folders))
    seconds = round(time.perf_counter() - start, 1)
    claims = [
        claim
        for curve in curves["alone"]
        for claim in dose_claims(curve, seeds=seeds, command=command, seconds=seconds)
    ]
    write_claims(HERE / "results.json", claims)
    for claim in claims:
        print(f"{'holds' if claim.holds else 'fails'}  {claim.claim}: {claim.difference}")


def write_figures(curves: Mapping[str, Sequence[Curve]]) -> None:
    """`dose_response.svg`, a dimension alone, and `dose_response_of_three.svg`, with two others."""
    for name, suffix in (("alone", ""), ("of three", "_of_three")):
        alt = f"Score by strength, each dimension {name}. " + "; ".join(map(said, curves[name])) + "."
        figure = dose_figure(curves[name], "score, in standard deviations", alt)
        write_text(HERE / f"dose_response{suffix}.svg", standalone(figure, width=760) + "\n")


if __name__ == "__main__":
    main()
