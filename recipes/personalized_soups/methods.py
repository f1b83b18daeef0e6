"""Which adapters and which words answer a person, by each method."""

from collections.abc import Mapping, Sequence

from recipes.personalized_soups.run import Run, need
from recipes.personalized_soups.settings import FACTORS, MORL, MULTITASK, RLHF

from counterpoint.cli.train import accelerator
from counterpoint.compose.inexact import Recipe, as_pair, merged
from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.soup import by_module
from counterpoint.decode.band import Band
from counterpoint.models.adapter import CONFIG, LoraFactors, read_adapter
from counterpoint.models.load import parse_dtype
from counterpoint.types import Profile


def plans_of(method: str, people: Sequence[Profile], rlhf_asked: bool) -> list[Plan]:
    """How a method answers each person; one plan for all where it does not know who asks."""
    if method == "vanilla" or (method == RLHF and not rlhf_asked):
        return [Plan((Row({RLHF: 1.0} if method == RLHF else {}),))]
    return [Plan((Row(gate_of(method, person), tuple(person.weights)),)) for person in people]


def gate_of(method: str, person: Profile) -> dict[str, float]:
    """Which adapters answer a person, and how much of each."""
    match method:
        case "prompted":
            return {}
        case "p-soups":
            return alike(person)
        case "p-soups-factors":
            return {average_of(person): 1.0}
        case _:
            return {method: 1.0}


def alike(person: Profile) -> dict[str, float]:
    """The same weight for each preference, 1/|S|."""
    return {name: 1 / len(person.weights) for name in person.weights}


def average_of(person: Profile) -> str:
    """The name of a person's average of factors in the bank."""
    return f"factors {'+'.join(person.weights)}"


def average_factors(experts: Mapping[str, LoraFactors], person: Profile) -> LoraFactors:
    """The merge as it was published: factors averaged entry by entry, which is no average of the updates."""
    parts = by_module(experts, lambda _: alike(person))
    return LoraFactors({module: as_pair(merged(own, Recipe("factors"), module), 0) for module, own in parts})


def band_of(run: Run, people: Sequence[Profile]) -> Band:
    """The band with what other methods answer with: their adapters, and the averages of factors."""
    folder = need(run.out / "band" / "band.json", "policies").parent
    band = Band.load(folder, parse_dtype(run.settings.models.dtype), accelerator(), run.settings.evaluation.rows)
    for name in (name for name in (RLHF, MORL, MULTITASK) if run.does(name)):
        need(run.policy(name) / CONFIG, MULTITASK if name == MULTITASK else "policies")
        band.bank.add(name, read_adapter(run.policy(name)))
    if run.does(FACTORS):
        experts = {expert.name: band.bank.experts[expert.name] for expert in band.experts}
        for person in people:
            band.bank.add(average_of(person), average_factors(experts, person))
    return band
