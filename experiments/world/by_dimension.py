"""Where soups and single experts differ: the score of each dimension, over the profiles that ask for it.

python -m experiments.world.by_dimension       after experiments.world.run; seconds; writes by_dimension.json
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from counterpoint.evaluate.bootstrap import paired_difference
from counterpoint.evaluate.claims import make_claim, write_claims
from counterpoint.models.band_file import read_band
from counterpoint.profiles import parse_profile

HERE = Path(__file__).parent
Scores = dict[tuple[str, str], dict[str, list[float]]]
"""By (method, dimension): the scores of each prompt, over seeds and profiles that ask for the dimension."""


def read_scores(folder: Path, scores: Scores) -> list[str]:
    """Add one seed's judged responses, each method at its best strength; return the band's dimensions."""
    band = read_band(folder / "band")
    names = [entry.name for entry in band.dimensions]
    for line in (folder / "responses.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["strength"] == band.strengths.get(row["method"]):
            for name in parse_profile(row["profile"], names).weights:
                scores.setdefault((row["method"], name), {}).setdefault(row["prompt"], []).append(row["scores"][name])
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo/seeds"))
    arguments = parser.parse_args()
    start = time.perf_counter()
    scores: Scores = {}
    for seed in arguments.seeds:
        names = read_scores(arguments.work / str(seed), scores)
    claims = []
    for name in names:
        soup, expert = scores["soup", name], scores["best-expert", name]
        a_P, b_P = ([float(np.mean(of[prompt])) for prompt in sorted(soup)] for of in (soup, expert))
        claims.append(
            make_claim(
                f"soup@best gives those who ask for {name} more of it than best-expert@best",
                metric=f"mean {name} by the judge, in standard deviations of the pool",
                a="soup@best",
                b="best-expert@best",
                difference=paired_difference(a_P, b_P, seed=0),
                prompts=len(soup),
                seeds=arguments.seeds,
                command="python -m experiments.world.by_dimension",
                seconds=round(time.perf_counter() - start, 1),
            )
        )
        print(f"{'holds' if claims[-1].holds else 'fails'}  {claims[-1].claim}: {claims[-1].difference}")
    write_claims(HERE / "by_dimension.json", claims)


if __name__ == "__main__":
    main()
