"""Personalized Soups as preferences grow, and with new ones: what must be trained, what it costs and what it earns.

    COUNTERPOINT_SHARED=... python -m experiments.psoups_scaling.run     an hour for three seeds, one thread
    COUNTERPOINT_SHARED=... python -m experiments.psoups_scaling.claims

Soups need a policy for each preference, P-MORL one for all combinations. A work folder is for one state of the code:
what it holds is not made again, so that a killed run goes on.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import torch
from experiments.psoups_scaling.answer import Answers, Way, answer
from experiments.psoups_scaling.setting import NEW, Setting, load_setting, newcomers, people
from experiments.psoups_scaling.teach import EACH, Lesson, teach

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.models.load import load_model
from counterpoint.types import Profile

DIMENSIONS = (2, 4, 6, 8)
OLD = 6
"""Dimensions that are there before the new preferences."""
METHODS = ("soup", "mixture-log")
STRENGTHS = (1.0, 1.5, 2.0, 3.0)
TUNE, DRAWS = 8, 2
"""Training prompts on which a strength is chosen, one answer each; answers to a test prompt."""


def lessons(setting: Setting) -> list[Lesson]:
    """Policies: a preference's own, P-MORL at both budgets of each size, and what new preferences ask of P-MORL.

    `continued` goes on from the old one with new profiles alone, for as much as two new policies of soups cost; `again`
    learns all profiles from the start, for as much as all eight.
    """
    alone = [Lesson(name, (Profile({name: 1.0}),), (EACH,)) for name in setting.task.names]
    together = [Lesson(pmorl(d), tuple(people(d)), budgets(d)) for d in DIMENSIONS]
    continued = Lesson("continued", tuple(newcomers()), (len(NEW) * EACH,), start=old_policy())
    again = Lesson("again", (*people(OLD), *newcomers()), (len(alone) * EACH,))
    return [*alone, *together, continued, again]


def budgets(dimensions: int) -> tuple[int, ...]:
    """Iterations of P-MORL, fewest first: as many as soups have in all, d times one preference's, and 2^(d/2) times."""
    return tuple(sorted({EACH * dimensions, EACH * 2 ** (dimensions // 2)}))


def pmorl(dimensions: int) -> str:
    return f"pmorl-{dimensions}"


def old_policy() -> str:
    """P-MORL as it is before the new preferences, at the larger budget."""
    return f"{pmorl(OLD)}-{max(budgets(OLD))}"


def ways(setting: Setting, band: Band, dimensions: int, out: Path) -> list[Way]:
    """Every way of serving the profiles over so many dimensions, soups and mixtures at 1 and at their best strength."""
    policies = [f"{pmorl(dimensions)}-{stop}" for stop in budgets(dimensions)]
    return [BASE, PROMPTED, *combined(setting, band, dimensions, out), *map(told, policies)]


def combined(setting: Setting, band: Band, dimensions: int, out: Path) -> list[Way]:
    """Soups at strength 1, and soups and log mixtures at what is best with so many dimensions."""
    return [
        combining(band, "soup", 1.0, "soup@1"),
        *(combining(band, m, best(setting, band, m, dimensions, out), f"{m}@best") for m in METHODS),
    ]


BASE = Way("base", lambda profile: Plan((Row(),)), worded=False)
PROMPTED = Way("prompted", lambda profile: Plan((Row(),)))


def combining(band: Band, method: str, strength: float, name: str) -> Way:
    """The experts of what a profile wants, in equal parts."""
    return Way(name, lambda profile: band.plan(Profile(profile.weights, strength), method))


def told(policy: str) -> Way:
    """One policy that is told in words what a profile wants."""
    return Way(policy, lambda profile: Plan((Row({policy: 1.0}),)))


def best(setting: Setting, band: Band, method: str, dimensions: int, out: Path) -> float:
    """The strength at which profiles over so many dimensions earn most on training prompts; of equals the smallest."""
    prompts = setting.task.train_prompts[:TUNE]

    def earned(strength: float) -> float:
        way, file = combining(band, method, strength, method), out / f"{method}@{strength:g} {dimensions}.json"
        return float(answer(way, setting, band, prompts, people(dimensions), 1, file).reward_PR.mean())

    return max(STRENGTHS, key=earned)


def grown(setting: Setting, band: Band, dimensions: int, out: Path) -> dict[str, Answers]:
    """What every way earns on test prompts, by people who want one pole of each axis of so many dimensions."""
    every = ways(setting, band, dimensions, out / "tuning")
    return asked(setting, band, every, people(dimensions), out / f"{dimensions}")


def novel(setting: Setting, band: Band, out: Path) -> dict[str, dict[str, Answers]]:
    """What old and new profiles earn once the third axis has two more poles; strengths are those of six dimensions."""
    policies = [old_policy(), *(lesson.at(stop) for lesson in lessons(setting)[-2:] for stop in lesson.stops)]
    every = [BASE, PROMPTED, *combined(setting, band, OLD, out / "tuning"), *map(told, policies)]
    return {
        "old": asked(setting, band, every, people(OLD), out / f"{OLD}"),
        "new": asked(setting, band, every, newcomers(), out / "new"),
    }


def asked(
    setting: Setting, band: Band, every: Sequence[Way], profiles: Sequence[Profile], out: Path
) -> dict[str, Answers]:
    prompts = setting.task.test_prompts
    return {way.name: answer(way, setting, band, prompts, profiles, DRAWS, out / f"{way.name}.json") for way in every}


def band_of(setting: Setting, policies: Path) -> Band:
    """The policies of a seed as experts: a preference's by its name, the others by lesson and stop."""
    names = {lesson.at(stop): lesson for lesson in lessons(setting) for stop in lesson.stops}
    return Band.assemble(
        setting.task.model,
        {name if len(lesson.profiles) > 1 else lesson.name: policies / name for name, lesson in names.items()},
    )


def one(seed: int, work: Path) -> None:
    """Everything for one seed."""
    start, out = time.perf_counter(), work / str(seed)
    setting = load_setting(work)
    model = load_model(setting.task.model)
    for lesson in lessons(setting):
        teach(lesson, setting, seed, model, out / "policies")
        print(f"seed {seed}, {lesson.name}: {time.perf_counter() - start:.0f} s", flush=True)
    band = band_of(setting, out / "policies")
    for dimensions in DIMENSIONS:
        grown(setting, band, dimensions, out)
    novel(setting, band, out)
    print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo/psoups_scaling"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        one(seed, arguments.work)


if __name__ == "__main__":
    main()
