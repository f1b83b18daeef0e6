"""The product of a weight with few rows, which is what a decode step consists of.

A step reads every weight once, so its limit is the bandwidth of memory. On a CPU, PyTorch's `linear` misses that limit
by two to five times for the one to eight rows of a step: measured on the shapes of a 135 M model with two cores, one
step's products take 36 ms for one row and 66 ms for three in float32 (bandwidth: 14), 18 ms in bfloat16 (bandwidth: 8).
So

- float32 is multiplied as `W x^T`, for which the BLAS has a kernel without that defect; a single row is doubled first,
- bfloat16 is multiplied by oneDNN's inner product with the weight kept in the layout that it blocks it to anyway,

and all else, and whatever needs a gradient, by `linear`.
"""

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import linear

SMALL = 2**16
"""Below so many elements a call costs more than its product, and `linear` is the cheapest call."""
FEW = 32
"""Above so many rows a product is bound by arithmetic, and `linear` is as fast as any."""


class Product:
    """`x W^T + b` with `W` `[O, I]` and `b` `[O]` or None, for `x` `[..., I]` of the weight's dtype and device."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.weight_OI: Tensor | Parameter = weight_OI
        self.bias_O = bias_O
        large = weight_OI.device.type == "cpu" and weight_OI.numel() >= SMALL
        self._tall = large and weight_OI.dtype == torch.float32
        self._packed = _packed(weight_OI) if large and weight_OI.dtype == torch.bfloat16 else None

    def learn(self) -> Parameter:
        """The weight as a parameter in float32, which gradients reach from now on.

        Of a weight in half precision that is a copy, for use under autocast. A packed copy would grow old.
        """
        self._packed = None
        self.weight_OI = Parameter(self.weight_OI.float())
        return self.weight_OI

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            if self._packed is not None:
                y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias_O, "none", [], "")
                return y
            if self._tall and x.numel() <= FEW * x.shape[-1]:
                return self._as_tall(x)
        return linear(x, self.weight_OI, self.bias_O)

    def _as_tall(self, x: Tensor) -> Tensor:
        x_BI = x.reshape(-1, x.shape[-1])
        rows = len(x_BI)
        if rows == 1:
            x_BI = x_BI.expand(2, -1).contiguous()
        y_OB = torch.mm(self.weight_OI, x_BI.T)[:, :rows]
        y = y_OB.T.contiguous().view(*x.shape[:-1], -1)
        return y if self.bias_O is None else y.add_(self.bias_O)


def _packed(weight_OI: Tensor) -> Tensor | None:
    """A copy in oneDNN's layout, if this CPU computes in bfloat16."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), 1)
    return packed
