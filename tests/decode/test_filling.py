"""Rows that are filled in pieces, among others that are stepped, leave, change places or outgrow the room."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from counterpoint.decode.rows import Rows, cells
from counterpoint.decode.several import compacted
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.testing import pico_model

UP = "model.layers.0.mlp.up_proj"
GATES: tuple[Mapping[str, float], ...] = ({}, {"a": 1.0}, {"b": 0.5}, {"a": -0.5, "b": 1.0})


def expert(seed: int) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(
        {UP: (0.3 * torch.randn(2, 32, generator=generator), 0.3 * torch.randn(64, 2, generator=generator))}
    )


def new_rows(max_cells: int | None = None, family: str = "llama") -> Rows:
    model = pico_model(seed=6, family=family)
    bank = LoraBank(model)
    for seed, name in enumerate(("a", "b") if family == "llama" else ()):
        bank.add(name, expert(seed))
    return Rows(model, bank, max_cells=max_cells)


def context(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 290, (length,), generator=torch.Generator().manual_seed(100 * length + seed)).tolist()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def first_logits(tokens: Sequence[int], gate: Mapping[str, float]) -> Tensor:
    alone = new_rows()
    alone.join([tokens], [gate])
    return alone.step([tokens[-1]])[0]


def fed_to(rows: Rows) -> list[tuple[int, ...]]:
    """The shapes of what the model is fed from now on."""
    shapes: list[tuple[int, ...]] = []
    rows.model.base_model.embed_tokens.register_forward_pre_hook(lambda _, fed: shapes.append(tuple(fed[0].shape)))
    return shapes


def test_each_piece_is_one_forward_of_so_many_tokens_at_most() -> None:
    """Contexts of 4, 4, 20 and 9 with pieces of 8: 3 and 3 together, 8, and 19 in 8 and 8 and 3."""
    rows = new_rows()
    fed = fed_to(rows)
    contexts = [context(4), context(4, seed=1), context(20), context(9)]
    rows.begin(contexts, GATES)
    filled = [rows.fill(8) for _ in range(5)]
    assert fed == [(2, 3), (1, 8), (1, 8), (1, 8), (1, 3)]
    assert filled == [False] * 4 + [True]
    logits = rows.step([tokens[-1] for tokens in contexts])
    assert_close(logits, torch.stack([first_logits(*one) for one in zip(contexts, GATES, strict=True)]))


def test_rows_in_front_are_stepped_while_others_are_filled() -> None:
    rows = new_rows()
    rows.join([context(5), context(7)], GATES[1:3])
    rows.begin([context(30), context(12)], GATES[:2])
    said = [[context(5)[-1], context(7)[-1]], [8, 9], [10, 11]]
    for tokens in said:
        rows.fill(6)
        logits = rows.step(tokens)
    grown = [[*context(5), 8, 10], [*context(7), 9, 11]]
    assert_close(logits, torch.stack([first_logits(*one) for one in zip(grown, GATES[1:3], strict=True)]))


def test_what_is_not_filled_is_not_stepped_and_nobody_joins_meanwhile() -> None:
    rows = new_rows()
    rows.begin([context(5)], [{}])
    with pytest.raises(ValueError, match="stepped before it is filled"):
        rows.step([context(5)[-1]])
    with pytest.raises(ValueError, match="rows are being filled"):
        rows.begin([context(3)], [{}])


@dataclass
class Life:
    gate: Mapping[str, float]
    seen: list[int]


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_fill_step_and_leave_at_random_answer_as_if_alone(seed: int) -> None:
    draw = random.Random(seed)
    rows = new_rows()
    live: list[Life] = []
    filling: list[Life] = []
    checked = 0
    for turn in range(25):
        if not filling:
            lengths = [draw.randrange(1, 90) for _ in range(draw.randrange(1, 3))]
            filling = [Life(draw.choice(GATES), context(length, seed=turn)) for length in lengths]
            rows.begin([life.seen for life in filling], [life.gate for life in filling])
        if rows.fill(draw.choice([3, 16, 64])):
            live, filling = live + filling, []
        if live:
            logits = rows.step([life.seen[-1] for life in live])
            looked = draw.randrange(len(live))
            assert_close(logits[looked], first_logits(live[looked].seen, live[looked].gate))
            checked += 1
            for life in live:
                life.seen.append(draw.randrange(3, 290))
        stay, late = ({i for i in range(len(part)) if draw.random() > 0.2} for part in (live, filling))
        front = compacted(stay)
        behind = compacted({len(live) + i for i in late}, len(front))
        rows.keep(front + behind)
        live, filling = [live[i] for i in front], [filling[i - len(live)] for i in behind]
    assert checked > 8


def held(rows: Rows) -> int:
    """Positions of all rows that the first layer's keys have room for."""
    keys = rows._own.layers[0].keys
    return 0 if keys is None else int(keys.shape[0] * keys.shape[2])


def test_room_for_many_short_rows_becomes_room_for_a_long_one() -> None:
    """512 cells: 8 rows of 64, then one of 400, which is 512 by itself, and then 8 short ones again."""
    rows = new_rows(max_cells=512)
    for contexts in ([context(40, seed=n) for n in range(8)], [context(400)], [context(30, seed=n) for n in range(8)]):
        gates = [GATES[n % 4] for n in range(len(contexts))]
        rows.join(contexts, gates)
        assert_close(
            rows.step([tokens[-1] for tokens in contexts]),
            torch.stack([first_logits(*one) for one in zip(contexts, gates, strict=True)]),
        )
        assert held(rows) <= 512
        rows.keep([])


def test_the_first_of_those_alike_leaves_before_it_is_filled() -> None:
    """Three rows of one context are fed once; what the first had written is the others', who go on without it."""
    rows = new_rows()
    fed = fed_to(rows)
    rows.begin([context(20)] * 3, [{"a": 1.0}] * 3)
    rows.fill(8)
    rows.keep([2, 1])
    assert not rows.fill(8)
    assert rows.fill(8)
    assert fed == [(1, 8), (1, 8), (1, 3)]
    assert_close(rows.step([context(20)[-1]] * 2), first_logits(context(20), {"a": 1.0}).expand(2, -1))


def test_regression_numbers_that_overflowed_do_not_reach_the_row_that_takes_their_place() -> None:
    """What a short row did not overwrite was NaN beyond its end, where a longer row beside it lets all be read."""
    rows = new_rows()
    rows.join([context(60), context(5)], [{"a": float("inf")}, {"b": 1.0}])
    assert rows.step([context(60)[-1], context(5)[-1]])[0].isnan().all()
    rows.keep([1])
    rows.join([context(40)], [{}])
    logits = rows.step([7, context(40)[-1]])
    assert_close(logits, torch.stack([first_logits([*context(5), 7], {"b": 1.0}), first_logits(context(40), {})]))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_several_tokens_at_once_are_several_steps(family: str) -> None:
    together, apart = new_rows(family=family), new_rows(family=family)
    for rows in (together, apart):
        rows.join([context(5), context(30), context(9)], [{}] * 3)
    tokens = [[context(30)[-1], 8, 9, 10], [context(9)[-1], 11, 12, 13]]
    logits_RTV = torch.cat(
        [
            together.extend([1, 2], [part[:3] for part in tokens]),
            together.extend([1, 2], [part[3:] for part in tokens]),
        ],
        dim=1,
    )
    steps = [apart.step([context(5)[-1] if t == 0 else 4, *(part[t] for part in tokens)])[1:] for t in range(4)]
    assert_close(logits_RTV, torch.stack(steps, dim=1))


def test_cells_by_hand() -> None:
    """5 rows are held as 8, and 33 positions as 64, or as the 40 that are the longest."""
    assert cells(5, 33, longest=512) == 8 * 64
    assert cells(5, 33, longest=40) == 8 * 40
    assert cells(1, 1, longest=512) == 1
