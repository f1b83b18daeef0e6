"""PMoL and its rivals as preferences are added: what they earn, and what they cost to train.

    COUNTERPOINT_SHARED=... python -m experiments.pmol.run --parts scaling

An answer is asked for in two ways: plainly, so that one answer is to serve every preference that its prompt is judged
by, and told which one preference it is judged by, which only a gate, a soup and a mixture can be. Learning rates are
chosen on training prompts with the first seed, strengths with every seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.pmol.probe_shares import group_table
from experiments.pmol.scaling_answers import plainly
from experiments.pmol.scaling_clock import Clock
from experiments.pmol.scaling_memory import training_bytes
from experiments.pmol.scaling_rates import best_of, tried_rates
from experiments.pmol.scaling_tell import tellable
from experiments.pmol.scaling_train import RATES, Lesson, cost_of
from experiments.pmol.scaling_ways import TRAINED, Stand, measured
from experiments.pmol.scaling_worlds import SIZES, load_world

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose.weighers.gate import open_gate
from counterpoint.decode.band import Band
from counterpoint.models.load import load_model

SEEDS = (0, 1, 2)


def run(work: Path, shared: Path | None, quick: bool = False) -> None:
    """Measure every world, seed and size that is not there yet; the stories need the folder of shared models."""
    out, builds, clock = work / "scaling", work.parent / "seeds", Clock(work / "scaling" / "seconds.json")
    worlds: dict[str, Any] = {}
    for seed in SEEDS[:1] if quick else SEEDS:
        for name in SIZES if shared else ["topics"]:
            world = load_world(name, seed, builds, shared, out)
            model, sizes = load_model(world.task.model), SIZES[name][:1] if quick else SIZES[name]
            if name not in worlds:
                tried = {} if quick else tried_rates(world, model, out / name / str(seed))
                worlds[name] = {"tried": tried, "rates": best_of(tried) or first_rates(), "sizes": {}}
            stand = Stand(world, model, seed, worlds[name]["rates"], out / name / str(seed))
            for size in sizes:
                worlds[name]["sizes"].setdefault(str(size), []).append(of_size(stand, size))
                write_json(work / "scaling.json", {"worlds": worlds, "seconds": clock.seconds()})
            worlds[name] |= _once(stand, sizes)
    write_json(work / "scaling.json", {"worlds": worlds, "seconds": clock.seconds()})


def first_rates() -> dict[str, float]:
    """What a quick run takes, which chooses nothing."""
    return {kind: rates[0] for kind, rates in RATES.items()}


def _once(stand: Stand, sizes: Sequence[int]) -> dict[str, Any]:
    """What is measured with the first seed alone: memory at the ends, and how well pairs can be told apart."""
    if stand.seed != SEEDS[0]:
        return {}
    kept = stand.out / "tellable.json"
    if not kept.exists():
        order = stand.world.order
        write_json(kept, {str(size): tellable(stand.world.of(order[:size])) for size in sizes})
    memory = {str(size): memory_of(stand, size) for size in (sizes[0], sizes[-1])}
    return {"memory": memory, "tellable": read_json(kept)}


def of_size(stand: Stand, size: int) -> dict[str, Any]:
    """What one seed found with so many preferences; `owners` are those of the prompts that were asked, in order."""
    kept, world, names = stand.out / f"{size}.json", stand.world, stand.world.order[:size]
    if not kept.exists():
        rewards = measured(stand, names)
        write_json(kept, {"rewards": rewards, "costs": costs(stand, names), "routing": routing(stand, names)})
    asked = plainly(world, names, world.task.test_prompts)
    return {**read_json(kept), "owners": [",".join(one.names) for one in asked]}


def memory_of(stand: Stand, size: int) -> dict[str, float]:
    """MiB that the training of each kind takes; experts are trained one after another."""
    kept, names = stand.out / f"memory-{size}.json", stand.world.order[:size]
    if not kept.exists():
        lessons = {kind: Lesson(kind, names, stand.rates[kind], stand.seed) for kind in TRAINED}
        lessons["expert"] = Lesson("expert", names[:1], stand.rates["expert"], stand.seed)
        taken = {kind: training_bytes(lesson, stand.world, stand.model) for kind, lesson in lessons.items()}
        write_json(kept, {kind: round(held / 2**20, 2) for kind, held in taken.items()})
    found: dict[str, float] = read_json(kept)
    return found


def routing(stand: Stand, names: Sequence[str]) -> dict[str, Any]:
    """Whom the router lets speak over pairs of each preference that it learned from."""
    band = Band.assemble(stand.world.task.model, {})
    band.take_gate(open_gate(stand.lesson("pmol", names), {}))
    return group_table(band, "pmol", {name: stand.world.of([name])[:16] for name in names})


def costs(stand: Stand, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Parameters and CPU seconds of training; those of soups and mixtures are all their experts' together."""
    spent = {kind: cost_of(stand.lesson(kind, names)) for kind in TRAINED}
    experts = [cost_of(stand.lesson("expert", [name])) for name in names]
    return {**spent, "experts": {key: round(sum(of[key] for of in experts), 2) for key in experts[0]}}
