"""Weights that differ from layer to layer: a table from ranges of layers to how much of each expert.

{"0-11": {"concise": 1}, "12-23": {"concise": 0.5, "friendly": 0.5}}
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from counterpoint.artifacts import read_json
from counterpoint.compose.soup import Coefficients
from counterpoint.types import CounterpointError

LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
"""Where the families here say in a module's name which layer it is of."""


@dataclass(frozen=True)
class Span:
    """A row of the table: layers `first` to `last`, both included, and what it says of them."""

    first: int
    last: int
    value: Any

    def said(self, read: Callable[[Any], Mapping[str, float]]) -> "Span":
        """The row with coefficients in the place of what was written."""
        return replace(self, value=read(self.value))

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def read_layers(path: Path) -> list[Span]:
    """Read a table of layers from a JSON file. Raises CounterpointError for ranges that are none, or that overlap."""
    raw = read_json(path)
    if not isinstance(raw, dict) or not raw:
        raise CounterpointError(f'{path}: expected ranges of layers as in {{"0-11": {{...}}}}, found {raw!r}')
    spans = sorted((_span(path, key, value) for key, value in raw.items()), key=lambda span: span.first)
    for one, other in pairwise(spans):
        if other.first <= one.last:
            raise CounterpointError(f"{path}: layer {other.first} is in the ranges {one} and {other}; name it once")
    return spans


def _span(path: Path, key: str, value: Any) -> Span:
    found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", key)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise CounterpointError(f"{path}: {key!r} is no range of layers; expected such as 0-11, or 12 for one layer")
    return Span(int(found[1]), int(found[2] or found[1]), value)


def layer_of(module: str) -> int | None:
    """The layer that a module or a parameter is of, by its name; None for embeddings, heads and final norms."""
    found = LAYER.search(module)
    return int(found[1]) if found else None


def check_layers(spans: Sequence[Span], layers: int) -> None:
    """Raise CounterpointError for a range beyond a model's layers."""
    for span in spans:
        if span.last >= layers:
            raise CounterpointError(f"table of layers: range {span} ends after the model's last layer, {layers - 1}")


def by_layer(spans: Sequence[Span], rest: Mapping[str, float] | None) -> Coefficients:
    """Coefficients by module: the value of its layer's range, and `rest` for layers and modules in none.

    The function raises CounterpointError for a module in no range where there is no `rest`.
    """

    def at(module: str) -> Mapping[str, float]:
        layer = layer_of(module)
        for span in spans:
            if layer is not None and span.first <= layer <= span.last:
                coefficients: Mapping[str, float] = span.value
                return coefficients
        if rest is None:
            where = "which is of no layer" if layer is None else f"whose layer {layer} is in no range"
            raise CounterpointError(
                f"table of layers: nothing is said of {module!r}, {where}; give the rest a profile, or a range"
            )
        return rest

    return at
