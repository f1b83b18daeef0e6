"""What averaging two parametrisations of one function loses."""

from typing import Any

import numpy as np
from experiments.psoups.flip import EXPERT, WEIGHTS
from experiments.psoups.study import Study, rounded

from counterpoint.evaluate.claims import Claim

ANSWERS = "flip/answers"


def reward_PW(study: Study, name: str) -> np.ndarray:
    """What the merged expert is for, at every weight of the twin."""
    d = study.settings[0].task.names.index(EXPERT[study.name])
    if name == "mixture":
        return study.z_PRD(ANSWERS, "mixture")[:, :, d]
    return np.stack([study.z_PRD(ANSWERS, f"average {w:g}")[:, 0, d] for w in WEIGHTS], axis=1)


def claims_of_flip(study: Study) -> list[Claim]:
    mixture_PW, average_PW = reward_PW(study, "mixture"), reward_PW(study, "average")
    claims = []
    for w in (0.1, 0.3, 0.5):
        at = WEIGHTS.index(w)
        text = f"at weight {w:g} of a twin of negated queries and keys, mixing distributions earns more than averaging"
        claims.append(study.earns_more(text, "mixture", "average", mixture_PW[:, at], average_PW[:, at]))
    return claims


def table_of_flip(study: Study) -> list[dict[str, Any]]:
    """By weight: reward, and KL from the one function in nats a token."""
    found = study.json("flip/distances.json")
    rewards = {name: reward_PW(study, name) for name in ("mixture", "average")}
    return [
        {
            "w": w,
            **{f"{name}_reward": rounded(reward[:, i]) for name, reward in rewards.items()},
            **{f"{name}_kl": round(float(np.mean([f[i][name] for f in found])), 7) for name in rewards},
            "logit_gap": max(f[i]["logit_gap"] for f in found),
        }
        for i, w in enumerate(WEIGHTS)
    ]
