"""What a gate learned from comparisons: whether it raises the chosen responses, as it routes and as a person asks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from counterpoint.data.examples import Example, example
from counterpoint.evaluate.accuracy import by_prompt
from counterpoint.evaluate.bootstrap import Interval
from counterpoint.evaluate.ranking import rewarded_right
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE, AnyGates, RowGates
from counterpoint.models.logprobs import sequence_logp
from counterpoint.types import Comparison

PART = 64
"""Responses of one forward."""


@dataclass(frozen=True)
class GateQuality:
    """A gate on held-out comparisons of one dimension: the share that it raised the chosen response of by more.

    `routed` is without a profile, `asked` with one that wants this dimension alone; intervals are by prompt.
    """

    pairs: int
    routed: Interval
    asked: Interval


def gate_quality(
    bank: LoraBank,
    router: str,
    dimension: str,
    tokenizer: Any,
    comparisons: Sequence[Comparison],
    seed: int,
    progress: Callable[[int, int], None],
) -> GateQuality:
    """How a router of the bank does on comparisons of a dimension, beside the base (DPO's implicit reward)."""
    responses = [(c.prompt, c.chosen) for c in comparisons] + [(c.prompt, c.rejected) for c in comparisons]
    examples = [example(*pair, tokenizer) for pair in responses]
    gates: list[dict[str, float]] = [{}, {GATE + router: 1.0}, {GATE + router: 1.0, dimension: 1.0}]
    logp_GN = np.zeros((len(gates), len(examples)))
    by_length = sorted(range(len(examples)), key=lambda n: examples[n].length)
    for start in range(0, len(examples), PART):
        rows = by_length[start : start + PART]
        for g, gate in enumerate(gates):
            logp_GN[g, rows] = gated_logp(bank, gate, [examples[n] for n in rows])
        progress(start + len(rows), len(examples))
    base_2P, routed_2P, asked_2P = (logp_N.reshape(2, -1) for logp_N in logp_GN)
    routed, asked = (
        by_prompt(rewarded_right(*own_2P, *base_2P), comparisons, seed) for own_2P in (routed_2P, asked_2P)
    )
    return GateQuality(len(comparisons), routed, asked)


def gated_logp(bank: LoraBank, gate: Mapping[str, float], examples: Sequence[Example]) -> np.ndarray:
    """Log-probabilities `[N]` of the examples' responses, in nats, by the bank's model with one gate for all."""
    with gated_forwards(bank, bank.gate([gate])):
        return sequence_logp(bank.model, examples)


@contextmanager
def gated_forwards(bank: LoraBank, gate: AnyGates | None) -> Iterator[None]:
    """Apply a gate to the forwards inside the block, each of which a guided gate first hears the base read."""

    def hear(model: Any, _: Any, inputs: dict[str, Any]) -> None:
        assert isinstance(gate, RowGates)
        read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad(), bank.gated(None):
            hidden_BTI = model.base_model(**read, use_cache=False)[0]
        bank.context.set(gate.heard(hidden_BTI))

    guided = isinstance(gate, RowGates) and gate.guided
    hook = bank.model.register_forward_pre_hook(hear, with_kwargs=True) if guided else None
    try:
        with bank.gated(gate):
            yield
    finally:
        if hook is not None:
            hook.remove()
