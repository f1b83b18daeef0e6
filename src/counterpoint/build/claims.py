"""What may be claimed from builds: paired differences over the same prompts, averaged over training seeds."""

from collections.abc import Sequence

import numpy as np

from counterpoint.build.judge import selected
from counterpoint.build.present import Built
from counterpoint.evaluate.bootstrap import paired_difference
from counterpoint.evaluate.claims import Claim, make_claim
from counterpoint.evaluate.compare import profile_rewards

CLAIMS = (
    ("soup@best", "base"),
    ("soup@best", "soup"),
    ("soup@best", "best-expert@best"),
    ("mixture-log@best", "best-expert@best"),
    ("soup@best", "prompted"),
    ("mixture-log@best", "mixture-prob@best"),
    ("soup@best", "mixture-log@best"),
    ("soup@best", "route@best"),
)


def reward_claims(builts: Sequence[Built], seeds: Sequence[int], command: str, seconds: float) -> list[Claim]:
    """For each pair of `CLAIMS`: does the first method earn more reward on held-out prompts than the second?"""
    return [
        make_claim(
            f"{a} earns more than {b}",
            metric="mean reward by the judge, in standard deviations of the pool",
            a=a,
            b=b,
            difference=paired_difference(rewards(builts, a), rewards(builts, b), seed=0),
            prompts=len(builts[0].task.test_prompts),
            seeds=list(seeds),
            command=command,
            seconds=round(seconds, 1),
        )
        for a, b in CLAIMS
    ]


def rewards(builts: Sequence[Built], name: str) -> np.ndarray:
    """`reward_P` of an entry: the mean over profiles and seeds."""
    by_seed = []
    for built in builts:
        judged = built.judged
        m = [entry.name for entry in judged.entries].index(name)
        reward_PR = profile_rewards(judged.scores_MPRD[m], selected(built.task, judged.profiles))
        by_seed.append(reward_PR.mean(axis=1))
    mean_P: np.ndarray = np.stack(by_seed).mean(axis=0)
    return mean_P
