"""Whose words an answer is made of: each expert's share of every piece of its text, and the base's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.evaluate.gate_trace import group_shares
from counterpoint.models.gates import GATE
from counterpoint.serve.calls import Answering
from counterpoint.serve.streams import runs
from counterpoint.serve.worker import Worker

BASE = "base"

Shares = Mapping[str, float]


def is_gated(plan: Plan) -> bool:
    """Whether a router inside the model shares out each token, of which the engine sees nothing."""
    return any(name.startswith(GATE) for name in plan.rows[0].gate)


def constant_shares(row: Row) -> Shares:
    """One row says every token alone: the shares are its coefficients', and what they leave of 1 is the base's."""
    own = {name: abs(coefficient) for name, coefficient in row.gate.items()}
    total = max(1.0, sum(own.values()))
    return {**{name: size / total for name, size in own.items()}, BASE: 1 - min(1.0, sum(own.values()))}


def mixed_shares(plan: Plan, credit: Sequence[float]) -> Shares:
    """Of a mixture, from the engine's credit: in probability space it is the shares.

    In log space it is how hard each row pulled towards the token, and a row that pulled away has no share. Where none
    pulled, the shares are the coefficients'.
    """
    pull = [max(0.0, one) for one in credit]
    if not sum(pull):
        pull = [abs(coefficient) for coefficient in plan.coefficients]
    shares: dict[str, float] = {}
    for row, one in zip(plan.rows, pull, strict=True):
        name = next(iter(row.gate), BASE)
        shares[name] = shares.get(name, 0.0) + one / sum(pull)
    return shares


def gated_shares(band: Band, request: Request, tokens: Sequence[int]) -> list[Shares]:
    """Of a gate, token by token: one more forward, which must not run during a step."""
    if not tokens:
        return []
    found = group_shares(band.bank, request.plan.rows[0].gate, request.contexts[0], tokens)
    rows = [dict(zip(found.groups, row, strict=True)) for row in found.share_TG]
    return [{**row, BASE: max(0.0, 1 - sum(row.values()))} for row in rows]


async def credited(worker: Worker, request: Request, answering: Answering, begin: int = 0) -> list[dict[str, Any]]:
    """Whose words those characters of an answer are that were told, from `begin` on; of a gate all, at the end."""
    if is_gated(request.plan):
        if answering.completion is None:
            return []
        begin = 0
    share, growing = await _share_of(worker, request, answering), answering.growing
    told = runs(growing.starts, begin, growing.told)
    return [{"token": growing.text[a:b], "credit": share(token)} for token, a, b in told]


async def _share_of(worker: Worker, request: Request, answering: Answering) -> Callable[[int], Shares]:
    """The shares of an answer's token, by its place."""
    plan = request.plan
    if is_gated(plan):
        tokens = answering.whole.tokens
        return (await worker.call(lambda: gated_shares(worker.band, request, tokens))).__getitem__
    if len(plan.rows) == 1 and not plan.control:
        constant = constant_shares(plan.rows[0])
        return lambda _: constant
    return lambda token: mixed_shares(plan, answering.said[token].credit or ())
