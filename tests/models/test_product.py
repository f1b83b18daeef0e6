"""Products in the layouts that are fast here, against `linear`: the same numbers, whichever kernel made them."""

import pytest
import torch
from torch.nn.functional import linear

from counterpoint.models.product import FEW, SMALL, Product

LARGE = (300, SMALL // 256)
SHAPES = [(7, 5), LARGE]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(1,), (2,), (1, 1), (3, 1), (2, 5), (FEW,), (FEW + 1,), (4, 60)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_against_linear(
    shape: tuple[int, int], bias: bool, rows: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(shape, generator=generator).to(dtype)
    bias_O = torch.randn(shape[0], generator=generator).to(dtype) if bias else None
    x = torch.randn(*rows, shape[1], generator=generator).to(dtype)
    before = x.clone()
    with torch.no_grad():
        found, expected = Product(weight_OI, bias_O)(x), linear(x, weight_OI, bias_O)
    assert found.shape == expected.shape
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=tolerance * shape[1] ** 0.5, rtol=tolerance)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_flow(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """The fast kernels know no gradient, so they are not used where one may be wanted: dy/dx of sum(y) is sum_o W."""
    weight_OI = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = torch.ones(2, shape[1], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(Product(weight_OI)(x).float().sum(), x)
    torch.testing.assert_close(gradient[0].float(), weight_OI.float().sum(0), atol=0.3, rtol=0.02)


def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    weight_OI = torch.randn(LARGE, generator=torch.Generator().manual_seed(0))
    x = torch.randn(40, LARGE[1], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        product = Product(weight_OI)
        everyone = product(x)
        for rows in (1, 2, 3, 8, FEW):
            torch.testing.assert_close(product(x[:rows]), everyone[:rows], atol=1e-4, rtol=0)
