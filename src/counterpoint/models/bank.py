"""The LoRA bank: one base model, many experts, and how much of each is an argument of every forward.

For each adapted linear layer    y = W0 x + sum_k g_k(x) s_k B_k (A_k x)    with the gate g given per row, or per row
and token. A one-hot gate is one expert, a constant gate is a personal soup (equal to merging the deltas, with no merge
and no copy of the model), and rows of one batch may have any gates at all. A gate that a router computes in each layer
(PMoL, arXiv 2411.01245 section 3.3) is the same sum.

Factors of the active experts are concatenated along the rank, so a layer costs two matrix products however many experts
there are, ranks may differ, and experts that no live row asks for are soon unstacked. Layers that read the same input
(q, k and v; gate and up) are computed together, as one product each of the base, of A and of B.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from counterpoint.models.adapter import LoraFactors, weight_OI
from counterpoint.models.product import Product
from counterpoint.types import CounterpointError

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Siblings that read the same input, by the names that the families here give them."""

SPARE = 4
"""Up to so many experts stay stacked, wanted or not: their columns cost less than stacking anew."""

Linear: TypeAlias = nn.Linear | Conv1D


class GateContext:
    """The gate of the forward in progress: the one hidden state here, since layers are called with x alone."""

    def __init__(self) -> None:
        self.gate_BTK: Tensor | None = None
        self._by_layout: dict[Layout, Tensor] = {}

    def columns(self, layout: "Layout") -> Tensor:
        """The gate of each column's expert, `[B, T or 1, C]`; computed once per layout and forward."""
        if layout not in self._by_layout:
            assert self.gate_BTK is not None
            expert_C = [expert for expert, rank in layout for _ in range(rank)]
            self._by_layout[layout] = self.gate_BTK[..., expert_C]
        return self._by_layout[layout]

    def set(self, gate_BTK: Tensor | None) -> None:
        self.gate_BTK = gate_BTK
        self._by_layout = {}


Layout: TypeAlias = tuple[tuple[int, int], ...]
"""Which expert each run of columns belongs to, and how many they are: its rank."""


class BankGroup:
    """Linear layers that read one input, with the stacked factors of the active experts, computed as one layer.

    With layers j of outputs O_j: `W` is `[sum O_j, I]`, `A` is `[C, I]`, and `B` `[sum O_j, C]` has a block per layer.
    """

    def __init__(self, layers: Sequence[Linear], context: GateContext) -> None:
        self.context = context
        self.widths = [weight_OI(layer).shape[0] for layer in layers]
        self.base = Product(_side_by_side(layers), _biases(layers))
        self.layout: Layout = ()
        self._x: Tensor | None = None
        self._gate: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._unread = 0

    def stack(self, pairs_JK: Sequence[Sequence[tuple[Tensor, Tensor] | None]]) -> None:
        """Take each layer's factors of the active experts; None is an expert that leaves the layer as it is."""
        present = [
            (layer, expert, *pair)
            for layer, pairs_K in enumerate(pairs_JK)
            for expert, pair in enumerate(pairs_K)
            if pair
        ]
        self.layout = tuple((expert, len(a)) for _, expert, a, _ in present)
        self._x = None
        if present:
            weight = self.base.weight_OI
            b_OC = weight.new_zeros(len(weight), sum(rank for _, rank in self.layout))
            left = 0
            for layer, _, _, b in present:
                top = sum(self.widths[:layer])
                b_OC[top : top + len(b), left : left + b.shape[1]] = b
                left += b.shape[1]
            self.A = Product(torch.cat([a for _, _, a, _ in present]).to(weight))
            self.B = Product(b_OC)

    def output(self, x: Tensor, layer: int) -> Tensor:
        """What one of the layers gives for `x`; all are computed when the first is asked for."""
        if len(self.widths) == 1:
            return self(x)
        if x is not self._x or self._gate is not self.context.gate_BTK:
            self._x, self._gate = x, self.context.gate_BTK
            self._outputs, self._unread = torch.split(self(x), self.widths, dim=-1), len(self.widths)
        y = self._outputs[layer]
        self._unread -= 1
        if not self._unread:
            self._x, self._outputs = None, ()
        return y

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs of all its layers side by side, `[..., sum O_j]`."""
        y = self.base(x)
        if self.context.gate_BTK is None or not self.layout:
            return y
        return y + self.B(self.A(x) * self.context.columns(self.layout))


class BankLinear(nn.Module):
    """One linear layer (`nn.Linear`, or GPT-2's `Conv1D`) of a group, in its place in the model."""

    def __init__(self, base: Linear, group: BankGroup, index: int) -> None:
        super().__init__()
        self.base = base
        self.group = group
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return self.group.output(x, self.index)


def _side_by_side(layers: Sequence[Linear]) -> Tensor:
    """The weights above each other, `[sum O_j, I]`; several layers' own become views of it."""
    if len(layers) == 1:
        return weight_OI(layers[0]).detach().contiguous()
    together = torch.cat([weight_OI(layer).detach() for layer in layers])
    for layer, part in zip(layers, torch.split(together, [len(weight_OI(layer)) for layer in layers]), strict=True):
        layer.weight.data = part
    return together


def _biases(layers: Sequence[Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    zeros = (weight_OI(layer).new_zeros(len(weight_OI(layer))) for layer in layers)
    return torch.cat([b if layer.bias is None else layer.bias.detach() for layer, b in zip(layers, zeros, strict=True)])


class LoraBank:
    """Experts that share one base model. Wraps the linear layers of `model` in place, when a gate is first made."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.context = GateContext()
        self.experts: dict[str, LoraFactors] = {}
        self._groups: dict[tuple[str, ...], BankGroup] = {}
        self._active: tuple[str, ...] = ()

    def add(self, name: str, adapter: LoraFactors) -> None:
        """Make an expert available. Raises CounterpointError for a taken name or factors that do not fit the base."""
        if name in self.experts:
            raise CounterpointError(f"there is already an expert called {name!r}; remove it first")
        for module, (a, b) in adapter.factors.items():
            out, into = weight_OI(self._linear(name, module)).shape
            if (b.shape[0], a.shape[1]) != (out, into):
                raise CounterpointError(
                    f"expert {name!r}, module {module!r}: its delta is {b.shape[0]} x {a.shape[1]}, the base layer is "
                    f"{out} x {into}; was it trained on another base?"
                )
        self.experts[name] = adapter

    def remove(self, name: str) -> None:
        """Forget an expert. Gates made before hold until the next one is made."""
        del self.experts[name]
        if name in self._active:
            self._active = ()

    @property
    def wrapped(self) -> bool:
        """Whether the model's linear layers are the bank's."""
        return bool(self._groups)

    def unwrap(self) -> None:
        """Give the model its own layers back, until the next gate."""
        for modules in self._groups:
            for module in modules:
                layer = self.model.get_submodule(module)
                assert isinstance(layer, BankLinear)
                if len(modules) > 1:
                    layer.base.weight.data = layer.base.weight.data.clone()  # no longer a view of the group's
                self.model.set_submodule(module, layer.base)
        self._groups = {}
        self._active = ()

    def gate(self, gates: Sequence[Mapping[str, float]]) -> Tensor | None:
        """Turn one {expert: coefficient} per row into `[B, 1, K]` over the active experts; None if no row needs any."""
        wanted = {name for row in gates for name, coefficient in row.items() if coefficient}
        if missing := sorted(wanted - set(self.experts)):
            raise CounterpointError(f"no expert called {missing[0]!r}; there are: {', '.join(self.experts) or 'none'}")
        self._wrap()
        if not wanted:
            return None
        self._activate(wanted)
        rows = [[row.get(name, 0.0) for name in self._active] for row in gates]
        parameter = next(self.model.parameters())
        return torch.tensor(rows, dtype=parameter.dtype, device=parameter.device)[:, None]

    @contextmanager
    def gated(self, gate_BTK: Tensor | None) -> Iterator[None]:
        """Apply a gate made by `gate` (or one of that width per token) to the forwards inside the block."""
        self.context.set(gate_BTK)
        try:
            yield
        finally:
            self.context.set(None)

    def _activate(self, wanted: set[str]) -> None:
        """Stack the wanted experts, unless they are among a stack that is little larger: a gate of zero is exact."""
        if wanted <= set(self._active) and len(self._active) <= max(SPARE, 2 * len(wanted)):
            return
        names = tuple(name for name in self.experts if name in wanted)
        for modules, group in self._groups.items():
            group.stack([[self.experts[name].factors.get(module) for name in names] for module in modules])
        self._active = names

    def _linear(self, name: str, module: str) -> Linear:
        try:
            layer = self.model.get_submodule(module)
        except AttributeError:
            raise CounterpointError(f"expert {name!r}: the base model has no module {module!r}") from None
        base = layer.base if isinstance(layer, BankLinear) else layer
        if not isinstance(base, Linear):
            raise CounterpointError(f"expert {name!r}: {module!r} is a {type(base).__name__}, not a linear layer")
        return base

    def _wrap(self) -> None:
        if self._groups:
            return
        if any(isinstance(layer, BankLinear) for layer in self.model.modules()):
            raise RuntimeError("this model is wrapped by another bank; unwrap that one first")
        for modules in together(self.model):
            layers = [self._linear("", module) for module in modules]
            group = self._groups[modules] = BankGroup(layers, self.context)
            for index, (module, layer) in enumerate(zip(modules, layers, strict=True)):
                self.model.set_submodule(module, BankLinear(layer, group, index))


def together(model: nn.Module) -> list[tuple[str, ...]]:
    """The names of all linear layers, those that are computed together in one tuple."""
    groups: dict[tuple[str, str], list[str]] = {}
    for module, layer in model.named_modules():
        if isinstance(layer, Linear):
            parent, _, own = module.rpartition(".")
            first = next((siblings[0] for siblings in TOGETHER if own in siblings), own)
            groups.setdefault((parent, first), []).append(module)
    return [tuple(modules) for modules in groups.values()]
