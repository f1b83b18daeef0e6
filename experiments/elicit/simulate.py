"""Run the simulated people, every setting by every policy, into `people.json`; parts that are there are kept.

python -m experiments.elicit.simulate --work FOLDER [--people 100]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from experiments.elicit.people import POLICIES, SEEDS, Learned, Policy, Setting, learn

from counterpoint.artifacts import read_json, write_json
from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.profiles.elicit import TOLERANCE
from counterpoint.stages import Stages

MAIN = "as the prior expects"
SETTINGS = {
    MAIN: Setting(),
    "a tenth turned over, reckoned with": Setting(flip=0.1, noise=0.1),
    "a tenth turned over, not reckoned with": Setting(flip=0.1),
    "a tenth turned over, half of it reckoned with": Setting(flip=0.1, noise=0.05),
    "none turned over, a twentieth reckoned with": Setting(noise=0.05),
    "half as decisive": Setting(decisiveness=1.0),
    "twice as decisive": Setting(decisiveness=4.0),
    "twice as decisive, and the prior as wide": Setting(decisiveness=4.0, sd=2.0),
    "profiles on a simplex": Setting(geometry="simplex"),
    "profiles alike": Setting(geometry="alike"),
    "zones of tolerance, known": Setting(decisiveness=4.0, sd=2.0, zone="known"),
    "zones of tolerance, unknown": Setting(decisiveness=4.0, sd=2.0, zone="unknown"),
}
"""The first three with every policy and three seeds of people, the others with two policies and one seed."""
FULL = tuple(SETTINGS)[:3]


def policies_of(name: str) -> tuple[Policy, ...]:
    return POLICIES if name in FULL else ("information", "random")


def summary(setting: Setting, learned: Learned, seed: int = 0) -> dict[str, Any]:
    """Means with intervals by person; `good` pairs what was said with what was so, after every choice."""
    final_U = learned.regret_UT[:, -1]
    good_UT = learned.regret_UT[:, 1:] * setting.decisiveness <= TOLERANCE
    stop_U, stopped_U = stops(learned.said_good_UT)
    rows = np.arange(len(final_U))
    return {
        "regret": interval(final_U, seed),
        "regret_logits": interval(final_U * setting.decisiveness, seed),
        "shown": interval(learned.shown_U, seed),
        "cosine": interval(learned.cosine_U, seed),
        "curve": [interval(regret_U, seed) for regret_U in learned.regret_UT.T],
        "said_best": interval(learned.said_best_U, seed),
        "was_best": interval((final_U <= 1e-12).astype(float), seed),
        "calibration": calibration(learned.said_good_UT, good_UT),
        "said_good": interval(learned.said_good_UT[:, -1], seed),
        "was_good": interval(good_UT[:, -1].astype(float), seed),
        "stopped": interval(stopped_U.astype(float), seed),
        "choices_to_stop": interval((stop_U + 1).astype(float), seed),
        "good_at_stop": interval(good_UT[rows[stopped_U], stop_U[stopped_U]].astype(float), seed)
        if stopped_U.sum() > 1
        else None,
        "final_U": [round(float(value), 4) for value in final_U],
    }


def stops(said_good_UT: np.ndarray, delta: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The choice (from 0) after which each person's session settles, the last where it does not, and whether it did."""
    settled_UT = said_good_UT >= 1 - delta
    stopped_U = np.asarray(settled_UT.any(axis=1))
    return np.where(stopped_U, settled_UT.argmax(axis=1), said_good_UT.shape[1] - 1), stopped_U


def calibration(said_UT: np.ndarray, was_UT: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """In bins of what was said over all people and choices: its mean, how often it was so, and how many there are."""
    bin_UT = np.minimum((said_UT * bins).astype(int), bins - 1)
    return [
        {"said": float(said_UT[at].mean()), "was": float(was_UT[at].mean()), "n": int(at.sum())}
        for at in (bin_UT == b for b in range(bins))
        if at.any()
    ]


def interval(value_U: np.ndarray, seed: int) -> dict[str, float]:
    found: Interval = mean_interval(value_U, seed=seed)
    return found.to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--people", type=int, default=100)
    arguments = parser.parse_args()
    run(arguments.work, arguments.people, Stages())


def run(work: Path, people: int, stages: Stages) -> dict[str, dict[str, Any]]:
    """Every setting's summaries by policy; what a former run left in `work` is read."""
    found: dict[str, dict[str, Any]] = {}
    for name, setting in SETTINGS.items():
        seeds = SEEDS if name in FULL else SEEDS[:1]
        with stages.stage(name, f"{people} people of seeds {seeds}, {', '.join(policies_of(name))}") as bar:
            for policy in policies_of(name):
                file = work / f"{name}, {policy}, {people}.json"
                if not file.exists():
                    learned = learn(setting, policy, people, seeds, bar.task(policy))
                    write_json(file, summary(setting, learned))
                found.setdefault(name, {})[policy] = read_json(file)
                bar.note(f"{policy} {found[name][policy]['regret']['value']:.3f}")
    return found


if __name__ == "__main__":
    main()
