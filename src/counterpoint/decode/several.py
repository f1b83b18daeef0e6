"""One language model made of several: each row is decoded by the model that its gate names.

Rows whose gate is over adapters belong to the base and its bank. An expert that is a whole model has rows of its own,
in a model that is loaded when a request first needs it, or on a server. All read and write the same token ids, so that
a request's rows can be mixed whichever models they come from.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from counterpoint.compose.plan import CONTROLLER
from counterpoint.models.gates import GATE
from counterpoint.types import CounterpointError, LanguageModel

INSTEAD = "use mixture-prob, mixture-log or route"
"""The methods that take an expert as a whole."""


@dataclass(frozen=True)
class Whole:
    """An expert that is a whole model: how it renders a prompt, its longest sequence in tokens, and how to load it.

    What `load` gives for a `remote` one is `Background`.
    """

    tokenizer: Any
    longest: int
    load: Callable[[], LanguageModel]
    remote: bool = False


@runtime_checkable
class Background(LanguageModel, Protocol):
    """A language model that is elsewhere, so that others can work while it does."""

    def start(self, tokens_B: Sequence[int]) -> "Future[Tensor]":
        """Begin a step, whose result is `[B, V + 1]`: the last column is for what the other columns do not know."""
        ...


def whole_model(gate: Mapping[str, float], whole: Mapping[str, Whole]) -> str | None:
    """The whole model, or the controller, that decodes a row with this gate, or None for the base and its adapters.

    Raises CounterpointError for a gate that asks a whole model for anything but itself: it has no delta to scale.
    """
    if CONTROLLER in gate:
        return CONTROLLER
    if any(key.startswith(GATE) for key in gate):
        return None
    active = {name: coefficient for name, coefficient in gate.items() if coefficient}
    named = next((name for name in active if name in whole), None)
    if named is None:
        return None
    if len(active) > 1:
        raise CounterpointError(f"expert {named!r} is a whole model, which cannot be blended inside another; {INSTEAD}")
    if active[named] != 1:
        raise CounterpointError(
            f"expert {named!r} is a whole model, which answers as it is, at strength 1 and not {active[named]:g}; "
            "mixture-prob and mixture-log take other strengths"
        )
    return named


class LostRows(CounterpointError):
    """Some rows could not take a step, by row why; the others did, and theirs of `logits_BV` are numbers."""

    def __init__(self, rows: Mapping[int, CounterpointError], logits_BV: Tensor) -> None:
        super().__init__(str(next(iter(rows.values()))))
        self.rows = rows
        self.logits_BV = logits_BV


class Several:
    """`LanguageModel` over a base and whole models, with one vocabulary: logits beyond it, of padded heads, are cut.

    Where any of them is remote, each row has one column more, for the tokens that a remote model does not report, and
    is -inf in those that its model knows nothing of.

    Each row has a place among its model's rows. Their order is not the order here, so that here a row may move anywhere
    while each model's rows move only towards the front.
    """

    def __init__(self, base: LanguageModel, whole: Mapping[str, Whole], vocabulary: int) -> None:
        self.whole = whole
        self.vocabulary = vocabulary
        self.columns = vocabulary + any(model.remote for model in whole.values())
        self._models: dict[str | None, LanguageModel] = {None: base}
        self._plain = whole.keys() - {CONTROLLER}
        self._owner_B: list[str | None] = []
        self._place_B: list[int] = []
        self._ahead = 0
        """How many rows were stepped last; they are the first, of each model as well."""
        self._filling: list[str | None] = []
        """The models that have yet to fill rows."""

    def join(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows; where a model cannot be loaded or refuses a context, none joins."""
        before = len(self._owner_B)
        self.begin(contexts, gates)
        try:
            self.fill()
        except BaseException:
            self.keep(range(before))
            raise

    def begin(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows that `fill` has yet to fill; what is raised is as in `join`."""
        owners = [whole_model(gate, self.whole) for gate in gates]
        models = {owner: self._model(owner) for owner in owners}
        live = Counter(self._owner_B)
        try:
            for owner, model in models.items():
                mine = [row for row, other in enumerate(owners) if other == owner]
                model.begin(
                    [contexts[row] for row in mine], [{} if owner in self._plain else gates[row] for row in mine]
                )
        except BaseException:
            for owner, model in models.items():
                model.keep(range(live[owner]))
            raise
        for owner in owners:
            self._place_B.append(live[owner])
            live[owner] += 1
        self._owner_B += owners
        self._filling = list(models)

    def fill(self, most: int | None = None) -> bool:
        """Fill rows that joined: of each model at most `most` tokens, or all; whether all are filled."""
        while self._filling:
            if not self._models[self._filling[0]].fill(most):
                return False
            self._filling.pop(0)
        return True

    def step(self, tokens_B: Sequence[int]) -> Tensor:
        """Feed one token to each of the first rows, in one forward per model; logits `[B, columns]`.

        Raises `LostRows` where a model that is elsewhere fails.
        """
        self._ahead = len(tokens_B)
        rows = {owner: mine for owner in self._models if (mine := self._rows_of(owner, range(self._ahead)))}
        parts, errors = self._parts({owner: [tokens_B[row] for row in mine] for owner, mine in rows.items()})
        device = next((part.device for part in parts.values()), None)
        wide_BV = torch.full((len(tokens_B), self.columns), -math.inf, device=device)
        for owner, part_BV in parts.items():
            wide_BV[rows[owner], : part_BV.shape[1]] = part_BV.to(wide_BV.device)
        if errors:
            lost = {row: error for owner, error in errors.items() for row in rows[owner]}
            wide_BV[list(lost)] = math.nan
            raise LostRows(lost, wide_BV)
        return wide_BV

    def extend(self, rows: Sequence[int], tokens_RT: Sequence[Sequence[int]]) -> Tensor:
        """Feed some rows several tokens each, in one forward per model; logits `[R, T, columns]`."""
        parts = {}
        for owner, model in self._models.items():
            if mine := [index for index, row in enumerate(rows) if self._owner_B[row] == owner]:
                parts[owner] = (
                    mine,
                    model.extend([self._place_B[rows[index]] for index in mine], [tokens_RT[index] for index in mine]),
                )
        first = next(iter(parts.values()))[1]
        wide_RTV = first.new_full((len(rows), first.shape[1], self.columns), -math.inf)
        for mine, part_RTV in parts.values():
            width = min(part_RTV.shape[-1], self.vocabulary)
            wide_RTV[mine, :, :width] = part_RTV[..., :width].to(wide_RTV.device)
        return wide_RTV

    def _parts(
        self, tokens: Mapping[str | None, list[int]]
    ) -> tuple[dict[str | None, Tensor], dict[str | None, CounterpointError]]:
        """What each model says to its tokens, and why some do not; those elsewhere work while those here do."""
        steps: dict[str | None, Future[Tensor]] = {}
        errors: dict[str | None, CounterpointError] = {}
        try:
            for owner in tokens:
                if isinstance(model := self._models[owner], Background):
                    steps[owner] = model.start(tokens[owner])
            parts = {
                owner: self._models[owner].step(tokens[owner])[:, : self.vocabulary] for owner in tokens.keys() - steps
            }
            for owner, step in steps.items():
                try:
                    parts[owner] = step.result()
                except CounterpointError as error:
                    errors[owner] = error
        except BaseException:
            for step in steps.values():
                step.cancel()
            raise
        return parts, errors

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which take the places 0, 1, ... in any order; first those that were stepped."""
        ahead = {row for row in rows if row < self._ahead}
        moved: dict[str | None, dict[int, int]] = {}
        for owner, model in self._models.items():
            mine = [row for row in rows if self._owner_B[row] == owner]
            order = compacted({self._place_B[row] for row in mine if row in ahead})
            order += compacted({self._place_B[row] for row in mine if row not in ahead}, len(order))
            model.keep(order)
            moved[owner] = {old: new for new, old in enumerate(order)}
        self._place_B = [moved[self._owner_B[row]][self._place_B[row]] for row in rows]
        self._owner_B = [self._owner_B[row] for row in rows]
        self._ahead = len(ahead)

    def _rows_of(self, owner: str | None, among: range) -> list[int]:
        """The rows that a model decodes, in the order in which it holds them."""
        return sorted((row for row in among if self._owner_B[row] == owner), key=self._place_B.__getitem__)

    def _model(self, owner: str | None) -> LanguageModel:
        if owner is not None and owner not in self._models:
            self._models[owner] = self.whole[owner].load()
        return self._models[owner]


def compacted(kept: Collection[int], first: int = 0) -> list[int]:
    """An order for rows that stay, in which a row moves only towards the front: into a place that is given up.

    Rows 1, 4 and 6 of seven become [4, 1, 6]: `order[i] >= i`, and no more rows move than must. Rows that are to begin
    at the place `first` are none before it.
    """
    end = first + len(kept)
    late = iter(sorted(row for row in kept if row >= end))
    return [row if row in kept else next(late) for row in range(first, end)]
