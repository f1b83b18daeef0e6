"""The laws' band: over a pico model of each family, and of one family in each type of number."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from counterpoint.decode.band import Band
from counterpoint.models.load import FAMILIES, parse_dtype


@pytest.fixture(scope="session")
def band_of(band_folder_of: Callable[[str], Path]) -> Callable[[str], Band]:
    """The band of "family", or of "family-dtype", loaded once."""

    @cache
    def load(name: str) -> Band:
        family, _, dtype = name.partition("-")
        return Band.load(band_folder_of(family), parse_dtype(dtype or "float32"))

    return load


@pytest.fixture(params=FAMILIES)
def band(request: pytest.FixtureRequest, band_of: Callable[[str], Band]) -> Iterator[Band]:
    """Experts that a test adds are taken away after it."""
    band: Band = band_of(request.param)
    before = set(band.bank.experts)
    yield band
    for name in set(band.bank.experts) - before:
        band.bank.remove(name)
    band.bank.unwrap()
