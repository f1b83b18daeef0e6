"""A controller from a user's own prompts and rewards, beside fixed weights on prompts that it has not seen.

What it earns says what was learned, and not whether the rewards are right: for that, judge by others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.artifacts import hash_files, write_json
from counterpoint.build.answer import Progress, answer_entry, requests_of, usable_prompts
from counterpoint.build.best import PLAIN, split_prompts
from counterpoint.build.pairs import METRICS, claim_folder
from counterpoint.compose.plan import CONTROLLER, Plan
from counterpoint.compose.weighers.controller import FILE, profile_key
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.bootstrap import mean_interval, paired_difference
from counterpoint.models.band_file import base_path
from counterpoint.models.controller import ControllerModel
from counterpoint.models.fit import check_model
from counterpoint.profiles import format_profile
from counterpoint.profiles.bounds import FREE
from counterpoint.rewards.calibrate import ZScore, bt_reward, fit_zscore, profile_weights, scalarise
from counterpoint.rewards.load import trained_among
from counterpoint.rewards.rules import Rewards
from counterpoint.rewards.scorer import Scorer
from counterpoint.stages import Bar, Stages
from counterpoint.train.controller import (
    ControllerConfig,
    ControllerResult,
    check_kept,
    kept_gib,
    new_controller,
    references,
    train_controller,
    untrained,
)
from counterpoint.types import CounterpointError, Profile, Prompt, RewardFn

InUnits = tuple[RewardFn, dict[str, str], list[str] | None]
"""Rewards, what a unit of each is, and the base's greedy answers, where a rule was scaled by them."""


@dataclass(frozen=True)
class LearnConfig:
    """On what a controller is trained and measured: `judged_by` tells one set of rewards from another (`fingerprint`).

    A share `holdout` of the prompts measures what was learned. Prompts that cannot be answered are an error unless
    `skip_bad`.
    """

    judged_by: str = ""
    holdout: float = 0.2
    skip_bad: bool = False


@dataclass(frozen=True)
class Scaled:
    """A reward whose scores are z-scores."""

    reward: RewardFn
    scale: ZScore

    @property
    def dimensions(self) -> tuple[str, ...]:
        return self.reward.dimensions

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return self.scale(self.reward(prompts, responses))


def learn_controller(
    band: Band,
    config: ControllerConfig,
    learning: LearnConfig,
    rewards: Rewards,
    prompts: Sequence[Prompt],
    profiles: Sequence[Profile],
    out: Path,
    stages: Stages,
) -> dict[str, Any]:
    """Train a controller into `out`, which then steers the band; return what `out/metrics.json` says of it.

    A trained reward model counts in its own unit, a logit of preference. A rule has none: its scores are z-scored over
    the base's greedy answers to the prompts that are learned from, unless rewards stay as they are (`bt` is False).
    Raises CounterpointError where `out` holds anything but a controller, for too few prompts, and for what
    `check_profiles` refuses.
    """
    claim_folder(out, FILE)
    check_profiles(band, config, profiles, rewards.dimensions)
    if config.model:
        check_model(base_path(Path(config.band), band.file), config.model)
    check_kept(band, config)
    usable, wrong = answerable(band, config, list(dict.fromkeys(prompts)), profiles, learning.skip_bad)
    for line in wrong:
        stages.console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    learned, held = split_prompts(usable, learning.holdout, config.seed)
    why = f"{len(profiles)} profiles, {len(learned)} prompts, {config.iterations} iterations of {config.algorithm}"
    if gib := kept_gib(band, config):
        why += f"; a roll-out in log space keeps up to {gib:.2g} GiB"
    with stages.stage("controller", why) as bar:
        as_they_are: InUnits = (rewards, {}, None)
        reward, units, said = in_units(rewards, band, learned, config.max_tokens, bar) if config.bt else as_they_are
        result = train_controller(
            band, config, learned, profiles, reward, out, bar.task("iterations"), learning.judged_by, said
        )
        bar.note(outcome(result))
    with stages.stage("held-out prompts", f"see what answers to {len(held)} other prompts earn") as bar:
        measured = measure(band, held_out(band, config, reward, held, profiles, bar), config.seed, bar)
    metrics = {
        "profiles": [format_profile(profile) for profile in profiles], "units": units,
        "learned": {"prompts": len(learned), "prompts_left_out": len(wrong)}, "held_out": {"prompts": len(held)},
        "holdout": learning.holdout, "strength": config.strength, "seed": config.seed, "fresh": result.fresh,
        **measured, "iterations": list(result.log),
    }  # fmt: skip
    write_json(out / METRICS, metrics)
    return metrics


def fingerprint(texts: Sequence[str]) -> str:
    """What rewards are called, with the hash of every file or folder that they name."""
    found = []
    for text in texts:
        spec = text.partition("=")[2].strip() or text
        named = [Path(part) for part in dict.fromkeys((text, spec, *spec.split(":"))) if Path(part).exists()]
        found.append(" ".join([text, *(hash_files(path) for path in named)]))
    return "; ".join(found)


def pairs_of(band: Band) -> list[Profile]:
    """A person for each two dimensions that have experts and that the band's bounds do not forbid."""
    served = {expert.dimension for expert in band.experts}
    names = [name for name in band.dimensions if name in served and band.bounds.get(name, FREE)[1] > 0]
    return [Profile(dict.fromkeys(two, 1.0)) for two in combinations(names, 2)]


def check_profiles(band: Band, config: ControllerConfig, profiles: Sequence[Profile], scored: Sequence[str]) -> None:
    """Refuse what no controller of the band could be trained for, before any work is done.

    Raises CounterpointError for bounds that `mope` does not keep, for a dimension that no reward scores, for a profile
    with a strength of its own, and for one that leaves fewer than two experts to weigh.
    """
    controller = new_controller(band, config, profiles)
    controller.check_bounds(band.bounds, config.strength)
    if not profiles:
        raise CounterpointError("there are no two dimensions with experts; name profiles, or add experts")
    for profile in profiles:
        text = format_profile(profile)
        if profile.strength not in (1, config.strength):
            raise CounterpointError(f"profile {text!r}: the strength of all profiles is set by --strength")
        for name in (name for name, weight in profile.weights.items() if weight > 0):
            if name not in scored:
                raise CounterpointError(
                    f"profile {text!r}: no reward scores {name!r}; pass --reward {name}=RULE or {name}=FOLDER, or name "
                    "other profiles with --profile"
                )
            if band.bounds.get(name, FREE)[1] == 0:
                raise CounterpointError(f"profile {text!r}: the band's bounds forbid {name!r}")
        if len(controller.prior_of(profile, band.experts)) < 2:
            raise CounterpointError(
                f"profile {text!r}: has one expert, which leaves nothing to weigh; name two dimensions, or pass "
                "--prior all"
            )


def answerable(
    band: Band, config: ControllerConfig, prompts: Sequence[Prompt], profiles: Sequence[Profile], skip: bool
) -> tuple[list[Prompt], list[str]]:
    """The prompts that fit every row that is decoded, the controller's own too, and what is wrong with the others."""
    controller = new_controller(band, config, profiles)
    plans = [controller.plan(replace(profile, strength=config.strength), band.experts) for profile in profiles]
    rows = [*PLAIN.rows, *(row for plan in plans for row in (plan.rows if config.constant else plan.all_rows))]
    rows = [row for index, row in enumerate(rows) if row not in rows[:index]]
    model = untrained(band, config, controller, len(profiles))
    with band.steered_by(controller, model if isinstance(model, ControllerModel) else None):
        return usable_prompts(band, Plan(tuple(rows), (0.0,) * len(rows), config.space), prompts, skip)


def in_units(rewards: Rewards, band: Band, prompts: Sequence[Prompt], max_tokens: int, bar: Bar) -> InUnits:
    """The rewards in logits of preference, or in z-scores where they are rules."""
    units: dict[str, str] = {}
    parts: list[RewardFn] = []
    texts: list[str] | None = None
    for part in rewards.parts:
        if trained_among([part]):
            parts.append(part)
            units |= dict.fromkeys(part.dimensions, "what its reward model says")
            continue
        texts = texts or references(band, prompts, max_tokens, None, bar.task("answers of the base"))
        scale = fit_zscore(Scorer(part)(prompts, texts), part.dimensions)
        parts.append(Scaled(part, scale))
        units |= {
            name: f"a standard deviation of the base's answers, {std:.4g}"
            for name, std in zip(scale.dimensions, scale.std, strict=True)
        }
    return Rewards(parts), units, texts


def outcome(result: ControllerResult) -> str:
    """What the training stage says when it ends."""
    if not result.fresh:
        return "was there already, trained on the same with the same settings"
    return f"reward {result.log[0]['reward']:.3f} at first and {result.log[-1]['reward']:.3f} at last"


@dataclass(frozen=True)
class HeldOut:
    """Prompts and profiles that measure, how answers are drawn, and what rewards count from: None for as they are."""

    prompts: tuple[Prompt, ...]
    profiles: tuple[Profile, ...]
    sampling: Sampling
    reward: RewardFn
    reference_PD: np.ndarray | None

    def earned(self, band: Band, plans_R: Sequence[Plan], progress: Progress) -> np.ndarray:
        """`reward_PR` of answers by the plan of each profile, or by one plan for all."""
        requests = requests_of(band, plans_R, self.prompts, self.sampling)
        texts_PR = answer_entry(band, requests, len(self.prompts), len(self.profiles), progress)
        asked = [prompt for prompt in self.prompts for _ in self.profiles]
        scores_ND = Scorer(self.reward)(asked, [text for texts_R in texts_PR for text in texts_R])
        scores_PRD = scores_ND.reshape(len(self.prompts), len(self.profiles), -1)
        if self.reference_PD is not None:
            scores_PRD = bt_reward(scores_PRD, self.reference_PD[:, None])
        return scalarise(scores_PRD, profile_weights(self.profiles, self.reward.dimensions))


def held_out(
    band: Band,
    config: ControllerConfig,
    reward: RewardFn,
    prompts: Sequence[Prompt],
    profiles: Sequence[Profile],
    bar: Bar,
) -> HeldOut:
    """How a controller is measured: as it was trained, on other prompts."""
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)
    reference_PD = None
    if config.bt:
        said = references(band, prompts, config.max_tokens, None, bar.task("answers of the base"))
        reference_PD = reward(prompts, said)
    served = (replace(profile, strength=config.strength) for profile in profiles)
    return HeldOut(tuple(prompts), tuple(served), sampling, reward, reference_PD)


def plans_of(band: Band, profiles: Sequence[Profile]) -> dict[str, list[Plan]]:
    """What is compared, by name: mope, fixed weights in its space, and the base.

    Also soup and mixture-log at the strengths that the band records as best for them. Also mope without what it
    learned, where that is not fixed weights: it asks experts in words, or has another prior.
    """
    controller = band.controller
    assert controller is not None, "a controller was trained"
    zeros = {profile_key(profile): [0.0] * len(controller.experts) for profile in profiles}
    at_first = controller.model_copy(update={"constants": zeros})
    untrained = [at_first.plan(profile, band.experts) for profile in profiles]
    fixed = [band.plan(profile, f"mixture-{controller.space}") for profile in profiles]
    return {
        "mope": [band.plan(profile, "mope") for profile in profiles],
        f"mixture-{controller.space}": fixed,
        **({} if all(map(alike, untrained, fixed)) else {"untrained": untrained}),
        **{name: plans for name, plans in at_best(band, profiles).items() if not all(map(alike, plans, fixed))},
        "base": [PLAIN],
    }


def at_best(band: Band, profiles: Sequence[Profile]) -> dict[str, list[Plan]]:
    """Plans of soup and mixture-log at the strengths that the band records; no soup of whole models."""
    best = {name: band.file.strengths[name] for name in ("soup", "mixture-log") if name in band.file.strengths}
    if band.whole.keys() - {CONTROLLER}:
        best.pop("soup", None)
    return {
        f"{name}, strength {s:g}": [band.plan(replace(profile, strength=s), name) for profile in profiles]
        for name, s in best.items()
    }


def alike(one: Plan, other: Plan) -> bool:
    """Whether two plans mix the same rows in the same way, up to rounding."""
    kinds = [(plan.rows, plan.space, plan.temper) for plan in (one, other)]
    return kinds[0] == kinds[1] and np.allclose(one.coefficients, other.coefficients)


def measure(band: Band, tested: HeldOut, seed: int, bar: Bar) -> dict[str, Any]:
    """Mean rewards, and by how much mope earns more than the others, with intervals by prompt."""
    reward_MPR = {
        name: tested.earned(band, plans_R, bar.task(name)) for name, plans_R in plans_of(band, tested.profiles).items()
    }
    names = [format_profile(replace(profile, strength=1.0)) for profile in tested.profiles]
    mope_P, *others_MP = (reward_PR.mean(axis=1) for reward_PR in reward_MPR.values())
    return {
        "methods": {
            name: {
                "reward": mean_interval(reward_PR.mean(axis=1), seed=seed).to_dict(),
                "by_profile": dict(zip(names, reward_PR.mean(axis=0).tolist(), strict=True)),
            }
            for name, reward_PR in reward_MPR.items()
        },
        "mope_minus": {
            name: paired_difference(mope_P, other_P, seed=seed).to_dict()
            for name, other_P in zip(list(reward_MPR)[1:], others_MP, strict=True)
        },
    }
