"""What may be claimed of whom a router hears: accuracies and rates by question, averaged over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.evaluate.bootstrap import Interval, mean_interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim

COMMAND = "python -m experiments.pmol.run --parts probe && python -m experiments.pmol.claims"
ACCURACY = "share of texts by question"
SHARE = "share of a response's tokens, the mean over layers"
REWARD = "the world's rules, in standard deviations of the pool of the demo's build"
CHANCE = 1 / 3
LEARNED, TOLD = "preference from the response", "loudest group is the preference"


@dataclass(frozen=True)
class Found:
    """What every seed found."""

    seeds: Sequence[Mapping[str, Any]]
    seconds: float

    def of_router(self, title: str, section: str, name: str) -> np.ndarray:
        """By question, the mean over seeds."""
        mean_P: np.ndarray = np.mean([seed["routers"][title][section][name] for seed in self.seeds], axis=0)
        return mean_P

    def of_overlap(self, part: str, section: str, manner: str, name: str) -> np.ndarray:
        """By question, the mean over seeds."""
        mean_P: np.ndarray = np.mean([seed["overlap"][part][section][manner][name] for seed in self.seeds], axis=0)
        return mean_P

    @property
    def titles(self) -> list[str]:
        """The routers that learned."""
        return [title for title in self.seeds[0]["routers"] if title != "untrained"]

    def claim(self, text: str, metric: str, a: str, b: str, difference: Interval, prompts: int) -> Claim:
        return make_claim(
            text, metric=metric, a=a, b=b, difference=difference, prompts=prompts,
            seeds=tuple(range(len(self.seeds))), command=COMMAND, seconds=self.seconds,
        )  # fmt: skip

    def more(self, text: str, metric: str, a: str, b: str, a_P: np.ndarray, b_P: np.ndarray) -> Claim:
        return self.claim(text, metric, a, b, paired_difference(a_P, b_P, seed=0), len(a_P))


def claims(found: Mapping[str, Any]) -> list[Claim]:
    of = Found(found["seeds"], found["seconds"])
    made = [claim for title in of.titles for claim in told(of, title)]
    made += [claim for title in of.titles for claim in answered(of, title)]
    return [*made, *alike(of)]


def told(of: Found, title: str) -> list[Claim]:
    """What a router's shares tell of a text, and whom they follow where preference and topic differ."""
    read_P, before_P = (of.of_router(of_title, "accuracy", LEARNED) for of_title in (title, "untrained"))
    loudest_P = of.of_router(title, "accuracy", TOLD)
    preference_P, topic_P = (of.of_router(title, "swapped, loudest", name) for name in ("preference", "topic"))
    first = (topic_P, preference_P) if title.startswith("own") else (preference_P, topic_P)
    a, b = ("the topic", "the preference") if title.startswith("own") else ("the preference", "the topic")
    return [
        of.more(
            f"router {title}: regression tells a response's preference from its shares better than from those of a "
            "router before its first step", ACCURACY, title, "untrained", read_P, before_P,
        ),
        of.claim(
            f"router {title}: the loudest group is a response's preference more often than by chance", ACCURACY,
            title, "chance", mean_interval(loudest_P - CHANCE, seed=0), len(loudest_P),
        ),
        of.more(
            f"router {title}: where they differ, the loudest group is that of {a} more often than that of {b}",
            ACCURACY, a, b, *first,
        ),
    ]  # fmt: skip


def answered(of: Found, title: str) -> list[Claim]:
    """Whom answers serve."""
    owner_P, others_P, asked_P = (
        of.of_router(title, "answers", name) for name in ("plain: owner", "plain: others", "wants another: asked")
    )
    base = [of.of_router("untrained", "answers", name) for name in ("plain: owner", "plain: others")]
    return [
        of.more(
            f"router {title}: answers to nobody in particular gain more of the preference that owns their topic than "
            "of the others", REWARD, "owner", "others", owner_P - base[0], others_P - base[1],
        ),
        of.more(
            f"router {title}: who wants another preference than the topic's gets more of it than who wants nothing",
            REWARD, "wants another", "wants nothing", asked_P, others_P,
        ),
    ]  # fmt: skip


def alike(of: Found) -> list[Claim]:
    """What becomes of two preferences that are one under two names (`1`), against two that are two (`0`)."""

    def gap(part: str) -> np.ndarray:
        own, twin = (of.of_overlap(part, "routing", "friendly", name) for name in ("friendly", "twin"))
        gap_P: np.ndarray = own - twin
        return gap_P

    def wants(part: str) -> np.ndarray:
        return of.of_overlap(part, "rewards", "twin", "friendly")

    empty = [of.of_overlap(part, "routing", "friendly", "empty") for part in ("1", "0")]
    return [
        of.more(
            "over a friendly answer, friendly leads its twin by more where the twin is another preference",
            SHARE, "another preference", "the same", gap("0"), gap("1"),
        ),
        of.more(
            "over a friendly answer, friendly leads a twin that is the same preference", SHARE, "friendly", "twin",
            of.of_overlap("1", "routing", "friendly", "friendly"), of.of_overlap("1", "routing", "friendly", "twin"),
        ),
        of.more(
            "the empty expert has more of a friendly answer where friendly has two names", SHARE, "the same",
            "another preference", *empty,
        ),
        of.more(
            "who wants the twin gets more friendliness where it is the same preference", REWARD, "the same",
            "another preference", wants("1"), wants("0"),
        ),
    ]  # fmt: skip


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """Means over seeds and questions, with intervals by question for accuracies."""
    of = Found(found["seeds"], found["seconds"])
    sections = ("accuracy", "swapped, loudest", "swapped, regression", "answers")
    first = of.seeds[0]
    routers = {
        title: {
            **{
                section: {
                    name: figures(of.of_router(title, section, name)) for name in first["routers"][title][section]
                }
                for section in sections
            },
            **{
                key: mean_of([seed["routers"][title][key] for seed in of.seeds])
                for key in ("by layer", "mass", "empty")
            },
        }
        for title in first["routers"]
    }
    overlap = {
        part: {
            section: {
                asked: {name: figures(of.of_overlap(part, section, asked, name)) for name in columns}
                for asked, columns in rows.items()
            }
            for section, rows in sections_of.items()
        }
        for part, sections_of in first["overlap"].items()
    }
    return {"tellable": mean_of([seed["tellable"] for seed in of.seeds]), "routers": routers, "overlap": overlap}


def figures(values_P: np.ndarray) -> dict[str, float]:
    return {key: round(value, 4) for key, value in mean_interval(values_P, seed=0).to_dict().items()}


def mean_of(seeds: Sequence[Any]) -> Any:
    """The mean over seeds of numbers in dictionaries and lists of one shape."""
    if isinstance(seeds[0], dict):
        return {key: mean_of([seed[key] for seed in seeds]) for key in seeds[0]}
    return np.mean(seeds, axis=0).round(4).tolist()
