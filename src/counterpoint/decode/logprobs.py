"""How likely a token was, and which others were likelier: what is told beside tokens to those who ask."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopLogprobs:
    """The log-probability of a token, in nats, and the likeliest tokens in its place, `(id, log-probability)` each.

    Where the token is itself the likeliest, both are the very same float.
    """

    logp: float
    top: tuple[tuple[int, float], ...]


def top_logprobs(logp_TV: Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TopLogprobs]:
    """For each row the log-probability of its token, and of the `counts` likeliest those that may occur at all."""
    said_T = logp_TV.gather(-1, torch.tensor(tokens, device=logp_TV.device)[:, None]).squeeze(-1).tolist()
    best = logp_TV.topk(min(max(counts, default=0), logp_TV.shape[-1]))
    pairs = (zip(*row, strict=True) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return [
        TopLogprobs(logp, tuple((token, other) for token, other in list(row)[:count] if other != -torch.inf))
        for logp, row, count in zip(said_T, pairs, counts, strict=True)
    ]
