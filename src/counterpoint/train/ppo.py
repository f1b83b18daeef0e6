"""Proximal policy optimisation of responses: every token is an action, and a critic says what it was worth.

    r_t = -kl (log p_t(y_t) - log p_ref(y_t)) + [t is the last token] R(x, y)
    A_t = sum_l (gamma lambda)^l delta_(t+l),   delta_t = r_t + gamma V_(t+1) - V_t,   V after the last token is 0
    loss = -mean min(rho_t A_t, clip(rho_t, 1 - c, 1 + c) A_t) + value_weight * value loss

(Schulman et al. 2017, arXiv 1707.06347, eq. 7; the advantages: Schulman et al. 2015, arXiv 1506.02438, eq. 16.) rho_t
is the probability of a token now over what it was when it was sampled; the KL term is the estimator k1. A mean is over
the tokens that `mask_NT` names, those of a response side by side, and what stands elsewhere may be NaN. The surprising
part: the clip bounds no step, it only takes the gradient from tokens that have gone far enough, so many epochs still go
too far.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def token_rewards(reward_N: Tensor, logp_NT: Tensor, reference_NT: Tensor, mask_NT: Tensor, kl: float) -> Tensor:
    """`[N, T]`: each token pays for its log-ratio to the reference, and the last one earns the response's reward."""
    penalty_NT = (-kl * (logp_NT - reference_NT)).where(mask_NT, 0.0)
    to_come_NT = mask_NT.flip(1).cumsum(1).flip(1)
    is_last_NT = mask_NT & (to_come_NT == 1)
    return penalty_NT + is_last_NT * reward_N[:, None]


def advantages(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates `[N, T]`, 0 outside the mask.

    `value_NT` is what the critic expects before the token at t is chosen. Added to the advantages it gives the returns
    that the critic learns.
    """
    value_NT = value_NT.where(mask_NT, 0.0)
    next_NT = pad(value_NT[:, 1:], (0, 1))
    advantage_NT = (reward_NT + gamma * next_NT - value_NT).where(mask_NT, 0.0)
    for t in reversed(range(advantage_NT.shape[1] - 1)):
        advantage_NT[:, t] += gamma * gae_lambda * advantage_NT[:, t + 1]
    return advantage_NT.where(mask_NT, 0.0)


def whiten(x_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the mask, 0 outside it; what is constant stays near 0."""
    x_X = x_NT[mask_NT]
    scale = (x_X.var(correction=0) + 1e-8).rsqrt()
    return ((x_NT - x_X.mean()) * scale).where(mask_NT, 0.0)


def clipped_surrogate(
    logp_NT: Tensor, logp_old_NT: Tensor, advantage_NT: Tensor, mask_NT: Tensor, clip: float
) -> Tensor:
    """The policy's loss: minus the surrogate of eq. 7, a mean over tokens."""
    ratio_X = (logp_NT[mask_NT] - logp_old_NT[mask_NT]).exp()
    advantage_X = advantage_NT[mask_NT]
    return -torch.minimum(ratio_X * advantage_X, ratio_X.clamp(1 - clip, 1 + clip) * advantage_X).mean()


def clipped_value_loss(
    value_NT: Tensor, value_old_NT: Tensor, return_NT: Tensor, mask_NT: Tensor, clip: float
) -> Tensor:
    """The critic's loss: half the mean over tokens of the larger squared error, of the value and of the clipped value.

    The clipped value is within `clip` of what the critic said before the first epoch, in units of reward.
    """
    value_X, old_X, return_X = (x_NT[mask_NT] for x_NT in (value_NT, value_old_NT, return_NT))
    clipped_X = old_X + (value_X - old_X).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_X - return_X).square(), (clipped_X - return_X).square()).mean()
