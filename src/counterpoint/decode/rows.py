"""A causal language model as rows that grow one token a step, join and leave: the cache and the forward.

Each row is a context with its own gate over the experts and its own length. Rows lie side by side in one slab per
layer, those that are stepped in front, so that attention reads views of it; a row that leaves is overwritten by a later
one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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

    def resize(self, rows: int, positions: int, live: int, reach: int) -> None:
        """Change the room, and take along what the `live` first rows hold in their `reach` first positions."""
        if self.is_initialized:
            self.keys = _resized(self.keys, rows, positions, live, reach)
            self.values = _resized(self.values, rows, positions, live, reach)

    def clear(self, rows: slice | list[int], start: int = 0) -> None:
        """Zero rows from a position on: a mask hides what another request left there only if that is finite."""
        if self.is_initialized:
            self.keys[rows, :, start:] = 0
            self.values[rows, :, start:] = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        aim = self.target
        self.keys[aim.row_B1, :, aim.position_BT] = key_states.transpose(1, 2)
        self.values[aim.row_B1, :, aim.position_BT] = value_states.transpose(1, 2)
        return self.keys[aim.rows, :, : aim.reach], self.values[aim.rows, :, : aim.reach]

    def copy(self, source: list[int], destination: list[int], positions: slice) -> None:
        if self.is_initialized:
            for slab in (self.keys, self.values):
                slab[destination, :, positions] = slab[source, :, positions]

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


@dataclass
class _Row:
    """A row's gate, how many positions it has written, what of its context it has not, and whom it joined alike."""

    gate: Mapping[str, float]
    length: int
    due: Sequence[int]
    like: int


class Rows:
    """`LanguageModel` over a Hugging Face model and its gates; a prefill takes at most `chunk` tokens at a time.

    `max_cells` bounds what is held in memory, in `cells`, where no more than that is ever needed: `Engine` sees to it.
    Error against one request at a time without a cache: below 1e-4 in fp32 (law `padding` in tests/laws).
    """

    def __init__(self, model: Any, bank: Gates, chunk: int = 2048, max_cells: int | None = None) -> None:
        self.model = model
        self.bank = bank
        self.chunk = chunk
        self.max_cells = max_cells
        self.longest = int(model.config.max_position_embeddings)
        self.own_forward = fits(model.config)
        self._windows = windows(model.config)
        self._target = _Target()
        layers = model.config.num_hidden_layers
        self._own, self._base = (Cache(layers=[_Slab(self._target) for _ in range(layers)]) for _ in range(2))
        self._rows: list[_Row] = []
        self._gate: AnyGates | None = None

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.vocab_size)

    def join(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows. All of a context but its last token is prefilled; the last is the first to be stepped.

        Whatever is raised (CounterpointError for a context that is too long), the rows are as they were before.
        """
        before = len(self._rows)
        self.begin(contexts, gates)
        try:
            self.fill()
        except BaseException:
            self.keep(range(before))
            raise

    def begin(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows that `fill` has yet to fill; what is raised is as in `join`."""
        for context in contexts:
            if not 0 < len(context) < self.longest:
                raise CounterpointError(
                    f"a prompt of {len(context)} tokens: this model takes 1 to {self.longest - 1} and a response"
                )
        if any(row.due for row in self._rows):
            raise ValueError("rows are being filled; only then can others join")
        alike = first_alike(contexts, gates)
        joining = [
            _Row(gate, 0, tuple(context[:-1]), like) for context, gate, like in zip(contexts, gates, alike, strict=True)
        ]
        together = [*self._rows, *joining]
        gate = self.bank.gate([row.gate for row in together])
        try:
            self._reserve(len(together), max(map(len, contexts)))
        except BaseException:
            self._gate = self._gate_of_all()  # the bank has stacked the experts of those that did not join
            raise
        for slab in self._slabs:
            slab.clear(slice(len(self._rows), len(together)))
        self._rows, self._gate = together, gate

    def fill(self, most: int | None = None) -> bool:
        """Prefill rows that joined, at most `most` tokens with padding, or all of them; whether all are filled.

        Rows of unlike lengths take a forward each, and several of these fit into one chunk.
        """
        chunk = self.chunk if most is None else min(most, self.chunk)
        left = chunk
        while group := self._next_to_fill(chunk):
            left -= len(group) * min(chunk, max(len(self._rows[index].due) for index in group))
            if left < 0 and most is not None:
                break
            self._feed(group, chunk)
        return not any(row.due for row in self._rows)

    def step(self, tokens_B: Sequence[int]) -> Tensor:
        """Feed one token to each of the first rows, which are filled; logits `[B, V]` in float32."""
        rows = self._rows[: len(tokens_B)]
        if any(row.due for row in rows):
            raise ValueError("a row is stepped before it is filled")
        lengths = [row.length for row in rows]
        self._reserve(len(self._rows), max(lengths) + 1)
        ids_B1, position_B1 = torch.tensor([list(tokens_B), lengths], device=self.model.device)[:, :, None]
        gate = self._gate if len(rows) == len(self._rows) else self._gate_of(torch.arange(len(rows)))
        logits_BTV = self._forward(slice(0, len(rows)), ids_B1, position_B1, max(lengths) + 1, gate, logits=True)
        for row in rows:
            row.length += 1
        return logits_BTV[:, -1].float()

    def extend(self, rows: Sequence[int], tokens_RT: Sequence[Sequence[int]]) -> Tensor:
        """Feed some rows, which are filled, several tokens each; logits `[R, T, V]` in float32.

        Raises CounterpointError where they become longer than the model takes.
        """
        ids_RT = torch.tensor(tokens_RT, device=self.model.device)
        row_R = torch.tensor(list(rows), device=self.model.device)
        start_R1 = torch.tensor([[self._rows[row].length] for row in rows], device=self.model.device)
        position_RT = start_R1 + torch.arange(ids_RT.shape[1], device=self.model.device)
        reach = int(position_RT.max()) + 1
        if reach > self.longest:
            raise CounterpointError(f"a text of {reach} tokens and more: this model takes {self.longest}; shorten it")
        self._reserve(len(self._rows), reach)
        logits_RTV = self._forward(row_R, ids_RT, position_RT, reach, self._gate_of(row_R), logits=True)
        for row in rows:
            self._rows[row].length += ids_RT.shape[1]
        return logits_RTV.float()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these. A row may move only towards the front (`rows[i] >= i`), so that none is lost.

        Rows that are not filled must stay behind those that are.
        """
        moved = [(old, new) for new, old in enumerate(rows) if old != new]
        if any(old < new for old, new in moved):
            raise ValueError(f"rows may only move towards the front: {list(rows)}")
        if moved:
            source, destination = [old for old, _ in moved], [new for _, new in moved]
            reach = max(self._rows[row].length for row in source)
            for slab in self._slabs:
                slab.copy(source, destination, slice(0, reach))
                slab.clear(destination, reach)
        self._rows = [self._rows[row] for row in rows]
        self._gate = self._gate_of_all()

    def _next_to_fill(self, chunk: int) -> list[int]:
        """The rows that the next forward fills: one that is filled in part, or the first group of those alike."""
        leaders: dict[int, int] = {}
        for index, row in enumerate(self._rows):
            if row.due:
                leaders.setdefault(row.like, index)
        for index in leaders.values():
            if self._rows[index].length:
                return [index]
        group = next(prefill_groups([len(self._rows[index].due) for index in leaders.values()], chunk), [])
        return [list(leaders.values())[place] for place in group]

    def _feed(self, group: Sequence[int], chunk: int) -> None:
        """Write the keys and values of a group's next tokens; rows that joined alike copy them."""
        device = self.model.device
        start = self._rows[group[0]].length
        parts = {index: self._rows[index].due[:chunk] for index in group}
        ids_BT = pad_sequence([torch.tensor(part) for part in parts.values()], batch_first=True).to(device)
        row_B = torch.tensor(list(group), device=device)
        reach = start + ids_BT.shape[1]
        position_BT = torch.arange(start, reach, device=device).expand_as(ids_BT)
        self._forward(row_B, ids_BT, position_BT, reach, self._gate_of(row_B), logits=False)
        leader = {self._rows[index].like: index for index in group}
        copies = [i for i, row in enumerate(self._rows) if row.due and row.like in leader and i not in parts]
        if copies:
            source = [leader[self._rows[index].like] for index in copies]
            for slab in self._slabs:
                slab.copy(source, copies, slice(start, reach))
        for index in (*group, *copies):
            row = self._rows[index]
            fed = len(parts[leader[row.like]])
            row.length, row.due = row.length + fed, row.due[fed:]

    def _gate_of(self, rows: Tensor) -> AnyGates | None:
        return None if self._gate is None else self._gate[rows]

    def _gate_of_all(self) -> AnyGates | None:
        return self.bank.gate([row.gate for row in self._rows])

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
        """Make room for so many rows of so many positions: by doubling, and giving up room where that is too much."""
        have_rows, have_positions = self._target.capacity
        positions = max([positions, *(row.length + len(row.due) for row in self._rows)])
        if rows > have_rows or positions > have_positions:
            need = _power_of_two(rows), min(_power_of_two(positions), self.longest)
            capacity = max(have_rows, need[0]), max(have_positions, need[1])
            if self.max_cells is not None and capacity[0] * capacity[1] > self.max_cells:
                capacity = need
            reach = max((row.length for row in self._rows), default=0)
            for slab in self._slabs:
                slab.resize(*capacity, len(self._rows), reach)
            self._target.capacity = capacity


def cells(rows: int, positions: int, longest: int) -> int:
    """How many positions of how many rows are held, where rows and positions grow by doubling."""
    return _power_of_two(rows) * min(_power_of_two(positions), longest)


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


def _resized(old: Tensor, rows: int, positions: int, live: int, reach: int) -> Tensor:
    new = old.new_zeros(rows, old.shape[1], positions, old.shape[3])
    new[:live, :, :reach] = old[:live, :, :reach]
    return new


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
