"""What is claimed of preferences that grow and of new ones: `results.json`, `table.json` and `scaling.svg`.

python -m experiments.psoups_scaling.claims       after experiments.psoups_scaling.run; under a minute

Seeds are averaged before prompts are resampled. The cost of soups, d times one preference's, and of P-MORL with as much
for every combination, 2^(d/2) times that, holds by construction and is no claim; quality is.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experiments.psoups_scaling import run
from experiments.psoups_scaling.figure import scaling_figure
from experiments.psoups_scaling.run import DIMENSIONS, METHODS, budgets, lessons, pmorl
from experiments.psoups_scaling.setting import NEW, Setting, load_setting
from experiments.psoups_scaling.table import Found, costs, earned, gap_of_poles, of_soups, rows
from experiments.psoups_scaling.teach import EACH

from counterpoint.artifacts import write_json, write_text
from counterpoint.evaluate.bootstrap import Interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim, write_claims

HERE = Path(__file__).parent
MEAN = "mean sigmoid(z) over what a profile wants, z in standard deviations of the base's plain answers"
POLES = "that mean, of each axis's pole that a way of answering gives less of; a mean over axes"


@dataclass(frozen=True)
class Seed:
    """What one seed measured: by size, and with new preferences for old and new profiles; and the best strengths."""

    grown: dict[int, Found]
    novel: dict[str, Found]
    strengths: dict[str, dict[int, float]]


def read(setting: Setting, seed: int, work: Path) -> Seed:
    """The answers of a seed, judged again."""
    out = work / str(seed)
    band = run.band_of(setting, out / "policies")
    strengths = {m: {d: run.best(setting, band, m, d, out / "tuning") for d in DIMENSIONS} for m in METHODS}
    return Seed({d: run.grown(setting, band, d, out) for d in DIMENSIONS}, run.novel(setting, band, out), strengths)


def pairs(d: int) -> Iterator[tuple[str, str]]:
    """What is held against what with so many dimensions."""
    equal, most = f"{pmorl(d)}-{EACH * d}", f"{pmorl(d)}-{max(budgets(d))}"
    yield "prompted", "base"
    for way in ("soup@1", "soup@best", equal):
        yield way, "prompted"
    yield from (("soup@1", equal), ("soup@best", equal), ("mixture-log@best", "soup@best"))
    if most != equal:
        yield from ((most, equal), ("soup@best", most))


def novel_pairs(found: Found) -> Iterator[tuple[str, str]]:
    """What is held against what for profiles that take a new pole."""
    policies = [way for way in found if way.startswith(("pmorl", "continued", "again"))]
    yield "prompted", "base"
    for way in ("soup@1", "soup@best", *policies):
        yield way, "prompted"
    for policy in policies:
        yield "soup@best", policy


def claims_of(runs: Sequence[Seed], seeds: Sequence[int], seconds: float) -> list[Claim]:
    """By size, then for new profiles and for old ones once preferences are new."""

    def claim(text: str, metric: str, a: str, b: str, difference: Interval, of: Sequence[Found]) -> Claim:
        return make_claim(
            text, metric=metric, a=a, b=b, difference=difference, prompts=len(earned(of, a)), seeds=seeds,
            seconds=round(seconds),
            command="python -m experiments.psoups_scaling.run && python -m experiments.psoups_scaling.claims",
        )  # fmt: skip

    def more(where: str, of: Sequence[Found], a: str, b: str) -> Claim:
        difference = paired_difference(earned(of, a), earned(of, b), seed=0)
        return claim(f"{where}: {a} earns more than {b}", MEAN, a, b, difference, of)

    def fairer(where: str, of: Sequence[Found], a: str, b: str) -> Claim:
        text = f"{where}: {a} gives more of the poles that it gives less of than {b}"
        return claim(text, POLES, a, b, gap_of_poles(of, a, b), of)

    claims = []
    for d in DIMENSIONS:
        of = [seed.grown[d] for seed in runs]
        claims += [more(f"{d} dimensions", of, a, b) for a, b in pairs(d)]
        claims += [fairer(f"{d} dimensions", of, a, b) for a, b in pairs(d) if a == "soup@1" or b.startswith("pmorl")]
    new, old = ([seed.novel[name] for seed in runs] for name in ("new", "old"))
    claims += [more("profiles with a new preference", new, a, b) for a, b in novel_pairs(new[0])]
    before, *after = (way for way in old[0] if way.startswith(("pmorl", "continued", "again")))
    claims += [more("old profiles after new preferences", old, before, way) for way in after]
    return claims


def table_of(setting: Setting, runs: Sequence[Seed], work: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """All figures; for new preferences the cost is of what is trained anew."""
    cost = costs(lessons(setting), work, seeds)
    table: dict[str, Any] = {
        f"{d} dimensions": rows([seed.grown[d] for seed in runs], cost | of_soups(setting.task.names[:d], cost))
        for d in DIMENSIONS
    }
    anew = {name: spent for name, spent in cost.items() if not name.startswith("pmorl")} | of_soups(NEW, cost)
    for name in ("old", "new"):
        table[f"two preferences new, {name} profiles"] = rows([seed.novel[name] for seed in runs], anew)
    return table | {"strengths": [seed.strengths for seed in runs]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo/psoups_scaling"))
    parser.add_argument("--run-seconds", type=float, default=0.0, help="what experiments.psoups_scaling.run took")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = load_setting(arguments.work)
    runs = [read(setting, seed, arguments.work) for seed in arguments.seeds]
    claims = claims_of(runs, arguments.seeds, arguments.run_seconds)
    table = table_of(setting, runs, arguments.work, arguments.seeds)
    write_claims(HERE / "results.json", claims)
    write_json(HERE / "table.json", table)
    write_text(HERE / "scaling.svg", scaling_figure(table, DIMENSIONS, EACH))
    for found in claims:
        print(f"{'holds' if found.holds else 'fails'}  {found.claim}: {found.difference}")


if __name__ == "__main__":
    main()
