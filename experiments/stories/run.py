"""A real pre-trained model of 260 K parameters and three rules a person can name: the same path, several seeds.

    COUNTERPOINT_SHARED=... python -m experiments.stories.run            writes results.json beside itself

The same from the command line, for one seed:

    counterpoint build $COUNTERPOINT_SHARED/models/stories260k --prompts recipes/stories_prompts.txt \\
        --reward "happy=words:happy,smiled,laughed,fun,love,loved,friend,friends,hugged" \\
        --reward 'dialogue=regex:"' --reward "short=-length" --max-tokens 80 --workers 2 --out stories
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import torch

from counterpoint.build.claims import reward_claims
from counterpoint.build.task import BuildConfig
from counterpoint.build.whole import build
from counterpoint.cli.build import make_task
from counterpoint.evaluate.claims import write_claims
from counterpoint.stages import Stages

HERE = Path(__file__).parent
RULES = ["happy=words:happy,smiled,laughed,fun,love,loved,friend,friends,hugged", 'dialogue=regex:"', "short=-length"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo/stories"))
    arguments = parser.parse_args()
    if "COUNTERPOINT_SHARED" not in os.environ:
        sys.exit("set COUNTERPOINT_SHARED to the folder that holds models/stories260k")
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    model = str(Path(os.environ["COUNTERPOINT_SHARED"]) / "models" / "stories260k")
    prompts = HERE.parent.parent / "recipes" / "stories_prompts.txt"
    task = make_task(model, [prompts], [], RULES, [], [], [], skip_bad=False)
    start = time.perf_counter()
    builts = []
    for seed in arguments.seeds:
        config = BuildConfig(samples=16, asked=0, max_tokens=80, workers=2, seed=seed)
        builts.append(build(task, arguments.work / str(seed), config, Stages(), "Counterpoint: stories260k"))
    command = "python -m experiments.stories.run --seeds " + " ".join(map(str, arguments.seeds))
    seconds = time.perf_counter() - start
    claims = reward_claims(builts, arguments.seeds, command, seconds)
    write_claims(HERE / "results.json", claims)
    for claim in claims:
        print(f"{'holds' if claim.holds else 'fails'}  {claim.claim}: {claim.difference}")


if __name__ == "__main__":
    main()
