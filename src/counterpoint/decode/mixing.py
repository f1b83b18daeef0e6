"""From the logits of rows to one distribution per request: requests that are mixed alike are mixed together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.compose.mixture import has_nobody, mix_log, mix_partial_log, mix_prob, without_silent
from counterpoint.compose.plan import Control, Plan, Space
from counterpoint.types import CounterpointError


@dataclass(frozen=True)
class Steering:
    """The controllers of a group's requests: their rows `[G]`, and what `Control` says of each mixed row `[G, K]`."""

    row_G: Tensor
    column_GK: Tensor
    log_prior_GK: Tensor
    strength_G1: Tensor

    @classmethod
    def of(cls, controls: Sequence[Control], rows: Sequence[int]) -> "Steering":
        return cls(
            torch.tensor(rows),
            torch.tensor([control.columns for control in controls]),
            torch.tensor([control.log_prior for control in controls]),
            torch.tensor([[control.strength] for control in controls]),
        )

    def share(self, logits_BV: Tensor) -> Tensor:
        """strength * softmax(log_prior + z), `[G, K]`."""
        device = logits_BV.device
        z_GK = logits_BV[self.row_G].gather(-1, self.column_GK.to(device))
        return self.strength_G1.to(device) * torch.softmax(self.log_prior_GK.to(device) + z_GK, dim=-1)


@dataclass(frozen=True)
class Group:
    """Requests whose rows are mixed alike: indices of their rows `[G, K]` and coefficients `[G, K]`.

    `as_is`: the one row of each is its distribution, and nothing is to be mixed.
    """

    members: list[int]
    rows_GK: Tensor
    c_GK: Tensor
    space: Space
    as_is: bool
    steering: Steering | None


@dataclass(frozen=True)
class Mixed:
    """What a group's rows were in a step, `[G, K, V]`, and what mixed them, `[G, K]`."""

    logp_GKV: Tensor
    c_GK: Tensor


@dataclass(frozen=True)
class Mixture:
    """The log-distribution of each request, `[Q, V]`, what it is made of by group, and why some have none.

    `[Q, V + 1]` where experts know a part of theirs only; the last column is what none of a request's reported.
    """

    logp_QV: Tensor
    mixed: Sequence[Mixed]
    errors: Mapping[int, CounterpointError]


def grouped(plans: Sequence[Plan], rows: Sequence[Sequence[int]]) -> list[Group]:
    """Group requests by how their plans mix; `rows` are those of each plan, the controller's last."""
    alike: dict[tuple[int, Space, bool, bool], list[int]] = {}
    for member, plan in enumerate(plans):
        as_is = plan.coefficients == (1.0,) and plan.control is None
        alike.setdefault((len(plan.rows), plan.space, as_is, plan.control is not None), []).append(member)
    return [
        Group(
            members,
            torch.tensor([list(rows[m][:count]) for m in members]),
            torch.tensor([plans[m].coefficients for m in members]),
            space,
            as_is,
            Steering.of([c for m in members if (c := plans[m].control)], [rows[m][-1] for m in members])
            if steered
            else None,
        )
        for (count, space, as_is, steered), members in alike.items()
    ]


def mix(groups: Sequence[Group], logits_BV: Tensor, vocabulary: int) -> Mixture:
    """Mix the rows of every group; `[B, vocabulary + 1]` where rows know a part of their distribution only."""
    partial = logits_BV.shape[-1] > vocabulary
    logp_BV = torch.log_softmax(logits_BV, dim=-1)
    silent_B = (logits_BV == -math.inf).all(-1) if partial else None
    logp_QV = logp_BV.new_empty(sum(len(group.members) for group in groups), logp_BV.shape[-1])
    mixed: list[Mixed] = []
    errors: dict[int, CounterpointError] = {}
    for group in groups:
        share = group.steering.share(logits_BV) if group.steering else 0.0
        logp_GKV, c_GK = logp_BV[group.rows_GK], group.c_GK.to(logp_BV.device) + share
        if silent_B is not None and (silent_GK := silent_B[group.rows_GK]).any():
            nobody_G = has_nobody(c_GK, silent_GK)
            errors |= {
                group.members[place]: CounterpointError(
                    "every expert of a request has failed; see to their endpoints, and ask again"
                )
                for place in nobody_G.nonzero()[:, 0].tolist()
            }
            c_GK = without_silent(c_GK, silent_GK & ~nobody_G[:, None])
            logp_GKV[silent_GK] = -math.inf
        logp_QV[group.members] = logp_GKV[:, 0] if group.as_is else _mix(logp_GKV, c_GK, group.space, partial)
        mixed.append(Mixed(logp_GKV, c_GK))
    return Mixture(logp_QV, mixed, dict(_without_numbers(logp_QV, vocabulary)) | errors)


def mix_alone(plan: Plan, logits_RTV: Tensor, vocabulary: int) -> Mixture:
    """One plan at `T` positions of a text, from the logits of its rows at each: what is a request above is a token."""
    rows, tokens, width = logits_RTV.shape
    places = [[row * tokens + t for row in range(rows)] for t in range(tokens)]
    return mix(grouped([plan] * tokens, places), logits_RTV.reshape(rows * tokens, width), vocabulary)


def _mix(logp_GKV: Tensor, c_GK: Tensor, space: Space, partial: bool) -> Tensor:
    if space == "prob":
        return mix_prob(logp_GKV, c_GK)
    return mix_partial_log(logp_GKV, c_GK) if partial else mix_log(logp_GKV, c_GK)


def _without_numbers(logp_QV: Tensor, vocabulary: int) -> Iterator[tuple[int, CounterpointError]]:
    """Which requests have no token to draw, and why."""
    if logp_QV.shape[1] > vocabulary:
        for place in (logp_QV[:, :-1] == -math.inf).all(-1).nonzero()[:, 0].tolist():
            yield (
                place,
                CounterpointError(
                    "no expert of a request told any token; ask their endpoints for more, with a larger top"
                ),
            )
    for place in logp_QV[:, 0].isnan().nonzero()[:, 0].tolist():  # one that is none makes all of a row's none
        yield place, CounterpointError("the model's logits are not numbers; a profile's strength may be far too large")
