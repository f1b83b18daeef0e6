"""The LoRA bank: one base model, many experts, and how much of each is an argument of every forward.

For each adapted linear layer    y = W0 x + sum_k g_k(x) s_k B_k (A_k x)    with the gate g given per row, or per row
and token. A one-hot gate is one expert, a constant gate is a personal soup (equal to merging the deltas, with no merge
and no copy of the model), and rows of one batch may have any gates at all. A gate that a router makes in each layer, of
what the layer reads (`models/gates.py`), is the same sum.

Factors of the active experts are concatenated along the rank, so a layer costs two matrix products however many experts
there are, ranks may differ, and experts that no live row asks for are soon unstacked. Layers that read the same input
(q, k and v; gate and up) are computed together, as one product each of the base, of A and of their routers. Stacked
factors are held once: an expert's own are views of them, and so are a router's rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from counterpoint.models.adapter import LoraFactors, weight_OI
from counterpoint.models.gates import EPSILON, GATE, AnyGates, Routed, Router, RowGates, Rule, log_weights, shares
from counterpoint.models.product import Product
from counterpoint.types import CounterpointError

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Siblings that read the same input, by the names that the families here give them."""

SPARE = 4
"""Up to so many experts stay stacked, wanted or not: their columns cost less than stacking anew."""

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
    layer_J: list[int]
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
        """Let a router gate those of its modules that are in this group."""
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
        layer_J = [router.modules.index(module) for module in mine]
        self.routes[name] = Route(
            router.rule, mine, score, layer_J, torch.tensor(column_C, device=like.device), strangers=none in column_C
        )

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


class LoraBank:
    """Experts that share one base model. Wraps the linear layers of `model` in place, when a gate is first made."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.context = GateContext()
        self.experts: dict[str, LoraFactors] = {}
        self.routers: dict[str, Router] = {}
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
        """Forget an expert, and the routers that need it. Gates made before hold until the next one is made."""
        del self.experts[name]
        self.routers = {key: router for key, router in self.routers.items() if name not in router.experts}
        if name in self._active:
            self._active = ()

    def add_router(self, name: str, router: Router) -> None:
        """Make a router available to gates as `GATE + name`, in place of one of that name.

        Raises CounterpointError for an expert that is not there, or that does not adapt exactly the router's modules.
        """
        for expert in router.experts:
            if expert not in self.experts:
                raise CounterpointError(f"gate {name!r}: there is no expert {expert!r}")
            differ = sorted(self.experts[expert].factors.keys() ^ set(router.modules))
            if differ:
                there = "adapts it and the gate does not" if differ[0] not in router.modules else "does not adapt it"
                raise CounterpointError(
                    f"gate {name!r}, module {differ[0]!r}: expert {expert!r} {there}; the experts of a gate must adapt "
                    "the same modules"
                )
        if router.guide:
            router.guide.to(next(self.model.parameters()).device)
        self.routers[name] = router
        for group in self._groups.values():
            group.routes.pop(name, None)

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

    def gate(self, gates: Sequence[Mapping[str, float]]) -> AnyGates | None:
        """Turn rows of {expert: coefficient} into `[B, 1, K]` over the active experts; None if no row needs any.

        A row's gate of {GATE + router: strength} is what that router makes of each token, re-weighted by what else the
        row's gate says: {group of experts: weight}.
        """
        asked = {key.removeprefix(GATE) for row in gates for key in row if key.startswith(GATE)}
        if missing := sorted(asked - set(self.routers)):
            raise CounterpointError(f"no gate called {missing[0]!r}; there are: {', '.join(self.routers) or 'none'}")
        names = [name for name in self.routers if name in asked]
        constants = [{} if any(key.startswith(GATE) for key in row) else row for row in gates]
        wanted = {name for row in constants for name, coefficient in row.items() if coefficient}
        if missing := sorted(wanted - set(self.experts)):
            raise CounterpointError(f"no expert called {missing[0]!r}; there are: {', '.join(self.experts) or 'none'}")
        self._wrap()
        if not wanted and not names:
            return None
        self._activate(wanted.union(*(self.routers[name].experts for name in names)))
        constant_B1K = self._of_rows([[row.get(name, 0.0) for name in self._active] for row in constants])[:, None]
        if not names:
            return constant_B1K
        return RowGates(constant_B1K if wanted else None, tuple(self._routed(name, gates) for name in names))

    def learn(self, name: str, experts: bool) -> list[nn.Parameter]:
        """Let gradients reach what a router learns and, with `experts`, the factors of all that are stacked.

        In a fixed order; a gate of that router must have been made, and no other be made meanwhile.
        """
        guide, learned = self.routers[name].guide, []
        for group in self._groups.values():
            if (route := group.routes.get(name)) is not None:
                learned += [] if route.score is None else [route.score.learn()]
                learned += [part.learn() for part in (group.A, *(lift.B for lift in group.lifts))] if experts else []
        return [*learned, *(guide.requires_grad_(True).parameters() if guide else ())]

    def factors(self, name: str) -> LoraFactors:
        """An active expert's factors as they are now, in the type in which they are learned."""
        k = self._active.index(name)
        found = {module: pair for group in self._groups.values() for module, pair in group.factors(k).items()}
        return LoraFactors({module: found[module] for module in self.experts[name].factors})

    def scores(self, name: str) -> dict[str, Tensor]:
        """A router's rows by module, as they are now."""
        routes = [group.routes[name] for group in self._groups.values() if name in group.routes]
        width = self.routers[name].width
        return {
            module: rows.detach()
            for route in routes
            if route.score is not None
            for module, rows in zip(route.modules, torch.split(route.score.weight_OI, width), strict=True)
        }

    def _routed(self, name: str, gates: Sequence[Mapping[str, float]]) -> Routed:
        if not any(name in group.routes for group in self._groups.values()):
            self._route(name)
        router = self.routers[name]
        mine = [row if GATE + name in row else {} for row in gates]
        strengths = [row.get(GATE + name, 0.0) for row in mine]
        strength_B = self._of_rows(strengths)
        log_w = log_weights(mine, router.groups)
        return Routed(
            name,
            None if set(strengths) == {1.0} else strength_B[:, None, None],
            None if log_w is None else log_w.to(strength_B.device),
            router.guide,
        )

    def _route(self, name: str) -> None:
        """Let a router gate its layers; its rows are from then on views of what they apply, and not held twice."""
        router = self.routers[name]
        for group in self._groups.values():
            group.route(name, router, self._active)
        held = self.scores(name)
        if all(given.dtype == held[module].dtype for module, given in router.scores.items()):
            self.routers[name] = replace(router, scores=held)

    @contextmanager
    def gated(self, gate: AnyGates | None) -> Iterator[None]:
        """Apply a gate made by `gate` (or constants of that width per token) to the forwards inside the block."""
        self.context.set(gate)
        try:
            yield
        finally:
            self.context.set(None)

    def _of_rows(self, numbers: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
        parameter = next(self.model.parameters())
        return torch.tensor(numbers, dtype=parameter.dtype, device=parameter.device)

    def _activate(self, wanted: set[str]) -> None:
        """Stack the wanted experts, unless they are among a stack that is little larger: a gate of zero is exact.

        What is stacked in the type in which it came is from then on a view of the stack, and not held twice.
        """
        if wanted <= set(self._active) and len(self._active) <= max(SPARE, 2 * len(wanted)):
            return
        names = tuple(name for name in self.experts if name in wanted)
        for group in self._groups.values():
            group.stack([self.experts[name] for name in names])
        self._active = names
        for name in names:
            given, stacked = self.experts[name].factors, self.factors(name)
            if all(
                given[module][0].dtype == a.dtype and given[module][0].device == a.device
                for module, (a, _) in stacked.factors.items()
            ):
                self.experts[name] = stacked

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
            group = self._groups[modules] = BankGroup(modules, layers, self.context)
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
