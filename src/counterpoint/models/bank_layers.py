"""The layers that a bank computes: linear layers that read one input, with the factors of the stacked experts.

For each of them    y = W0 x + sum_k g_k(x) s_k B_k (A_k x)    with the factors concatenated along the rank, so that a
layer costs two matrix products however many experts there are, and ranks may differ. Layers that read the same input
(q, k and v; gate and up) are computed together, as one product each of the base, of A and of their routers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from counterpoint.models.adapter import LoraFactors, weight_OI
from counterpoint.models.gates import EPSILON, AnyGates, Routed, Router, RowGates, Rule, shares
from counterpoint.models.product import Product

Linear: TypeAlias = nn.Linear | Conv1D


@dataclass(frozen=True)
class Seen:
    """What a router made of the tokens that one group of layers read: the gate of each of `modules`, `[B, T, J, K]`."""

    router: str
    modules: tuple[str, ...]
    share_BTJK: Tensor


class GateContext:
    """The gate of the forward in progress: the one hidden state here, since layers are called with x alone.

    Where `seen` is a list, every routed layer adds to it what its router made of the tokens.
    """

    def __init__(self) -> None:
        self.gate: AnyGates | None = None
        self.seen: list[Seen] | None = None
        self._by_layout: dict[Layout, Tensor] = {}

    @property
    def constant_BTK(self) -> Tensor | None:
        return self.gate.constant_BTK if isinstance(self.gate, RowGates) else self.gate

    @property
    def routed(self) -> tuple[Routed, ...]:
        return self.gate.routed if isinstance(self.gate, RowGates) else ()

    def columns(self, layout: "Layout") -> Tensor | None:
        """The constant gate of each column's expert, `[B, T or 1, C]`; computed once per layout and forward."""
        constant_BTK = self.constant_BTK
        if constant_BTK is not None and layout not in self._by_layout:
            expert_C = [expert for expert, rank in layout for _ in range(rank)]
            self._by_layout[layout] = constant_BTK[..., expert_C]
        return self._by_layout.get(layout)

    def set(self, gate: AnyGates | None) -> None:
        self.gate = gate
        self._by_layout = {}


Layout: TypeAlias = tuple[tuple[int, int], ...]
"""Which expert each run of columns belongs to, and how many they are: its rank."""


Factors: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""An expert's `A_RI` and `B_OR` by module."""


@dataclass(frozen=True)
class Lift:
    """One layer's `B`, which takes its `columns` to the outputs `out` of its group."""

    out: slice
    columns: slice
    B: Product


@dataclass(frozen=True)
class Route:
    """A router as one group applies it: to `modules`, which are those layers of the group that it gates.

    `score` makes all their scores of x, `[J * E, I]`; `layer_J` is each one's place among the layers of a guide.
    `column_C` says whose share each column of the group takes, of `[J * K]` and a 0 that is appended for strangers.
    """

    rule: Rule
    modules: tuple[str, ...]
    score: Product | None
    layer_J: Tensor
    column_C: Tensor
    strangers: bool

    def shares(self, x: Tensor, routed: Routed) -> Tensor:
        """`[B, T, J, K]` in float32."""
        if self.score is None:
            assert routed.score_BTLK is not None, "a guided gate is for a forward whose guide has spoken"
            score_BTLK = routed.score_BTLK
            one = score_BTLK.shape[-2] == 1
            score_BTJE = score_BTLK.expand(-1, -1, len(self.modules), -1) if one else score_BTLK[..., self.layer_J, :]
        else:
            score_BTJE = self.score(x).view(*x.shape[:-1], len(self.modules), -1)
            if self.rule.normed:
                score_BTJE = score_BTJE.float() * _inverse_deviation(x)
        return shares(score_BTJE, self.rule, routed.log_w_B11K)

    def columns(self, share_BTJK: Tensor) -> Tensor:
        """`[B, T, C]`."""
        flat = share_BTJK.flatten(-2)
        return (pad(flat, (0, 1)) if self.strangers else flat)[..., self.column_C]


def _inverse_deviation(x: Tensor) -> Tensor:
    """1 / sqrt(var(x) + epsilon) over the last axis, `[B, T, 1, 1]`: rows that sum to 0 need no mean taken from x."""
    return torch.rsqrt(x.float().var(dim=-1, correction=0) + EPSILON)[..., None, None]


class BankGroup:
    """Linear layers that read one input, with the stacked factors of the active experts, computed as one layer.

    With layers j of outputs O_j: `W` is `[sum O_j, I]`, `A` is `[sum C_j, I]`, and each layer that experts adapt has a
    `B` of its own, `[O_j, C_j]`. `layout` are the runs of columns, `owners` the place of the layer that each run is of.
    """

    def __init__(self, modules: Sequence[str], layers: Sequence[Linear], context: GateContext) -> None:
        self.modules = tuple(modules)
        self.context = context
        self.widths = [weight_OI(layer).shape[0] for layer in layers]
        self.base = Product(_side_by_side(layers), _biases(layers))
        self.layout: Layout = ()
        self.owners: tuple[int, ...] = ()
        self.lifts: list[Lift] = []
        self.routes: dict[str, Route] = {}
        self._x: Tensor | None = None
        self._gate: AnyGates | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._unread = 0

    def stack(self, experts: Sequence[LoraFactors]) -> None:
        """Take the active experts' factors. An expert without factors for a layer leaves it as it is."""
        runs = [
            (layer, k, *expert.factors[module])
            for layer, module in enumerate(self.modules)
            for k, expert in enumerate(experts)
            if module in expert.factors
        ]
        self.layout = tuple((k, len(a)) for _, k, a, _ in runs)
        self.owners = tuple(layer for layer, *_ in runs)
        self.lifts, self.routes, self._x = [], {}, None
        if runs:
            self.A = Product(torch.cat([a for _, _, a, _ in runs]).to(self.base.weight_OI))
            for layer in dict.fromkeys(self.owners):
                self._stack_layer(layer, [b for own, _, _, b in runs if own == layer])

    def _stack_layer(self, layer: int, b_K: Sequence[Tensor]) -> None:
        b_OC = torch.cat(list(b_K), dim=1).to(self.base.weight_OI)
        top, left = sum(self.widths[:layer]), self.lifts[-1].columns.stop if self.lifts else 0
        columns = slice(left, left + b_OC.shape[1])
        self.lifts.append(Lift(slice(top, top + self.widths[layer]), columns, Product(b_OC)))

    def factors(self, k: int) -> Factors:
        """The active expert k's factors as they are now: views of the stack."""
        lift_of = dict(zip(dict.fromkeys(self.owners), self.lifts, strict=True))
        found, left = {}, 0
        for layer, (expert, rank) in zip(self.owners, self.layout, strict=True):
            if expert == k:
                lift = lift_of[layer]
                b_OR = lift.B.weight_OI[:, left - lift.columns.start :][:, :rank]
                found[self.modules[layer]] = (self.A.weight_OI[left : left + rank].detach(), b_OR.detach())
            left += rank
        return found

    def route(self, name: str, router: Router, active: Sequence[str]) -> None:
        """Let a router gate those of its modules that are in this group, in place of one of that name."""
        self.routes.pop(name, None)
        mine = tuple(module for module in self.modules if module in router.modules)
        if not mine:
            return
        place = {
            (module, expert): j * len(router.experts) + k
            for j, module in enumerate(mine)
            for k, expert in enumerate(router.experts)
        }
        none = len(place)
        runs = [
            (self.modules[layer], active[k], rank) for layer, (k, rank) in zip(self.owners, self.layout, strict=True)
        ]
        column_C = [place.get((module, expert), none) for module, expert, rank in runs for _ in range(rank)]
        like = self.base.weight_OI
        score = None if router.guide else Product(torch.cat([router.scores[module] for module in mine]).to(like))
        layer_J = torch.tensor([router.modules.index(module) for module in mine], device=like.device)
        columns = torch.tensor(column_C, device=like.device)
        self.routes[name] = Route(router.rule, mine, score, layer_J, columns, strangers=none in column_C)

    def output(self, x: Tensor, layer: int) -> Tensor:
        """What one of the layers gives for `x`; all are computed when the first is asked for."""
        if len(self.widths) == 1:
            return self(x)
        if x is not self._x or self._gate is not self.context.gate:
            self._x, self._gate = x, self.context.gate
            self._outputs, self._unread = torch.split(self(x), self.widths, dim=-1), len(self.widths)
        y = self._outputs[layer]
        self._unread -= 1
        if not self._unread:
            self._x, self._outputs = None, ()
        return y

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs of all its layers side by side, `[..., sum O_j]`."""
        y = self.base(x)
        gate_BTC = self._gates(x) if self.layout else None
        if gate_BTC is None:
            return y
        z_BTC = self.A(x) * gate_BTC
        if len(self.widths) == 1:
            return y + self.lifts[0].B(z_BTC)
        for lift in self.lifts:
            y[..., lift.out].add_(lift.B(z_BTC[..., lift.columns]))
        return y

    def _gates(self, x: Tensor) -> Tensor | None:
        """What multiplies each column of `A x`, `[B, T or 1, C]`; None where nothing is to be added to the base."""
        gate_BTC = self.context.columns(self.layout)
        for routed in self.context.routed:
            route = self.routes.get(routed.name)
            if route is not None:
                share_BTJK = route.shares(x, routed)
                if self.context.seen is not None:
                    self.context.seen.append(Seen(routed.name, route.modules, share_BTJK))
                own_BTC = routed.strong(route.columns(share_BTJK)).to(x.dtype)
                gate_BTC = own_BTC if gate_BTC is None else gate_BTC + own_BTC
        return gate_BTC


class BankLinear(nn.Module):
    """One linear layer (`nn.Linear`, or GPT-2's `Conv1D`) of a group, in its place in the model."""

    base: Linear

    def __init__(self, base: Linear, group: BankGroup, index: int) -> None:
        super().__init__()
        self.base = base
        self.group = group
        self.index = index

    @property
    def weight(self) -> Tensor:
        """The base layer's own, for who takes an output layer apart."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

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
