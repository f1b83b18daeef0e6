"""Personalized Soups on two settings: how experts are merged, what weights trade, and the paper's table.

    python -m experiments.world.run && python -m experiments.stories.run       the bands; COUNTERPOINT_SHARED for both
    python -m experiments.psoups.run && python -m experiments.psoups.claims

About 100 minutes on two cores that had other work too. A work folder is for one state of the code: what it holds is not
made again, so that a killed run goes on. `claims` writes what is claimed.
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import torch
from experiments.mope.setting import Setting
from experiments.psoups.flip import run_flip
from experiments.psoups.fronts import run_fronts
from experiments.psoups.merges import run_merges
from experiments.psoups.paper import run_paper
from experiments.psoups.setting import load

PARTS: dict[str, Callable[[Setting, int, Path], None]] = {
    "paper": run_paper,
    "merges": run_merges,
    "fronts": lambda setting, seed, out: run_fronts(setting, out),
    "flip": lambda setting, seed, out: run_flip(setting, out),
}


def one(part: str, name: str, seed: int, work: Path) -> None:
    """One part of the experiment for one setting and seed."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    PARTS[part](load(name, seed, work), seed, work / "psoups" / name / str(seed))
    print(f"{part} {name} {seed}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--settings", nargs="+", default=["world", "stories"], choices=["world", "stories"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    arguments = parser.parse_args()
    jobs = [(part, name, seed) for part in arguments.parts for seed in arguments.seeds for name in arguments.settings]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(one, *job, arguments.work) for job in jobs]:
            future.result()


if __name__ == "__main__":
    main()
