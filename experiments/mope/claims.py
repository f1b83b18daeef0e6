"""What may be claimed from the answers that `run` left: paired differences by prompt, averaged over seeds.

python -m experiments.mope.claims          a minute; writes results.json, table.json, world.svg and stories.svg
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments.mope.measure import Measured, measure
from experiments.mope.run import GRADES, grades_between
from experiments.mope.setting import Setting, load_setting
from experiments.mope.variants import unseen, variants

from counterpoint.artifacts import write_json, write_text
from counterpoint.evaluate.bootstrap import mean_interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim, write_claims
from counterpoint.evaluate.figures import ranking_figure, standalone
from counterpoint.evaluate.wins import average_win_share, verdict_table
from counterpoint.rewards.calibrate import profile_weights

HERE = Path(__file__).parent
METRIC = "mean probability of beating the base's greedy answer, by the exact rules (BT reward)"
MAIN = ("base@1", "prompted@1", "best-expert@best", "mixture-prob@1", "mixture-log@1", "mixture-log@best", "soup@1",
        "soup@best", "constant", "constant-searched", "mope", "constant-log", "mope-log")  # fmt: skip
"""What the average pairwise win rate is over."""

PAIRS = (
    *[("mope", other) for other in MAIN if not other.startswith(("mope", "constant-log"))],
    ("mope", "mope-mean"), ("mope", "constant-in-hindsight"), ("mope-log", "constant-log"),
    ("mope-log", "mixture-log@best"), ("mope-log", "soup@best"), ("mope-log", "mope"), ("mope-log@1", "mope"),
    ("mope-log@1", "mixture-log@1"), ("mope", "mope-raw"), ("mope", "mope-ppo"), ("mope", "mope-text"),
    ("mope-own", "mope"), ("mope-all", "mope"), ("mope-all", "prompted@1"), ("mope-own", "fixed-own"),
    ("mope-all", "fixed-all"), ("fixed-all", "mixture-prob@1"), ("mope", "mope-described"), ("mope-kl", "mope"),
    ("mope-by-rules", "mope"), ("mope-by-rules", "soup@best"), ("constant-by-rules", "soup@best"),
    ("mope-by-rules", "constant-by-rules"), ("mope-log-by-rules", "soup@best"),
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """One setting and seed: which profile wants what, `[R, D]`, and what each way of answering earned."""

    setting: Setting
    wanted_RD: np.ndarray
    measured: dict[str, Measured]

    def bt_PR(self, name: str) -> np.ndarray:
        return of_profiles(self.measured[name].bt_PRD, self.wanted_RD)


def of_profiles(score_PRD: np.ndarray, wanted_RD: np.ndarray) -> np.ndarray:
    """The mean over the dimensions that each profile wants."""
    mean_PR: np.ndarray = (score_PRD * wanted_RD).sum(-1) / wanted_RD.sum(-1)
    return mean_PR


def read(name: str, seed: int, work: Path) -> Seed:
    """Judge all answers of a setting and seed; `method@best` is at the strength that the build chose."""
    setting = load_setting(name, seed, work)
    answers = work / "mope" / name / str(seed) / "answers"
    found = {file.stem: measure(setting, file.stem, None, answers) for file in sorted(answers.glob("*.json"))}
    for method, strength in setting.band.file.strengths.items():
        if (at := f"{method}@{strength:g}") in found:
            found[f"{method}@best"] = found[at]
    return Seed(setting, profile_weights(setting.task.profiles, setting.task.names) > 0, found)


def claims_of(name: str, seeds: Sequence[int], runs: Sequence[Seed], command: str, start: float) -> list[Claim]:
    """All claims of one setting."""

    def claim(text: str, metric: str, a: str, b: str, a_P: np.ndarray, b_P: np.ndarray) -> Claim:
        return make_claim(
            f"{name}: {text}", metric=metric, a=a, b=b, difference=paired_difference(a_P, b_P, seed=0),
            prompts=len(a_P), seeds=seeds, command=command, seconds=round(time.perf_counter() - start, 1),
        )  # fmt: skip

    def mean_P(of: str, profiles: Sequence[int] | slice = slice(None)) -> np.ndarray:
        mean: np.ndarray = np.mean([run.bt_PR(of)[:, profiles].mean(1) for run in runs], axis=0)
        return mean

    claims = [claim(f"{a} earns more than {b}", METRIC, a, b, mean_P(a), mean_P(b)) for a, b in PAIRS]
    setting = runs[0].setting
    held = list(unseen(setting.task.profiles))
    for a, b in (("mope-seen", "mixture-prob@1"), ("mope-seen", "constant-searched"), ("mope", "mope-seen")):
        text = f"for combinations kept from the training of mope-seen, {a} earns more than {b}"
        claims.append(claim(text, METRIC, a, b, mean_P(a, held), mean_P(b, held)))
    newcomer = variants(setting)["mope-newcomer"].without
    with_it = [r for r, profile in enumerate(setting.task.profiles) if profile.weights.get(newcomer)]
    for a, b in (("mope-newcomer", "mixture-prob@1"), ("mope", "mope-newcomer"), ("mope-described", "mope-newcomer")):
        text = f"for profiles with the expert that mope-newcomer was trained without, {a} earns more than {b}"
        claims.append(claim(text, METRIC, a, b, mean_P(a, with_it), mean_P(b, with_it)))
    return claims + graded_claims(runs, claim)


def graded_claims(runs: Sequence[Seed], claim: Any) -> list[Claim]:
    """Whether more weight gives more, between 0.3 and 0.7 and at both ends."""
    setting = runs[0].setting
    claims = []
    for name, sign in zip(grades_between(setting), (1, -1), strict=True):
        d = setting.task.names.index(name)
        for method in ("mope", "mope-text", "mixture-prob"):
            z_GP = np.mean([run.measured[f"graded-{method}"].z_PRD[:, :, d].T for run in runs], axis=0)[::sign]
            for low, high in ((0, 1), (1, 3), (3, 4)):
                text = f"{method} gives more {name} at a weight of {GRADES[high]:g} than of {GRADES[low]:g}"
                ends = (f"{method} {name}={GRADES[high]:g}", f"{method} {name}={GRADES[low]:g}")
                claims.append(claim(text, f"{name} by the exact rules, z-scored", *ends, z_GP[high], z_GP[low]))
    return claims


def table_of(runs: Sequence[Seed]) -> dict[str, dict[str, Any]]:
    """Every way of answering: means over seeds and profiles with intervals by prompt."""
    table: dict[str, dict[str, Any]] = {}
    for name in sorted(set.intersection(*(set(run.measured) for run in runs))):
        if name.startswith("graded-"):
            continue
        parts = [run.measured[name] for run in runs]
        figures = {
            "bt_reward": [run.bt_PR(name) for run in runs],
            "z_reward": [of_profiles(run.measured[name].z_PRD, run.wanted_RD) for run in runs],
            "nats_per_token_from_base": [part.ratio_PR for part in parts],
            "tokens": [part.length_PR for part in parts],
            "correct": [part.correct_PR for part in parts if part.correct_PR is not None],
        }
        table[name] = {
            key: rounded(np.mean(values_SPR, axis=(0, 2))) for key, values_SPR in figures.items() if values_SPR
        }
    for name, share_P in zip(MAIN, wins(runs), strict=True):
        table[name]["average_pairwise_win_rate"] = rounded(share_P)
    return table


def wins(runs: Sequence[Seed]) -> np.ndarray:
    """`share_MP` of `MAIN`, averaged over seeds."""
    shares = []
    for run in runs:
        scores_MPRD = np.stack([run.measured[name].z_PRD for name in MAIN])
        shares.append(
            average_win_share(verdict_table(scores_MPRD, run.wanted_RD, np.full(scores_MPRD.shape[-1], 1e-9)))
        )
    mean_MP: np.ndarray = np.mean(shares, axis=0)
    return mean_MP


def rounded(values_P: np.ndarray) -> dict[str, float]:
    return {key: round(value, 4) for key, value in mean_interval(values_P, seed=0).to_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo"))
    parser.add_argument("--run-seconds", type=float, default=0.0, help="what experiments.mope.run took before")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter() - arguments.run_seconds
    command = "python -m experiments.mope.run && python -m experiments.mope.claims"
    claims, tables = [], {}
    for name in ("world", "stories"):
        runs = [read(name, seed, arguments.work) for seed in arguments.seeds]
        claims += claims_of(name, arguments.seeds, runs, command, start)
        tables[name] = table_of(runs)
        intervals = [mean_interval(np.mean([r.bt_PR(m).mean(1) for r in runs], axis=0), seed=0) for m in MAIN]
        figure = ranking_figure(MAIN, intervals, 0.5, False, f"BT reward of every way of answering, {name}")
        write_text(HERE / f"{name}.svg", standalone(figure))
    write_claims(HERE / "results.json", claims)
    write_json(HERE / "table.json", tables)
    for found in claims:
        print(f"{'holds' if found.holds else 'fails'}  {found.claim}: {found.difference}")


if __name__ == "__main__":
    main()
