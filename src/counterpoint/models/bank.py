"""The LoRA bank: one base model, many experts, and how much of each is an argument of every forward.

For each adapted linear layer    y = W0 x + sum_k g_k(x) s_k B_k (A_k x)    with the gate g given per row, or per row
and token. A one-hot gate is one expert, a constant gate is a personal soup (equal to merging the deltas, with no merge
and no copy of the model), and rows of one batch may have any gates at all. A gate that a router computes in each layer
(PMoL, arXiv 2411.01245 section 3.3) is the same sum.

Factors of the active experts are concatenated along the rank, so a layer costs two matrix products however many experts
there are, ranks may differ, and experts that no live row asks for cost nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from counterpoint.models.adapter import LoraFactors
from counterpoint.types import CounterpointError


class GateContext:
    """The gate of the forward in progress: the one hidden state here, since layers are called with x alone."""

    def __init__(self) -> None:
        self.gate_BTK: Tensor | None = None
        self._by_layout: dict[tuple[int, ...], Tensor] = {}

    def columns(self, ranks_K: tuple[int, ...]) -> Tensor:
        """The gate repeated over each expert's ranks, `[B, T or 1, C]`; computed once per layout and forward."""
        if ranks_K not in self._by_layout:
            assert self.gate_BTK is not None
            repeats = torch.tensor(ranks_K, device=self.gate_BTK.device)
            self._by_layout[ranks_K] = self.gate_BTK.repeat_interleave(repeats, dim=-1)
        return self._by_layout[ranks_K]

    def set(self, gate_BTK: Tensor | None) -> None:
        self.gate_BTK = gate_BTK
        self._by_layout = {}


class BankLinear(nn.Module):
    """A linear layer with the stacked factors of the active experts beside it."""

    def __init__(self, base: nn.Linear, context: GateContext) -> None:
        super().__init__()
        self.base = base
        self.context = context
        self.ranks_K: tuple[int, ...] = ()
        self.A_IC = self.B_CO = base.weight.new_empty(0)

    def stack(self, pairs: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """Concatenate the factors of the active experts; None is an expert that leaves this layer as it is."""
        weight = self.base.weight
        self.ranks_K = tuple(0 if pair is None else pair[0].shape[0] for pair in pairs)
        present = [pair for pair in pairs if pair is not None]
        if present:
            self.A_IC = torch.cat([a for a, _ in present]).to(weight).T.contiguous()
            self.B_CO = torch.cat([b for _, b in present], dim=1).to(weight).T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.context.gate_BTK is None or not sum(self.ranks_K):
            return y
        z_BTC = torch.matmul(x, self.A_IC) * self.context.columns(self.ranks_K)
        return torch.addmm(y.flatten(0, -2), z_BTC.flatten(0, -2), self.B_CO).view_as(y)


class LoraBank:
    """Experts that share one base model. Wraps the linear layers of `model` in place, when a gate first adapts one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.context = GateContext()
        self.experts: dict[str, LoraFactors] = {}
        self._layers: dict[str, BankLinear] = {}
        self._active: tuple[str, ...] = ()

    def add(self, name: str, adapter: LoraFactors) -> None:
        """Make an expert available. Raises CounterpointError for a taken name or factors that do not fit the base."""
        if name in self.experts:
            raise CounterpointError(f"there is already an expert called {name!r}; remove it first")
        for module, (a, b) in adapter.factors.items():
            base = self._linear(name, module)
            if (a.shape[1], b.shape[0]) != (base.in_features, base.out_features):
                raise CounterpointError(
                    f"expert {name!r}, module {module!r}: its delta is {b.shape[0]} x {a.shape[1]}, the base layer is "
                    f"{base.out_features} x {base.in_features}; was it trained on another base?"
                )
        self.experts[name] = adapter

    def remove(self, name: str) -> None:
        """Forget an expert."""
        del self.experts[name]
        self._active = ()

    def unwrap(self) -> None:
        """Give the model its own layers back, until the next gate that needs them wrapped."""
        for module, layer in self._layers.items():
            self.model.set_submodule(module, layer.base)
        self._layers = {}
        self._active = ()

    def gate(self, gates: Sequence[Mapping[str, float]]) -> Tensor | None:
        """Turn one {expert: coefficient} per row into `[B, 1, K]` over the active experts; None if no row needs any."""
        wanted = {name for row in gates for name, coefficient in row.items() if coefficient}
        names = tuple(name for name in self.experts if name in wanted)
        if missing := sorted(wanted - set(names)):
            raise CounterpointError(f"no expert called {missing[0]!r}; there are: {', '.join(self.experts) or 'none'}")
        if not names:
            return None
        self._activate(names)
        rows = [[row.get(name, 0.0) for name in names] for row in gates]
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

    def _activate(self, names: tuple[str, ...]) -> None:
        if names == self._active:
            return
        for name in names:
            for module in self.experts[name].factors:
                self._wrap(module)
        for module, layer in self._layers.items():
            layer.stack([self.experts[name].factors.get(module) for name in names])
        self._active = names

    def _linear(self, name: str, module: str) -> nn.Linear:
        try:
            layer = self.model.get_submodule(module)
        except AttributeError:
            raise CounterpointError(f"expert {name!r}: the base model has no module {module!r}") from None
        base = layer.base if isinstance(layer, BankLinear) else layer
        if not isinstance(base, nn.Linear):
            raise CounterpointError(f"expert {name!r}: {module!r} is a {type(base).__name__}, not a linear layer")
        return base

    def _wrap(self, module: str) -> None:
        if module not in self._layers:
            layer = self.model.get_submodule(module)
            if not isinstance(layer, nn.Linear):
                raise RuntimeError(f"{module!r} is wrapped by another bank of this model; unwrap that one first")
            self._layers[module] = BankLinear(layer, self.context)
            self.model.set_submodule(module, self._layers[module])
