"""Arrow's rows: the direction that an adapter stretches most, whose sign means nothing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from counterpoint.compose.weighers.arrow import arrow_scores, prototype
from counterpoint.models.adapter import LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE, RULES, Router


def factors(rank: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, 8, generator=generator), torch.randn(6, rank, generator=generator)


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_a_prototype_is_the_first_right_singular_vector_of_the_delta(rank: int, seed: int) -> None:
    """Also where the rank is more than there are outputs. |B A v| is then the largest singular value."""
    a, b = factors(rank, seed)
    v, (_, s, vh) = prototype(a, b), torch.linalg.svd(b @ a)
    assert abs(float(v @ vh[0])) == pytest.approx(1, abs=1e-5)
    assert (b @ a @ v).norm().item() == pytest.approx(s[0].item(), rel=1e-5)


def test_a_prototype_by_hand() -> None:
    """B A = [[3, 4], [0, 0]] stretches (3, 4)/5, and by 5."""
    v = prototype(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(v * v[0].sign(), torch.tensor([0.6, 0.8]))


def test_neither_the_scale_of_an_adapter_nor_how_it_is_factored_moves_its_prototype() -> None:
    a, b = factors(3, seed=1)
    mix = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 3.0]])
    v, other = prototype(a, b), prototype(mix @ a, 7 * b @ torch.linalg.inv(mix))
    torch.testing.assert_close(other * (other @ v).sign(), v, atol=1e-5, rtol=0)


def one_layer(rows: Tensor, top_k: int | None) -> tuple[LoraBank, nn.Linear]:
    """A layer of a bank with an Arrow over three experts, one of which a token should choose."""
    layer = nn.Linear(8, 6, bias=False)
    bank = LoraBank(nn.Sequential(layer))
    for k in range(3):
        bank.add(f"e{k}", LoraFactors({"0": factors(2, seed=k)}))
    rule = replace(RULES["arrow"], top_k=top_k)
    bank.add_router("arrow", Router(rule, ("e0", "e1", "e2"), ("a", "b", "c"), {"0": rows}, ("0",)))
    return bank, layer


def routed(bank: LoraBank, x_BTI: Tensor) -> Tensor:
    with torch.no_grad(), bank.gated(bank.gate([{GATE + "arrow": 1.0}])):
        y: Tensor = bank.model(x_BTI)
    return y


def test_the_sign_of_a_prototype_changes_nothing() -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    bank, layer = one_layer(rows, top_k=2)
    y, signs = routed(bank, x), torch.tensor([[1.0], [-1.0], [-1.0]])
    bank.add_router("arrow", replace(bank.routers["arrow"], scores={"0": signs * rows}))
    torch.testing.assert_close(routed(bank, x), y)
    torch.testing.assert_close(routed(bank, -x), -y)
    assert (y - layer(x)).abs().max() > 0.1


def test_a_token_that_is_a_prototype_chooses_its_expert() -> None:
    """Among orthogonal ones, as the best of one: y is then W0 x + B_1 A_1 x, whichever way the token points."""
    bank, layer = one_layer(torch.eye(8)[:3], top_k=1)
    x = torch.eye(8)[None, 1:2]
    expected = layer(x) + x @ bank.experts["e1"].delta("0").T
    torch.testing.assert_close(routed(bank, x), expected)
    torch.testing.assert_close(routed(bank, -x), -expected)


def test_rows_are_in_the_order_of_the_experts() -> None:
    experts = [LoraFactors({"0": factors(2, seed=k), "1": factors(3, seed=9 + k)}) for k in range(3)]
    rows = arrow_scores(experts, ["0", "1"])
    assert {module: tuple(part.shape) for module, part in rows.items()} == {"0": (3, 8), "1": (3, 8)}
    for k, expert in enumerate(experts):
        torch.testing.assert_close(rows["1"][k], prototype(*expert.factors["1"]))
