"""What merging by factors costs: the error of the update beside the reward of the answers."""

from typing import Any

import numpy as np
from experiments.psoups.merges import STARTS, groups, methods_for
from experiments.psoups.study import Study, rounded

from counterpoint.evaluate.claims import Claim

ANSWERS = "merges/answers"


def claims_of_merges(study: Study) -> list[Claim]:
    """The exact sum against every other merge, and experts that start alike against ones that do not."""
    claims = []
    for size, profiles in groups(study.settings[0]).items():
        of = f"of {size} experts" if size > 1 else "alone"
        for at in ("1", "best"):
            earned = {
                (start, method): study.reward_P(ANSWERS, f"{start} {method} {size}@{at}", profiles)
                for start in STARTS
                for method in methods_for(size)
            }
            rivals = [((start, "delta"), (start, rival)) for start in STARTS for rival in methods_for(size)[1:]]
            for a, b in [*rivals, (("shared", "delta"), ("independent", "delta"))]:
                text = f"{of} at {at}: {' '.join(a)} earns more than {' '.join(b)}"
                claims.append(study.earns_more(text, " ".join(a), " ".join(b), earned[a], earned[b]))
    return claims


def table_of_merges(study: Study) -> dict[str, Any]:
    """By start, method and number of experts: relative error, best strength and reward; and how far A are apart."""
    found = study.json("merges/found.json")
    table: dict[str, Any] = {
        f"{start} A": {"distance": round(float(np.mean([f[f"{start} A"]["distance"] for f in found])), 4)}
        for start in STARTS
    }
    for start in STARTS:
        for size, profiles in groups(study.settings[0]).items():
            for method in methods_for(size):
                title = f"{start} {method} {size}"
                measured = study.measured(ANSWERS, f"{title}@1")
                table[title] = {
                    "relative_error": round(float(np.mean([f[title]["error"] for f in found])), 4),
                    "best_strengths": [f[title]["strength"] for f in found],
                    "reward@1": rounded(study.reward_P(ANSWERS, f"{title}@1", profiles)),
                    "reward@best": rounded(study.reward_P(ANSWERS, f"{title}@best", profiles)),
                    "nats_per_token_from_base@1": round(float(np.mean([m.ratio_PR.mean() for m in measured])), 4),
                }
    return table
