"""Train a gate over LoRA experts on comparisons that name their dimension: PMoL, LoRAMoE and X-LoRA.

    loss = L_base + balance * L_own

L_base prefers the chosen responses of all dimensions together (DPO; that of PMoL is not known to us) or imitates
them (SFT). L_own ties groups of experts to dimensions (`train/balance.py`): the expert-group soft loss of PMoL
(arXiv 2411.01245), the localised balancing constraint of LoRAMoE (arXiv 2312.09979); X-LoRA (arXiv 2402.07148) has
none. The reference of DPO is the base without the gate.

Experts are new, a group of `per_group` for each dimension, or were trained before and are given; then the router alone
can be learned, so that the experts stay those that others use.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from counterpoint.artifacts import make_once, write_json
from counterpoint.compose.weighers.gate import GUIDE, Gate, write_gate
from counterpoint.data.examples import Pair, of_dimension, pairs
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import RULES, Kind
from counterpoint.models.load import load_tokenizer
from counterpoint.train.balance import Target, group_soft_loss, importance, localised_balance, targets
from counterpoint.train.batches import batch_order
from counterpoint.train.dpo import check_beta
from counterpoint.train.gate_log import ROUTING, routing_log
from counterpoint.train.gate_start import Given as Given
from counterpoint.train.gate_start import check_given, new_entries, new_factors, target_modules, untrained
from counterpoint.train.policy import twin_of
from counterpoint.train.routing import Learner, OwnLoss, imitation_trainer, pair_trainer, routing_table
from counterpoint.train.run import (
    RECORD,
    Progress,
    Schedule,
    TrainResult,
    base_model,
    inputs_of,
    keep_short,
    result,
    run,
    seeded,
)
from counterpoint.types import Comparison, CounterpointError

Learn = Literal["all", "router"]
TRAINED: tuple[Kind, ...] = ("pmol", "loramoe", "x-lora")
"""The kinds of gates that are trained here."""
PAIR_LOSSES = {"dpo": "sigmoid", "ipo": "ipo", "hinge": "hinge"}
"""Losses of pairs by our names, and by those of TRL."""


@dataclass(frozen=True)
class GateConfig:
    """How a gate is learned over the comparisons of `dimensions`.

    `loss` is one of `PAIR_LOSSES`, to which `sft_weight` adds imitation as in `DpoConfig`, or "sft". `per_group` new
    experts of rank `lora_rank` are made for each dimension where none are given; `empty` is PMoL's empty expert.
    `balance` weighs the gate's own loss, 0 leaves it out. `soft` is PMoL's s_c, of each dimension by name or of all
    (`target` and `renormalise` as in `train/balance.py`); LoRAMoE reads it as its delta. `learn` is what moves: "all"
    or the "router" alone. A share `told` of the pairs is gated as for a person who wants their dimension alone, since
    a router that cannot see whom a pair serves moves all experts alike, and no profile could tell them apart. `depth`,
    `width` and `layerwise` are of X-LoRA's classifier. The other fields are those of `DpoConfig`. The learning rate is
    larger than there, since an expert is moved by its share of each token only.

    How far the groups are parted is in `routing.json`. A larger `balance` alone parts them little further: Adam takes
    the scale out of a router's gradient, so that steps and the learning rate say how far it moves, and a token may tell
    little of whom it serves.
    """

    model: str
    dimensions: tuple[str, ...]
    kind: Kind = "pmol"
    loss: str = "dpo"
    learn: Learn = "all"
    per_group: int = 2
    empty: bool = True
    balance: float = 0.1
    soft: float | Mapping[str, float] = 0.1
    target: Target = "ratio"
    renormalise: bool = False
    told: float = 0.0
    depth: int = 1
    width: int = 256
    layerwise: bool = False
    beta: float = 0.1
    sft_weight: float = 1.0
    steps: int = 50
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 5e-3
    seed: int = 0
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: str | tuple[str, ...] = "all-linear"
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "cosine"
    max_length: int = 1024
    checkpoint_every: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        _check_soft(self)

    @property
    def lora_dropout(self) -> float:
        """Nothing is dropped from what an expert reads."""
        return 0.0

    @property
    def activation_checkpointing(self) -> bool:
        """A forward that is done again in the backward pass would be done without its gate."""
        return False

    @property
    def soft_of(self) -> dict[str, float]:
        """s_c by dimension."""
        given = self.soft
        return {name: given[name] if isinstance(given, Mapping) else given for name in self.dimensions}


def _check_names(config: GateConfig) -> None:
    if config.kind not in TRAINED:
        instead = {"arrow": "; arrow has nothing to train", "phatgoose": "; train_phatgoose trains that"}
        known = ", ".join(TRAINED)
        raise CounterpointError(f"kind is {config.kind!r}; it must be one of {known}{instead.get(config.kind, '')}")
    allowed = {"loss": (*PAIR_LOSSES, "sft"), "learn": get_args(Learn), "target": get_args(Target)}
    for name, values in allowed.items():
        if (value := getattr(config, name)) not in values:
            raise CounterpointError(f"{name} is {value!r}; it must be one of {', '.join(values)}")
    if not config.dimensions or len(set(config.dimensions)) < len(config.dimensions):
        raise CounterpointError(f"dimensions are {config.dimensions}; name one or more, and none twice")


def _check_numbers(config: GateConfig) -> None:
    check_beta(config.beta)
    for name in ("balance", "sft_weight"):
        if not 0 <= (value := getattr(config, name)) < math.inf:
            raise CounterpointError(f"{name} is {value}; it must be at least 0")
    if not 0 <= config.told <= 1:
        raise CounterpointError(f"told is {config.told}; it is a share of the pairs, 0 to 1")
    for name in ("per_group", "depth", "width", "lora_rank", "lora_alpha"):
        if (value := getattr(config, name)) < 1:
            raise CounterpointError(f"{name} is {value}; it must be at least 1")


def _check_soft(config: GateConfig) -> None:
    given = config.soft
    if isinstance(given, Mapping) and (differ := sorted(given.keys() ^ set(config.dimensions))):
        known = ", ".join(config.dimensions)
        raise CounterpointError(f"soft must name each dimension once, and differs in {differ[0]!r}; they are: {known}")
    for name, value in config.soft_of.items():
        if not 0 <= value <= 1:
            raise CounterpointError(f"soft is {value} for {name!r}; it must lie in [0, 1]")


def train_gate(
    config: GateConfig,
    comparisons: Sequence[Comparison],
    out: Path,
    experts: Sequence[Given] = (),
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a gate and write its folder to `out`, with what its routers made of the data (`train/gate_log.py`).

    `experts` are adapters to start from, with the dimension that each serves; an expert with a hash is a band's own and
    stays there where the router alone is learned. Pass `model` where the base is loaded already; it is copied.
    Resuming, dropping and errors are as in `train_dpo`; CounterpointError also where the experts do not fit together
    or with the data.
    """
    if config.learn == "router" and not experts:
        raise CounterpointError("learn is 'router' and there are no experts; new ones do nothing, so give trained ones")
    tokenizer = load_tokenizer(config.model)
    rows = [(i, c) for i, name in enumerate(config.dimensions) for c in of_dimension(comparisons, name)]
    found = pairs([c for _, c in rows], tokenizer)
    kept, dropped = keep_short(found, config)
    group = [i for (i, _), pair in zip(rows, found, strict=True) if pair.length <= config.max_length]
    inputs = inputs_of(config, kept) | {"start": _fingerprint(group, experts)}

    def make(scratch: Path) -> None:
        with seeded(config.seed):
            learner = new_learner(config, base_model(config, model), experts)
            trainer = gate_trainer(config, kept, group, learner, tokenizer, scratch / "work")
            losses = run(trainer, scratch / "work", progress)
        keep_gate(config, learner, experts, scratch)
        data = (kept, group, config.dimensions)
        write_json(scratch / ROUTING, routing_table(learner.bank, config.kind, learner.gate, *data, config.batch))
        log = routing_log(trainer.state.log_history)
        write_json(scratch / RECORD, {"losses": list(losses), "dropped": dropped, "routing": log})

    return result(out, make_once(out, config, inputs, make))


def _fingerprint(group: Sequence[int], experts: Sequence[Given]) -> str:
    digest = hashlib.sha256(json.dumps([list(group), [e.model_dump() for e, _ in experts]]).encode())
    for _, factors in experts:
        for module in sorted(factors.factors):
            for part in factors.factors[module]:
                digest.update(part.float().numpy().tobytes())
    return digest.hexdigest()


def new_learner(config: GateConfig, base: Any, experts: Sequence[Given]) -> Learner:
    """The gate as it stands before the first step, in a bank around `base`: its reference is made before, by a twin.

    Where experts learn, alpha/r is outside of their `B`, as in PEFT: it is a factor of the steps that `B` takes.
    """
    base = base.to("cuda" if torch.cuda.is_available() else "cpu")
    reference = None if config.loss == "sft" else twin_of(base)
    factors = _start(config, base, experts)
    gate = gate_of(config, experts, sorted(factors[0].factors))
    scale = config.lora_alpha / config.lora_rank if config.learn == "all" else 1.0
    bank = LoraBank(base)
    for entry, own in zip(gate.experts, factors, strict=True):
        bank.add(gate.bank_name(entry), _scaled(own, 1 / scale))
    bank.add_router(config.kind, gate.router(untrained(gate, base)))
    loss = own_loss(config, gate.groups)
    return Learner(bank, config.kind, config.learn == "all", scale, loss, reference, config.dimensions, config.told)


def _start(config: GateConfig, base: Any, experts: Sequence[Given]) -> list[LoraFactors]:
    if experts:
        check_given(experts, config.dimensions, base)
        return [factors for _, factors in experts]
    modules = target_modules(base, config.lora_targets)
    return [new_factors(base, modules, config.lora_rank) for _ in range(len(config.dimensions) * config.per_group)]


def _scaled(factors: LoraFactors, scale: float) -> LoraFactors:
    return LoraFactors({module: (a, b * scale) for module, (a, b) in factors.factors.items()})


def gate_of(config: GateConfig, experts: Sequence[Given], modules: Sequence[str]) -> Gate:
    """The gate of a configuration. Experts that learn are its own, whatever band they came from."""
    rule = RULES[config.kind]
    entries = [entry for entry, _ in experts] or new_entries(config.dimensions, config.per_group)
    if config.learn == "all":
        entries = [entry.model_copy(update={"hash": None}) for entry in entries]
    gate = Gate(kind=config.kind, experts=entries, modules=list(modules), empty=rule.empty and config.empty)
    guide = {"depth": config.depth, "width": config.width, "layerwise": config.layerwise}
    return gate.model_copy(update=guide) if rule.guided else gate


def own_loss(config: GateConfig, groups: Sequence[str]) -> OwnLoss | None:
    """What the shares of a gate are held to, times its weight; None for X-LoRA, and where its weight is 0."""
    if not config.balance or config.kind == "x-lora":
        return None
    loss: OwnLoss
    if config.kind == "pmol":
        table_DK = targets(groups, config.soft_of, config.target)
        loss = partial(group_soft_loss, renormalise=config.renormalise)
    else:
        table_DK, loss = importance(groups, config.soft_of), localised_balance

    def weighed(share_BTJK: Tensor, dimension_B: Tensor, mask_BT: Tensor) -> Tensor:
        return config.balance * loss(share_BTJK, table_DK.to(share_BTJK.device)[dimension_B], mask_BT)

    return weighed


def gate_trainer(
    config: GateConfig, rows: Sequence[Pair], group: Sequence[int], learner: Learner, tokenizer: Any, work: Path
) -> Any:
    """A trainer of the learner's parameters, by pairs or by the chosen responses alone."""
    order = batch_order([row.length for row in rows], config.batch * config.accumulate, config.steps, config.seed)
    data = ([rows[i] for i in order], [group[i] for i in order])
    if config.loss == "sft":
        return imitation_trainer(config, *data, learner, work)
    losses = {PAIR_LOSSES[config.loss]: 1.0} | ({"sft": config.sft_weight} if config.sft_weight else {})
    return pair_trainer(config, *data, learner, tokenizer, work, losses, config.beta)


def keep_gate(config: GateConfig, learner: Learner, given: Sequence[Given], folder: Path) -> None:
    """Write what was learned as a band's gate."""
    bank, router = learner.bank, learner.bank.routers[config.kind]
    gate = gate_of(config, given, router.modules)
    own = {e.name: _scaled(bank.factors(gate.bank_name(e)), learner.scale) for e in gate.experts if e.hash is None}
    if router.guide:
        learned = {GUIDE + name: part.detach() for name, part in router.guide.state_dict().items()}
    else:
        learned = bank.scores(config.kind)
    model: Any = bank.model
    write_gate(folder, gate, learned, own, config.model, fan_in_fan_out=model.config.model_type == "gpt2")
