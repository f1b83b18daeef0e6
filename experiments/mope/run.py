"""Does a learned controller beat what it is compared with, and what of it matters? Two settings, three seeds.

    python -m experiments.world.run && python -m experiments.stories.run       the bands; COUNTERPOINT_SHARED for both
    python -m experiments.mope.run && python -m experiments.mope.claims

About 15 minutes for each setting and seed on a core. A work folder is for one state of the code: what it holds is not
made again. `claims` writes what is claimed.

Controllers learn from the learned reward models and are judged by the exact rules. Each baseline is at the strength
that was best on training prompts.
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import torch
from experiments.mope.measure import measure
from experiments.mope.setting import MAX_TOKENS, Setting, load_setting
from experiments.mope.variants import SEARCH_PROMPTS, own_mean, plans_of, search_constants, train, untrained, variants

from counterpoint.compose.plan import Plan
from counterpoint.train.controller import ControllerConfig
from counterpoint.types import Profile

HERE = Path(__file__).parent
BASELINES = ("base", "prompted", "best-expert", "soup", "mixture-prob", "mixture-log")
GRADES = (0.0, 0.3, 0.5, 0.7, 1.0)


def default_config(setting: Setting, seed: int) -> ControllerConfig:
    return ControllerConfig(band=str(setting.folder / "band"), max_tokens=MAX_TOKENS[setting.name], seed=seed)


def one(name: str, seed: int, work: Path) -> None:
    """Train and answer everything of one setting and seed; what is there already is not done again."""
    torch.set_num_threads(1)
    setting = load_setting(name, seed, work)
    out = work / "mope" / name / str(seed)
    answers = out / "answers"
    for method in BASELINES:
        for strength in sorted({1.0, setting.band.file.strengths.get(method, 1.0)}):
            plans = [setting.band.plan(replace(p, strength=strength), method) for p in setting.task.profiles]
            done(setting, f"{method}@{strength:g}", plans, answers)
    default = default_config(setting, seed)
    for title, variant in variants(setting).items():
        folder = out / "controllers" / title
        train(setting, title, variant, default, folder)
        done(setting, title, plans_of(setting, folder, variant.changes.get("strength", 1.0)), answers)
    made: dict[str, Callable[[Path], None]] = {
        "constant-searched": lambda folder: search_constants(
            setting, setting.task.train_prompts[:SEARCH_PROMPTS], setting.models, folder
        ),
        "constant-in-hindsight": lambda folder: search_constants(
            setting, setting.task.test_prompts, setting.judge, folder
        ),
        "mope-mean": lambda folder: own_mean(setting, out / "controllers" / "mope", folder),
        "fixed-own": lambda folder: untrained(setting, "own", folder),
        "fixed-all": lambda folder: untrained(setting, "all", folder),
    }
    for title, make in made.items():
        folder = out / "controllers" / title
        if not folder.exists():
            make(folder)
        done(setting, title, plans_of(setting, folder, 1.0), answers)
    graded(setting, out)


def done(setting: Setting, title: str, plans: list[Plan], answers: Path) -> None:
    start = time.perf_counter()
    measured = measure(setting, title, plans, answers)
    seconds = time.perf_counter() - start
    print(f"{setting.name} {setting.folder.name} {title}: z {measured.z_PRD.mean():.3f} ({seconds:.0f} s)", flush=True)


def graded(setting: Setting, out: Path) -> None:
    """Two dimensions at weights w and 1 - w, by controllers that read a vector or words, and by a mixture."""
    first, second = grades_between(setting)
    profiles = [Profile({first: w, second: 1 - w}) for w in GRADES]
    for title in ("mope", "mope-text"):
        setting.band.load_controller(out / "controllers" / title)
        plans = [setting.band.plan(profile, "mope") for profile in profiles]
        done(setting, f"graded-{title}", plans, out / "answers")
    plans = [setting.band.plan(profile, "mixture-prob") for profile in profiles]
    done(setting, "graded-mixture-prob", plans, out / "answers")


def grades_between(setting: Setting) -> tuple[str, str]:
    """Two dimensions of unlike axes that a profile can weigh against each other."""
    return ("concise", "friendly") if setting.name == "world" else ("happy", "dialogue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=["world", "stories"], choices=["world", "stories"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    arguments = parser.parse_args()
    runs = [(name, seed) for seed in arguments.seeds for name in arguments.settings]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(one, name, seed, arguments.work) for name, seed in runs]:
            future.result()


if __name__ == "__main__":
    main()
