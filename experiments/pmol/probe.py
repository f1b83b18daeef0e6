"""Does a PMoL's router see the preference that an answer serves, or what its question is about?

    python -m experiments.pmol.run --parts probe        after experiments.world.run

Gates learn three preferences of the embedded world from pairs of two kinds: `shared` has every preference on all
topics, so that the answer alone tells it, and `own` has each on four topics of its own, so that the question tells it
too. They are then shown test questions with answers that the world's grammar writes in a preference's manner, which no
model has said: also such as go with another preference's topic. A router before its first step (`untrained`) says what
shares tell in any case, since they are a linear map of what a layer reads.
"""

from pathlib import Path
from typing import Any, get_args

import numpy as np
from experiments.pmol.probe_answers import follows
from experiments.pmol.probe_overlap import overlap
from experiments.pmol.probe_setting import (
    NAMES,
    Data,
    Text,
    gate_config,
    given_experts,
    learned_pairs,
    shown,
    trained,
    untrained,
)
from experiments.pmol.probe_shares import Shares, shares_over
from experiments.pmol.probe_tell import by_question, followed, loudest, read_as_learned, told_apart
from experiments.pmol.scaling_clock import Clock
from experiments.pmol.scaling_tell import tellable

from counterpoint.artifacts import read_json, write_json
from counterpoint.decode.band import Band

SEEDS = (0, 1, 2)
BALANCES = (0.0, 0.1, 1.0)
"""Weights of the expert-group soft loss; 0.1 is the default."""
UNTRAINED, GIVEN = "untrained", "given"
"""A router as it starts, and one over experts that were trained before and stay as they are."""


def run(work: Path, shared: Path | None, quick: bool = False) -> None:
    """Probe every seed that is not there yet."""
    out, builds = work / "probe", work.parent / "seeds"
    clock, found = Clock(out / "seconds.json"), []
    for seed in SEEDS[:1] if quick else SEEDS:
        build, here = builds / str(seed), out / str(seed)
        routers = {title: _kept(title, build, seed, here) for title in titles(quick)}
        told = {data: tellable(learned_pairs(build, data, seed)) for data in get_args(Data)}
        both = overlap(build, seed, here / "overlap", quick)
        found.append({"routers": routers, "overlap": both, "tellable": told})
        write_json(work / "probe.json", {"seeds": found, "seconds": clock.seconds()})


def titles(quick: bool) -> list[str]:
    """The routers that are probed: by the kind of their pairs, the weight of the group loss, and their experts."""
    balances = BALANCES[1:2] if quick else BALANCES
    new = [f"{data} {balance:g}" for balance in balances for data in ("shared", "own")]
    return [UNTRAINED, *new, f"shared {GIVEN}", f"own {GIVEN}"]


def _kept(title: str, build: Path, seed: int, out: Path) -> dict[str, Any]:
    file = out / f"{title}.json"
    if not file.exists():
        band = band_of(title, build, seed, out / f"gate-{title}")
        write_json(file, {**probed(band, seed), "answers": follows(band, build, seed)})
    found: dict[str, Any] = read_json(file)
    return found


def band_of(title: str, build: Path, seed: int, out: Path) -> Band:
    """The band with the gate of a title, trained unless it is there."""
    if title == UNTRAINED:
        return untrained(gate_config(build, seed, NAMES, 0.0), out)
    data, how = title.split()
    pairs = learned_pairs(build, "own" if data == "own" else "shared", seed)
    if how == GIVEN:
        return trained(gate_config(build, seed, NAMES, BALANCES[1], router=True), pairs, out, given_experts(build))
    return trained(gate_config(build, seed, NAMES, float(how)), pairs, out)


def probed(band: Band, seed: int) -> dict[str, Any]:
    """What a router's shares tell of texts, as accuracies and rates by question `[P]`."""
    texts = shown(band, seed)
    shares = shares_over(band, "pmol", [text.example for text in texts])
    manner, owner = [text.manner for text in texts], [text.owner for text in texts]
    response_NF, prompt_NF = shares.response_NJE.flatten(1).numpy(), shares.prompt_NJE.flatten(1).numpy()
    mean_NE = shares.response_NJE.mean(1).numpy()
    found = {
        "preference from the response": told_apart(response_NF, manner, texts),
        "preference from the response, mean over layers": told_apart(mean_NE, manner, texts),
        "preference from the prompt": told_apart(prompt_NF, manner, texts),
        "topic's owner from the response": told_apart(response_NF, owner, texts),
        "topic's owner from the prompt": told_apart(prompt_NF, owner, texts),
        "loudest group is the preference": by_question(loudest(shares) == np.array(manner), texts),
        "loudest group is the topic's owner": by_question(loudest(shares) == np.array(owner), texts),
    }
    return {
        "accuracy": listed(found),
        "by layer": by_layer(shares, manner, texts),
        "swapped, loudest": listed(followed(loudest(shares), texts)),
        "swapped, regression": listed(followed(read_as_learned(response_NF, texts), texts)),
        "mass": masses(shares, texts),
        "empty": round(float(shares.empty_N.mean()), 4),
    }


def listed(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: values_P.astype(float).round(4).tolist() for name, values_P in found.items()}


def by_layer(shares: Shares, labels: list[str], texts: list[Text]) -> list[float]:
    """The accuracy of a response's preference from the shares of each layer of the model alone."""
    layers = [int(module.split(".layers.")[1].split(".")[0]) for module in shares.modules]
    features = shares.response_NJE.numpy()
    rows = [[j for j, layer in enumerate(layers) if layer == one] for one in sorted(set(layers))]
    return [round(float(told_apart(features[:, j].reshape(len(texts), -1), labels, texts).mean()), 4) for j in rows]


def masses(shares: Shares, texts: list[Text]) -> dict[str, dict[str, float]]:
    """The mean mass of the groups of a response's preference, of its topic's owner, and of the third; by agreement."""
    mass_NG = shares.mass(NAMES).numpy()
    manner_N, owner_N = (np.array([NAMES.index(getattr(t, of)) for t in texts]) for of in ("manner", "owner"))
    agree_N, row_N = manner_N == owner_N, np.arange(len(texts))
    own_N, topic_N = mass_NG[row_N, manner_N], mass_NG[row_N, owner_N]
    rest_N = mass_NG.sum(1) - own_N - topic_N
    return {
        "agree": {"preference": _mean(own_N[agree_N])},
        "swapped": {
            "preference": _mean(own_N[~agree_N]),
            "topic": _mean(topic_N[~agree_N]),
            "third": _mean(rest_N[~agree_N]),
        },
    }


def _mean(values_N: np.ndarray) -> float:
    return round(float(values_N.mean()), 4)
