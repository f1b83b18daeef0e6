"""How the LoRA experts of a layer share a token: PMoL and its relatives are rows of one table.

    y = W0 x + strength * sum_k g_k s_k B_k (A_k x)

They differ in the scores from which the gate g is made, and in who may have a share:

    pmol         r_k . x, and an empty expert that adds nothing    PMoL, arXiv 2411.01245, section 3.3
    loramoe      r_k . x                                           LoRAMoE, arXiv 2312.09979, section 3
    x-lora       an MLP of the base's last hidden state            X-LoRA, arXiv 2402.07148
    arrow        |v_k . x|, v_k what B_k A_k stretches most; top 3 Arrow, arXiv 2405.11157
    phatgoose    LN(v_k) . LN(x) / sqrt(I); top 2                  PHATGOOSE, arXiv 2402.05859

A score divided by the temperature is a logit. A person's weight w of the group of expert k enters as log w_k, which
re-weights the real experts inside what the router leaves to them; the empty expert keeps the share that it was given:

    g_k = (1 - g_empty) softmax_k(z_k + log w_k)

So uniform weights change nothing, a weight on one group alone selects it, and to identical experts weights are nothing.
That formula is ours: PMoL has no weights at inference, and log w added to the router's own logits would move the empty
expert too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

GATE = "gate:"
"""How the name of a router starts in a row's gate; no expert can have such a name, since a name holds no colon."""

Kind = Literal["pmol", "loramoe", "x-lora", "arrow", "phatgoose"]

EPSILON = 1e-5
"""What a layer norm adds to the variance."""


@dataclass(frozen=True)
class Rule:
    """How a layer's scores become shares.

    `empty`: the last score is that of an expert that adds nothing. `absolute`: the sign of a score does not matter.
    `normed`: the token and the router's rows are layer-normed. `guided`: the scores are not the layer's own. `sigmoid`:
    each share is the sigmoid of its score, whatever the others are (how PHATGOOSE trains one expert at a time).
    """

    empty: bool = False
    absolute: bool = False
    normed: bool = False
    guided: bool = False
    sigmoid: bool = False
    top_k: int | None = None
    temperature: float = 1.0


RULES: Mapping[Kind, Rule] = {
    "pmol": Rule(empty=True),
    "loramoe": Rule(),
    "x-lora": Rule(guided=True),
    "arrow": Rule(absolute=True, top_k=3),
    "phatgoose": Rule(normed=True, top_k=2),
}


def shares(score_E: Tensor, rule: Rule, log_w_K: Tensor | None = None) -> Tensor:
    """The gate `[..., K]` in float32 from scores `[..., K]`, or `[..., K + 1]` with an empty expert.

    `log_w_K` broadcasts against the gate; -inf leaves an expert out, and at least one must be finite. Of equal scores
    the top k are those that `torch.topk` takes.
    """
    logit_E = (score_E.abs() if rule.absolute else score_E).float()
    if rule.temperature != 1:
        logit_E = logit_E / rule.temperature
    if rule.sigmoid:
        return torch.sigmoid(logit_E)
    if rule.empty and log_w_K is None and rule.top_k is None:
        return torch.softmax(logit_E, dim=-1)[..., :-1]
    logit_K = logit_E[..., :-1] if rule.empty else logit_E
    if log_w_K is not None:
        logit_K = logit_K + log_w_K
    if rule.top_k is not None and rule.top_k < logit_K.shape[-1]:
        kept, place = logit_K.topk(rule.top_k, dim=-1)
        logit_K = torch.full_like(logit_K, -math.inf).scatter(-1, place, kept)
    share_K = torch.softmax(logit_K, dim=-1)
    return share_K * (1 - torch.softmax(logit_E, dim=-1)[..., -1:]) if rule.empty else share_K


class Guide(nn.Module):
    """X-LoRA's classifier: scores `[B, T, L, K]` of `layers` adapted layers, from last hidden states `[B, T, I]`.

    One linear map for a depth of 1, else an MLP of `depth` linear layers with ReLU between them. One layer stands for
    all of them where the gate is not layerwise.
    """

    def __init__(self, hidden: int, experts: int, layers: int = 1, depth: int = 1, width: int = 2048) -> None:
        super().__init__()
        self.hidden = hidden
        widths = [hidden, *[width] * (depth - 1), experts * layers]
        maps = [nn.Linear(into, out) for into, out in pairwise(widths)]
        self.layers = nn.Sequential(*(part for one in maps[:-1] for part in (one, nn.ReLU())), maps[-1])
        self.shape = (layers, experts)

    def forward(self, hidden_BTI: Tensor) -> Tensor:
        score: Tensor = self.layers(hidden_BTI.to(next(self.parameters())))
        return score.view(*hidden_BTI.shape[:-1], *self.shape)


@dataclass(frozen=True)
class Router:
    """A gate over experts of a bank: `scores[module]` is `[E, I]`, a row per expert and last the empty one's, if any.

    `groups` names the dimension that each expert serves, by which a profile weighs it. A guided router has a `guide`
    instead of scores, and `modules` in the order of its layers.
    """

    rule: Rule
    experts: tuple[str, ...]
    groups: tuple[str, ...]
    scores: Mapping[str, Tensor]
    modules: tuple[str, ...]
    guide: Guide | None = None

    @property
    def width(self) -> int:
        """How many scores there are."""
        return len(self.experts) + self.rule.empty


@dataclass(frozen=True)
class Routed:
    """Which rows a router serves, and how: the strength of each, `[B, 1, 1]`, 0 for those of others (None: 1 for all).

    `log_w_B11K` are the logarithms of a profile's weights (None: as routed), `score_BTLK` what its guide said.
    """

    name: str
    strength_B11: Tensor | None
    log_w_B11K: Tensor | None = None
    guide: Guide | None = None
    score_BTLK: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Self:
        parts = (self.strength_B11, self.log_w_B11K, self.score_BTLK)
        strength, log_w, score = (None if part is None else part[rows] for part in parts)
        return replace(self, strength_B11=strength, log_w_B11K=log_w, score_BTLK=score)

    def strong(self, gate_BTC: Tensor) -> Tensor:
        """What the router adds to the rows: its gate times each one's strength."""
        return gate_BTC if self.strength_B11 is None else gate_BTC * self.strength_B11


@dataclass(frozen=True)
class RowGates:
    """The gates of the rows of one forward: constants over a bank's active experts, and what routers add to them."""

    constant_BTK: Tensor | None = None
    routed: tuple[Routed, ...] = ()

    def __getitem__(self, rows: Tensor) -> "RowGates":
        constant = None if self.constant_BTK is None else self.constant_BTK[rows]
        return RowGates(constant, tuple(routed[rows] for routed in self.routed))

    @property
    def guided(self) -> bool:
        """Whether a guide must hear the base's last hidden states of the tokens before the gate can be applied."""
        return any(routed.guide for routed in self.routed)

    def heard(self, hidden_BTI: Tensor) -> "RowGates":
        """The gates with what the guides say of the base's last hidden states."""
        said = (replace(r, score_BTLK=r.guide(hidden_BTI)) if r.guide else r for r in self.routed)
        return replace(self, routed=tuple(said))


AnyGates: TypeAlias = Tensor | RowGates
"""A tensor is constants alone."""


def log_weights(gates: Sequence[Mapping[str, float]], groups: Sequence[str]) -> Tensor | None:
    """The logarithms of what each row's gate weighs the groups of experts by, `[B, 1, 1, K]`; None if no row does."""
    if not any(group in gate for gate in gates for group in groups):
        return None
    rows = [[gate.get(group, 0.0) for group in groups] for gate in gates]
    w_BK = torch.tensor([row if any(row) else [1.0] * len(groups) for row in rows])
    return torch.log(w_BK)[:, None, None]
