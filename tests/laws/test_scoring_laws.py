"""The laws of scoring: the log-probabilities of a given text are those with which it would have been drawn.

For every method: mixtures in distribution space, gates of every granularity, a controller that decides at each token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from counterpoint.compose import mixture, moe, route, soup
from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.weighers.controller import Controller, new_model
from counterpoint.compose.weighers.gate import GUIDE, Gate, GateExpert, Opened
from counterpoint.decode.band import Band
from counterpoint.decode.logprobs import TopLogprobs
from counterpoint.decode.request import Request, Said
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import merge_into
from counterpoint.models.gates import Guide, Kind
from counterpoint.testing import pico_model
from counterpoint.types import Profile, Weighting

TOLERANCE = 1e-4
EXPERTS = ("terse", "warm", "exact")
WEIGHTING = Weighting(EXPERTS, (0.2, 0.5, 0.3), 0.9)
PROFILE = Profile({"terse": 0.2, "warm": 0.8}, 0.9)
CONTEXT = "Tell me of the owl and the bee."
GIVEN = " The owl is awake at night."
two_families = pytest.mark.parametrize("band", ["llama", "gpt2"], indirect=True)
more_families = pytest.mark.parametrize("band", ["llama", "qwen3", "gemma2", "gpt2"], indirect=True)
"""What differs most between families: their attention and its cache."""

CELLS: Mapping[str, Callable[[Weighting], Plan]] = {
    "base": lambda _: Plan((Row(),)),
    "soup": soup.plan,
    "moe": moe.plan,
    "mixture-prob": mixture.plan_prob,
    "mixture-log": mixture.plan_log,
    "route": route.plan,
}


def request(band: Band, plan: Plan, top: int = 3) -> Request:
    """Rows whose contexts are not of one length."""
    ids = tuple(band.tokenizer(CONTEXT)["input_ids"])
    given = tuple(band.tokenizer(GIVEN)["input_ids"][1:])
    contexts = tuple(ids[: len(ids) - 2 * row] for row in range(len(plan.all_rows)))
    return Request(plan, contexts, given=given, logprobs=top)


def drawn_one_by_one(band: Band, asked: Request) -> Tensor:
    """The reference: `[T, V]`, each from a request of its own whose contexts hold what was given before."""
    grown = [
        replace(asked, given=(), contexts=tuple((*context, *asked.given[:t]) for context in asked.contexts))
        for t in range(len(asked.given))
    ]
    return band.engine.next_distributions(grown)


def assert_scores(told_T: Sequence[TopLogprobs], given: Sequence[int], expected_TV: Tensor) -> None:
    said_T = torch.tensor([told.logp for told in told_T])
    torch.testing.assert_close(said_T, expected_TV[torch.arange(len(given)), torch.tensor(given)], atol=1e-4, rtol=0)
    best_TN = torch.tensor([[logp for _, logp in told.top] for told in told_T])
    torch.testing.assert_close(best_TN, expected_TV.topk(3).values, atol=1e-4, rtol=0)
    for told, token in zip(told_T, given, strict=True):
        greedy = token == told.top[0][0]
        assert (told.logp == told.top[0][1]) == greedy, "whether a token is the likeliest is told by equal floats"


def check(band: Band, plan: Plan) -> None:
    asked = request(band, plan)
    expected_TV = drawn_one_by_one(band, asked)
    assert_scores(band.engine.score([asked])[0], asked.given, expected_TV)
    band.engine.chunk = 7
    assert_scores(band.engine.score([asked])[0], asked.given, expected_TV)


@more_families
@pytest.mark.parametrize("cell", CELLS)
def test_a_text_is_scored_as_it_would_be_drawn(band: Band, cell: str) -> None:
    check(another(band), CELLS[cell](WEIGHTING))


@two_families
@pytest.mark.parametrize("kind", ["pmol", "x-lora"])
def test_a_text_is_scored_by_a_gate_as_it_would_be_drawn(band: Band, kind: Kind) -> None:
    gated = another(band)
    gated.take_gate(gate(band, kind))
    check(gated, gated.plan(PROFILE, kind))


@two_families
def test_a_text_is_scored_under_a_controller_as_it_would_be_drawn(band: Band) -> None:
    steered = another(band)
    controller = Controller(experts=list(EXPERTS), dimensions=list(EXPERTS), space="prob", encoding="vector")
    trunk = pico_model(seed=7, family=band.model.config.model_type, vocab=band.model.config.vocab_size)
    model = new_model(controller, trunk, band.describe).eval()
    for parameter in model.model.lm_head.parameters():
        nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(8))
    steered.steer(controller, model)
    plan = steered.plan(PROFILE, "mope")
    assert plan.control is not None
    check(steered, plan)


@more_families
@pytest.mark.parametrize("method", ["soup", "moe"])
def test_a_soup_scores_as_the_merged_model_does(band: Band, method: str) -> None:
    """One plain forward of ordinary weights to which the experts' deltas were added, with no cache and no bank."""
    asked = request(another(band), CELLS[method](WEIGHTING))
    (told_T,) = another(band).engine.score([asked])
    merged = pico_model(seed=1, family=band.model.config.model_type)
    merge_into(merged, soup.merge(band.bank.experts, WEIGHTING))
    ids = [*asked.contexts[0], *asked.given]
    with torch.no_grad():
        logp_TV = merged(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    assert_scores(told_T, asked.given, logp_TV[len(asked.contexts[0]) - 1 : -1])


@two_families
def test_texts_of_all_methods_are_scored_beside_those_who_speak(band: Band) -> None:
    """In chunks, with requests that speak: both get what they get alone."""
    busy = another(band)
    busy.take_gate(gate(band, "pmol"))
    busy.take_gate(gate(band, "x-lora"))
    plans = [make(WEIGHTING) for make in CELLS.values()] + [busy.plan(PROFILE, kind) for kind in ("pmol", "x-lora")]
    scored = [request(busy, plan) for plan in plans]
    spoken = [replace(one, given=(), sampling=Sampling(max_tokens=12, seed=n)) for n, one in enumerate(scored)]
    expected = [busy.engine.run([one])[0] for one in spoken]
    likely = [drawn_one_by_one(busy, one) for one in scored]
    busy.engine.chunk, busy.engine.max_rows = 9, 12
    tickets = [busy.engine.submit(one) for pair in zip(spoken, scored, strict=True) for one in pair]
    last: dict[int, Said] = {}
    while not busy.engine.idle:
        last |= {said.ticket: said for said in busy.engine.advance()}
    assert [last[ticket].completion for ticket in tickets[::2]] == expected
    for ticket, one, expected_TV in zip(tickets[1::2], scored, likely, strict=True):
        assert_scores(last[ticket].scores or (), one.given, expected_TV)


def another(band: Band) -> Band:
    """Over the same model and bank, with an engine of its own."""
    return Band(band.file, band.model, band.tokenizer, band.bank, {})


def gate(band: Band, kind: Kind) -> Opened:
    """One that has learned random numbers."""
    experts = [GateExpert(name=name, dimension=name, hash="of the band") for name in EXPERTS[:2]]
    more = {"empty": True} if kind == "pmol" else {"depth": 2, "width": 16, "layerwise": True}
    made = Gate.model_validate(
        {"kind": kind, "experts": experts, "modules": sorted(band.bank.experts["terse"].factors), **more}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        if kind == "x-lora":
            guide = Guide(band.model.config.hidden_size, 2, len(made.modules), 2, 16)
            return Opened(made, made.router({GUIDE + n: 4 * part for n, part in guide.state_dict().items()}), {})
        reads = {module: a.shape[1] for module, (a, _) in band.bank.experts["terse"].factors.items()}
        rows = {module: 0.5 * torch.randn(3, reads[module]) for module in made.modules}
        return Opened(made, made.router(rows), {})
