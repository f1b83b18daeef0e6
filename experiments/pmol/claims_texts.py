"""What may be claimed of real text: paired differences by held-out pair or prompt, averaged over seeds.

Of all preferences together each counts alike, whatever the number of its pairs: values are weighed by their share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.evaluate.bootstrap import Interval, mean_interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim

COMMAND = "python -m experiments.pmol.run --parts texts && python -m experiments.pmol.claims"
METRICS = {
    "right": "share of held-out pairs whose chosen answer gained on the rejected one against the base",
    "margin": "what the chosen answer of a held-out pair gained on the rejected one against the base, in nats",
    "reward": "bag of words on answers to held-out prompts, in standard deviations of people's answers",
}
VERBS = {"right": "ranks more pairs right than", "margin": "gains more on pairs than", "reward": "earns more than"}
RIVALS = (
    ("pmol", "base"), ("pmol", "one-lora"), ("pmol", "full"), ("pmol", "pmol-no-group-loss"),
    ("pmol", "pmol-no-empty"), ("pmol", "pmol-router"), ("pmol", "soup"), ("pmol", "mixture-prob"),
    ("pmol", "mixture-log"), ("pmol-router", "soup"), ("own expert", "soup"), ("own expert", "pmol"),
    ("pmol, steered", "pmol"), ("one-lora", "full"),
)  # fmt: skip
ROUTED = ("pmol", "pmol-no-group-loss", "pmol-router")

Values = dict[str, np.ndarray]
"""By preference, the mean over seeds for each pair or prompt."""


@dataclass(frozen=True)
class Found:
    """`values[metric][way]`; the seeds, and the seconds that all of them took."""

    values: Mapping[str, Mapping[str, Values]]
    seeds: tuple[int, ...]
    seconds: float

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Found":
        parts = found["seeds"]
        margin, reward = ([part[key] for part in parts] for key in ("margin", "reward"))
        values = {
            "right": means(margin, right),
            "margin": means(margin, np.asarray),
            "reward": means(reward, np.asarray),
        }
        return cls(values, tuple(part["seed"] for part in parts), sum(part["seconds"] for part in parts))

    def claim(self, text: str, metric: str, a: str, b: str, difference: Interval, prompts: int) -> Claim:
        return make_claim(
            f"real text: {text}", metric=metric, a=a, b=b, difference=difference, prompts=prompts, seeds=self.seeds,
            command=COMMAND, seconds=round(self.seconds, 1),
        )  # fmt: skip

    def compare(self, metric: str, a: str, b: str) -> Claim:
        """That one way is better than another on all preferences together."""
        a_P, b_P = (alike(self.values[metric][way]) for way in (a, b))
        text = f"{a} {VERBS[metric]} {b}"
        return self.claim(text, METRICS[metric], a, b, paired_difference(a_P, b_P, seed=0), len(a_P))

    def learned(self, way: str, preference: str) -> Claim:
        """That a way ranks pairs of one preference better than chance."""
        right_P = self.values["right"][way][preference]
        difference = paired_difference(right_P, np.full(len(right_P), 0.5), seed=0)
        text = f"{way} ranks more {preference} pairs right than chance"
        return self.claim(text, METRICS["right"], way, "chance", difference, len(right_P))


def right(margin_P: Any) -> np.ndarray:
    """1 where the chosen answer gained more, and one half where neither did, as with the base itself."""
    right_P: np.ndarray = (np.sign(margin_P) + 1) / 2
    return right_P


def means(of_seeds: list[Any], of: Any) -> dict[str, Values]:
    first = of_seeds[0]
    return {
        way: {name: np.mean([of(seed[way][name]) for seed in of_seeds], axis=0) for name in first[way]} for way in first
    }


def alike(values: Values) -> np.ndarray:
    """The values of all preferences, weighed so that their mean is that of the preferences' means."""
    total = sum(map(len, values.values()))
    return np.concatenate([value_P * total / (len(values) * len(value_P)) for value_P in values.values()])


def claims(found: Mapping[str, Any]) -> list[Claim]:
    of = Found.read(found)
    return [
        *(of.compare(metric, a, b) for metric in METRICS for a, b in RIVALS if (metric, b) != ("margin", "base")),
        *(of.learned(way, name) for way in ("pmol", "one-lora", "own expert") for name in of.values["right"][way]),
        *(told(of, found, gate) for gate in ROUTED),
    ]


def told(of: Found, found: Mapping[str, Any], gate: str) -> Claim:
    """That a gate's largest group in a prompt is that of the preference whose data the prompt is from."""
    told_P = alike({name: told_P for name, (told_P, _) in whom(found, gate).items()})
    difference = paired_difference(told_P, np.full(len(told_P), 1 / 3), seed=0)
    text = f"{gate} tells by its prompt which preference data is on, better than chance"
    return of.claim(
        text, "share of held-out prompts whose own group is the largest", gate, "1/3", difference, len(told_P)
    )


def whom(found: Mapping[str, Any], gate: str) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Whom a gate lets speak on data of each preference, the mean over seeds: by prompt whether it is the own group,
    and the masses of all groups and of none."""
    parts = [part["routing"][gate] for part in found["seeds"]]
    return {
        name: (
            np.mean([part[name]["told"] for part in parts], axis=0),
            {
                key: np.mean([part[name][key] for part in parts], axis=0).round(3).tolist()
                for key in ("prompt", "response", "by_layer")
            },
        )
        for name in parts[0]
    }


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """Every way of answering, the judges, the rates tried, what experts do to others' pairs,
    whom the gates let speak, and what they could see."""
    of = Found.read(found)
    return {
        "pairs": found["pairs"],
        "judges": {
            name: {judge: figures(np.asarray(right_P)) for judge, right_P in judges.items()}
            for name, judges in found["judges"].items()
        },
        "rates": found["rates"],
        "equal_rank": found["equal_rank"],
        "ways": {way: row(of, way) for way in of.values["right"]},
        "routing": {
            gate: {name: {"told": figures(told_P), **mass} for name, (told_P, mass) in whom(found, gate).items()}
            for gate in found["seeds"][0]["routing"]
        },
        "across": {
            expert: {name: round(float(right_P.mean()), 3) for name, right_P in by_name.items()}
            for expert, by_name in means([part["across"] for part in found["seeds"]], right).items()
        },
        "visible": {
            key: np.mean([part["visible"][key] for part in found["seeds"]], axis=0).round(3).tolist()
            for key in found["seeds"][0]["visible"]
        },
    }


def row(of: Found, way: str) -> dict[str, Any]:
    return {
        metric: {
            **{name: figures(value_P) for name, value_P in of.values[metric][way].items()},
            "mean": round(float(alike(of.values[metric][way]).mean()), 3),
        }
        for metric in METRICS
    }


def figures(values_P: np.ndarray) -> dict[str, float]:
    return {key: round(value, 3) for key, value in mean_interval(values_P, seed=0).to_dict().items()}
