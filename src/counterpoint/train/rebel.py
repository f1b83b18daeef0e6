"""REBEL: the log-ratios of two responses to one prompt are regressed on the difference of their rewards.

    loss = mean over pairs of ((d_0 - d_1) / eta - (r_0 - r_1))^2,   d_i = log p(y_i|x) - log p_t(y_i|x)

(Gao et al. 2024, arXiv 2404.16767, algorithm 1.) Both responses are samples of p_t, the policy at the start of the
iteration. Where every pair is seen, the only minimum is p proportional to p_t e^(eta r): a large eta takes large steps.
The surprising part: neither a critic nor the normaliser of that policy is needed, since both cancel in the difference.
"""

from torch import Tensor


def rebel_loss(logp_P2: Tensor, logp_old_P2: Tensor, reward_P2: Tensor, eta: float) -> Tensor:
    """The squared error of the regression, a scalar.

    `logp_P2` and `logp_old_P2` are sums over the tokens of a response, in nats, under the policy that is trained and
    under the one that sampled; both come at the same temperature.
    """
    ratio_P2 = logp_P2 - logp_old_P2.detach()
    gap_P = (ratio_P2[:, 0] - ratio_P2[:, 1]) / eta
    return (gap_P - (reward_P2[:, 0] - reward_P2[:, 1])).square().mean()
