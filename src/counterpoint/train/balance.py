"""What keeps the experts of a gate apart by preference: losses on the shares that a router gives, not on what is said.

PMoL's expert-group soft loss (arXiv 2411.01245, section 3.4), for a token of data on preference i:

    L_egs = KL(D_i || w[:K])

w are the shares of the K real experts. How D_i follows from the soft constraint s_c is not in what we know of the
paper; three readings are here. The surprising part: where an empty expert has the share w_e, and w[:K] is not divided
by 1 - w_e,

    KL(D_i || w[:K]) = KL(D_i || w[:K] / (1 - w_e)) - log(1 - w_e)

so that the loss taken literally pushes the empty expert to nothing. `renormalise` leaves it free.

LoRAMoE's localised balancing constraint (arXiv 2312.09979, section 3.3): the squared coefficient of variation of I Q,
where Q is what each sample gives each expert. Minimising it makes I Q equal, so I must be small where much is wanted;
the published code has 1 + delta there, and the group that it names gets less.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from counterpoint.types import CounterpointError

Target = Literal["ratio", "mass", "loramoe"]
LEAST = 1e-8
"""Shares and targets are held above it before a logarithm."""


def targets(groups: Sequence[str], soft: Mapping[str, float], target: Target) -> Tensor:
    """D `[D, K]`: for data on each dimension of `soft`, in its order, the shares that its tokens should give.

    `groups` names the dimension of each of K experts. In and out of the data's own group of m experts, a weight is,
    before all are divided by their sum and with c the soft constraint of the dimension,

        ratio    1        and  c                  c = 1: even, 0: the group alone
        mass     c / m    and  (1 - c) / (K - m)  c is what the group gets
        loramoe  1 + c    and  1 - c

    Raises CounterpointError for another target, a constraint outside [0, 1], and a dimension without an expert.
    """
    if target not in get_args(Target):
        raise CounterpointError(f"target is {target!r}; it must be one of {', '.join(get_args(Target))}")
    mine_DK, c_D1 = _groups(groups, soft)
    m_D1 = mine_DK.sum(1, keepdim=True)
    inside, outside = {
        "ratio": (torch.ones_like(c_D1), c_D1),
        "mass": (c_D1 / m_D1, (1 - c_D1) / (len(groups) - m_D1).clamp_min(1)),
        "loramoe": (1 + c_D1, 1 - c_D1),
    }[target]
    weight_DK = torch.where(mine_DK, inside, outside)
    return weight_DK / weight_DK.sum(1, keepdim=True)


def importance(groups: Sequence[str], soft: Mapping[str, float]) -> Tensor:
    """I `[D, K]` of LoRAMoE: for data on each dimension of `soft`, 1 - delta of its own experts and 1 + delta else.

    `groups`, the order and the errors are those of `targets`, and delta is the dimension's soft constraint.
    """
    mine_DK, delta_D1 = _groups(groups, soft)
    return torch.where(mine_DK, 1 - delta_D1, 1 + delta_D1)


def _groups(groups: Sequence[str], soft: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """Whether an expert serves a dimension, `[D, K]`, and the soft constraint of each dimension, `[D, 1]`."""
    for name, c in soft.items():
        if not 0 <= c <= 1:
            raise CounterpointError(f"the soft constraint of {name!r} is {c:g}; it must lie in [0, 1]")
        if name not in groups:
            raise CounterpointError(
                f"there is data on {name!r} and no expert of it; experts are of {', '.join(groups)}"
            )
    mine_DK = torch.tensor([[group == name for group in groups] for name in soft])
    return mine_DK, torch.tensor(list(soft.values()))[:, None]


def group_soft_loss(share_BTJK: Tensor, target_BK: Tensor, mask_BT: Tensor, renormalise: bool) -> Tensor:
    """KL(D || w) in nats, the mean over the tokens where `mask` is 1 and over the J layers."""
    w = share_BTJK / share_BTJK.sum(-1, keepdim=True).clamp_min(LEAST) if renormalise else share_BTJK
    target = target_BK[:, None, None]
    kl_BTJ = (target * (target.clamp_min(LEAST).log() - w.clamp_min(LEAST).log())).sum(-1)
    mask = mask_BT.to(kl_BTJ)
    return (kl_BTJ.mean(-1) * mask).sum() / mask.sum().clamp_min(1)


def localised_balance(share_BTJK: Tensor, importance_BK: Tensor, mask_BT: Tensor) -> Tensor:
    """var(I Q) / mean(I Q)^2 over samples and experts, the mean over the J layers.

    Q `[B, K]` is the mean share over a sample's tokens. Of two equal groups the own one gets (1 + delta) / 2.
    """
    mask = mask_BT.to(share_BTJK)[..., None, None]
    q_BJK = (share_BTJK * mask).sum(1) / mask.sum(1).clamp_min(1)
    z_JN = (q_BJK * importance_BK[:, None]).transpose(0, 1).flatten(1)
    variance_J, mean_J = torch.var_mean(z_JN, dim=-1, correction=0)
    return (variance_J / mean_J.square()).mean()
