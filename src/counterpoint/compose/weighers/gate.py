"""The gates of LoRA experts as what a band keeps of them, and as plans; how they share a token is `models/gates.py`.

A gate is a folder `gates/<kind>` of a band: `gate.json`, `gate.safetensors` with what was learned, and in `experts/`
the adapters that were trained with it, each an ordinary PEFT adapter. A gate over the band's own experts has none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from counterpoint.artifacts import hash_files, read_json, write_json
from counterpoint.compose.plan import Plan, Row
from counterpoint.models.adapter import CONFIG, TENSORS, LoraFactors, read_adapter, write_adapter
from counterpoint.models.band_file import hash_model
from counterpoint.models.gates import GATE, RULES, Guide, Kind, Router, Rule
from counterpoint.profiles import Bounds
from counterpoint.types import CounterpointError, Expert, Profile

GATES, FILE, LEARNED = "gates", "gate.json", "gate.safetensors"
KINDS: tuple[Kind, ...] = get_args(Kind)
GUIDE, FIRST = "guide.", "layers.0.weight"
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
AGAIN = "train it again with `counterpoint train gate`"


class GateExpert(BaseModel):
    """An expert of a gate, and the dimension that it serves. `hash` is that of the adapter of a band's own expert."""

    model_config = ConfigDict(extra="forbid")

    name: str
    dimension: str
    hash: str | None = None


class Gate(BaseModel):
    """`gate.json`: what kind it is, its experts in the order of its scores, and how scores become shares (`Rule`).

    `depth`, `width` and `layerwise` are of X-LoRA's classifier; `modules` are the layers that the gate is in. `base` is
    the hash of the base's weights and vocabulary, as `band.json` has it.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    experts: Annotated[list[GateExpert], Field(min_length=1)]
    modules: list[str]
    empty: bool = False
    top_k: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    depth: Annotated[int, Field(ge=1)] = 1
    width: Annotated[int, Field(ge=1)] = 2048
    layerwise: bool = False
    base: str | None = None

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        names = [expert.name for expert in self.experts]
        if len(set(names)) < len(names):
            raise ValueError(f"an expert is there twice: {', '.join(names)}")
        if self.top_k is not None and self.top_k > len(names):
            raise ValueError(f"top_k is {self.top_k}, and there are {len(names)} experts")
        if self.empty and not RULES[self.kind].empty:
            raise ValueError(f"empty is true, and {self.kind} has no empty expert")
        return self

    @property
    def rule(self) -> Rule:
        return replace(RULES[self.kind], empty=self.empty, top_k=self.top_k, temperature=self.temperature)

    @property
    def groups(self) -> tuple[str, ...]:
        """The dimension of each expert."""
        return tuple(expert.dimension for expert in self.experts)

    @property
    def own(self) -> bool:
        """Whether the experts were trained with the gate and lie in its folder."""
        return all(expert.hash is None for expert in self.experts)

    def bank_name(self, expert: GateExpert) -> str:
        """What an expert is called in a bank: a band's own by its name, another so that the two cannot be confused."""
        return f"{self.kind}:{expert.name}" if expert.hash is None else expert.name

    def router(self, learned: Mapping[str, Tensor]) -> Router:
        """The router over a bank's experts, with what was learned: rows by module, or a guide's parameters."""
        names = tuple(self.bank_name(expert) for expert in self.experts)
        if not self.rule.guided:
            rows = {name: layer_normed(rows_KI) for name, rows_KI in learned.items()} if self.rule.normed else learned
            return Router(self.rule, names, self.groups, dict(rows), tuple(self.modules))
        guide = self._guide(learned[GUIDE + FIRST].shape[1])
        guide.load_state_dict({name.removeprefix(GUIDE): part for name, part in learned.items()}, assign=True)
        return Router(self.rule, names, self.groups, {}, tuple(self.modules), guide.requires_grad_(False))

    def shapes(self, learned: Mapping[str, Tensor], reads: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """What must have been learned, by name; `reads` is the number of inputs of each module.

        The first map of a guide says itself how many inputs it has: they are the base's hidden states.
        """
        if not self.rule.guided:
            return {module: (len(self.experts) + self.empty, reads[module]) for module in self.modules}
        first = learned.get(GUIDE + FIRST)
        hidden = 1 if first is None or first.ndim != 2 else first.shape[1]
        return {GUIDE + name: tuple(part.shape) for name, part in self._guide(hidden).state_dict().items()}

    def _guide(self, hidden: int) -> Guide:
        """A classifier without numbers."""
        with torch.device("meta"):
            return Guide(hidden, len(self.experts), len(self.modules) if self.layerwise else 1, self.depth, self.width)

    def plan(self, profile: Profile | None, bounds: Bounds) -> Plan:
        """One row, gated as the router says, with a profile's weights inside; without a profile as it was routed.

        Raises CounterpointError for a dimension of which the gate has no expert, and for bounds that no router keeps.
        """
        strength = 1.0 if profile is None else profile.strength
        self._check_bounds(bounds, strength)
        asked = dict.fromkeys(self.groups, 1.0) if profile is None else {k: w for k, w in profile.weights.items() if w}
        weights = {name: w for name, w in asked.items() if bounds.get(name, (0.0, 1.0))[1] > 0}
        if unknown := [name for name in weights if name not in self.groups]:
            known = ", ".join(dict.fromkeys(self.groups))
            raise CounterpointError(f"{self.kind} has no expert for {unknown[0]!r}; it has some for: {known}")
        if not weights:
            return Plan((Row(),))
        even = set(weights) == set(self.groups) and len(set(weights.values())) == 1
        return Plan((Row({GATE + self.kind: strength, **({} if even else weights)}),))

    def _check_bounds(self, bounds: Bounds, strength: float) -> None:
        for name, (low, high) in bounds.items():
            if low > 0 or 0 < high < strength:
                raise CounterpointError(
                    f"{self.kind} keeps no floor and no cap but 0, since its router shares every token anew; the "
                    f"band's bounds have {low:g} <= {name} <= {high:g}; use moe"
                )


@dataclass(frozen=True)
class Opened:
    """A gate that was read: its router, and the experts that came with it, by their names in a bank."""

    gate: Gate
    router: Router
    experts: Mapping[str, LoraFactors]


def layer_normed(rows_KI: Tensor) -> Tensor:
    """LN(v) / sqrt(I) of each row, in float32: x . it, divided by the deviation of x, is LN(v) . LN(x) / sqrt(I).

    Nothing is added to the variance, so that the scale of what was learned is nothing; a row of zeros stays zeros.
    """
    centred = rows_KI.float() - rows_KI.float().mean(-1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=-1)


def read_gate(folder: Path) -> Gate:
    """Read and check `gate.json`; CounterpointError names the file and each wrong field."""
    try:
        return Gate.model_validate(read_json(folder / FILE))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise CounterpointError(f"{folder / FILE}: {wrong}") from None


def open_gate(folder: Path, experts: Mapping[str, Path]) -> Opened:
    """Read a gate's folder. `experts` are where the band's adapters are, which must be those that it was made for.

    Raises CounterpointError that names the file, and the tensor or the expert, at fault.
    """
    gate = read_gate(folder)
    for expert in gate.experts:
        if expert.hash is not None:
            _check_same(folder, expert, experts)
    own = {gate.bank_name(e): read_adapter(folder / "experts" / e.name) for e in gate.experts if e.hash is None}
    first = gate.experts[0]
    like = own[gate.bank_name(first)] if first.hash is None else read_adapter(experts[first.name])
    if differ := sorted(like.factors.keys() ^ set(gate.modules)):
        raise CounterpointError(
            f"{folder / FILE}: modules are not those that expert {first.name!r} adapts; they differ in {differ[0]!r}; "
            f"{AGAIN}"
        )
    learned = read_learned(folder / LEARNED, gate, like)
    return Opened(gate, gate.router(learned), own)


def read_learned(path: Path, gate: Gate, like: LoraFactors) -> dict[str, Tensor]:
    """What a gate over experts `like` this one has learned; CounterpointError names the tensor that is wrong."""
    try:
        learned = load(path.read_bytes())  # not mapped: overwriting the file would end a process that uses it
    except (OSError, SafetensorError) as error:
        raise CounterpointError(f"{path}: not a readable safetensors file: {error}; {AGAIN}") from None
    expected = gate.shapes(learned, {module: a.shape[1] for module, (a, _) in like.factors.items()})
    if differ := sorted(learned.keys() ^ expected.keys()):
        what = "is missing" if differ[0] in expected else "is no part of this gate"
        raise CounterpointError(f"{path}: tensor {differ[0]!r} {what}; {AGAIN}")
    for name, shape in expected.items():
        if wrong := _wrong_with(learned[name], shape):
            raise CounterpointError(f"{path}: tensor {name!r} {wrong}; {AGAIN}")
    return learned


def _wrong_with(part: Tensor, shape: tuple[int, ...]) -> str:
    if part.shape != shape:
        return f"has the shape {tuple(part.shape)}, expected {shape}"
    if part.dtype not in FLOATS:
        return f"is of the type {part.dtype}, expected {FLOATS[0]}"
    return "" if part.isfinite().all() else "is not finite everywhere"


def _check_same(folder: Path, expert: GateExpert, experts: Mapping[str, Path]) -> None:
    if expert.name not in experts:
        raise CounterpointError(f"{folder / FILE}: the band no longer has the adapter {expert.name!r}; {AGAIN}")
    if hash_adapter(experts[expert.name]) != expert.hash:
        raise CounterpointError(f"{folder / FILE}: it was made for another adapter {expert.name!r}; {AGAIN}")


def hash_adapter(folder: Path) -> str:
    """SHA-256 over an adapter's config and factors. Raises CounterpointError where one of the files is not there."""
    files = (folder / CONFIG, folder / TENSORS)
    if missing := [file for file in files if not file.exists()]:
        raise CounterpointError(f"{missing[0]}: there is no such file; add the adapter to the band again")
    return hash_files(*files)


def write_gate(
    folder: Path,
    gate: Gate,
    learned: Mapping[str, Tensor],
    experts: Mapping[str, LoraFactors],
    base: str,
    fan_in_fan_out: bool = False,
) -> None:
    """Write a gate that was made on `base`: what was learned, and by name its own experts as by `write_adapter`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, factors in experts.items():
        write_adapter(folder / "experts" / name, factors, base, fan_in_fan_out)
    save_file({name: part.contiguous() for name, part in learned.items()}, folder / LEARNED)
    made_on = gate.model_copy(update={"base": hash_model(Path(base)) if Path(base).is_dir() else None})
    write_json(folder / FILE, made_on.model_dump(exclude_defaults=True))


def gate_over(
    kind: Kind,
    experts: Sequence[Expert],
    factors: Mapping[str, LoraFactors],
    hashes: Mapping[str, str],
    top_k: int | None = None,
    temperature: float = 1.0,
) -> Gate:
    """A gate over a band's own experts, in the layers that all of them adapt; no `top_k` is that of the kind's paper.

    Raises CounterpointError where two adapt different layers, or there is none, and for numbers that none can have.
    """
    if not experts:
        raise CounterpointError(f"{kind} needs experts that are adapters, and this band has none")
    if top_k is not None and not 1 <= top_k <= len(experts):
        raise CounterpointError(f"top k is {top_k}, and there are {len(experts)} experts; expected 1 to {len(experts)}")
    if not 0 < temperature < math.inf:
        raise CounterpointError(f"the temperature of a gate is {temperature:g}; expected more than 0")
    first = experts[0].name
    modules = sorted(factors[first].factors)
    for expert in experts:
        if differ := sorted(factors[expert.name].factors.keys() ^ set(modules)):
            raise CounterpointError(
                f"{kind}: the experts must adapt the same layers, and of {first!r} and {expert.name!r} one alone "
                f"adapts {differ[0]!r}"
            )
    entries = [GateExpert(name=e.name, dimension=e.dimension, hash=hashes.get(e.name, "")) for e in experts]
    rule = RULES[kind]
    kept = top_k if top_k or rule.top_k is None else min(rule.top_k, len(experts))
    return Gate(kind=kind, experts=entries, modules=modules, empty=rule.empty, top_k=kept, temperature=temperature)
