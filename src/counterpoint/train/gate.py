"""Train a gate over LoRA experts on comparisons that name their dimension: PMoL, LoRAMoE and X-LoRA.

    loss = L_base + balance * L_own

L_base prefers the chosen responses of all dimensions together (DPO; the paper of PMoL does not name its loss) or
imitates them (SFT). L_own ties groups of experts to dimensions (`train/balance.py`): the expert-group soft loss of PMoL
(arXiv 2411.01245), the localised balancing constraint of LoRAMoE (arXiv 2312.09979); X-LoRA (arXiv 2402.07148) has
none. The reference of DPO is the base without the gate.

Experts are new, a group of `per_group` for each dimension, or were trained before and are given; then the router alone
can be learned, so that the experts stay those that others use.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from counterpoint.artifacts import make_once
from counterpoint.compose.weighers.gate import GUIDE, Gate, GateExpert, write_gate
from counterpoint.data.examples import Pair, of_dimension, pairs
from counterpoint.models.adapter import LoraFactors, weight_OI
from counterpoint.models.bank import LoraBank, together
from counterpoint.models.gates import RULES, Guide, Kind, Router
from counterpoint.models.load import load_tokenizer
from counterpoint.train.balance import Target, group_soft_loss, localised_balance, targets
from counterpoint.train.batches import batch_order
from counterpoint.train.policy import twin_of
from counterpoint.train.routing import Learner, OwnLoss, RoutedPairs, RoutedSft
from counterpoint.train.run import (
    Progress,
    Schedule,
    TrainResult,
    arguments,
    base_model,
    inputs_of,
    keep_short,
    result,
    run,
    seeded,
    write_record,
)
from counterpoint.train.sft import IGNORED, collate
from counterpoint.types import Comparison

Learn = Literal["all", "router"]
PAIR_LOSSES = {"dpo": "sigmoid", "ipo": "ipo", "hinge": "hinge", "robust": "robust"}
"""Losses of pairs by our names, and by those of TRL."""


@dataclass(frozen=True)
class GateConfig:
    """How a gate is learned over the comparisons of `dimensions`.

    `loss` is "dpo", another of `PAIR_LOSSES`, or "sft". `per_group` new experts of rank `lora_rank` are made for each
    dimension where none are given. `soft` is PMoL's s_c, of each dimension by name or of all (`target` and
    `renormalise` as in `train/balance.py`); LoRAMoE reads it as its delta. `balance` weighs that loss, 0 leaves it out.
    `learn` is what moves: "all" or the "router" alone. `depth`, `width` and `layerwise` are of X-LoRA's classifier.
    The other fields are those of `DpoConfig`, without `lora_dropout`. The learning rate is larger than there, since an
    expert is moved by its share of each token only.
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
    lora_dropout: float = field(default=0.0, init=False)
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "cosine"
    max_length: int = 1024
    checkpoint_every: int = 0
    bf16: bool = False
    activation_checkpointing: bool = field(default=False, init=False)

    @property
    def soft_of(self) -> list[float]:
        """s_c by dimension."""
        given = self.soft
        return [given[name] if isinstance(given, Mapping) else given for name in self.dimensions]


Given = tuple[GateExpert, LoraFactors]


def train_gate(
    config: GateConfig,
    comparisons: Sequence[Comparison],
    out: Path,
    experts: Sequence[Given] = (),
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a gate and write its folder to `out`.

    `experts` are adapters to start from, with the dimension that each serves; an expert with a hash is a band's own and
    stays there where the router alone is learned. Pass `model` where the base is loaded already; it is copied.
    Resuming, dropping and errors are as in `train_dpo`.
    """
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
        write_record(scratch, losses, dropped)

    return result(out, make_once(out, config, inputs, make))


def _fingerprint(group: Sequence[int], experts: Sequence[Given]) -> str:
    digest = hashlib.sha256(json.dumps([list(group), [e.model_dump() for e, _ in experts]]).encode())
    for _, factors in experts:
        for module in sorted(factors.factors):
            for part in factors.factors[module]:
                digest.update(part.float().numpy().tobytes())
    return digest.hexdigest()


def new_learner(config: GateConfig, base: Any, experts: Sequence[Given]) -> Learner:
    """The gate as it stands before the first step, in a bank around `base`: its reference is made before, by a twin."""
    twin = twin_of(base)
    bank = LoraBank(base)
    scale = config.lora_alpha / config.lora_rank
    entries, factors = zip(*(experts or _new_experts(config, base)), strict=True)
    for entry, own in zip(entries, factors, strict=True):
        bank.add(entry.name, LoraFactors({module: (a.clone(), b / scale) for module, (a, b) in own.factors.items()}))
    modules = tuple(sorted(factors[0].factors))
    bank.add_router(config.kind, _new_router(config, base, entries, modules))
    learner = Learner(bank, config.kind, config.learn == "all", scale, _own_loss(config, entries))
    learner.reference = twin
    return learner


def _new_experts(config: GateConfig, base: Any) -> list[Given]:
    """A group of LoRA experts for each dimension, as PEFT starts them: A by Kaiming, B zero."""
    modules = [name for group in together(base) for name in group if _is_target(name, config.lora_targets, base)]
    shape = {module: weight_OI(base.get_submodule(module)).shape for module in modules}

    def factors() -> LoraFactors:
        made = {}
        for module, (out, into) in shape.items():
            a_RI = torch.empty(config.lora_rank, into)
            torch.nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5))
            made[module] = (a_RI, torch.zeros(out, config.lora_rank))
        return LoraFactors(made)

    return [
        (GateExpert(name=f"{name}-{i}", dimension=name), factors())
        for name in config.dimensions
        for i in range(config.per_group)
    ]


def _is_target(module: str, targets: str | tuple[str, ...], base: Any) -> bool:
    if base.get_submodule(module) is base.get_output_embeddings():
        return False
    return targets == "all-linear" or module.rpartition(".")[2] in targets


def _new_router(config: GateConfig, base: Any, entries: Sequence[GateExpert], modules: tuple[str, ...]) -> Router:
    """Scores start as Kaiming's, as in LoRAMoE; a guide's last map starts at zero, which is the mean of the experts."""
    rule = replace(RULES[config.kind], empty=config.empty and RULES[config.kind].empty)
    names, groups = tuple(e.name for e in entries), tuple(e.dimension for e in entries)
    if rule.guided:
        layers = len(modules) if config.layerwise else 1
        guide = Guide(base.config.hidden_size, len(names), layers, config.depth, config.width)
        for parameter in list(guide.layers)[-1].parameters():
            torch.nn.init.zeros_(parameter)
        return Router(rule, names, groups, {}, modules, guide)
    scores = {}
    for module in modules:
        scores[module] = torch.empty(len(names) + rule.empty, weight_OI(base.get_submodule(module)).shape[1])
        torch.nn.init.kaiming_uniform_(scores[module], a=math.sqrt(5))
    return Router(rule, names, groups, scores, modules)


def _own_loss(config: GateConfig, entries: Sequence[GateExpert]) -> OwnLoss | None:
    if not config.balance or config.kind not in ("pmol", "loramoe"):
        return None
    groups = [entry.dimension for entry in entries]
    if config.kind == "pmol":
        target_GK = targets(groups, config.soft_of, config.target)

        def soft_loss(share: Tensor, group_B: Tensor, mask_BT: Tensor) -> Tensor:
            target_BK = target_GK.to(share.device)[group_B]
            return config.balance * group_soft_loss(share, target_BK, mask_BT, config.renormalise)

        return soft_loss
    mine_GK = torch.tensor([[group == name for group in groups] for name in config.dimensions])
    delta = config.soft_of[0]

    def localised(share: Tensor, group_B: Tensor, mask_BT: Tensor) -> Tensor:
        return config.balance * localised_balance(share, mine_GK.to(share.device)[group_B], mask_BT, delta)

    return localised


def gate_trainer(
    config: GateConfig, rows: Sequence[Pair], group: Sequence[int], learner: Learner, tokenizer: Any, work: Path
) -> Any:
    """A trainer of the learner's parameters, by pairs or by the chosen responses alone."""
    order = batch_order([row.length for row in rows], config.batch * config.accumulate, config.steps, config.seed)
    make = _sft if config.loss == "sft" else _pairs
    trainer = make(config, [rows[i] for i in order], [group[i] for i in order], learner, tokenizer, work)
    trainer.learner = learner
    return trainer


def _sft(
    config: GateConfig, rows: Sequence[Pair], group: Sequence[int], learner: Learner, tokenizer: Any, work: Path
) -> Any:
    table = [
        {
            "input_ids": [*row.prompt_ids, *row.chosen_ids],
            "labels": [*[IGNORED] * len(row.prompt_ids), *row.chosen_ids],
            "group": i,
        }
        for row, i in zip(rows, group, strict=True)
    ]
    return RoutedSft(
        model=learner.bank.model,
        args=arguments(config, work, remove_unused_columns=False),
        train_dataset=table,
        data_collator=partial(_with_group, collate),
    )


def _pairs(
    config: GateConfig, rows: Sequence[Pair], group: Sequence[int], learner: Learner, tokenizer: Any, work: Path
) -> Any:
    losses = {PAIR_LOSSES[config.loss]: 1.0} | ({"sft": config.sft_weight} if config.sft_weight else {})
    columns = {
        "prompt_ids": [list(row.prompt_ids) for row in rows],
        "chosen_ids": [list(row.chosen_ids) for row in rows],
        "rejected_ids": [list(row.rejected_ids) for row in rows],
        "group": list(group),
    }
    return RoutedPairs(
        model=learner.bank.model,
        ref_model=learner.reference,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns),
        data_collator=partial(_with_group, DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)),
        args=arguments(
            config,
            work,
            DPOConfig,
            beta=config.beta,
            loss_type=list(losses),
            loss_weights=list(losses.values()),
            max_length=None,
            remove_unused_columns=False,
        ),
    )


def _with_group(collate_rows: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {**collate_rows(rows), "group": torch.tensor([row["group"] for row in rows])}


def keep_gate(config: GateConfig, learner: Learner, given: Sequence[Given], folder: Path) -> None:
    """Write what was learned as a band's gate."""
    bank, router = learner.bank, learner.bank.routers[config.kind]
    hashes = {entry.name: entry.hash for entry, _ in given} if config.learn == "router" else {}
    entries = [
        GateExpert(name=name, dimension=group, hash=hashes.get(name))
        for name, group in zip(router.experts, router.groups, strict=True)
    ]
    gate = Gate(
        kind=config.kind, experts=entries, modules=list(router.modules), empty=router.rule.empty,
        top_k=router.rule.top_k, depth=config.depth, width=config.width, layerwise=config.layerwise,
    )  # fmt: skip
    own = {
        entry.name: LoraFactors(
            {m: (a.detach(), b.detach() * learner.scale) for m, (a, b) in bank.experts[entry.name].factors.items()}
        )
        for entry in entries
        if entry.hash is None
    }
    learned = (
        {GUIDE + name: part.detach() for name, part in router.guide.state_dict().items()}
        if router.guide
        else bank.scores(config.kind)
    )
    write_gate(folder, gate, learned, own, config.model)
