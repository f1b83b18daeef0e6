"""PMoL and its relatives: mixing, ablations and steering in the embedded world, scaling, a probe, and real text.

    python -m experiments.world.run                              the bands of the embedded world
    COUNTERPOINT_SHARED=... python -m experiments.pmol.run       real text is left out where that is not set
    python -m experiments.pmol.claims

A work folder is for one state of the code: what it holds is not made again, so that a killed run goes on.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import torch
from experiments.pmol.ablations import run as run_ablations
from experiments.pmol.doses import run as run_doses
from experiments.pmol.mixing import run as run_mixing
from experiments.pmol.probe import run as run_probe
from experiments.pmol.scaling import run as run_scaling
from experiments.pmol.texts import run as run_texts

Part = Callable[[Path, Path | None, bool], None]
PARTS: dict[str, Part] = {
    "mixing": run_mixing,
    "doses": run_doses,
    "ablations": run_ablations,
    "scaling": run_scaling,
    "probe": run_probe,
    "texts": run_texts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--work", type=Path, default=Path("demo/pmol"), help="in the folder that holds seeds/")
    parser.add_argument("--quick", action="store_true", help="a few steps and questions, to see that all runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shared = os.environ.get("COUNTERPOINT_SHARED")
    for name in arguments.parts:
        start = time.perf_counter()
        PARTS[name](arguments.work, Path(shared) if shared else None, arguments.quick)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
