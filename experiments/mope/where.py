"""Where context pays: one person who wants brevity on some topics and detail on the others, in the embedded world.

    python -m experiments.mope.where          after experiments.world.run; about 4 minutes a seed; writes where.json

No constant can serve such a person: what it gives to one topic it takes from the other. The controller reads the
question. Learned from and judged by the exact rules, on training and on held-out questions.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import numpy as np
import torch
from experiments.mope.setting import Setting, load_setting
from experiments.mope.variants import CONSTANT_RATE

from counterpoint.compose.plan import Plan
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.bootstrap import paired_difference
from counterpoint.evaluate.claims import make_claim, write_claims
from counterpoint.rewards.world import asked_by
from counterpoint.train.controller import ControllerConfig, train_controller
from counterpoint.types import Profile, Prompt, RewardFn

HERE = Path(__file__).parent
BRIEF = ("animals", "buildings", "countries", "foods", "instruments", "materials")
"""Topics on which brevity is wanted; on the others, detail."""
PROFILE = Profile({"concise": 1.0, "informative": 1.0})
STEPS = 10
METRIC = "mean z-score of what is wanted on the prompt's topic, by the exact rules"


@dataclass(frozen=True)
class ByTopic:
    """Both dimensions of the profile score what is wanted on the prompt's topic."""

    judge: RewardFn

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(PROFILE.weights)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        scores_ND = self.judge(prompts, responses)
        columns = [self.judge.dimensions.index("concise" if is_brief(p) else "informative") for p in prompts]
        wanted_N = scores_ND[np.arange(len(columns)), columns]
        return np.stack([wanted_N, wanted_N], axis=1)


def is_brief(prompt: Prompt) -> bool:
    return asked_by(prompt).fact.topic in BRIEF


def earned(setting: Setting, plan: Plan) -> np.ndarray:
    """`reward_P` of one answer to each test prompt."""
    prompts = setting.task.test_prompts
    requests = [
        setting.band.request(prompt, plan, Sampling(0.7, max_tokens=setting.max_tokens, seed=p))
        for p, prompt in enumerate(prompts)
    ]
    reward_P: np.ndarray = ByTopic(setting.judge)(prompts, [said.text for said in setting.band.run(requests)])[:, 0]
    return reward_P


def one(seed: int, work: Path) -> dict[str, np.ndarray]:
    """What each way of answering earns, by prompt."""
    setting = load_setting("world", seed, work)
    band, reward = setting.band, ByTopic(setting.judge)
    config = ControllerConfig(
        band=str(setting.folder / "band"), max_tokens=setting.max_tokens, iterations=16, seed=seed
    )
    constant = ControllerConfig(**{**vars(config), "constant": True, "learning_rate": CONSTANT_RATE})
    found = {}
    for name, chosen in (("mope", config), ("learned constant", constant)):
        out = work / "mope" / "where" / str(seed) / name.replace(" ", "-")
        train_controller(band, chosen, setting.task.train_prompts, [PROFILE], reward, out)
        found[name] = earned(setting, band.plan(PROFILE, "mope"))
    for step in range(STEPS + 1):
        w = step / STEPS
        plan = band.plan(Profile({"concise": w, "informative": 1 - w}), "mixture-prob")
        found[f"constant {w:.1f}"] = earned(setting, plan)
    alone = [earned(setting, band.plan(Profile({name: 1.0}), "mixture-prob")) for name in PROFILE.weights]
    brief_P = np.array([is_brief(prompt) for prompt in setting.task.test_prompts])
    found["told the topic"] = np.where(brief_P, *alone)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    runs = [one(seed, arguments.work) for seed in arguments.seeds]
    reward_P = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    best = max((name for name in reward_P if name.startswith("constant ")), key=lambda name: reward_P[name].mean())
    claims = [
        make_claim(
            f"who wants brevity on some topics and detail on others gets more from {a} than from {b}",
            metric=METRIC, a=a, b=b, difference=paired_difference(reward_P[a], reward_P[b], seed=0),
            prompts=len(reward_P[a]), seeds=arguments.seeds, command="python -m experiments.mope.where",
            seconds=round(time.perf_counter() - start, 1),
        )
        for a, b in (("mope", "learned constant"), ("mope", best), ("told the topic", "mope"))
    ]  # fmt: skip
    write_claims(HERE / "where.json", claims)
    for name, values_P in reward_P.items():
        print(f"{name}: {values_P.mean():.3f}")
    for claim in claims:
        print(f"{'holds' if claim.holds else 'fails'}  {claim.claim}: {claim.difference}")


if __name__ == "__main__":
    main()
