"""A band whose keys and values are held to so many bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.types import Completion, CounterpointError, Prompt

LONG = "Tell me of the owl and the bee, and of the colour of the sky, and who you would ask about it if you could."
PROMPTS: tuple[Prompt, ...] = ("Hi", LONG, "Tell me.", LONG * 2)


def requests(band: Band) -> list[Request]:
    methods = ("soup", "mixture-prob", "moe", "mixture-log")
    return [
        band.request(
            PROMPTS[n % 4],
            band.plan(band.in_force("terse=0.4, warm=0.6"), methods[n % 3]),
            Sampling(max_tokens=5 + 3 * n, seed=n),
        )
        for n in range(12)
    ]


def held(band: Band) -> int:
    """Bytes of the keys and values of all layers."""
    assert isinstance(band.engine.model, Rows)
    slabs = [layer for layer in band.engine.model._slabs if layer.is_initialized]
    return sum(slab.keys.nbytes + slab.values.nbytes for slab in slabs)


@pytest.mark.parametrize("chunk", [None, 16])
def test_what_is_held_is_within_the_budget_and_answers_are_the_same(band: Band, chunk: int | None) -> None:
    expected = band.engine.run(requests(band))
    free = held(band)
    memory = free // 4
    band.bound(64, memory, chunk)
    tickets = [band.engine.submit(request) for request in requests(band)]
    done: dict[int, Completion] = {}
    most = 0
    while not band.engine.idle:
        done |= {said.ticket: said.completion for said in band.engine.advance() if said.completion}
        most = max(most, held(band))
    assert [done[ticket] for ticket in tickets] == expected
    assert memory // 4 < most <= memory


def test_cells_by_hand(band: Band) -> None:
    """Keys and values of 2 layers, of 2 heads of 8 numbers, of 4 bytes: 256 bytes a token, or 128 in float16."""
    assert (band.cells_in(2560), band.cells_in(2559)) == (10, 9)
    band.model.to(torch.float16)
    assert band.cells_in(2560) == 20


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_the_bytes_of_a_cell_are_those_that_are_held(band_folder_of: Callable[[str], Path], family: str) -> None:
    band = Band.load(band_folder_of(family))
    band.engine.run(requests(band)[:3])
    assert isinstance(band.engine.model, Rows)
    rows, positions = band.engine.model._target.capacity
    assert band.cells_in(held(band)) == rows * positions


def test_a_request_for_which_there_is_no_room_is_told_how_much_there_is(band: Band) -> None:
    """100 tokens of 256 bytes: one row of 64."""
    band.bound(64, 25_600)
    with pytest.raises(CounterpointError, match=r"there is memory for 64 together, with the 1 rows of this method"):
        band.engine.submit(replace(requests(band)[0], sampling=Sampling(max_tokens=100)))
