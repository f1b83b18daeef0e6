"""Is a merged artefact what it was meant to be? Loaded as a user loads it, it must give the logits of its experts.

What it is held to is a composition at run time: the base, with the experts' deltas added inside each layer of the
forward (`models/bank.py`), which never sees the merged tensors. A merge that is not exact is held to its own updates,
added in the same way, and its distance from the exact composition is told beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from counterpoint.compose.inexact import Update
from counterpoint.compose.soup import Coefficients
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.models.load import load_model, quiet
from counterpoint.types import CounterpointError

PROMPTS, LENGTH, SEED = 4, 32, 0
"""Rows of random tokens, as long as the model allows up to `LENGTH`; every position is compared."""

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""How far logits may be off, over the largest of them: sums of another order, and the rounding of merged parameters."""


@dataclass(frozen=True)
class Verified:
    """Largest differences of logits over `positions`, each divided by the largest logit of the composition.

    `difference` is of the artefact from what it should be, `from_exact` from the exact composition, and `effect` of the
    base from that: what the experts change.
    """

    difference: float
    tolerance: float
    from_exact: float
    effect: float
    positions: int


@dataclass(frozen=True)
class Expected:
    """Logits `[B, T, V]` for `ids_BT` of the base, of the exact composition and of what was to be written."""

    ids_BT: Tensor
    base: Tensor
    exact: Tensor
    wanted: Tensor


@torch.no_grad()
def expect(bank: LoraBank, at: Coefficients, updates: Mapping[str, Update] | None) -> Expected:
    """What a merge of the bank's experts should give; `updates` of None are exact. The model is left as it was.

    Raises CounterpointError where that is not finite.
    """
    ids_BT = random_ids(bank.model)
    exact = _composed(bank, at)
    wanted = exact if updates is None else {"merged": LoraFactors({m: _factors(u) for m, u in updates.items()})}
    base = bank.model(ids_BT).logits
    logits = [_logits(bank.model, experts, ids_BT) for experts in ([exact] if wanted is exact else [exact, wanted])]
    if not all(found.isfinite().all() for found in logits):
        whose = "the base with its experts" if base.isfinite().all() else "the base, without any expert,"
        raise CounterpointError(f"{whose} gives logits that are not finite; a merge of it would be of no use")
    return Expected(ids_BT, base, logits[0], logits[-1])


@torch.no_grad()
def verify(model: Callable[[Tensor], Any], expected: Expected, dtype: str) -> Verified:
    """Compare a loaded artefact, whose parameters were written in `dtype`. Raises CounterpointError if it is off."""
    found = model(expected.ids_BT).logits
    scale = float(expected.exact.abs().max())

    def off(one: Tensor, other: Tensor) -> float:
        return float((one - other).abs().max()) / scale

    verified = Verified(
        difference=off(found, expected.wanted),
        tolerance=TOLERANCE[dtype],
        from_exact=off(found, expected.exact),
        effect=off(expected.base, expected.exact),
        positions=expected.ids_BT.numel(),
    )
    if not verified.difference <= verified.tolerance:
        raise CounterpointError(
            f"the merged artefact's logits are off by {verified.difference:.2g} of the largest, and {dtype} allows "
            f"{verified.tolerance:g}; nothing was written. Was a file changed meanwhile? If not, choose a wider --dtype"
        )
    return verified


def load_adapter(base: Any, folder: Path) -> Any:
    """The base with an adapter, by PEFT; it changes `base`."""
    with quiet():
        return PeftModel.from_pretrained(base, folder).eval()


def load_whole(folder: Path) -> Any:
    """A merged model, computed in float32 whatever it was written in."""
    return load_model(str(folder), torch.float32)


def random_ids(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    length = min(LENGTH, int(model.config.max_position_embeddings))
    return torch.randint(int(model.config.vocab_size), (PROMPTS, length), generator=generator)


def _composed(bank: LoraBank, at: Coefficients) -> dict[str, LoraFactors]:
    """The experts with their coefficients inside `B`, each by itself, so that no two are added before the forward."""
    found: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for name, expert in bank.experts.items():
        for module, (a, b) in expert.factors.items():
            if c := at(module).get(name):
                found.setdefault(name, {})[module] = (a, c * b)
    return {name: LoraFactors(factors) for name, factors in found.items()}


def _factors(update: Update) -> tuple[Tensor, Tensor]:
    """An update as factors, exactly: for one that is whole, the smaller of the two is the identity."""
    if isinstance(update, tuple):
        return update
    out, into = update.shape
    return (torch.eye(into), update) if into < out else (update, torch.eye(out))


def _logits(model: Any, experts: Mapping[str, LoraFactors], ids_BT: Tensor) -> Tensor:
    bank = LoraBank(model)
    for name, expert in experts.items():
        bank.add(name, expert)
    try:
        with bank.gated(bank.gate([dict.fromkeys(experts, 1.0)])):
            logits: Tensor = model(ids_BT).logits
    finally:
        bank.unwrap()
    return logits
