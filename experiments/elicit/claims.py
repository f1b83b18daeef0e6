"""What was measured, as claims with intervals by person or by sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from experiments.elicit.people import SEEDS
from experiments.elicit.read import Count
from experiments.elicit.simulate import FULL
from scipy.stats import binomtest

from counterpoint.evaluate.bootstrap import Interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim

GOAL = 0.15
METRIC = "regret of the final profile, in standard deviations of a reward along the wish"
Table = Mapping[str, Mapping[str, Any]]


def people_claims(people: Table, command: str, seconds: float) -> list[Claim]:
    """Regret at most the goal, and less than by other pairs."""
    found = []
    for name in FULL:
        final_U = {policy: np.array(learned["final_U"]) for policy, learned in people[name].items()}
        chosen_U = final_U["information"]
        sides = [
            (f"after 25 choices by {policy} the regret is at most {GOAL}", f"the goal, {GOAL}", policy,
             np.full(len(chosen_U), GOAL), final_U[policy])
            for policy in ("information", "thompson")
        ] + [
            (f"pairs by information leave less regret than {policy} ones", policy, "information",
             final_U[policy], chosen_U)
            for policy in ("thompson", "random", "greedy")
        ]  # fmt: skip
        for claim, a, b, a_U, b_U in sides:
            found.append(
                make_claim(
                    f"{name}: {claim}", metric=METRIC, a=a, b=b, difference=paired_difference(a_U, b_U, seed=0),
                    prompts=len(chosen_U), seeds=SEEDS, command=command, seconds=seconds,
                )
            )  # fmt: skip
    return found


def logit_claims(people: Table, command: str, seconds: float) -> list[Claim]:
    """The goal in the harder unit, a person's own logits, which are twice the standard deviations."""
    found = []
    for name in FULL:
        own = people[name]["information"]
        logits_U = 2.0 * np.array(own["final_U"])
        found.append(
            make_claim(
                f"{name}: in logits of the person's own choices the regret is at most {GOAL}",
                metric="regret of the final profile, in logits", a=f"the goal, {GOAL}", b="pairs by information",
                difference=paired_difference(np.full(len(logits_U), GOAL), logits_U, seed=0),
                prompts=len(logits_U), seeds=SEEDS, command=command, seconds=seconds,
            )
        )  # fmt: skip
    return found


def embedded_claims(
    embedded: Mapping[str, Mapping[str, Sequence[float]]], seeds: Sequence[int], command: str, seconds: float
) -> list[Claim]:
    """Real answers, real scorers: against other pairs, against no learning, and against the true weights."""
    own_U = np.array(embedded["information"]["weights"])
    rows = [
        (f"pairs by {policy}", np.array(embedded[policy]["weights"])) for policy in ("thompson", "random", "greedy")
    ]
    rows += [
        ("any profile of the grid", np.array(embedded["information"]["any"])),
        ("the best profile by the scorers' means", np.array(embedded["information, places measured"]["best"])),
    ]
    found = [
        make_claim(
            f"embedded world: weights learned from 25 choices leave less regret than {name}",
            metric="regret in true utility on held-out questions, in standard deviations of an answer",
            a=name, b="pairs by information, the profile of the learned weights",
            difference=paired_difference(other_U, own_U, seed=0),
            prompts=len(own_U), seeds=seeds, command=command, seconds=seconds,
        )
        for name, other_U in rows
    ]  # fmt: skip
    truth_U = np.array(embedded["information"]["true weights"])
    found.append(
        make_claim(
            "embedded world: learned weights cost less than 0.25 more than the true ones set directly",
            metric="regret in true utility on held-out questions, in standard deviations of an answer",
            a="the true weights' regret + 0.25", b="pairs by information",
            difference=paired_difference(truth_U + 0.25, own_U, seed=0),
            prompts=len(own_U), seeds=seeds, command=command, seconds=seconds,
        )
    )  # fmt: skip
    return found


def sentence_intervals(counts: Sequence[Count]) -> tuple[Interval, Interval]:
    """Precision and recall over dimensions, with Wilson's intervals (1927): resampling would give a share of 1 none."""
    right, wrong, missed = (sum(getattr(c, name) for c in counts) for name in ("right", "wrong", "missed"))
    return share(right, right + wrong), share(right, right + missed)


def share(k: int, n: int) -> Interval:
    found = binomtest(k, n).proportion_ci(method="wilson")
    return Interval(k / n, float(found.low), float(found.high))


def sentence_claims(counts: Sequence[Count], command: str, seconds: float) -> list[Claim]:
    """On held-out sentences."""
    return [
        make_claim(
            f"held-out sentences: {name} is at least 0.7",
            metric=f"{name} of dimensions heard", a="sentences", b="0.7",
            difference=Interval(found.value - 0.7, found.low - 0.7, found.high - 0.7),
            prompts=len(counts), seeds=(0,), command=command, seconds=seconds,
        )
        for name, found in zip(("precision", "recall"), sentence_intervals(counts), strict=True)
    ]  # fmt: skip
