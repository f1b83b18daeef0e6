"""The mixing table of the embedded world: three preferences, asked for none of them and for each."""

from pathlib import Path
from typing import Any

from experiments.pmol.methods import ABLATIONS, BUILT, COMBINED, GATES, ONE_LORA, WHOLE, equal_rank
from experiments.pmol.scaling_clock import Clock
from experiments.pmol.seed import Seed, load_seed, seeds
from experiments.pmol.setting import ASKED, DIMENSIONS
from experiments.pmol.shares import routing

from counterpoint.artifacts import read_json, write_json

OVER = ("soup@1", *COMBINED, "arrow")
"""What needs the experts alone."""
TABLE = ("base", *GATES, ONE_LORA, WHOLE, *OVER, *(f"{BUILT}{name}@1" for name in COMBINED), f"{BUILT}arrow")
WATCHED = tuple(name for name in (*GATES, "arrow", f"{BUILT}arrow") if not name.endswith("x-lora"))
"""Gates whose routers read the layer's own input."""


def run(work: Path, shared: Path | None = None, quick: bool = False) -> None:
    """Train and answer everything, seed by seed; `mixing.json` has what is done so far."""
    clock, found = Clock(work / "world" / "mixing_seconds.json"), []
    for number in seeds(work, quick):
        seed = load_seed(number, work, quick)
        found.append({"seed": number, **of_seed(seed, TABLE, WATCHED)})
        chosen = {
            "chosen": read_json(work / "world" / str(found[0]["seed"]) / "chosen.json"),
            "equal_rank": equal_rank(seed.trained / DIMENSIONS[0]),
        }
        write_json(work / "mixing.json", {**chosen, "seeds": found, "seconds": clock.seconds()})


def of_seed(seed: Seed, names: tuple[str, ...], watched: tuple[str, ...]) -> dict[str, Any]:
    """What each method earns, and whom the gates among them let speak."""
    methods, shares = {}, {}
    for name in names:
        methods[name] = seed.answers(name, ASKED).to_dict()
        print(f"seed {seed.of.seed}, {name}", flush=True)
    for name in watched:
        kind = "arrow" if name.endswith("arrow") else (GATES | ABLATIONS)[name].kind
        shares[name] = routing(seed.of, seed.served(name, ASKED[:1]).band, kind)
    return {"methods": methods, "routing": shares}
