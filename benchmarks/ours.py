"""Our side: everything goes through `Engine`, with its sampling and its bookkeeping."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import ADAPTERS, adapter_folder, load, random_prompts
from counterpoint.compose import mixture, moe
from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import read_adapter
from counterpoint.models.bank import LoraBank
from counterpoint.types import Weighting


class Bench:
    """A model with its bank and engine; greedy, and nothing ends early."""

    def __init__(self, folder: Path, dtype: Any) -> None:
        self.model = load(folder, dtype)
        self.bank = LoraBank(self.model)
        for index in range(ADAPTERS):
            self.bank.add(f"e{index}", read_adapter(adapter_folder(folder, index)))
        self.rows = Rows(self.model, self.bank)
        self.engine = Engine(self.rows, lambda tokens: "", end_tokens=(), longest=2048)

    def requests(self, plans: Sequence[Plan], tokens: int) -> list[Request]:
        sampling = Sampling(temperature=0, max_tokens=tokens)
        prompts = random_prompts(len(plans))
        return [
            Request(plan, (prompt,) * len(plan.rows), sampling) for plan, prompt in zip(plans, prompts, strict=True)
        ]

    def decode(self, plans: Sequence[Plan], tokens: int) -> float:
        """Tokens per second over all requests, once they have joined and said their first token."""
        for request in self.requests(plans, tokens + 1):
            self.engine.submit(request)
        self.engine.step()
        start = time.perf_counter()
        while not self.engine.idle:
            self.engine.step()
        return tokens * len(plans) / (time.perf_counter() - start)

    def whole(self, plans: Sequence[Plan], tokens: int) -> float:
        """Tokens per second with the prefill."""
        start = time.perf_counter()
        self.engine.run(self.requests(plans, tokens))
        return tokens * len(plans) / (time.perf_counter() - start)


def one(expert: int = 0) -> Plan:
    return Plan((Row({f"e{expert}": 1.0}),))


def mixed(experts: int) -> Plan:
    """A log mixture of so many experts at equal weights: a row each."""
    return mixture.plan_log(Weighting(names(experts), (1 / experts,) * experts))


def profiles(count: int, alike: bool) -> list[Plan]:
    """Requests with 4-expert profiles that are mixed inside the network, all alike or all different."""
    return [moe.plan(Weighting(names(4), weights(0 if alike else index))) for index in range(count)]


def weights(index: int) -> tuple[float, ...]:
    """A profile over four experts, another for each index."""
    return (0.1 + 0.05 * index, 0.3, 0.2, 0.4 - 0.05 * index)


def names(experts: int) -> tuple[str, ...]:
    return tuple(f"e{index}" for index in range(experts))


def gate(index: int) -> Mapping[str, float]:
    return dict(zip(names(4), weights(index), strict=True))
