"""PMoL with another group loss: what s_c means, how much of it, its three readings, renormalised or not."""

from pathlib import Path

from experiments.pmol.methods import ABLATIONS
from experiments.pmol.mixing import of_seed
from experiments.pmol.scaling_clock import Clock
from experiments.pmol.seed import load_seed, seeds

from counterpoint.artifacts import write_json

TITLES = ("pmol", *ABLATIONS)


def run(work: Path, shared: Path | None = None, quick: bool = False) -> None:
    """Train and answer every variant, seed by seed; `ablations.json` has what is done so far."""
    clock, found = Clock(work / "world" / "ablations_seconds.json"), []
    for number in seeds(work, quick):
        found.append({"seed": number, **of_seed(load_seed(number, work, quick), TITLES, TITLES)})
        write_json(work / "ablations.json", {"seeds": found, "seconds": clock.seconds()})
