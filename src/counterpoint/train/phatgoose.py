"""PHATGOOSE: a gate over adapters made elsewhere, of one vector per adapter and layer (arXiv 2402.05859, section 3).

Of one expert at a time, with all else frozen, the vector v that says which tokens it is for is learned from its own
data, from 0 and by imitation:

    y = W0 x + sigmoid(v . x) B A x

The vectors of all experts then become the rows of one router, which compares them (`models/gates.py`). No expert needs
another, nor the other's data: an expert that joins later leaves the rows that are there as they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from counterpoint.artifacts import hash_files, make_once, read_json, write_json
from counterpoint.compose.weighers.gate import (
    FILE,
    LEARNED,
    Gate,
    GateExpert,
    gate_over,
    read_gate,
    read_learned,
    write_gate,
)
from counterpoint.data.examples import Pair, of_dimension, pairs
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE, RULES, Kind, Router
from counterpoint.models.load import load_tokenizer
from counterpoint.train.batches import batch_order
from counterpoint.train.gate_log import ROUTING
from counterpoint.train.gate_start import Given
from counterpoint.train.routing import Learner, imitation_trainer, routing_table
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
    write_record,
)
from counterpoint.types import Comparison, CounterpointError, Expert

KIND: Kind = "phatgoose"
ROWS = "rows.safetensors"
Rows = Mapping[str, Tensor]
"""One expert's vector by module, `[I]`."""


@dataclass(frozen=True)
class PhatgooseConfig:
    """How each expert's vectors are learned; `steps` and the rest are of one expert, and mean what `SftConfig` says.

    `top_k` (None: 2, or all where there are fewer) and `temperature` say how the vectors of all then share a token. A
    vector is held in float32, and of LoRA there is nothing to set, since the experts are given.
    """

    model: str
    top_k: int | None = None
    temperature: float = 1.0
    steps: int = 100
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    seed: int = 0
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "cosine"
    max_length: int = 1024
    checkpoint_every: int = 0
    lora_rank: ClassVar[int] = 0
    lora_alpha: ClassVar[int] = 0
    lora_targets: ClassVar[tuple[str, ...]] = ()
    lora_dropout: ClassVar[float] = 0.0
    bf16: ClassVar[bool] = False
    activation_checkpointing: ClassVar[bool] = False


def train_phatgoose(
    config: PhatgooseConfig,
    comparisons: Sequence[Comparison],
    out: Path,
    experts: Sequence[Given],
    model: Any | None = None,
    progress: Progress | None = None,
    before: Path | None = None,
) -> TrainResult:
    """Learn the vectors of a band's experts from the chosen responses on their dimensions, and write the gate to `out`.

    Experts that are also in the gate `before`, with the same adapter, keep their rows to the bit and are not trained.
    `losses` are those of the others, one expert after another. A killed run goes on with the expert that it was at.
    Resuming, dropping and errors are otherwise as in `train_sft`; CounterpointError also for an expert without a hash,
    since a gate over adapters holds only for those, and where two adapt different layers.
    """
    gate = _gate(config, experts)
    known = {} if before is None else _known(before, gate, experts[0][1])
    new = [given for given in experts if given[0].name not in known]
    data, dropped = _data(config, comparisons, [entry.dimension for entry, _ in new])
    inputs = _inputs(config, gate, data, before)

    def make(scratch: Path) -> None:
        bank = LoraBank(base_model(config, model).to("cuda" if torch.cuda.is_available() else "cpu"))
        rows = dict(known) | _learn(config, bank, new, data, scratch / "work", progress)
        learned = {m: torch.stack([rows[expert.name][m] for expert in gate.experts]) for m in gate.modules}
        write_gate(scratch, gate, learned, {}, config.model)
        if data:
            write_json(scratch / ROUTING, _routing(config, bank, experts, gate.router(learned), data))
        write_record(scratch, [loss for e, _ in new for loss in _losses(scratch / "work" / e.name)], dropped)

    return result(out, make_once(out, config, inputs, make))


def _gate(config: PhatgooseConfig, experts: Sequence[Given]) -> Gate:
    for entry, _ in experts:
        if not entry.hash:
            raise CounterpointError(f"{KIND}: expert {entry.name!r} has no hash; add its adapter to a band first")
    return gate_over(
        KIND,
        [Expert(entry.name, entry.dimension) for entry, _ in experts],
        {entry.name: factors for entry, factors in experts},
        {entry.name: entry.hash or "" for entry, _ in experts},
        config.top_k,
        config.temperature,
    )


def _known(before: Path, gate: Gate, like: LoraFactors) -> dict[str, Rows]:
    """The rows of an earlier gate for the experts that are the same now, by name."""
    earlier, same = read_gate(before), {(expert.name, expert.hash) for expert in gate.experts}
    if earlier.kind != KIND or earlier.modules != gate.modules:
        raise CounterpointError(f"{before / FILE}: not a {KIND} gate in the layers that the experts adapt; train anew")
    learned = read_learned(before / LEARNED, earlier, like)
    return {
        expert.name: {module: learned[module][k] for module in gate.modules}
        for k, expert in enumerate(earlier.experts)
        if (expert.name, expert.hash) in same
    }


def _data(
    config: PhatgooseConfig, comparisons: Sequence[Comparison], dimensions: Sequence[str]
) -> tuple[dict[str, list[Pair]], int]:
    """The chosen responses of each dimension, of which nothing is compared, and how many were too long."""
    tokenizer = load_tokenizer(config.model)
    data, dropped = {}, 0
    for name in dict.fromkeys(dimensions):
        found = [replace(pair, rejected_ids=()) for pair in pairs(of_dimension(comparisons, name), tokenizer)]
        data[name], longer = keep_short(found, config)
        dropped += longer
    return data, dropped


def _inputs(
    config: PhatgooseConfig, gate: Gate, data: Mapping[str, Sequence[Pair]], before: Path | None
) -> dict[str, str]:
    own = inputs_of(config, [row for rows in data.values() for row in rows])
    experts = [{**entry.model_dump(), "rows": len(data.get(entry.dimension, ()))} for entry in gate.experts]
    return own | {
        "experts": json.dumps(experts),
        "before": "" if before is None else hash_files(before / FILE, before / LEARNED),
    }


def _learn(
    config: PhatgooseConfig,
    bank: LoraBank,
    experts: Sequence[Given],
    data: Mapping[str, Sequence[Pair]],
    work: Path,
    progress: Progress | None,
) -> dict[str, Rows]:
    """Each expert's rows by its name; those that a killed run has learned are read again."""
    rows: dict[str, Rows] = {}
    for done, (entry, factors) in enumerate(experts):
        kept = work / entry.name / ROWS
        if not kept.exists():
            bank.add(entry.name, factors)
            told = progress and partial(_tell, progress, done, len(experts))
            with seeded(config.seed):
                _learn_one(config, bank, entry, data[entry.dimension], kept.parent, told)
            bank.remove(entry.name)
        rows[entry.name] = load_file(kept)
    return rows


def _tell(progress: Progress, before: int, experts: int, step: int, steps: int) -> None:
    progress(before * steps + step, experts * steps)


def _learn_one(
    config: PhatgooseConfig,
    bank: LoraBank,
    entry: GateExpert,
    data: Sequence[Pair],
    work: Path,
    progress: Progress | None,
) -> None:
    """Train one expert's rows and write them into `work`, the losses before them: where there are rows all is there."""
    factors = bank.experts[entry.name].factors
    zeros = {module: torch.zeros(1, a.shape[1]) for module, (a, _) in factors.items()}
    rule = replace(RULES["loramoe"], sigmoid=True)
    bank.add_router(KIND, Router(rule, (entry.name,), (entry.dimension,), zeros, tuple(sorted(factors))))
    order = batch_order([row.length for row in data], config.batch * config.accumulate, config.steps, config.seed)
    learner = Learner(bank, KIND, experts=False)
    losses = run(imitation_trainer(config, [data[i] for i in order], [0] * len(order), learner, work), work, progress)
    write_json(work / RECORD, list(losses))
    part = work / f"{ROWS}.part"
    save_file({module: row_1I[0].float().cpu().clone() for module, row_1I in bank.scores(KIND).items()}, part)
    part.replace(work / ROWS)


def _losses(work: Path) -> list[float]:
    losses: list[float] = read_json(work / RECORD)
    return losses


def _routing(
    config: PhatgooseConfig,
    bank: LoraBank,
    experts: Sequence[Given],
    router: Router,
    data: Mapping[str, Sequence[Pair]],
) -> dict[str, Any]:
    """`routing.json`: what the gate makes of the first chosen responses on each dimension that was learned from."""
    bank.model.eval()
    for entry, factors in experts:
        bank.add(entry.name, factors)
    bank.add_router(KIND, router)
    rows = [row for found in data.values() for row in found]
    group = [number for number, found in enumerate(data.values()) for _ in found]
    return routing_table(bank, KIND, bank.gate([{GATE + KIND: 1.0}]), rows, group, list(data), config.batch)
