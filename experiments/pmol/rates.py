"""Learning rates and strengths: what earns most on training questions of the first seed.

Half of that is earned where nobody asks for a preference, half where each is asked for; who hears nobody earns the
same in both.
"""

from collections.abc import Mapping
from pathlib import Path

from experiments.pmol.methods import COMBINED, EXPERTS, ONE_LORA, WHOLE, Served, learn, serve, serve_combined
from experiments.pmol.setting import ASKED, World, answered, steered, tuning, unsteered, z_of

from counterpoint.artifacts import write_json

RATES: Mapping[str, tuple[float, ...]] = {
    EXPERTS: (2e-3, 5e-3, 1e-2, 2e-2),
    ONE_LORA: (5e-4, 1e-3, 2e-3, 5e-3),
    WHOLE: (1e-4, 3e-4, 1e-3),
    "pmol": (1e-3, 2e-3, 5e-3, 1.2e-2),
    "pmol-told": (2e-3, 5e-3, 1.2e-2),
    "pmol-sft": (2e-3, 5e-3, 1.2e-2, 3e-2),
    "loramoe": (2e-3, 5e-3, 1.2e-2),
    "pmol-router": (1e-3, 5e-3, 2e-2, 6e-2),
    "pmol-from-experts": (1e-3, 2e-3, 5e-3),
    "x-lora": (1e-3, 5e-3, 2e-2),
}
STRENGTHS = (1.0, 2.0, 3.0)
"""Of what combines experts without training; a mixture of probabilities cannot exceed 1."""


def choose(of: World, out: Path) -> None:
    """Try every rate and strength; `chosen.json` holds the best of each, and `tried` what all of them earned."""
    tried: dict[str, dict[str, float]] = {}
    best: dict[str, float] = {}
    for name, rates in RATES.items():
        experts = out / folder_of(EXPERTS, best.get(EXPERTS, rates[0]))
        tried[name] = {f"{rate:g}": _of_rate(of, name, rate, experts, out) for rate in rates}
        best[name] = float(max(tried[name], key=tried[name].__getitem__))
        print(f"{name}: {tried[name]}", flush=True)
    experts = out / folder_of(EXPERTS, best[EXPERTS])
    for method in COMBINED:
        strengths = STRENGTHS[:1] if method == "mixture-prob" else STRENGTHS
        tried[method] = {f"{s:g}": _of_strength(of, method, s, experts, out) for s in strengths}
        best[method] = float(max(tried[method], key=tried[method].__getitem__))
        print(f"{method}: {tried[method]}", flush=True)
    write_json(out / "chosen.json", {"best": best, "tried": tried})


def folder_of(name: str, rate: float) -> str:
    """Where what was trained at a rate lies."""
    return f"trained/{name}@{rate:g}"


def _of_rate(of: World, name: str, rate: float, experts: Path, out: Path) -> float:
    folder = learn(of, name, rate, experts, out / folder_of(name, rate))
    over = folder if name == EXPERTS else experts
    return _earned(of, serve(of, name, folder, over, ASKED), f"{name}@{rate:g}", out)


def _of_strength(of: World, method: str, strength: float, experts: Path, out: Path) -> float:
    return _earned(of, serve_combined(of, method, experts, ASKED, strength), f"{method}@{strength:g}", out)


def _earned(of: World, served: Served, title: str, out: Path) -> float:
    z_PRD = z_of(answered(tuning(of), served.band, title, served.plans, out / "tuning"))
    return round(float((unsteered(z_PRD) + steered(z_PRD)).mean() / 2), 4)
