"""From next-token log-probabilities to tokens: pure functions of tensors, one random number per request and token."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.types import CounterpointError

HEAD = 256
"""How many of the likeliest tokens are sorted first."""

BLOCK = 256
"""Tokens whose probabilities are summed before they are told apart."""

COLDEST = 1e-30
"""A temperature below this is no number of float32, and this one is greedy."""


@dataclass(frozen=True)
class Sampling:
    """How a response is drawn. `temperature=0` is greedy; `top_k=0`, `top_p=1` and `min_p=0` keep every token.

    For a mixture they act on the mixture, not on its experts; only the repetition penalty acts on each expert's logits.
    `presence_penalty`, `frequency_penalty` and `logit_bias`, pairs of (token id, bias), are OpenAI's: see `lean`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature < math.inf, "a number from 0"),
            "top_k": (_whole(self.top_k) and self.top_k >= 0, "a whole number from 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0"),
            "max_tokens": (_whole(self.max_tokens) and self.max_tokens >= 1, "a whole number from 1"),
            "stop": (
                not isinstance(self.stop, str) and all(isinstance(s, str) and s for s in self.stop),
                "a tuple of strings of one character or more",
            ),
            "seed": (_whole(self.seed) and -(2**63) <= self.seed < 2**64, "a whole number of 64 bits"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "from -2 to 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            "logit_bias": (
                all(_whole(token) and token >= 0 and -100 <= bias <= 100 for token, bias in self.logit_bias),
                "pairs of a token id and a number from -100 to 100",
            ),
        }
        for field, (good, expected) in ranges.items():
            if not good:
                raise CounterpointError(f"{field} is {getattr(self, field)!r}; it must be {expected}")


def noise(seed: int, positions: int) -> list[float]:
    """One uniform number per position, a function of (seed, position) alone."""
    generator = torch.Generator().manual_seed(seed)
    uniform: list[float] = torch.rand(positions, generator=generator, dtype=torch.float64).tolist()
    return uniform


def penalise(logits_BV: Tensor, seen_BV: Tensor, penalty_B: Sequence[float]) -> Tensor:
    """Repetition penalty (CTRL, arXiv 1909.05858 section 4.1): seen logits are divided if positive, else multiplied."""
    penalty_B1 = torch.tensor(penalty_B, dtype=logits_BV.dtype, device=logits_BV.device)[:, None]
    penalised_BV = torch.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return torch.where(seen_BV, penalised_BV, logits_BV)


def leaning(sampling: Sampling, said: Mapping[int, int]) -> dict[int, float]:
    """What is added to each token's logit, by id, after `said`, how often each token was: OpenAI's penalties and bias.

        bias_v - frequency_penalty * n_v - presence_penalty * [n_v > 0]

    Tokens of the prompt do not count.
    """
    change = dict(sampling.logit_bias)
    if sampling.presence_penalty or sampling.frequency_penalty:
        for token, times in said.items():
            penalty = sampling.frequency_penalty * times + sampling.presence_penalty
            change[token] = change.get(token, 0.0) - penalty
    return change


def lean(logp_QV: Tensor, changes: Sequence[Mapping[int, float]]) -> Tensor:
    """Add changes, by token id, to the logits of each request; those of nobody leave the tensor as it is."""
    places = [(row, token, change) for row, own in enumerate(changes) for token, change in own.items()]
    if not places:
        return logp_QV
    rows, tokens, added = zip(*places, strict=True)
    where = (torch.tensor(rows, device=logp_QV.device), torch.tensor(tokens, device=logp_QV.device))
    return logp_QV.index_put(where, torch.tensor(added).to(logp_QV), accumulate=True)


def sample(logp_QV: Tensor, samplings: Sequence[Sampling], uniform_Q: Sequence[float]) -> list[int]:
    """One token per request: temperature, top-k, top-p and min-p in that order, then the inverse of the CDF.

    Of equally likely tokens those of the smallest ids are the first to be kept.
    """
    if all(s.temperature == 0 for s in samplings):
        greedy: list[int] = logp_QV.argmax(-1).tolist()
        return greedy
    temperature_Q = [max(s.temperature or 1.0, COLDEST) for s in samplings]
    tempered_QV = logp_QV - logp_QV.amax(-1, keepdim=True)
    tempered_QV /= torch.tensor(temperature_Q, dtype=logp_QV.dtype, device=logp_QV.device)[:, None]
    greedy_rows = [row for row, s in enumerate(samplings) if s.temperature == 0]
    if greedy_rows:
        tempered_QV[greedy_rows] = _only_best(logp_QV[greedy_rows])
    return _draw(keep_likely(tempered_QV, samplings).exp_(), uniform_Q)


def _draw(weight_QV: Tensor, uniform_Q: Sequence[float]) -> list[int]:
    """The inverse of the CDF that weights make, not all zero: the block of tokens first, then the token in the block.

    So a cumulative sum in float64 is of few numbers, however large the vocabulary is.
    """
    rows, vocabulary = weight_QV.shape
    whole = vocabulary - vocabulary % BLOCK
    sums = [weight_QV[:, :whole].view(rows, -1, BLOCK).sum(-1, dtype=torch.float64)]
    sums += [weight_QV[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)]
    cdf_QN = torch.cat(sums, dim=-1).cumsum(-1)
    uniform_Q1 = torch.tensor(uniform_Q, dtype=torch.float64, device=weight_QV.device)[:, None] * cdf_QN[:, -1:]
    block_Q1 = _first_above(cdf_QN, uniform_Q1)
    token_QN = block_Q1 * BLOCK + torch.arange(BLOCK, device=weight_QV.device)
    there_QN = token_QN < vocabulary
    weight_QN = weight_QV.gather(-1, token_QN.clamp(max=vocabulary - 1)).double() * there_QN
    before_Q1 = torch.where(block_Q1 > 0, cdf_QN.gather(-1, (block_Q1 - 1).clamp(min=0)), 0.0)
    place_Q1 = _first_above(weight_QN.cumsum(-1), uniform_Q1 - before_Q1)
    tokens: list[int] = token_QN.gather(-1, place_Q1).squeeze(-1).tolist()
    return tokens


def _first_above(cdf_QN: Tensor, uniform_Q1: Tensor) -> Tensor:
    """The first place in each row that is above its number, which rounding must not have taken to the end, `[Q, 1]`."""
    end_Q1 = cdf_QN[:, -1:].contiguous()
    below_Q1 = torch.minimum(uniform_Q1, torch.nextafter(end_Q1, torch.zeros_like(end_Q1)))
    return torch.searchsorted(cdf_QN, below_Q1, right=True)


def keep_likely(logp_QV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Set to -inf what top-k, top-p and min-p drop; each acts on what the one before left, renormalised.

    Log-probabilities may all be off by a number.
    """
    filtered = [row for row, s in enumerate(samplings) if s.top_k or s.top_p < 1]
    if len(filtered) == len(samplings):
        logp_QV = _largest(logp_QV, samplings)
    elif filtered:
        kept_FV = _largest(logp_QV[filtered], [samplings[row] for row in filtered])
        logp_QV = logp_QV.index_put((torch.tensor(filtered, device=logp_QV.device),), kept_FV)
    if any(s.min_p for s in samplings):
        min_p_Q = torch.tensor([s.min_p for s in samplings], device=logp_QV.device)
        best_Q1 = logp_QV.amax(-1, keepdim=True)
        logp_QV = logp_QV.masked_fill(logp_QV < best_Q1 + min_p_Q.log()[:, None], -math.inf)
    return logp_QV


def _largest(logp_QV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Keep of each row what its top-k and top-p do, of equal ones those of the smallest ids; the rest is -inf."""
    count_Q1, best_QH = _how_many(logp_QV, samplings)
    least_Q1 = best_QH.gather(-1, count_Q1 - 1)
    kept_QV = logp_QV >= least_Q1
    next_Q1 = best_QH.gather(-1, count_Q1.clamp(max=best_QH.shape[-1] - 1))
    if ((next_Q1 == least_Q1) & (count_Q1 < best_QH.shape[-1])).any():
        above_QV = logp_QV > least_Q1
        tied_QV = kept_QV & ~above_QV
        kept_QV = above_QV | (tied_QV & (tied_QV.cumsum(-1) <= count_Q1 - above_QV.sum(-1, keepdim=True)))
    return logp_QV.masked_fill(~kept_QV, -math.inf)


def _how_many(logp_QV: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """How many of its likeliest tokens each row keeps by top-k, then top-p, `[Q, 1]`, and those and the next, sorted.

    Only as long a head of the order is sorted as the rows turn out to need, since sorting a whole vocabulary takes
    longer than a small model's forward.
    """
    vocabulary = logp_QV.shape[-1]
    k_Q = torch.tensor([min(s.top_k or vocabulary, vocabulary) for s in samplings], device=logp_QV.device)
    p_Q = torch.tensor([s.top_p for s in samplings], dtype=torch.float64, device=logp_QV.device)
    head = min(vocabulary, max(HEAD, *(s.top_k + 1 for s in samplings)))
    while True:
        best_QH = logp_QV.topk(head).values
        sorted_QH = best_QH.double()
        in_k_QH = torch.arange(head, device=logp_QV.device) < k_Q[:, None]
        total_Q = torch.where(k_Q > head, logp_QV.logsumexp(-1).double(), _logsum(sorted_QH, in_k_QH))
        p_QH = (sorted_QH - total_Q[:, None]).exp() * in_k_QH
        before_QH = p_QH.cumsum(-1) - p_QH
        within_QH = in_k_QH & ((before_QH < p_Q[:, None]) | (p_Q == 1)[:, None])
        count_Q = within_QH.sum(-1)
        if head == vocabulary or not ((count_Q == head) & (k_Q > head)).any():
            return count_Q[:, None], best_QH
        head = min(8 * head, vocabulary)


def _logsum(logp_QH: Tensor, chosen_QH: Tensor) -> Tensor:
    return logp_QH.masked_fill(~chosen_QH, -math.inf).logsumexp(-1)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _only_best(logp_QV: Tensor) -> Tensor:
    best_Q1 = logp_QV.argmax(-1, keepdim=True)
    return torch.full_like(logp_QV, -math.inf).scatter_(-1, best_Q1, 0.0)
