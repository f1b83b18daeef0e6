"""What keeps the experts of a gate apart by preference: losses on the shares that a router gives, not on what is said.

PMoL's expert-group soft loss (arXiv 2411.01245, section 3.4), for a token of data on preference i:

    L_egs = KL(D_i || w[:K])

w are the shares of the K real experts. How D_i follows from the soft constraint s_c is not in the paper; three readings
are here. The surprising part: where an empty expert has the share w_e, and w[:K] is not divided by 1 - w_e,

    KL(D_i || w[:K]) = KL(D_i || w[:K] / (1 - w_e)) - log(1 - w_e)

so that the loss as it is printed pushes the empty expert to nothing. `renormalise` leaves it free.

LoRAMoE's localised balancing constraint (arXiv 2312.09979, section 3.3): the squared coefficient of variation of I Q,
where Q is what each sample gives each expert. Minimising it makes I Q equal, so I must be small where much is wanted;
the published code has 1 + delta there, and the group that it names gets less.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from counterpoint.types import CounterpointError

Target = Literal["ratio", "mass", "loramoe"]
LEAST = 1e-8
"""Shares and targets are held above it before a logarithm."""


def targets(groups: Sequence[str], s_c: Sequence[float], target: Target) -> Tensor:
    """D `[G, K]`: for data of each distinct group, in order of appearance, the shares that its tokens should give.

    `groups` names the group of each of K experts, and `s_c` has a soft constraint for each of the G groups. In and out
    of the group a weight is, before all are divided by their sum,

        ratio    1          and  s_c               s_c = 1: even, 0: the group alone
        mass     s_c / m    and  (1 - s_c)/(K - m) s_c is what the group of m experts gets
        loramoe  1 + s_c    and  1 - s_c
    """
    names = list(dict.fromkeys(groups))
    rows = []
    for name, c in zip(names, s_c, strict=True):
        if not 0 <= c <= 1:
            raise CounterpointError(f"the soft constraint of {name!r} is {c:g}; expected 0 to 1")
        mine = torch.tensor([group == name for group in groups])
        m, others = int(mine.sum()), int((~mine).sum())
        inside, outside = {
            "ratio": (1.0, c),
            "mass": (c / m, (1 - c) / max(others, 1)),
            "loramoe": (1 + c, 1 - c),
        }[target]
        weight_K = torch.where(mine, inside, outside)
        rows.append(weight_K / weight_K.sum())
    return torch.stack(rows)


def group_soft_loss(share_BTJK: Tensor, target_BK: Tensor, mask_BT: Tensor, renormalise: bool) -> Tensor:
    """KL(D || w) in nats, the mean over the tokens where `mask` is 1 and over the J layers."""
    w = share_BTJK / share_BTJK.sum(-1, keepdim=True).clamp_min(LEAST) if renormalise else share_BTJK
    target = target_BK[:, None, None]
    kl_BTJ = (target * (target.clamp_min(LEAST).log() - w.clamp_min(LEAST).log())).sum(-1)
    mask = mask_BT.to(kl_BTJ)
    return (kl_BTJ.mean(-1) * mask).sum() / mask.sum().clamp_min(1)


def localised_balance(share_BTJK: Tensor, mine_BK: Tensor, mask_BT: Tensor, delta: float) -> Tensor:
    """var(I Q) / mean(I Q)^2 over samples and experts, the mean over the J layers; `mine` is 1 for a sample's group.

    Q `[B, K]` is the mean share over a sample's tokens, I is 1 - delta for its own group and 1 + delta elsewhere, so
    that of two equal groups the own one gets (1 + delta) / 2.
    """
    mask = mask_BT.to(share_BTJK)[..., None, None]
    q_BJK = (share_BTJK * mask).sum(1) / mask.sum(1).clamp_min(1)
    z_BJK = q_BJK * (1 + delta * (1 - 2 * mine_BK.to(q_BJK)))[:, None]
    variance, mean = torch.var_mean(z_BJK.transpose(0, 1).flatten(1), dim=-1, correction=0)
    return (variance / mean.square()).mean()
