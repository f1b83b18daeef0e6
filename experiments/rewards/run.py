"""Reward models on real pairs: one model per dimension, one model with K heads, a length counter, a bag of words.

    COUNTERPOINT_SHARED=... python -m experiments.rewards.run

It took 35 minutes in one process at low priority beside other load, of which about 21 were processor time.
It trains two backbones under two seeds: stories260k, which was trained on stories for children, and a Llama of about
1 M parameters that first reads the training texts. Pairs are split by source (`split.py`); the temperature of every
method is fitted on pairs that neither train nor test. Killed, it goes on where it was; `seconds` in the claims are
those of the last run, so time it in an empty `--work`. It writes, beside itself,

- `results.json`: the claims, each with its interval by source;
- `table.json`: pairs used and left out, and for every dimension and method accuracy, calibration error (ECE) and
  Brier's score, before and after temperature. Seeds are pooled.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

from experiments.rewards.learn import baselines, models_of_seeds
from experiments.rewards.sources import SOURCES
from experiments.rewards.split import Split, split
from experiments.rewards.tell import Run, claims, table

from counterpoint.artifacts import write_json
from counterpoint.evaluate.claims import write_claims
from counterpoint.models.load import load_tokenizer

HERE = Path(__file__).parent
LONGEST = 320
"""Tokens of stories260k, whose 512 tokens hold about 1.6 characters each; it has 512 positions."""
MOST = {"train": 960, "calibrate": 200, "test": 400}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--workers", type=int, default=2, help="seeds at once, each on one core")
    parser.add_argument("--work", type=Path, default=Path("demo/rewards"))
    arguments = parser.parse_args()
    if "COUNTERPOINT_SHARED" not in os.environ:
        sys.exit("set COUNTERPOINT_SHARED to the folder that holds data/ and models/stories260k")
    shared = Path(os.environ["COUNTERPOINT_SHARED"])
    stories = shared / "models" / "stories260k"
    start = time.perf_counter()
    splits = read(shared / "data", stories)
    trained = models_of_seeds(splits, stories, arguments.work, arguments.seeds, arguments.workers)
    measured = {**baselines(splits), **trained}
    seeds = " ".join(map(str, arguments.seeds))
    command = f"python -m experiments.rewards.run --seeds {seeds} --workers {arguments.workers}"
    told = claims(splits, measured, Run(tuple(arguments.seeds), command, round(time.perf_counter() - start, 1)))
    write_json(HERE / "table.json", table(splits, measured))
    write_claims(HERE / "results.json", told)
    for claim in told:
        print(f"{'holds' if claim.holds else 'fails'}  {claim.claim}: {claim.difference}")


def read(data: Path, stories: Path) -> dict[str, Split]:
    """The pairs of every dimension, and a line for each that says what was left out."""
    tokenizer = load_tokenizer(str(stories))
    tokenizer.model_max_length = sys.maxsize  # what is too long is counted below: no warning is needed
    splits = {}
    for name, rows in SOURCES.items():
        splits[name] = split(rows(data), tokenizer, LONGEST, MOST, seed=0)
        print(f"{name}: {splits[name].counts}", flush=True)
    return splits


if __name__ == "__main__":
    main()
