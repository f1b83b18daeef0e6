"""A reward model from a user's own comparisons, of one dimension or of several, measured on prompts it has not seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.artifacts import read_json, write_json
from counterpoint.build.pairs import (
    HELD_OUT,
    METRICS,
    Divided,
    claim_folder,
    divide,
    outcome,
    prompts_of,
    write_metrics,
)
from counterpoint.data.comparisons import write_comparisons
from counterpoint.data.split import opening
from counterpoint.evaluate.accuracy import measure_reward
from counterpoint.rewards.bradley_terry import FILE, BradleyTerryReward
from counterpoint.rewards.load import load_reward, one_of
from counterpoint.rewards.scorer import Scorer
from counterpoint.stages import Stages
from counterpoint.train.k_head import KHeadConfig, train_k_head
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.steered import SteeredConfig, train_steered
from counterpoint.types import Comparison, CounterpointError, RewardFn


def claim_reward(out: Path, dimensions: Sequence[str]) -> None:
    """Refuse an output folder that holds anything but a reward model of the same dimensions."""
    claim_folder(out, FILE)
    if not (out / FILE).exists():
        return
    record = read_json(out / FILE)
    found = list(record.get("requests") or record.get("dimensions") or [record.get("dimension")])
    if set(found) != set(dimensions):
        raise CounterpointError(
            f"{out}: holds a reward model of {', '.join(map(str, found))}, which one of {', '.join(dimensions)} would "
            "replace; name another folder"
        )


def learn_reward(
    config: RewardModelConfig, divided: Divided, out: Path, stages: Stages, device: str = "cpu"
) -> dict[str, Any]:
    """Train a reward model into `out` and return what `out/metrics.json` says of it.

    Its accuracy on held-out prompts is beside that of a word counter whose direction is learned from the same pairs.
    Raises CounterpointError where `out` holds anything but a reward model of this dimension.
    """
    claim_reward(out, [config.dimension])
    with stages.stage(f"reward model of {divided.dimension}", str(divided)) as bar:
        result = train_reward_model(config, divided.seen, out, progress=bar.task("steps"))
        bar.note(outcome(result, config.steps))
    measured = measure(BradleyTerryReward.load(out, device=device), divided, config.seed, stages)
    return write_metrics(out, divided, {"fresh": result.fresh, "last_loss": result.losses[-1], **measured})


def learn_shared_reward(
    config: KHeadConfig | SteeredConfig, divided: Sequence[Divided], out: Path, stages: Stages, device: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """Train one reward model for all dimensions into `out` and return what `out/metrics.json` says, by dimension.

    It has a head for each, or is steered by their requests. Each dimension is measured as `learn_reward` does;
    `divided` are to agree on the prompts (`divide_together`), which are bare.
    """
    claim_reward(out, config.dimensions)
    way = "that a request tells which" if isinstance(config, SteeredConfig) else "with a head for each"
    names = ", ".join(config.dimensions)
    with stages.stage("reward model of several dimensions", f"one model {way}: {names}") as bar:
        for part in divided:
            bar.note(f"{part.dimension}: {part}")
        seen = [comparison for part in divided for comparison in part.seen]
        report = bar.task("steps")
        if isinstance(config, SteeredConfig):
            result = train_steered(config, seen, out, progress=report)
        else:
            result = train_k_head(config, seen, out, progress=report)
        bar.note(outcome(result, config.steps))
    model, trained = load_reward(out, device), {"fresh": result.fresh, "last_loss": result.losses[-1]}
    of = {name: one_of(model, name, name) for name in config.dimensions}
    metrics = {
        p.dimension: {**p.to_dict(), **trained, **measure(of[p.dimension], p, config.seed, stages)} for p in divided
    }
    write_comparisons(out / HELD_OUT, [comparison for part in divided for comparison in part.unseen])
    write_json(out / METRICS, metrics)
    return metrics


def measure(reward: RewardFn, divided: Divided, seed: int, stages: Stages) -> dict[str, Any]:
    """A reward's accuracy on one dimension's held-out pairs, and that of length."""
    with stages.stage(f"held-out pairs of {divided.dimension}", "see how often it prefers the chosen response") as bar:
        scorer = Scorer(reward, bar.task("responses"), 2 * len(divided.unseen))
        quality = measure_reward(scorer, divided.dimension, divided.seen, divided.unseen, seed)
    return {"accuracy": quality.accuracy.to_dict(), "length_accuracy": quality.by_length.to_dict()}


def divide_together(
    comparisons: Sequence[Comparison], dimensions: Sequence[str], tokenizer: Any, longest: int, share: float, seed: int
) -> list[Divided]:
    """As `divide`, but a prompt is held out of all dimensions or of none, since one model learns from all of them.

    What the model saw of a response on one dimension could give it away on another. The openings of all prompts stand
    in one drawn order, of which the first are held out: the fewest that leave every dimension as many as `divide`
    would hold out.
    """
    parts = [divide(comparisons, name, tokenizer, longest, share, seed) for name in dimensions]
    openings_D = [_openings((*part.seen, *part.unseen)) for part in parts]
    kept = set().union(*openings_D)
    openings = [text for text in dict.fromkeys(opening(c.prompt) for c in comparisons) if text in kept]
    order = [openings[index] for index in np.random.default_rng(seed).permutation(len(openings))]
    ends = [_end(order, own, len(_openings(part.unseen))) for own, part in zip(openings_D, parts, strict=True)]
    held = set(order[: max(ends)])
    return [_divided_by(part, held) for part in parts]


def room_for(requests: Sequence[tuple[str, str]], tokenizer: Any, longest: int) -> int:
    """How many tokens a bare prompt and its response may have, so that any request has room after the prompt.

    Raises CounterpointError where a request alone takes it all.
    """
    said = max((len(tokenizer(f" {text}", add_special_tokens=False)["input_ids"]) for _, text in requests), default=-1)
    room = longest - (said + 1)  # one more, since a request may change how the prompt's end is cut into tokens
    if room < 1:
        raise CounterpointError(f"a request has {said} tokens, which leaves no room in {longest}; raise --max-length")
    return room


def _openings(comparisons: Sequence[Comparison]) -> set[str]:
    return {opening(c.prompt) for c in comparisons}


def _end(order: Sequence[str], own: set[str], count: int) -> int:
    """How long a beginning of the order holds `count` of a dimension's own openings."""
    return [place for place, text in enumerate(order, start=1) if text in own][count - 1]


def _divided_by(part: Divided, held: set[str]) -> Divided:
    both = (*part.seen, *part.unseen)
    seen, unseen = (tuple(c for c in both if (opening(c.prompt) in held) == wanted) for wanted in (False, True))
    if not seen:
        raise CounterpointError(
            f"dimension {part.dimension!r}: all its {prompts_of(both)} prompts are held out, so that every dimension "
            "has some to measure by; give more comparisons, or leave out the dimension that has the fewest"
        )
    return replace(part, seen=seen, unseen=unseen)
