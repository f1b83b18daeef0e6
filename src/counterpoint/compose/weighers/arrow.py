"""Arrow: a gate over adapters made elsewhere, with nothing trained and none of their data (arXiv 2405.11157).

An adapter has learned to act on what its delta stretches most: the first right singular vector v of B A. A token is
scored by |v . x|, since the sign of a singular vector means nothing. The published code finds v by fifteen power
iterations; here it is the singular vector itself, from factors as small as the rank.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from counterpoint.models.adapter import LoraFactors


def prototype(a_RI: Tensor, b_OR: Tensor) -> Tensor:
    """The first right singular vector of `B A`, `[I]` in float32, up to its sign.

    With B = Q R, the right singular vectors of B A are those of R A, which is `[R, I]`.
    """
    r_RR = torch.linalg.qr(b_OR.float(), mode="r").R
    v_RI: Tensor = torch.linalg.svd(r_RR @ a_RI.float(), full_matrices=False).Vh
    return v_RI[0]


def arrow_scores(experts: Sequence[LoraFactors], modules: Sequence[str]) -> Mapping[str, Tensor]:
    """The router's rows by module, `[K, I]`."""
    return {module: torch.stack([prototype(*expert.factors[module]) for expert in experts]) for module in modules}
