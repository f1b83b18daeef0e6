"""The band's own reward models, which say what an answer has of each dimension; loaded when they are first needed."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from counterpoint.rewards.bradley_terry import FILE, read_record
from counterpoint.rewards.load import check_lengths, load_rewards
from counterpoint.serve.errors import Broken
from counterpoint.types import CounterpointError, Prompt, RewardFn

REWARDS = "rewards"


class Scorers:
    """The reward models in a band's folder, if there are any. Any thread may use it; one at a time does."""

    def __init__(self, band: Path | None) -> None:
        self._folder = band / REWARDS if band else None
        self._busy = threading.Lock()

    @cached_property
    def dimensions(self) -> tuple[str, ...]:
        """What can be scored, as the models' records say it: nothing is loaded for this."""
        found = [*self._folder.glob(FILE), *sorted(self._folder.glob(f"[!.]*/{FILE}"))] if self._folder else []
        with _broken():
            return tuple(dict.fromkeys(name for path in found for name in _dimensions(path.parent)))

    def scores(self, prompt: Prompt, responses: Sequence[str]) -> list[dict[str, float]]:
        """Of each response to a prompt, the score by dimension, in the models' own units.

        Raises CounterpointError for a response that is too long for a model, `Broken` for a model that cannot be read.
        """
        with self._busy:
            check_lengths(self._models, prompt, responses)
            found: list[dict[str, float]] = [{} for _ in responses]
            for model in self._models:
                rows = model([prompt] * len(responses), responses)
                for scores, row in zip(found, rows.tolist(), strict=True):
                    scores |= zip(model.dimensions, row, strict=True)
        return found

    @cached_property
    def _models(self) -> list[RewardFn]:
        if not self._folder or not self.dimensions:
            raise CounterpointError("this band has no reward models; `counterpoint train reward` makes them")
        with _broken():
            return load_rewards(self._folder)


@contextmanager
def _broken() -> Iterator[None]:
    """What is wrong with a file is the operator's to mend."""
    try:
        yield
    except CounterpointError as error:
        raise Broken(str(error)) from error


def _dimensions(folder: Path) -> Sequence[str]:
    """Of a reward model of whichever kind: it names one dimension, several, or by dimension what steers it."""
    record = read_record(folder)
    names: Sequence[str] | Mapping[str, str] = (
        record.get("requests") or record.get("dimensions") or [record["dimension"]]
    )
    return list(names)
