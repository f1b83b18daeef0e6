"""What is trained and compared: the controller, its baselines, and the ablations of the paper and its reviewers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from experiments.mope.measure import TEMPERATURE
from experiments.mope.setting import Setting

from counterpoint.compose.plan import Plan
from counterpoint.compose.weighers.controller import Controller, profile_key, write_controller
from counterpoint.decode.sampling import Sampling
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.train.controller import ControllerConfig, references, reward_of, train_controller
from counterpoint.types import Profile, Prompt, RewardFn

CONSTANT_RATE = 0.1
GRID = 4
"""The simplex is searched in steps of a quarter."""
SEARCH_PROMPTS = 24


@dataclass(frozen=True)
class Variant:
    """A controller: what differs from the default configuration, from which rewards it learns, for which profiles."""

    changes: dict[str, Any] = field(default_factory=dict)
    by_rules: bool = False
    profiles: Callable[[Sequence[Profile]], Sequence[Profile]] = lambda profiles: profiles
    without: str = ""


def seen(profiles: Sequence[Profile]) -> list[Profile]:
    """All but the profiles held out: 2 of 8, or the last of 4."""
    return [profile for index, profile in enumerate(profiles) if index not in unseen(profiles)]


def unseen(profiles: Sequence[Profile]) -> tuple[int, ...]:
    """Which combinations are kept from training; each of their dimensions is seen in others."""
    return (2, 5) if len(profiles) == 8 else (len(profiles) - 1,)


def variants(setting: Setting) -> dict[str, Variant]:
    """By name; the strength of log mixtures is the one that was best on training prompts."""
    strength = setting.band.file.strengths["mixture-log"]
    log = {"space": "log", "strength": strength}
    newcomer = setting.task.names[-1]
    return {
        "mope": Variant(),
        "constant": Variant({"constant": True, "learning_rate": CONSTANT_RATE}),
        "mope-log": Variant(log),
        "constant-log": Variant({**log, "constant": True, "learning_rate": CONSTANT_RATE}),
        "mope-log@1": Variant({"space": "log"}),
        "mope-raw": Variant({"bt": False}),
        "mope-ppo": Variant({"algorithm": "ppo"}),
        "mope-text": Variant({"encoding": "text"}),
        "mope-own": Variant({"expert_prompt": "own"}),
        "mope-all": Variant({"expert_prompt": "all"}),
        "mope-described": Variant({"head": "described"}),
        "mope-kl": Variant({"kl": 0.05}),
        "mope-seen": Variant(profiles=seen),
        "mope-by-rules": Variant(by_rules=True),
        "constant-by-rules": Variant({"constant": True, "learning_rate": CONSTANT_RATE}, by_rules=True),
        "mope-log-by-rules": Variant(log, by_rules=True),
        "mope-newcomer": Variant(
            {"head": "described"},
            profiles=lambda profiles: [p for p in profiles if not p.weights.get(newcomer)],
            without=newcomer,
        ),
    }


def train(setting: Setting, name: str, variant: Variant, default: ControllerConfig, out: Path) -> None:
    """Train a variant into `out`, unless it is there; what the band has of experts is as before."""
    config = replace(default, **variant.changes)
    profiles = variant.profiles(setting.task.profiles)
    everyone = setting.band.experts
    setting.band.experts = [expert for expert in everyone if expert.dimension != variant.without]
    reward = setting.judge if variant.by_rules else setting.models
    try:
        train_controller(setting.band, config, setting.task.train_prompts, profiles, reward, out)
    finally:
        setting.band.experts = everyone


def plans_of(setting: Setting, folder: Path, strength: float) -> list[Plan]:
    """How a trained controller serves the test profiles; the band is steered by it."""
    setting.band.load_controller(folder)
    return [setting.band.plan(replace(profile, strength=strength), "mope") for profile in setting.task.profiles]


def search_constants(setting: Setting, prompts: Sequence[Prompt], reward: RewardFn, out: Path) -> None:
    """The best point of a grid on each profile's simplex, by what its answers to these prompts earn from a reward."""
    band, profiles = setting.band, setting.task.profiles
    names = [expert.name for expert in band.experts]
    reference_PD = reward(prompts, references(band, prompts, setting.max_tokens, out))
    earned = reward_of(reward, prompts, profile_weights(profiles, reward.dimensions), reference_PD)
    best: dict[str, list[float]] = {}
    for r, profile in enumerate(profiles):
        wanted = [expert for expert in band.experts if profile.weights.get(expert.dimension)]
        points = [[part / GRID for part in point] for point in simplex(len(wanted), GRID)]
        means = []
        for point in points:
            weights = {expert.dimension: w for expert, w in zip(wanted, point, strict=True)}
            texts = answers_to(setting, prompts, band.plan(Profile(weights), "mixture-prob"))
            means.append(earned(range(len(prompts)), texts, [r] * len(prompts)).mean())
        chosen = {e.name: w for e, w in zip(wanted, points[int(np.argmax(means))], strict=True)}
        best[profile_key(profile)] = [logit(chosen.get(name, 0.0)) for name in names]
    controller = Controller(experts=names, dimensions=list(band.dimensions), prior="selected", constants=best)
    write_controller(out, controller, None)


def answers_to(setting: Setting, prompts: Sequence[Prompt], plan: Plan) -> list[str]:
    """One answer of a plan to each prompt, drawn as answers are judged."""
    sampling = Sampling(TEMPERATURE, max_tokens=setting.max_tokens)
    requests = [setting.band.request(prompt, plan, replace(sampling, seed=p)) for p, prompt in enumerate(prompts)]
    return [completion.text for completion in setting.band.run(requests)]


def simplex(size: int, total: int) -> list[tuple[int, ...]]:
    """All tuples of `size` whole numbers that sum to `total`."""
    if size == 1:
        return [(total,)]
    return [(first, *rest) for first in range(total + 1) for rest in simplex(size - 1, total - first)]


def logit(share: float) -> float:
    """The logarithm of a share; of none, one that leaves nothing in float32."""
    return float(np.log(share)) if share else -1e4


def untrained(setting: Setting, expert_prompt: Literal["own", "all"], out: Path) -> None:
    """Equal weights over experts that are asked in words: what prompting gives without a controller."""
    names = [expert.name for expert in setting.band.experts]
    zeros = {profile_key(profile): [0.0] * len(names) for profile in setting.task.profiles}
    controller = Controller(
        experts=names, dimensions=list(setting.band.dimensions), expert_prompt=expert_prompt, constants=zeros
    )
    out.mkdir(parents=True, exist_ok=True)
    write_controller(out, controller, None)


def own_mean(setting: Setting, folder: Path, out: Path) -> None:
    """A controller's own mean weights for each profile as constants: what is left of it without its context."""
    band, prompts = setting.band, setting.task.train_prompts[:SEARCH_PROMPTS]
    band.load_controller(folder)
    assert band.controller is not None
    means: dict[str, list[float]] = {}
    for profile in setting.task.profiles:
        plan = band.plan(profile, "mope")
        requests = [
            band.request(prompt, plan, Sampling(max_tokens=setting.max_tokens, seed=p), "token")
            for p, prompt in enumerate(prompts)
        ]
        mean_K = torch.cat([c.trace.c_TK for c in band.run(requests) if c.trace]).mean(0)
        shares = {next(iter(row.gate)): float(w) for row, w in zip(plan.rows, mean_K, strict=True)}
        means[profile_key(profile)] = [logit(shares.get(name, 0.0)) for name in band.controller.experts]
    controller = band.controller.model_copy(update={"constants": means, "prior": "selected", "head": "linear"})
    out.mkdir(parents=True, exist_ok=True)
    write_controller(out, controller, None)
