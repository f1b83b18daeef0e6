"""Where the training of a gate starts: new experts that do nothing yet, or given ones, and scores that know nothing."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor

from counterpoint.compose.weighers.gate import GUIDE, Gate, GateExpert
from counterpoint.models.adapter import LoraFactors, weight_OI
from counterpoint.models.bank import together
from counterpoint.models.gates import Guide
from counterpoint.types import CounterpointError

Given = tuple[GateExpert, LoraFactors]
"""An expert to start from; `hash` is that of a band's own adapter."""
ALL = "all-linear"


def new_entries(dimensions: Sequence[str], per_group: int) -> list[GateExpert]:
    """A group of experts for each dimension."""
    return [GateExpert(name=f"{name}-{i}", dimension=name) for name in dimensions for i in range(per_group)]


def new_factors(base: Any, modules: Sequence[str], rank: int) -> LoraFactors:
    """One expert as PEFT starts it: A by Kaiming, B zero."""
    shapes = {module: weight_OI(base.get_submodule(module)).shape for module in modules}
    return LoraFactors(
        {module: (_kaiming(rank, into), torch.zeros(out, rank)) for module, (out, into) in shapes.items()}
    )


def target_modules(base: Any, targets: str | Sequence[str]) -> list[str]:
    """The linear layers that `targets` names, in the manner of PEFT: "all-linear", a pattern, or ends of names.

    The output layer is never among them. Raises CounterpointError for a name that is of no other linear layer, and
    where there is none.
    """
    if not targets:
        raise CounterpointError(f"lora_targets is empty; expected {ALL!r}, or names as in q_proj,v_proj")
    output = base.get_output_embeddings()
    linear = [name for group in together(base) for name in group if base.get_submodule(name) is not output]
    if targets == ALL:
        return linear
    found = set()
    for target in [targets] if isinstance(targets, str) else targets:
        asked = LoraConfig(target_modules=target if isinstance(targets, str) else [target])
        mine = {name for name in linear if check_target_module_exists(asked, name)}
        if not mine:
            ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
            raise CounterpointError(
                f"lora_targets: {target!r} is no linear layer that a gate can adapt; there are: {ends}"
            )
        found |= mine
    return [name for name in linear if name in found]


def check_given(experts: Sequence[Given], dimensions: Sequence[str], base: Any) -> None:
    """Refuse experts that one gate cannot hold together, by name."""
    first, modules = experts[0][0].name, experts[0][1].factors.keys()
    output = base.get_output_embeddings()
    for entry, factors in experts:
        if entry.dimension not in dimensions:
            known = ", ".join(dimensions)
            raise CounterpointError(
                f"expert {entry.name!r} is for {entry.dimension!r}, of which there is no data; the data are on: {known}"
            )
        if differ := sorted(factors.factors.keys() ^ modules):
            raise CounterpointError(
                f"the experts of a gate must adapt the same layers, and of {first!r} and {entry.name!r} one alone "
                f"adapts {differ[0]!r}"
            )
        if adapted := [name for name in factors.factors if base.get_submodule(name) is output]:
            raise CounterpointError(
                f"expert {entry.name!r} adapts the output layer {adapted[0]!r}, which a gate cannot; train it on others"
            )


def untrained(gate: Gate, base: Any) -> dict[str, Tensor]:
    """What a gate of no knowledge has learned: rows by module, by Kaiming as in LoRAMoE, or a guide's parameters.

    A guide's last map starts at zero, which is the mean of the experts.
    """
    if not gate.rule.guided:
        width = len(gate.experts) + gate.empty
        return {module: _kaiming(width, weight_OI(base.get_submodule(module)).shape[1]) for module in gate.modules}
    layers = len(gate.modules) if gate.layerwise else 1
    guide = Guide(base.config.hidden_size, len(gate.experts), layers, gate.depth, gate.width)
    for parameter in list(guide.layers)[-1].parameters():
        torch.nn.init.zeros_(parameter)
    return {GUIDE + name: part for name, part in guide.state_dict().items()}


def _kaiming(rows: int, inputs: int) -> Tensor:
    return torch.nn.init.kaiming_uniform_(torch.empty(rows, inputs), a=math.sqrt(5))
