"""What gates inside the network cost: PMoL and its relatives, against the base, one expert, a plain loop, and PEFT.

The shape is that of `benchmarks.models`: four experts of rank 16 on all 210 projections and a router in each, PMoL's
with an empty expert. All is random, which changes no time. Ours goes through `Rows` and `Engine`; theirs are bare
greedy loops with the cache that each has: transformers' own, or none for PEFT's X-LoRA, which refuses one.
"""

import ctypes
import gc
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from benchmarks import pmol_peers
from benchmarks.models import RANK, adapter_folder, load, random_prompts, shapes_of
from benchmarks.ours import Bench, names
from benchmarks.timing import Row, in_turn, seconds
from counterpoint.compose import plan
from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE, RULES, Guide, Kind, Router
from counterpoint.train.gate import GateConfig, new_learner
from counterpoint.train.routing import RoutedSft

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
K = 4
TOP = 2
TOKENS = 64
READ = 256
STEP = (4, 128)
"""Sequences of a training step, and the tokens of each."""
WIDE = f"one expert of rank {K * RANK}"
"""One expert of the rank that the four have together: their sum."""

GATES: Mapping[str, Mapping[str, float]] = {
    "base": {},
    "one expert": {"e0": 1.0},
    WIDE: {"wide": 1.0},
    "PMoL": {GATE + "pmol": 1.0},
    "PMoL by a profile": {GATE + "pmol": 1.0, "e0": 1.0, "e1": 0.5},
    "LoRAMoE": {GATE + "loramoe": 1.0},
    "Arrow": {GATE + "arrow": 1.0},
    "X-LoRA": {GATE + "x-lora": 1.0},
}
PAIRS = (
    ("one expert", "base"),
    ("PMoL", "base"),
    ("PMoL", "one expert"),
    ("PMoL", WIDE),
    ("PMoL by a profile", "PMoL"),
    ("LoRAMoE", "one expert"),
    ("Arrow", "one expert"),
    ("X-LoRA", "one expert"),
    ("PMoL", "a loop over experts"),
    ("PMoL", "PEFT Arrow"),
    ("Arrow", "PEFT Arrow"),
)

Work = Callable[[], float]


def pmol_decode(folder: Path, dtype: str) -> Iterator[Row]:
    """Decoding after a prompt of 64 tokens, for one request."""
    yield from decoding(folder, dtype, requests=1, tokens=TOKENS, rounds=5)


def pmol_decode_of_eight(folder: Path, dtype: str) -> Iterator[Row]:
    """Decoding after prompts of 64 tokens, for eight requests at once."""
    yield from decoding(folder, dtype, requests=8, tokens=TOKENS // 2, rounds=3)


def decoding(folder: Path, dtype: str, requests: int, tokens: int, rounds: int) -> Iterator[Row]:
    """Tokens per second over all requests, once they have joined and said their first token."""
    works: dict[str, Work] = {
        name: partial(bench.decode, [plan_of(name)] * requests, tokens)
        for name, bench in benches(folder, dtype).items()
    }
    for name, model in peers(folder, dtype).items():
        works[name] = partial(pmol_peers.greedy, model, requests, tokens)
    found = measured(works, rounds)
    for name, against in PAIRS:
        goal = "ratio >= 0.75" if name == "PMoL" and against in ("one expert", WIDE) else ""
        yield Row(f"{name}, {requests} at once, {dtype}: {against}", found[name], found[against], "tok/s", goal)


def pmol_prefill(folder: Path, dtype: str) -> Iterator[Row]:
    """One forward over 256 tokens."""
    works: dict[str, Work] = {name: partial(prefill, bench, name) for name, bench in benches(folder, dtype).items()}
    for name, model in peers(folder, dtype).items():
        works[name] = partial(pmol_peers.prefill, model, READ)
    found = measured(works, rounds=7)
    for name, against in PAIRS:
        yield Row(f"{name}, prefill, {dtype}: {against}", found[name], found[against], "tok/s")


def pmol_x_lora(folder: Path, dtype: str) -> Iterator[Row]:
    """X-LoRA's and PMoL's decoding with caches, against PEFT's X-LoRA, which computes a text anew for each token."""
    ours, theirs = benches(folder, dtype), pmol_peers.peft_x_lora(folder, DTYPES[dtype], K)
    *fast, slow = in_turn(
        *(partial(ours[name].decode, [plan_of(name)], TOKENS) for name in ("X-LoRA", "PMoL")),
        lambda: pmol_peers.greedy_anew(theirs, TOKENS),
        rounds=1,
    )
    for name, own in zip(("X-LoRA", "PMoL"), fast, strict=True):
        yield Row(f"{name}, 1 at once, {dtype}: PEFT X-LoRA, no cache", own, slow, "tok/s")


def measured(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """The median of each, all in turn."""
    return dict(zip(works, in_turn(*works.values(), rounds=rounds), strict=True))


def benches(folder: Path, dtype: str) -> dict[str, Bench]:
    """An engine for each of `GATES`: the gates share one, and each single expert has its own, stacked alone."""
    single, wide, gated = (Bench(folder, DTYPES[dtype]) for _ in range(3))
    wide.bank.add("wide", sum_of(folder))
    for kind in ("pmol", "loramoe", "arrow", "x-lora"):
        gated.bank.add_router(kind, random_router(shapes_of(gated.bank.experts["e0"]), kind))
    own = {"base": single, "one expert": single, WIDE: wide}
    return {name: own.get(name, gated) for name in GATES}


def peers(folder: Path, dtype: str) -> dict[str, Any]:
    """Models of others, with a loop over the same experts."""
    scores = random_router(shapes_of(read_adapter(adapter_folder(folder, 0))), "pmol").scores
    return {
        "a loop over experts": pmol_peers.looped(folder, DTYPES[dtype], scores, K),
        "PEFT Arrow": pmol_peers.peft_arrow(folder, DTYPES[dtype], K, TOP),
    }


def plan_of(name: str) -> plan.Plan:
    return plan.Plan((plan.Row(GATES[name]),))


def sum_of(folder: Path) -> LoraFactors:
    """The sum of the K experts, as one of their ranks together."""
    adapters = [read_adapter(adapter_folder(folder, index)).factors for index in range(K)]
    return LoraFactors({
        module: (torch.cat([own[module][0] for own in adapters]), torch.cat([own[module][1] for own in adapters], 1))
        for module in adapters[0]
    })  # fmt: skip


def random_router(shapes: Mapping[str, tuple[int, int]], kind: Kind) -> Router:
    """A router over the K first experts, in layers of so many outputs and inputs."""
    generator = torch.Generator().manual_seed(0)
    rule = replace(RULES[kind], top_k=TOP if RULES[kind].top_k else None)
    reads = {module: into for module, (_, into) in shapes.items()}
    if rule.guided:
        return Router(rule, names(K), names(K), {}, tuple(reads), Guide(min(reads.values()), K))
    scores = {
        module: torch.randn(K + rule.empty, into, generator=generator) / into**0.5 for module, into in reads.items()
    }
    return Router(rule, names(K), names(K), scores, tuple(reads))


def prefill(bench: Bench, name: str) -> float:
    """Tokens per second; the last of a context is left for the first step."""
    context = (*sum(random_prompts(READ // 64), ()), 1)
    took = seconds(lambda: bench.rows.join([context], [GATES[name]]))
    bench.rows.keep([])
    return READ / took


# Memory and training


def pmol_memory(folder: Path, dtype: str) -> Iterator[Row]:
    """What there is more of once a bank decodes PMoL, as tensors and as resident set, against A, B and routers."""
    model = load(folder, DTYPES[dtype])
    bank = LoraBank(model)
    bank.gate([{}])
    tensors, resident = tensor_bytes(), resident_bytes()
    for index, name in enumerate(names(K)):
        bank.add(name, read_adapter(adapter_folder(folder, index)))
    bank.add_router("pmol", random_router(shapes_of(bank.experts["e0"]), "pmol"))
    bank.gate([GATES["PMoL"]])
    held, stays = tensor_bytes() - tensors, resident_bytes() - resident
    routers = sum(score_EI.numel() for score_EI in bank.routers["pmol"].scores.values())
    needed = (sum(bank.experts[name].size for name in names(K)) + routers) * model.dtype.itemsize
    for what, bytes_ in (("tensors", held), ("resident set", stays)):
        yield Row(f"PMoL, {what}, {dtype}: A, B and routers", bytes_ / 1e6, needed / 1e6, "MB", "ratio <= 1.1")


def tensor_bytes() -> int:
    """The bytes of all tensors in this process, those that share memory counted once."""
    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def resident_bytes() -> int:
    """The resident set, without freed memory that the C library keeps for later (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def pmol_train(folder: Path, dtype: str) -> Iterator[Row]:
    """A step of imitation by `train_gate`'s machinery, against one LoRA of the same total rank in PEFT."""
    with TemporaryDirectory() as work:
        ours, theirs = our_trainer(folder, dtype, work), peft_trainer(folder, dtype, work)
        fast, slow = in_turn(lambda: 1e3 * seconds(ours), lambda: 1e3 * seconds(theirs), rounds=3)
    yield Row(f"PMoL, training step, {dtype}: one LoRA of rank {K * RANK}", fast, slow, "ms", "ratio <= 1.35")


def our_trainer(folder: Path, dtype: str, work: str) -> Callable[[], None]:
    """A step: the loss of the response tokens, the expert-group soft loss, both backward, and AdamW."""
    dimensions = names(K)
    config = GateConfig(str(folder), dimensions, loss="sft", per_group=1, lora_rank=RANK, lora_alpha=RANK)
    learner = new_learner(config, load(folder, DTYPES[dtype]), ())
    trainer = RoutedSft(model=learner.bank.model, args=TrainingArguments(work, use_cpu=True, report_to="none"))
    trainer.learner = learner
    trainer.state.max_steps, trainer.state.global_step = 1000, 1  # one of the many steps that say nothing of the shares
    return stepper(trainer, learner.parameters, {"group": torch.arange(STEP[0]) % K})


def peft_trainer(folder: Path, dtype: str, work: str) -> Callable[[], None]:
    model = pmol_peers.peft_lora(folder, DTYPES[dtype], K * RANK)
    trainer = Trainer(model=model, args=TrainingArguments(work, use_cpu=True, report_to="none"))
    return stepper(trainer, [p for p in model.parameters() if p.requires_grad], {})


def stepper(trainer: Any, parameters: list[torch.nn.Parameter], more: dict[str, torch.Tensor]) -> Callable[[], None]:
    """What a trainer does in a step: its loss of random text, backward, and AdamW."""
    generator = torch.Generator().manual_seed(2)
    ids_BT = torch.randint(300, 2000, STEP, generator=generator)
    batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT}
    optimizer = torch.optim.AdamW(parameters)
    trainer.model.train()

    def step() -> None:
        trainer.compute_loss(trainer.model, batch | more).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
