"""A causal language model as rows that grow one token a step, join and leave: the cache and the forward.

Each row is a context with its own gate over the experts and its own length. Live rows lie at the front of one slab per
layer, so that attention reads views of it; a row that leaves is overwritten by one from the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from counterpoint.models.bank import LoraBank
from counterpoint.types import CounterpointError


class _Slab(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, `[rows, heads, positions, head_dim]`, written where `target` says.

    `target` is (row index [B, 1], position index [B, T], positions to read): set by `Rows` before each forward.
    """

    def __init__(self, target: "_Target") -> None:
        super().__init__()
        self.target = target

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, positions = self.target.capacity
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(rows, heads, positions, width)
        self.values = value_states.new_zeros(rows, heads, positions, value_states.shape[-1])
        self.is_initialized = True

    def grow(self) -> None:
        rows, positions = self.target.capacity
        if self.is_initialized:
            self.keys, self.values = (_padded(old, rows, positions) for old in (self.keys, self.values))

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        aim = self.target
        self.keys[aim.row_B1, :, aim.position_BT] = key_states.transpose(1, 2)
        self.values[aim.row_B1, :, aim.position_BT] = value_states.transpose(1, 2)
        return self.keys[aim.rows, :, : aim.reach], self.values[aim.rows, :, : aim.reach]

    def move(self, source: list[int], destination: list[int], reach: int) -> None:
        if self.is_initialized:
            for slab in (self.keys, self.values):
                slab[destination, :, :reach] = slab[source, :, :reach]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.target.reach, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class _Target:
    """Which rows and positions the forward in progress writes and reads."""

    def __init__(self) -> None:
        self.capacity = (0, 0)
        self.rows = slice(0)
        self.row_B1 = self.position_BT = torch.empty(0, dtype=torch.long)
        self.reach = 0

    def aim(self, rows: slice, position_BT: Tensor) -> None:
        self.rows, self.position_BT = rows, position_BT
        self.row_B1 = torch.arange(rows.start, rows.stop, device=position_BT.device)[:, None]
        self.reach = int(position_BT.max()) + 1


class Rows:
    """`LanguageModel` over a Hugging Face model and its LoRA bank.

    Error against one request at a time without a cache: below 1e-4 in fp32 (law `padding` in tests/laws).
    """

    def __init__(self, model: Any, bank: LoraBank, chunk: int = 512) -> None:
        self.model = model
        self.bank = bank
        self.chunk = chunk
        self.longest = int(model.config.max_position_embeddings)
        self._target = _Target()
        self._slabs = [_Slab(self._target) for _ in range(model.config.num_hidden_layers)]
        self._cache = Cache(layers=self._slabs)
        self._gates: list[Mapping[str, float]] = []
        self._gate_B1K: Tensor | None = None
        self._length_B = torch.zeros(0, dtype=torch.long, device=model.device)

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.vocab_size)

    def join(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows. All of a context but its last token is prefilled; the last is the first to be stepped."""
        for context in contexts:
            if not 0 < len(context) < self.longest:
                raise CounterpointError(
                    f"a prompt of {len(context)} tokens: this model takes 1 to {self.longest - 1} and a response"
                )
        first = len(self._gates)
        together = [*self._gates, *gates]
        self._gate_B1K = self.bank.gate(together)
        self._gates = together
        lengths = torch.tensor([len(c) - 1 for c in contexts], device=self._length_B.device)
        self._length_B = torch.cat([self._length_B, lengths])
        self._reserve(len(self._gates), int(self._length_B.max()) + 1)
        width = int(lengths.max())
        ids_BT = torch.zeros(len(contexts), width, dtype=torch.long)
        for row, context in enumerate(contexts):
            ids_BT[row, : len(context) - 1] = torch.tensor(context[:-1])
        for start in range(0, width, self.chunk):
            part = ids_BT[:, start : start + self.chunk].to(self._length_B.device)
            position_BT = torch.arange(start, start + part.shape[1], device=part.device).expand_as(part)
            self._forward(part, slice(first, len(self._gates)), position_BT)

    def step(self, tokens_B: Sequence[int]) -> Tensor:
        """Feed one token to each live row; logits `[B, V]` in float32."""
        position_B1 = self._length_B[:, None]
        self._reserve(len(self._gates), int(position_B1.max()) + 1)
        ids_B1 = torch.tensor(tokens_B, device=position_B1.device)[:, None]
        logits_BV = self._forward(ids_B1, slice(0, len(self._gates)), position_B1)
        self._length_B = self._length_B + 1
        return logits_BV.float()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these. A row may move only towards the front (`rows[i] >= i`), so that none is lost."""
        moved = [(old, new) for new, old in enumerate(rows) if old != new]
        if any(old < new for old, new in moved):
            raise ValueError(f"rows may only move towards the front: {list(rows)}")
        if moved:
            source, destination = [old for old, _ in moved], [new for _, new in moved]
            reach = int(self._length_B[source].max())
            for slab in self._slabs:
                slab.move(source, destination, reach)
        self._length_B = self._length_B[list(rows)]
        self._gates = [self._gates[row] for row in rows]
        self._gate_B1K = self.bank.gate(self._gates)

    @torch.no_grad()
    def _forward(self, ids_BT: Tensor, rows: slice, position_BT: Tensor) -> Tensor:
        self._target.aim(rows, position_BT)
        key_position = torch.arange(self._target.reach, device=ids_BT.device)
        hidden = key_position > position_BT[:, None, :, None]
        floor = torch.finfo(self.model.dtype).min
        mask_B1TS = torch.zeros(hidden.shape, dtype=self.model.dtype, device=ids_BT.device).masked_fill_(hidden, floor)
        gate = None if self._gate_B1K is None else self._gate_B1K[rows]
        with self.bank.gated(gate):
            out = self.model(
                input_ids=ids_BT, attention_mask=mask_B1TS, position_ids=position_BT,
                past_key_values=self._cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
        logits_BV: Tensor = out.logits[:, -1]
        return logits_BV

    def _reserve(self, rows: int, positions: int) -> None:
        have_rows, have_positions = self._target.capacity
        if rows > have_rows or positions > have_positions:
            grown_rows = max(have_rows, _power_of_two(rows))
            grown_positions = min(max(have_positions, _power_of_two(positions)), self.longest)
            self._target.capacity = (grown_rows, grown_positions)
            for slab in self._slabs:
                slab.grow()


def _padded(old: Tensor, rows: int, positions: int) -> Tensor:
    new = old.new_zeros(rows, old.shape[1], positions, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
