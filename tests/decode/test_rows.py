"""The rows of a model: masks and groups by hand, and what a join, a growth or a failure may not disturb."""

from collections.abc import Sequence
from itertools import chain

import pytest
import torch
from torch import Tensor

from counterpoint.decode.rows import Rows, attention_mask, prefill_groups, windows
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.testing import WINDOW, pico_model
from counterpoint.types import CounterpointError

UP = "model.layers.0.mlp.up_proj"
CPU = torch.device("cpu")


def context(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 290, (length,), generator=torch.Generator().manual_seed(100 * length + seed)).tolist()


def expert(seed: int) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(
        {UP: (0.3 * torch.randn(2, 32, generator=generator), 0.3 * torch.randn(64, 2, generator=generator))}
    )


@pytest.fixture
def rows() -> Rows:
    model = pico_model(seed=6)
    bank = LoraBank(model)
    for seed, name in enumerate(("a", "b", "c")):
        bank.add(name, expert(seed))
    return Rows(model, bank)


class Fed:
    """The shapes of the token ids that a model is fed; it can be made to fail at the n-th forward from now."""

    def __init__(self, rows: Rows) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.failing_at: int | None = None
        rows.model.base_model.embed_tokens.register_forward_pre_hook(self)

    def __call__(self, _: object, fed: tuple[Tensor]) -> None:
        self.shapes.append(tuple(fed[0].shape))
        if self.failing_at is not None and len(self.shapes) >= self.failing_at:
            raise RuntimeError("out of memory")

    def fail_at(self, forward: int | None) -> None:
        self.failing_at = None if forward is None else len(self.shapes) + forward


@pytest.fixture
def fed(rows: Rows) -> Fed:
    return Fed(rows)


def alone(contexts: Sequence[Sequence[int]], gates: Sequence[dict[str, float]]) -> Tensor:
    """The first logits of each row in an engine of its own."""
    logits = []
    for tokens, gate in zip(contexts, gates, strict=True):
        model = pico_model(seed=6)
        bank = LoraBank(model)
        for seed, name in enumerate(("a", "b", "c")):
            bank.add(name, expert(seed))
        with torch.no_grad(), bank.gated(bank.gate([gate])):
            logits.append(model(torch.tensor([list(tokens)])).logits[0, -1])
    return torch.stack(logits)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


# Masks


def test_a_mask_by_hand() -> None:
    """Row 0 stands at positions 1 and 2, row 1 at 3 and 4: a token sees its own position and those before it."""
    mask = attention_mask(torch.tensor([[1, 2], [3, 4]]), reach=5, window=None, dtype=torch.float32)
    assert mask.shape == (2, 1, 2, 5)
    assert (mask == 0).int().tolist() == [[[[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]], [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]]
    assert set(mask.flatten().tolist()) == {0.0, torch.finfo(torch.float32).min}


def test_a_mask_with_a_window_by_hand() -> None:
    """A window of 2 is a token and the one before it."""
    mask = attention_mask(torch.tensor([[0, 1, 4]]), reach=5, window=2, dtype=torch.float16)
    assert (mask == 0).int().tolist() == [[[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]]]]
    assert mask.dtype == torch.float16


KINDS = {
    "llama": {"every layer": None},
    "mistral": {"every layer": WINDOW},
    "qwen2": {"full_attention": None, "sliding_attention": WINDOW},
    "qwen3": {"full_attention": None, "sliding_attention": WINDOW},
    "gemma2": {"full_attention": None, "sliding_attention": WINDOW},
    "gemma3_text": {"full_attention": None, "sliding_attention": WINDOW},
    "gpt2": {"every layer": None},
}


@pytest.mark.parametrize("family", KINDS)
def test_what_the_layers_of_a_family_see(family: str) -> None:
    assert windows(pico_model(family=family).config) == KINDS[family]


def test_a_window_that_the_model_does_not_read_is_not_read() -> None:
    """Llama has no window, whatever its config says; Qwen has none unless `use_sliding_window` is set."""
    assert windows(pico_model(sliding_window=4).config) == {"every layer": None}
    assert windows(pico_model(family="mistral", sliding_window=None).config) == {"every layer": None}
    assert windows(pico_model(family="qwen2", use_sliding_window=False).config) == {"full_attention": None}


# Prefill


def test_groups_by_hand() -> None:
    """5 and 9 are alike, 40 is at most 2 * 5 + 32; 100 is not, nor is 300 to 100 (232). Nothing of 0 is fed."""
    assert list(prefill_groups([300, 5, 0, 100, 40, 9], chunk=1000)) == [[1, 5, 4], [3], [0]]


def test_groups_stay_within_a_chunk_by_hand() -> None:
    """3 rows of 30 are 90 tokens, and a 4th would make 120; one of 500 is fed in chunks, by itself."""
    assert list(prefill_groups([30, 30, 30, 30, 500], chunk=100)) == [[0, 1, 2], [3], [4]]


def test_every_row_is_in_one_group() -> None:
    lengths = torch.randint(0, 400, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    groups = list(prefill_groups(lengths, chunk=1024))
    assert sorted(chain(*groups)) == [row for row, length in enumerate(lengths) if length]
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert len(group) * longest <= 1024
        assert longest <= 2 * min(lengths[row] for row in group) + 32


def test_a_forward_holds_at_most_a_chunk_and_short_rows_do_not_pay_for_long_ones(rows: Rows, fed: Fed) -> None:
    """Contexts of 4, 200, 4 and 50 tokens: 3, 199, 3 and 49 of them are prefilled, two rows of 3 together."""
    rows.chunk = 80
    contexts = [context(4), context(200), context(4, seed=1), context(50)]
    gates: list[dict[str, float]] = [{"a": 1.0}, {"b": 0.5}, {}, {"c": 1.0, "a": -0.5}]
    rows.join(contexts, gates)
    assert fed.shapes == [(2, 3), (1, 49), (1, 80), (1, 80), (1, 39)]
    assert_close(rows.step([tokens[-1] for tokens in contexts]), alone(contexts, gates))


def test_contexts_of_one_token_need_no_prefill(rows: Rows, fed: Fed) -> None:
    rows.join([[7], [9]], [{}, {"a": 1.0}])
    assert fed.shapes == []
    assert_close(rows.step([7, 9]), alone([[7], [9]], [{}, {"a": 1.0}]))


def test_equal_rows_are_prefilled_once_and_rows_with_other_gates_are_not(rows: Rows, fed: Fed) -> None:
    gates = [{"a": 1.0}, {"b": 1.0}, {"a": 1.0}, {"a": 0.5}, {"b": 1.0}]
    contexts = [context(9), context(9), context(9), context(9), context(5)]
    rows.join(contexts, gates)
    assert sum(shape[0] for shape in fed.shapes) == 4, "the third is the first"
    together_BV = rows.step([tokens[-1] for tokens in contexts])
    torch.testing.assert_close(together_BV[0], together_BV[2], atol=1e-5, rtol=0)
    for row, (tokens, gate) in enumerate(zip(contexts, gates, strict=True)):
        alone = Rows(rows.model, rows.bank)
        alone.join([tokens], [gate])
        torch.testing.assert_close(together_BV[row], alone.step([tokens[-1]])[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [0, 512])
def test_a_context_that_does_not_fit_leaves_the_rows(rows: Rows, length: int) -> None:
    rows.join([context(5)], [{}])
    with pytest.raises(CounterpointError, match=f"a prompt of {length} tokens: this model takes 1 to 511"):
        rows.join([context(3), [5] * length], [{}, {}])
    assert_close(rows.step(context(5)[-1:]), alone([context(5)], [{}]))


# What others leave behind


def test_regression_numbers_that_overflowed_do_not_reach_the_next_row(rows: Rows) -> None:
    """A masked key of NaN is still NaN: the row that took the place saw it, if a longer one was beside it."""
    rows.join([context(60)] * 2, [{"a": float("inf")}] * 2)
    assert rows.step(context(60)[-1:] * 2).isnan().all()
    rows.keep([])
    contexts = [context(3), context(40)]
    rows.join(contexts, [{}, {}])
    assert_close(rows.step([tokens[-1] for tokens in contexts]), alone(contexts, [{}, {}]))


def test_rows_grow_in_number_and_length_without_losing_what_they_hold(rows: Rows) -> None:
    """1 row of 4 positions, then 6 rows of up to 130, while each has its own gate."""
    contexts, gates = [context(4)], [{"a": 1.0}]
    rows.join(contexts, gates)
    for turn, lengths in enumerate([(9, 2), (130,), (33, 5)]):
        joining = [context(length, seed=turn) for length in lengths]
        rows.join(joining, [{"b": 1.0 + turn}] * len(joining))
        contexts, gates = contexts + joining, gates + [{"b": 1.0 + turn}] * len(joining)
        assert_close(rows.step([tokens[-1] for tokens in contexts]), alone(contexts, gates))
        contexts = [[*tokens, 8 + row] for row, tokens in enumerate(contexts)]


@pytest.mark.parametrize("live", [0, 2, 3])
@pytest.mark.parametrize("forward", [1, 2, 3])
def test_a_join_that_fails_leaves_the_rows_as_they_were(rows: Rows, fed: Fed, live: int, forward: int) -> None:
    """Those that were live go on with their own experts, and the same rows can join later."""
    contexts = [context(6 + n) for n in range(live)]
    gates = [{"ab"[n % 2]: 1.0} for n in range(live)]
    if live:
        rows.join(contexts, gates)
    joining: list[list[int]] = [context(20), context(150), context(5), context(400)]
    wanted: list[dict[str, float]] = [{"c": 1.0}, {}, {"c": 0.5}, {"b": 1.0}]
    fed.fail_at(forward)
    with pytest.raises(RuntimeError, match="out of memory"):
        rows.join(joining, wanted)
    fed.fail_at(None)
    if live:
        assert_close(rows.step([tokens[-1] for tokens in contexts]), alone(contexts, gates))
        contexts = [[*tokens, 9] for tokens in contexts]
    rows.join(joining, wanted)
    contexts, gates = contexts + joining, gates + wanted
    assert_close(rows.step([tokens[-1] for tokens in contexts]), alone(contexts, gates))


def test_a_gate_that_names_a_stranger_leaves_the_rows(rows: Rows) -> None:
    rows.join([context(5)], [{"a": 1.0}])
    with pytest.raises(CounterpointError, match="no expert called 'nobody'"):
        rows.join([context(7)], [{"nobody": 1.0}])
    assert_close(rows.step(context(5)[-1:]), alone([context(5)], [{"a": 1.0}]))


def test_a_step_that_fails_can_be_taken_again(rows: Rows, fed: Fed) -> None:
    contexts, gates = [context(5), context(9)], [{"a": 1.0}, {"b": 1.0}]
    rows.join(contexts, gates)
    fed.fail_at(1)
    with pytest.raises(RuntimeError, match="out of memory"):
        rows.step([tokens[-1] for tokens in contexts])
    fed.fail_at(None)
    assert_close(rows.step([tokens[-1] for tokens in contexts]), alone(contexts, gates))


def test_rows_do_not_move_away_from_the_front(rows: Rows) -> None:
    rows.join([context(3), context(4)], [{}, {}])
    with pytest.raises(ValueError, match="rows may only move towards the front"):
        rows.keep([0, 0, 1])
