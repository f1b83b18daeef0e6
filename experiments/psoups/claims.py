"""What may be claimed from what `run` left: paired differences by prompt, averaged over seeds.

python -m experiments.psoups.claims          some minutes; writes results.json, table.json and a figure for each pair
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments.psoups.claims_flip import claims_of_flip, table_of_flip
from experiments.psoups.claims_fronts import claims_of_fronts, figure_of_fronts, table_of_fronts
from experiments.psoups.claims_merges import claims_of_merges, table_of_merges
from experiments.psoups.claims_paper import average_win_rates, claims_of_paper, table_of_paper, verdicts
from experiments.psoups.fronts import PAIRS
from experiments.psoups.paper import PAPER
from experiments.psoups.study import Study

from counterpoint.artifacts import write_json, write_text
from counterpoint.evaluate.claims import Claim, write_claims
from counterpoint.evaluate.figures import ranking_figure, standalone

HERE = Path(__file__).parent


def claims_of(study: Study, verdict_SMMNR: np.ndarray) -> list[Claim]:
    return [
        *claims_of_paper(study, verdict_SMMNR),
        *claims_of_merges(study),
        *claims_of_fronts(study),
        *claims_of_flip(study),
    ]


def table_of(study: Study, verdict_SMMNR: np.ndarray) -> dict[str, Any]:
    return {
        "paper": table_of_paper(study, verdict_SMMNR),
        "merges": table_of_merges(study),
        "fronts": table_of_fronts(study),
        "flip": table_of_flip(study),
    }


def draw(study: Study, verdict_SMMNR: np.ndarray) -> None:
    """The average pairwise win rate of the paper's methods, and the fronts of every pair."""
    average = average_win_rates(study, verdict_SMMNR)
    alt = f"Average pairwise win rate of the paper's methods, {study.name}"
    write_text(
        HERE / f"{study.name}.svg", standalone(ranking_figure(PAPER, [average[m] for m in PAPER], 0.5, True, alt))
    )
    for pair in PAIRS[study.name]:
        write_text(HERE / f"{study.name}_{'_'.join(pair)}.svg", standalone(figure_of_fronts(study, pair)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo"))
    parser.add_argument("--run-seconds", type=float, default=0.0, help="what experiments.psoups.run took before")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter() - arguments.run_seconds
    claims, tables = [], {}
    for name in ("world", "stories"):
        study = Study.read(name, arguments.seeds, arguments.work, start)
        verdict_SMMNR = verdicts(study)
        claims += claims_of(study, verdict_SMMNR)
        tables[name] = table_of(study, verdict_SMMNR)
        draw(study, verdict_SMMNR)
    write_claims(HERE / "results.json", claims)
    write_json(HERE / "table.json", tables)
    for found in claims:
        print(f"{'holds' if found.holds else 'fails'}  {found.claim}: {found.difference}")


if __name__ == "__main__":
    main()
