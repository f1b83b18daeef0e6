"""What a user's own comparisons are divided into before anything is learned from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.artifacts import MANIFEST, check_folder, check_place, write_json
from counterpoint.data.comparisons import write_comparisons
from counterpoint.data.examples import of_dimension
from counterpoint.data.split import split_by_prompt
from counterpoint.models.load import check_family
from counterpoint.rewards.bradley_terry import short_enough
from counterpoint.train.run import TrainResult
from counterpoint.types import Comparison, CounterpointError

METRICS = "metrics.json"
HELD_OUT = "held_out.jsonl"


@dataclass(frozen=True)
class Divided:
    """One dimension's comparisons: `seen` are learned from, `unseen` measure.

    `too_long` more were left out, since they have more than `longest` tokens. A `share` of the prompts, drawn with
    `seed`, is held out.
    """

    dimension: str
    seen: tuple[Comparison, ...]
    unseen: tuple[Comparison, ...]
    too_long: int
    longest: int
    share: float
    seed: int

    def __str__(self) -> str:
        return (
            f"{len(self.seen)} pairs of {prompts_of(self.seen)} prompts to learn from, {len(self.unseen)} of "
            f"{prompts_of(self.unseen)} other prompts to measure by; {self.too_long} pairs of more than {self.longest} "
            "tokens left out"
        )

    def to_dict(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        return {
            "dimension": self.dimension,
            "learned": {"pairs": len(self.seen), "prompts": prompts_of(self.seen)},
            "held_out": {"pairs": len(self.unseen), "prompts": prompts_of(self.unseen)},
            "too_long": self.too_long,
            "max_length": self.longest,
            "holdout": self.share,
            "seed": self.seed,
        }


def prompts_of(comparisons: Sequence[Comparison]) -> int:
    """How many different prompts there are."""
    return len({c.prompt for c in comparisons})


def divide(
    comparisons: Sequence[Comparison], dimension: str, tokenizer: Any, longest: int, share: float, seed: int
) -> Divided:
    """Leave out what is too long, and hold out a share of the prompts.

    Raises CounterpointError for a dimension that is not there, and where too little is left.
    """
    own = of_dimension(comparisons, dimension)
    kept, long = short_enough(own, tokenizer, longest)
    if not kept:
        raise CounterpointError(
            f"dimension {dimension!r}: all {len(own)} pairs have more than {longest} tokens; raise --max-length"
        )
    seen, unseen = split_by_prompt(kept, dimension, share, seed)
    return Divided(dimension, tuple(seen), tuple(unseen), len(long), longest, share, seed)


def longest_of(model: str, asked: int | None = None) -> int:
    """How many tokens a training sequence may have: as asked, or else 1024 or what the model has positions for.

    Raises CounterpointError for more than the model has.
    """
    positions = check_family(model)
    if asked is not None and not 1 <= asked <= positions:
        raise CounterpointError(f"max length is {asked}, but {model} takes from 1 to {positions} tokens")
    return min(1024, positions) if asked is None else asked


def claim_folder(folder: Path, *marks: str) -> None:
    """Refuse a folder that holds anything but an earlier artefact with the files `marks`: a new one takes its place."""
    check_place(folder)
    check_folder(folder)
    if folder.exists() and any(folder.iterdir()) and not all((folder / mark).exists() for mark in (MANIFEST, *marks)):
        raise CounterpointError(
            f"{folder}: holds other files, which would be lost; name a folder that is not there yet"
        )


def outcome(result: TrainResult, steps: int) -> str:
    """What a training stage says when it ends."""
    if not result.fresh:
        return "was there already, trained on the same pairs with the same settings"
    return f"{steps} steps, loss {result.losses[0]:.3f} at first and {result.losses[-1]:.3f} at last"


def write_metrics(folder: Path, divided: Divided, measured: dict[str, Any]) -> dict[str, Any]:
    """Write what was measured and on which pairs beside a model, and return the former."""
    metrics = {**divided.to_dict(), **measured}
    write_comparisons(folder / HELD_OUT, divided.unseen)
    write_json(folder / METRICS, metrics)
    return metrics
