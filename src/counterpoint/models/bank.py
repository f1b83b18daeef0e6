"""The LoRA bank: one base model, many experts, and how much of each is an argument of every forward.

For each adapted linear layer    y = W0 x + sum_k g_k(x) s_k B_k (A_k x)    with the gate g given per row, or per row
and token. A one-hot gate is one expert, a constant gate is a personal soup (equal to merging the deltas, with no merge
and no copy of the model), and rows of one batch may have any gates at all. A gate that a router makes in each layer, of
what the layer reads (`models/gates.py`), is the same sum.

The factors of the active experts are stacked in the layers (`models/bank_layers.py`), and experts that no live row asks
for are soon unstacked. Factors of the base's type are held once: a stacked expert's are views of the stack, as a
router's rows are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.models.adapter import LoraFactors, weight_OI
from counterpoint.models.bank_layers import BankGroup, BankLinear, GateContext, Linear
from counterpoint.models.gates import GATE, AnyGates, Guide, Routed, Router, RowGates, log_weights
from counterpoint.types import CounterpointError

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Siblings that read the same input, by the names that the families here give them."""

SPARE = 4
"""Up to so many experts stay stacked, wanted or not: their columns cost less than stacking anew."""


class LoraBank:
    """Experts that share one base model. Wraps the linear layers of `model` in place, when a gate is first made."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.context = GateContext()
        self.experts: dict[str, LoraFactors] = {}
        self.routers: dict[str, Router] = {}
        self._groups: dict[tuple[str, ...], BankGroup] = {}
        self._active: tuple[str, ...] = ()
        self._views: set[str] = set()
        """Experts whose factors are views of a stack."""
        self._stale: set[str] = set()
        """Routers that the layers do not apply yet, or not as they now are."""
        self._retired: set[str] = set()
        """Experts that leave with the last row that wants them."""

    def add(self, name: str, adapter: LoraFactors) -> None:
        """Make an expert available. Raises CounterpointError for a taken name or factors that do not fit the base."""
        if name in self.experts:
            raise CounterpointError(f"there is already an expert called {name!r}; remove it first")
        self.check(name, adapter)
        self.experts[name] = adapter

    def check(self, name: str, adapter: LoraFactors) -> None:
        """Raise CounterpointError for factors that do not fit the base."""
        for module, (a, b) in adapter.factors.items():
            out, into = weight_OI(self._linear(name, module)).shape
            if (b.shape[0], a.shape[1]) != (out, into):
                raise CounterpointError(
                    f"expert {name!r}, module {module!r}: its delta is {b.shape[0]} x {a.shape[1]}, the base layer is "
                    f"{out} x {into}; was it trained on another base?"
                )

    def remove(self, name: str) -> None:
        """Forget an expert, and the routers that need it. Gates made before hold until the next one is made."""
        del self.experts[name]
        self._views.discard(name)
        self._retired.discard(name)
        self.routers = {key: router for key, router in self.routers.items() if name not in router.experts}
        if name in self._active:
            self._active = ()

    def retire(self, name: str) -> None:
        """Forget an expert as soon as a gate is made whose rows do not want it: rows that have it end with it."""
        self._retired.add(name)

    def keep(self, names: Iterable[str]) -> None:
        """Let experts stay that were to be forgotten."""
        self._retired.difference_update(names)

    def add_router(self, name: str, router: Router) -> None:
        """Make a router available to gates as `GATE + name`, in place of one of that name.

        Gates made before hold until the next one is made. Raises CounterpointError for an expert that is not there, or
        that does not adapt exactly the router's modules, and for a guide that reads other hidden states.
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
            self._check_guide(name, router.guide)
            router.guide.to(next(self.model.parameters()).device)
        self.routers[name] = router
        self._stale.add(name)

    def _check_guide(self, name: str, guide: Guide) -> None:
        model: Any = self.model
        hidden = model.config.hidden_size
        if guide.hidden != hidden:
            raise CounterpointError(
                f"gate {name!r}: its classifier reads hidden states of {guide.hidden} numbers, the base's have "
                f"{hidden}; was it trained on another base?"
            )

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
        needed = wanted.union(*(self.routers[name].experts for name in names))
        for name in self._retired - needed:
            self.remove(name)
        self._wrap()
        if not needed:
            return None
        self._activate(needed)
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
        if name in self._stale:
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
        self._stale.discard(name)

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

        What is stacked in the type in which it came is from then on a view of the stack, and not held twice; what
        leaves a stack takes its own along, since one view would keep the whole of it.
        """
        if wanted <= set(self._active) and len(self._active) <= max(SPARE, 2 * len(wanted)):
            return
        names = tuple(name for name in self.experts if name in wanted)
        for name in self._views - wanted:
            self.experts[name] = _apart(self.experts[name])
        for group in self._groups.values():
            group.stack([self.experts[name] for name in names])
        self._active, self._views, self._stale = names, set(), set(self.routers)
        for name in names:
            given, stacked = self.experts[name].factors, self.factors(name)
            if all(
                given[module][0].dtype == a.dtype and given[module][0].device == a.device
                for module, (a, _) in stacked.factors.items()
            ):
                self.experts[name] = stacked
                self._views.add(name)

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


def _apart(expert: LoraFactors) -> LoraFactors:
    """The same factors in memory of their own."""
    return LoraFactors({module: (a.clone(), b.clone()) for module, (a, b) in expert.factors.items()})


def together(model: nn.Module) -> list[tuple[str, ...]]:
    """The names of all linear layers, those that are computed together in one tuple."""
    groups: dict[tuple[str, str], list[str]] = {}
    for module, layer in model.named_modules():
        if isinstance(layer, Linear):
            parent, _, own = module.rpartition(".")
            first = next((siblings[0] for siblings in TOGETHER if own in siblings), own)
            groups.setdefault((parent, first), []).append(module)
    return [tuple(modules) for modules in groups.values()]
