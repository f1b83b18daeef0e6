"""What is measured of a gate: log-probabilities as decoding has them, and who worked on which token."""

from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.compose.weighers.gate import GUIDE, Gate, GateExpert, Opened
from counterpoint.data.examples import Example, example
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.gate import gate_quality, gated_logp
from counterpoint.evaluate.gate_trace import group_shares
from counterpoint.models.gates import GATE, RULES, Guide
from counterpoint.types import Comparison, Profile

TOLERANCE = 1e-4
KINDS_HERE = ("pmol", "x-lora", "arrow")
PROFILE = Profile({"terse": 1.0, "warm": 3.0})
PAIRS = [Comparison(f"Tell me of {word}.", f"{word} sing", f"no {word}", "warm") for word in ("owls", "tea", "ice")]


@pytest.fixture(params=KINDS_HERE)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gated(band: Band, kind: Any) -> Band:
    """The band with a random gate of that kind over two of its experts."""
    reads = {module: a.shape[1] for module, (a, _) in band.bank.experts["terse"].factors.items()}
    entries = [GateExpert(name=name, dimension=name, hash="of the band") for name in ("terse", "warm")]
    gate = Gate(kind=kind, experts=entries, modules=sorted(reads), empty=RULES[kind].empty, width=8, depth=2)
    generator = torch.Generator().manual_seed(3)
    shapes = {module: (2 + gate.empty, reads[module]) for module in gate.modules}
    if kind == "x-lora":
        shapes = {GUIDE + name: tuple(p.shape) for name, p in Guide(32, 2, 1, 2, 8).state_dict().items()}
    learned = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    band.take_gate(Opened(gate, gate.router(learned), {}))
    return band


def test_a_response_has_the_probability_with_which_it_is_decoded(gated: Band, kind: str) -> None:
    """Also where the base is heard first, and where rows are padded."""
    plan = gated.plan(PROFILE, kind)
    prompts = ["Hi", "Tell me of the owl."]
    requests = [gated.request(prompt, plan, Sampling()) for prompt in prompts]
    next_BV = torch.stack(list(gated.engine.next_distributions(requests)))
    examples = [Example(request.contexts[0], (token,)) for request, token in zip(requests, (40, 50), strict=True)]
    logp_N = gated_logp(gated.bank, plan.rows[0].gate, examples)
    assert np.abs(logp_N - next_BV[[0, 1], [40, 50]].numpy()).max() < TOLERANCE
    base_N = gated_logp(gated.bank, {}, examples)
    assert np.abs(logp_N - base_N).max() > 0.01
    assert gated.bank.context.gate is None, "nothing stays behind"


def test_quality_is_the_share_of_pairs_that_the_gate_favours_more_than_the_base(gated: Band, kind: str) -> None:
    told: list[tuple[int, int]] = []
    found = gate_quality(gated.bank, kind, "warm", gated.tokenizer, PAIRS, 0, lambda *done: told.append(done))
    assert told[-1] == (6, 6)
    for gate, share in (({GATE + kind: 1.0}, found.routed), ({GATE + kind: 1.0, "warm": 1.0}, found.asked)):
        right = 0
        for pair in PAIRS:
            ids = [example(pair.prompt, text, gated.tokenizer) for text in (pair.chosen, pair.rejected)]
            gain = gated_logp(gated.bank, gate, ids) - gated_logp(gated.bank, {}, ids)
            right += bool(gain[0] > gain[1])
        assert share.value == pytest.approx(right / 3)


def test_a_trace_is_what_the_router_made_of_the_tokens_as_they_were_decoded(gated: Band, kind: str) -> None:
    """Decoded with a cache, a token a step; traced in one forward."""
    request = gated.request("Tell me of the owl.", gated.plan(PROFILE, kind), Sampling(temperature=0, max_tokens=5))
    gated.bank.context.seen = []
    (said,) = gated.run([request])
    steps = [seen.share_BTJK[0, 0] for seen in gated.bank.context.seen if seen.share_BTJK.shape[1] == 1]
    gated.bank.context.seen = None
    layers = len(steps) // len(said.tokens)
    decoded_TK = [torch.cat(steps[t * layers : (t + 1) * layers]).mean(0) for t in range(len(said.tokens))]
    found = group_shares(gated.bank, request.plan.rows[0].gate, request.contexts[0], said.tokens)
    assert found.groups == ("terse", "warm")
    assert float((torch.tensor(found.share_TG) - torch.stack(decoded_TK)).abs().max()) < TOLERANCE
    sums = [sum(share_G) for share_G in found.share_TG]
    assert all(total < 1 - 1e-4 if kind == "pmol" else abs(total - 1) < 1e-5 for total in sums)
