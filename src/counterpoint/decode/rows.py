"""A causal language model as rows that grow one token a step, join and leave: the cache and the forward.

Each row is a context with its own gate over the experts and its own length. Live rows lie at the front of one slab per
layer, so that attention reads views of it; a row that leaves is overwritten by one from the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, CacheLayerMixin

from counterpoint.decode.forward import fits, hidden_states
from counterpoint.models.gates import AnyGates, RowGates
from counterpoint.types import CounterpointError

MASK_PER_KIND = ("qwen2", "qwen3", "gemma2", "gemma3_text")
"""Families whose layers differ in what they see; their models look each layer's mask up by the layer's kind."""


class _Slab(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, `[rows, heads, positions, head_dim]`, written and read where `target` says."""

    def __init__(self, target: "_Target") -> None:
        super().__init__()
        self.target = target

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, positions = self.target.capacity
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(rows, heads, positions, width)
        self.values = value_states.new_zeros(rows, heads, positions, value_states.shape[-1])
        self.is_initialized = True

    def grow(self, rows: int, positions: int, live: int, reach: int) -> None:
        """Make room, and take along what the `live` first rows hold in their `reach` first positions."""
        if self.is_initialized:
            self.keys, self.values = (_grown(old, rows, positions, live, reach) for old in (self.keys, self.values))

    def clear(self, rows: slice) -> None:
        """Zero rows: a mask hides what another request left there only if that is finite."""
        if self.is_initialized:
            self.keys[rows].zero_()
            self.values[rows].zero_()

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
    """Which rows and positions the forward in progress writes, and how many positions it reads.

    `rows` is a slice where the rows are neighbours (attention then reads a view) and else their indices.
    """

    def __init__(self) -> None:
        self.capacity = (0, 0)
        self.rows: slice | Tensor = slice(0)
        self.row_B1 = self.position_BT = torch.empty(0, dtype=torch.long)
        self.reach = 0

    def aim(self, rows: slice | Tensor, position_BT: Tensor, reach: int) -> None:
        self.rows, self.position_BT, self.reach = rows, position_BT, reach
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=position_BT.device)
        self.row_B1 = rows[:, None]


class Gates(Protocol):
    """What makes and applies the gates of rows: a `LoraBank`, or a controller, whose gates are profiles."""

    def gate(self, gates: Sequence[Mapping[str, float]]) -> AnyGates | None: ...
    def gated(self, gate: AnyGates | None) -> AbstractContextManager[None]: ...


class Rows:
    """`LanguageModel` over a Hugging Face model and its gates; a prefill takes at most `chunk` tokens at a time.

    Error against one request at a time without a cache: below 1e-4 in fp32 (law `padding` in tests/laws).
    """

    def __init__(self, model: Any, bank: Gates, chunk: int = 2048) -> None:
        self.model = model
        self.bank = bank
        self.chunk = chunk
        self.longest = int(model.config.max_position_embeddings)
        self.own_forward = fits(model.config)
        self._windows = windows(model.config)
        self._target = _Target()
        layers = model.config.num_hidden_layers
        self._own, self._base = (Cache(layers=[_Slab(self._target) for _ in range(layers)]) for _ in range(2))
        self._gates: list[Mapping[str, float]] = []
        self._lengths: list[int] = []
        self._gate: AnyGates | None = None

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.vocab_size)

    def join(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows. All of a context but its last token is prefilled; the last is the first to be stepped.

        Whatever is raised (CounterpointError for a context that is too long), the rows are as they were before.
        """
        for context in contexts:
            if not 0 < len(context) < self.longest:
                raise CounterpointError(
                    f"a prompt of {len(context)} tokens: this model takes 1 to {self.longest - 1} and a response"
                )
        together = [*self._gates, *gates]
        lengths = [*self._lengths, *(len(context) - 1 for context in contexts)]
        gate = self.bank.gate(together)
        try:
            self._reserve(len(together), max(lengths) + 1)
            self._prefill(contexts, gate, first_alike(contexts, gates))
        except BaseException:
            self._gate = self.bank.gate(self._gates)  # the bank has stacked the experts of those that did not join
            raise
        self._gates, self._lengths, self._gate = together, lengths, gate

    def step(self, tokens_B: Sequence[int]) -> Tensor:
        """Feed one token to each live row; logits `[B, V]` in float32."""
        reach = max(self._lengths) + 1
        self._reserve(len(self._lengths), reach)
        ids_B1, position_B1 = torch.tensor([list(tokens_B), self._lengths], device=self.model.device)[:, :, None]
        rows = slice(0, len(self._lengths))
        logits_BTV = self._forward(rows, ids_B1, position_B1, reach, self._gate, logits=True)
        self._lengths = [length + 1 for length in self._lengths]
        return logits_BTV[:, -1].float()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these. A row may move only towards the front (`rows[i] >= i`), so that none is lost."""
        moved = [(old, new) for new, old in enumerate(rows) if old != new]
        if any(old < new for old, new in moved):
            raise ValueError(f"rows may only move towards the front: {list(rows)}")
        if moved:
            source, destination = [old for old, _ in moved], [new for _, new in moved]
            for slab in self._slabs:
                slab.move(source, destination, max(self._lengths[row] for row in source))
        self._lengths = [self._lengths[row] for row in rows]
        self._gates = [self._gates[row] for row in rows]
        self._gate = self.bank.gate(self._gates)

    def _prefill(self, contexts: Sequence[Sequence[int]], gate: AnyGates | None, alike: Sequence[int]) -> None:
        """Write the keys and values of the rows after the live ones; those of a row like an earlier one are copied."""
        first = len(self._lengths)
        device = self.model.device
        for slab in self._slabs:
            slab.clear(slice(first, first + len(contexts)))
        lengths = [len(context) - 1 if alike[index] == index else 0 for index, context in enumerate(contexts)]
        for group in prefill_groups(lengths, self.chunk):
            ids_BT = pad_sequence([torch.tensor(contexts[index][:-1]) for index in group], batch_first=True)
            row_B = torch.tensor([first + index for index in group], device=device)
            own_gate = None if gate is None else gate[row_B]
            for start in range(0, ids_BT.shape[1], self.chunk):
                part_BT = ids_BT[:, start : start + self.chunk].to(device)
                reach = start + part_BT.shape[1]
                position_BT = torch.arange(start, reach, device=device).expand_as(part_BT)
                self._forward(row_B, part_BT, position_BT, reach, own_gate, logits=False)
        copies = [index for index, other in enumerate(alike) if other != index]
        if copies:
            source, destination = [first + alike[index] for index in copies], [first + index for index in copies]
            for slab in self._slabs:
                slab.move(source, destination, max(lengths))

    @torch.no_grad()
    def _forward(
        self, rows: slice | Tensor, ids_BT: Tensor, position_BT: Tensor, reach: int, gate: AnyGates | None, logits: bool
    ) -> Tensor:
        """Logits of the model, or the last hidden states of its trunk.

        A guided gate reads what the base makes of the same tokens, in a forward before, with a cache of its own.
        """
        self._target.aim(rows, position_BT, reach)
        masks = {
            kind: attention_mask(position_BT, reach, window, self.model.dtype) for kind, window in self._windows.items()
        }
        if isinstance(gate, RowGates) and gate.guided:
            gate = gate.heard(self._pass(self._base, ids_BT, position_BT, masks, None, logits=False))
        return self._pass(self._own, ids_BT, position_BT, masks, gate, logits)

    def _pass(
        self,
        cache: Cache,
        ids_BT: Tensor,
        position_BT: Tensor,
        masks: Mapping[str, Tensor],
        gate: AnyGates | None,
        logits: bool,
    ) -> Tensor:
        with self.bank.gated(gate):
            if self.own_forward:
                keep = [slab.update for slab in cache.layers]
                hidden_BTI = hidden_states(self.model, ids_BT, position_BT, masks, keep)
                return cast(Tensor, self.model.lm_head(hidden_BTI)) if logits else hidden_BTI
            out = (self.model if logits else self.model.base_model)(
                input_ids=ids_BT, attention_mask=masks.get("every layer", masks), position_ids=position_BT,
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
        return cast(Tensor, out[0])

    @property
    def _slabs(self) -> list[_Slab]:
        """All that rows hold; the base's are empty until a gate is guided."""
        return [*self._own.layers, *self._base.layers]

    def _reserve(self, rows: int, positions: int) -> None:
        have_rows, have_positions = self._target.capacity
        if rows > have_rows or positions > have_positions:
            grown_rows = max(have_rows, _power_of_two(rows))
            grown_positions = min(max(have_positions, _power_of_two(positions)), self.longest)
            for slab in self._slabs:
                slab.grow(grown_rows, grown_positions, len(self._lengths), max(self._lengths, default=0))
            self._target.capacity = (grown_rows, grown_positions)


def first_alike(contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> list[int]:
    """For each row the first with its context and its gate: several samples of one prompt, say."""
    first: dict[tuple[tuple[int, ...], tuple[tuple[str, float], ...]], int] = {}
    rows = ((tuple(context), tuple(sorted(gate.items()))) for context, gate in zip(contexts, gates, strict=True))
    return [first.setdefault(row, index) for index, row in enumerate(rows)]


def windows(config: Any) -> dict[str, int | None]:
    """How many tokens each kind of layer sees, the newest included (None: all), by the name its model gives the kind.

    The one kind "every layer" is that of models that take a single mask. A window in the config of a family whose model
    has none (Llama) is not read, as there.
    """
    if config.model_type in MASK_PER_KIND:
        return {kind: config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types}
    return {"every layer": config.sliding_window if config.model_type == "mistral" else None}


def attention_mask(position_BT: Tensor, reach: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, `[B, 1, T, S]` for the keys at positions 0 to `reach` - 1.

    0 where the key is at most at the query's position and, with a window, less than `window` before it; elsewhere the
    least number of `dtype`.
    """
    key_S = torch.arange(reach, device=position_BT.device)
    query_B1T1 = position_BT[:, None, :, None]
    hidden = key_S > query_B1T1
    if window is not None:
        hidden |= key_S <= query_B1T1 - window
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


def prefill_groups(lengths: Sequence[int], chunk: int) -> Iterator[list[int]]:
    """Which rows are prefilled together, shortest first: of like length, and at most `chunk` tokens with padding.

    Alike is at most twice the shortest, and 32 more, since a forward of few tokens costs little more than one of none.
    A row without tokens is in no group, and one of more than `chunk` is a group by itself.
    """
    group: list[int] = []
    for row in sorted((row for row, length in enumerate(lengths) if length), key=lengths.__getitem__):
        length = lengths[row]
        if group and (length > 2 * lengths[group[0]] + 32 or length * (len(group) + 1) > chunk):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _grown(old: Tensor, rows: int, positions: int, live: int, reach: int) -> Tensor:
    new = old.new_zeros(rows, old.shape[1], positions, old.shape[3])
    new[:live, :, :reach] = old[:live, :, :reach]
    return new


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
