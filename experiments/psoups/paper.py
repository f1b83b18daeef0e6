"""Answer the test prompts for every profile by all methods of the paper, and by other ways to combine its experts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.mope.measure import measure
from experiments.mope.setting import Setting
from experiments.psoups.merges import merge
from experiments.psoups.methods import EXPERT, PLAIN, follows_words, learn_all
from experiments.psoups.setting import best_strength

from counterpoint.artifacts import write_json
from counterpoint.compose import mixture
from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.weighers.constant import constant
from counterpoint.models.adapter import read_adapter
from counterpoint.types import Expert, Profile

SINGLE = ("rlhf", "multitask", "p-morl")
"""Methods of one adapter; all but the first are told the profile in words."""
PAPER = ("vanilla", "rlhf", "prompted", "multitask", "p-morl", "p-soups@1")
"""What the average pairwise win rate is over."""


def combined(setting: Setting) -> tuple[str, ...]:
    """Ways to combine the policies of the preferences; where none is asked in words there is one kind of them."""
    kinds = ("p-soups unasked", "p-soups plain") if follows_words(setting) else ()
    return ("p-soups", *kinds, "p-soups factors", "p-mixture-prob", "p-mixture-log")


def built(setting: Setting) -> tuple[str, ...]:
    """Soups of the experts that the build made without any policy training."""
    asked = ("best-of-n soup asked@1",) if follows_words(setting) else ()
    return ("best-of-n soup@1", "best-of-n soup@best", *asked)


def places(method: str) -> tuple[str, ...]:
    """The strengths at which a method answers: 1, and its best; a mixture of probabilities cannot exceed 1."""
    return ("1",) if method == "p-mixture-prob" else ("1", "best")


def run_paper(setting: Setting, seed: int, out: Path) -> None:
    """Train, choose strengths on training prompts, and answer."""
    policies, answers = out / "policies", out / "paper"
    learn_all(setting, seed, policies)
    profiles, strengths = setting.task.profiles, {}
    add_adapters(setting, policies)
    for title, plans in fixed(setting).items():
        measure(setting, title, plans, answers)
    for method in combined(setting):

        def plans_at(strength: float, method: str = method) -> list[Plan]:
            return [combine(setting, replace(profile, strength=strength), method) for profile in profiles]

        for at in places(method):
            if at == "best":
                strengths[method] = best_strength(setting, method, plans_at, profiles, out / "paper-tuning")
            measure(setting, f"{method}@{at}", plans_at(strengths.get(method, 1.0)), answers)
    write_json(out / "paper-strengths.json", strengths)


def add_adapters(setting: Setting, policies: Path) -> None:
    """What was trained, and for each profile the experts' factors averaged entry by entry as the paper's code does."""
    own = [expert.name for kind in ("p-soups", "p-soups plain") for expert in own_experts(setting, kind)]
    adapters = {name: read_adapter(policies / name) for name in (*own, *SINGLE)}
    for profile in setting.task.profiles:
        weighting = constant(profile, own_experts(setting, "p-soups")).coefficients
        adapters[factors_name(profile)] = merge(adapters, weighting, "factors")[0]
    for name, adapter in adapters.items():
        setting.band.bank.add(name, adapter)


def own_experts(setting: Setting, method: str) -> list[Expert]:
    """The policies of the preferences that a method combines."""
    name_of = EXPERT if follows_words(setting) and method != "p-soups plain" else PLAIN
    return [Expert(name_of.format(name), name) for name in setting.task.names]


def wanted(profile: Profile) -> tuple[str, ...]:
    return tuple(name for name, weight in profile.weights.items() if weight > 0)


def factors_name(profile: Profile) -> str:
    return f"factors of {' and '.join(wanted(profile))}"


def fixed(setting: Setting) -> Mapping[str, Sequence[Plan]]:
    """Plans of the methods without a strength, and of the soups of the build's experts."""
    band, profiles = setting.band, setting.task.profiles
    best = band.file.strengths["soup"]
    soups = [constant(profile, band.experts).coefficients for profile in profiles]
    asked = [Row(soup, wanted(profile)) for soup, profile in zip(soups, profiles, strict=True)]
    return {
        "vanilla": [Plan((Row(),)) for _ in profiles],
        "prompted": [band.plan(profile, "prompted") for profile in profiles],
        "rlhf": [Plan((Row({"rlhf": 1.0}),)) for _ in profiles],
        **{
            name: [Plan((Row({name: 1.0}, wanted(profile)),)) for profile in profiles]
            for name in ("multitask", "p-morl")
        },
        "best-of-n soup@1": [Plan((Row(soup),)) for soup in soups],
        "best-of-n soup asked@1": [Plan((row,)) for row in asked],
        "best-of-n soup@best": [band.plan(replace(profile, strength=best), "soup") for profile in profiles],
    }


def combine(setting: Setting, profile: Profile, method: str) -> Plan:
    """How the policies of the preferences serve a profile: merged, asked in words or not, or mixed."""
    weighting = constant(profile, own_experts(setting, method))
    asked = follows_words(setting) and method not in ("p-soups unasked", "p-soups plain")
    words = wanted(profile) if asked else ()
    match method:
        case "p-mixture-prob":
            return asking(setting, mixture.plan_prob(weighting))
        case "p-mixture-log":
            return asking(setting, mixture.plan_log(weighting))
        case "p-soups factors":
            return Plan((Row({factors_name(profile): profile.strength}, words),))
        case _:
            return Plan((Row(weighting.coefficients, words),))


def asking(setting: Setting, plan: Plan) -> Plan:
    """Each expert of a mixture is asked in the words of its own preference, as it was in training."""
    if not follows_words(setting):
        return plan
    dimension = {expert.name: expert.dimension for expert in own_experts(setting, "p-soups")}
    rows = [replace(row, requests=tuple(dimension[name] for name in row.gate)) for row in plan.rows]
    return replace(plan, rows=tuple(rows))
