"""What is remembered of each step, where a request asks how its response came about."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from counterpoint.compose.mixture import credit, mix_log, spread_tail
from counterpoint.compose.plan import Space
from counterpoint.types import Trace

Detail = Literal["token", "vocabulary"]
"""Of each step: what concerns the token that was said, or the rows' whole distributions as well, `K * V` floats."""


@dataclass(frozen=True)
class Step:
    """What `G` requests said in one step and what it came from; the fields are those of `Trace`, by request."""

    tokens: Sequence[int]
    c_GK: Tensor
    logp_GK: Tensor
    logp_G: Tensor
    credit_GK: Tensor
    lost_G: Tensor
    logp_GKV: Tensor | None

    @classmethod
    def of(
        cls,
        tokens: Sequence[int],
        logp_GKV: Tensor,
        c_GK: Tensor,
        logp_GV: Tensor,
        space: Space,
        vocabulary: int,
        whole: bool,
    ) -> Self:
        """From the rows' distributions, kept if `whole`, and their mixture; both may have one column more."""
        token_G = torch.tensor(tokens, device=logp_GV.device)
        share_GK = c_GK.abs() / c_GK.abs().sum(-1, keepdim=True)
        lost_G = (share_GK * logp_GKV[..., vocabulary:].exp().sum(-1)).sum(-1)
        if space == "log" and logp_GKV.shape[-1] > vocabulary:  # traced as they were mixed, with their tails spread
            logp_GKV = spread_tail(logp_GKV)
            logp_GV = mix_log(logp_GKV, c_GK)
        return cls(
            tokens,
            c_GK,
            logp_GKV.gather(-1, token_G[:, None, None].expand(*c_GK.shape, 1)).squeeze(-1),
            logp_GV.gather(-1, token_G[:, None]).squeeze(-1),
            credit(logp_GKV, c_GK, logp_GV, token_G, space),
            lost_G,
            logp_GKV[..., :vocabulary] if whole else None,
        )


class Recorder:
    """Collects the steps of one request, the last of which may have said the end-of-text token."""

    def __init__(self, detail: Detail) -> None:
        self.detail = detail
        self._steps: list[tuple[Step, int]] = []
        self._whole: list[Tensor] = []

    def add(self, step: Step, place: int) -> None:
        """A step in which the request was at `place`."""
        if self.detail == "vocabulary" and step.logp_GKV is not None:
            self._whole.append(step.logp_GKV[place].cpu().clone())
        self._steps.append((replace(step, logp_GKV=None), place))

    def trace(self) -> Trace:
        """What was collected, on the CPU."""

        def stack(name: str) -> Tensor:
            return torch.stack([getattr(step, name)[place] for step, place in self._steps]).cpu()

        return Trace(
            tokens=tuple(int(step.tokens[place]) for step, place in self._steps),
            c_TK=stack("c_GK"),
            logp_TK=stack("logp_GK"),
            logp_T=stack("logp_G"),
            credit_TK=stack("credit_GK"),
            lost_T=stack("lost_G"),
            logp_TKV=torch.stack(self._whole) if self._whole else None,
        )
