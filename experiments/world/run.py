"""The embedded world from several training seeds: which ways of combining experts earn more than which.

python -m experiments.world.run            about 5 minutes a seed on two cores; writes results.json beside itself
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import torch
from recipes.demo import build_demo

from counterpoint.build.claims import reward_claims
from counterpoint.evaluate.claims import write_claims
from counterpoint.stages import Stages

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo/seeds"))
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    start = time.perf_counter()
    builts = [build_demo(arguments.work / str(seed), Stages(), seed) for seed in arguments.seeds]
    command = "python -m experiments.world.run --seeds " + " ".join(map(str, arguments.seeds))
    seconds = time.perf_counter() - start
    claims = reward_claims(builts, arguments.seeds, command, seconds)
    write_claims(HERE / "results.json", claims)
    for claim in claims:
        print(f"{'holds' if claim.holds else 'fails'}  {claim.claim}: {claim.difference}")


if __name__ == "__main__":
    main()
