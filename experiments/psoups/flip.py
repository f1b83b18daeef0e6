"""One function, two sets of parameters: what is lost when they are averaged, and when their distributions are mixed.

M1 is the base with one expert merged into it. M2 is M1 with the query and key projections of two layers negated: q . k
and so the function stay, since a rotation of positions is linear. It is the robustness experiment of MOD (arXiv
2406.18853), on models of which one has something to lose.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments.mope.measure import measure
from experiments.mope.setting import Setting

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose.mixture import mix_prob
from counterpoint.data.examples import Example, example
from counterpoint.decode.band import Band
from counterpoint.models.adapter import merge_into, read_adapter
from counterpoint.models.load import load_model, quiet
from counterpoint.types import Profile

LAYERS = 2
EXPERT = {"world": "informative", "stories": "dialogue"}
WEIGHTS = tuple(step / 10 for step in range(11))


def run_flip(setting: Setting, out: Path) -> None:
    """Answer by the average and by the mixture at every weight of M2, and measure how far either is from M1."""
    folder = out / "flip"
    first, second = folder / "first", folder / "second"
    model = load_model(setting.task.model)
    merge_into(model, read_adapter(setting.folder / "band" / "experts" / EXPERT[setting.name]))
    twin = flipped(model)
    for part, place in ((model, first), (twin, second)):
        save(setting, part, place)
    both = replace(setting, band=Band.assemble(first, {"first": first, "second": second}))
    plans = [both.band.plan(Profile({"first": 1 - w, "second": w}), "mixture-prob") for w in WEIGHTS]
    measure(both, "mixture", plans, folder / "answers")
    spoken = answers_of_first(both, read_json(folder / "answers" / "mixture.json")["texts"])
    distances = []
    for w in WEIGHTS:
        mean = average(model, twin, w)
        distances.append(distance(model, twin, mean, w, spoken))
        save(setting, mean, folder / "average")
        alone = replace(setting, band=Band.assemble(folder / "average", {}))
        measure(alone, f"average {w:g}", [alone.band.plan(None, "base")], folder / "answers")
    write_json(folder / "distances.json", distances)


def flipped(model: Any) -> Any:
    """A copy with W_Q and W_K negated in the first layers."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in twin.model.layers[:LAYERS]:
            layer.self_attn.q_proj.weight.neg_()
            layer.self_attn.k_proj.weight.neg_()
    return twin


def average(model: Any, twin: Any, w: float) -> Any:
    """The mean of all parameters with weight w on the twin's."""
    mean = copy.deepcopy(model)
    with torch.no_grad():
        for own, other in zip(mean.parameters(), twin.parameters(), strict=True):
            own.lerp_(other, w)
    return mean


def save(setting: Setting, model: Any, place: Path) -> None:
    with quiet():
        model.save_pretrained(place)
    setting.band.tokenizer.save_pretrained(place)


@torch.no_grad()
def distance(model: Any, twin: Any, mean: Any, w: float, spoken: Sequence[Example]) -> dict[str, float]:
    """KL from M1 in nats a token, over the tokens of its own answers, and the largest gap of a logit of M1 and M2."""
    kl: dict[str, list[float]] = {"mixture": [], "average": []}
    gap = 0.0
    for said in spoken:
        ids = torch.tensor([[*said.prompt_ids, *said.response_ids]])
        logits_KTV = torch.stack([part(ids).logits[0, len(said.prompt_ids) - 1 : -1] for part in (model, twin, mean)])
        gap = max(gap, float((logits_KTV[0] - logits_KTV[1]).abs().max()))
        logp_KTV = torch.log_softmax(logits_KTV, dim=-1)
        mixed_TV = mix_prob(logp_KTV[:2].transpose(0, 1), torch.tensor([1 - w, w]))
        for name, other_TV in (("mixture", mixed_TV), ("average", logp_KTV[2])):
            kl[name].append(float((logp_KTV[0].exp() * (logp_KTV[0] - other_TV)).sum(-1).mean()))
    return {"w": w, "logit_gap": gap, **{name: float(np.mean(values)) for name, values in kl.items()}}


def answers_of_first(setting: Setting, texts: Sequence[str]) -> list[Example]:
    """What M1 alone said, the first of the mixture's answers to each prompt."""
    own = texts[:: len(WEIGHTS)]
    return [example(p, text, setting.band.tokenizer) for p, text in zip(setting.task.test_prompts, own, strict=True)]
