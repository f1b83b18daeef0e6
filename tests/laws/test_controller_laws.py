"""The laws of a mixture whose controller has learned: its logits are random, and differ at every token.

Each holds for every family of models (fixture `band`), and those on distributions also in half precision.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from counterpoint.compose import mixture, route
from counterpoint.compose.plan import CONTROLLER, Plan, Row, Space
from counterpoint.compose.weighers.constant import constant
from counterpoint.compose.weighers.controller import Controller, Encoding, new_model, profile_key
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.controller import ControllerModel
from counterpoint.models.load import FAMILIES
from counterpoint.testing import pico_model
from counterpoint.types import Completion, Expert, Profile, Trace

TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.15}
"""On log-probabilities, by the type of the model's numbers."""

in_any_type = pytest.mark.parametrize("band", [*FAMILIES, "llama-float16", "llama-bfloat16"], indirect=True)
spaces = pytest.mark.parametrize("space", ["prob", "log"])
encodings = pytest.mark.parametrize("encoding", ["vector", "text"])

EXPERTS = ("terse", "warm", "exact")
CONTEXTS = ("Tell me of the owl and the bee.", "Hi", "What is the colour of the sky, and who would you ask?")
PROFILES = (
    Profile({"terse": 0.2, "warm": 0.5, "exact": 0.3}),
    Profile({"terse": 0.6, "warm": 0.4}),
    Profile({"exact": 1.0, "terse": 1.0, "warm": 1.0}),
)


def rule(experts: Sequence[str] = EXPERTS, space: Space = "prob", encoding: Encoding = "vector") -> Controller:
    return Controller(experts=list(experts), dimensions=list(EXPERTS), space=space, encoding=encoding)


def untrained_model(band: Band, controller: Controller) -> ControllerModel:
    trunk = pico_model(seed=7, family=band.model.config.model_type, vocab=band.model.config.vocab_size)
    return new_model(controller, trunk.to(band.model.dtype), band.describe).eval()


def roused_model(band: Band, controller: Controller) -> ControllerModel:
    """A transformer of the band's own family, random also where training starts from zero."""
    model = untrained_model(band, controller)
    generator = torch.Generator().manual_seed(8)
    head = [model.described] if model.described is not None else list(model.model.lm_head.parameters())
    for part in [*head, *([] if model.profile is None else [model.profile])]:
        nn.init.normal_(part, std=0.3, generator=generator)
    return model


def steered(band: Band, controller: Controller, model: ControllerModel | None = None) -> Band:
    """Another band over the same model and bank, so that the tests' own is left as it was."""
    apart = Band(band.file, band.model, band.tokenizer, band.bank, {})
    apart.steer(controller, model)
    return apart


def roused(band: Band, controller: Controller) -> Band:
    return steered(band, controller, roused_model(band, controller))


def model_of(band: Band) -> ControllerModel:
    rows = band.whole[CONTROLLER].load()
    model = rows.bank  # type: ignore[attr-defined]
    assert isinstance(model, ControllerModel)
    return model


def logp_of(band: Band, plan: Plan) -> Tensor:
    """Next-token log-probabilities `[contexts, V]`."""
    return band.engine.next_distributions([band.request(text, plan, Sampling()) for text in CONTEXTS])


def logp(band: Band, profile: Profile, method: str = "mope") -> Tensor:
    return logp_of(band, band.plan(profile, method))


def expert_alone(band: Band, name: str) -> Tensor:
    return logp_of(band, Plan((Row({name: 1.0}),)))


def assert_equal(band: Band, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE[band.model.dtype], rtol=0)


def trace_of(completion: Completion) -> Trace:
    assert completion.trace is not None
    return completion.trace


@in_any_type
@spaces
@encodings
def test_the_controller_matters_so_that_the_laws_can_fail(band: Band, space: Space, encoding: Encoding) -> None:
    own, untrained = roused(band, rule(space=space, encoding=encoding)), f"mixture-{space}"
    for profile in PROFILES:
        assert (logp(own, profile) - logp(own, profile, untrained)).abs().max() > 2 * TOLERANCE[band.model.dtype]


@in_any_type
@spaces
def test_vertex(band: Band, space: Space) -> None:
    own = roused(band, rule(space=space))
    for name in EXPERTS:
        assert_equal(band, logp(own, Profile({name: 0.7})), expert_alone(own, name))


@in_any_type
@spaces
def test_a_controller_that_is_sure_is_route(band: Band, space: Space) -> None:
    """Its weights are 0 and 1 exactly, and the mixture is then that expert; of probabilities, to the bit."""
    model, chosen = roused_model(band, rule(space=space)), 2
    with torch.no_grad():
        model.model.lm_head.bias[chosen] = 1e4
    own = steered(band, rule(space=space), model)
    routed = route.plan(constant(Profile({EXPERTS[chosen]: 1.0}), own.experts))
    assert_equal(band, logp(own, PROFILES[0]), logp_of(own, routed))
    request = own.request(CONTEXTS[0], own.plan(PROFILES[0], "mope"), Sampling(max_tokens=4), "token")
    trace = trace_of(own.run([request])[0])
    assert trace.c_TK.tolist() == [[float(k == chosen) for k in range(3)]] * len(trace.tokens)
    if space == "prob":
        assert torch.equal(trace.logp_T, trace.logp_TK[:, chosen])


@in_any_type
@spaces
def test_consensus(band: Band, space: Space) -> None:
    twins = ("twin1", "twin2", "twin3")
    for twin in twins:
        band.bank.add(twin, band.bank.experts["warm"])
    own = roused(band, rule(twins, space))
    own.experts = [Expert(twin, name) for twin, name in zip(twins, EXPERTS, strict=True)]
    for profile in PROFILES:
        assert_equal(band, logp(own, profile), expert_alone(own, "warm"))


@in_any_type
@spaces
@pytest.mark.parametrize("order", [(2, 0, 1), (0, 2, 1)])
def test_permutation_of_columns(band: Band, space: Space, order: tuple[int, ...]) -> None:
    controller = rule(space=space)
    model, shuffled = roused_model(band, controller), roused_model(band, controller)
    with torch.no_grad():
        for part, own in zip(shuffled.model.lm_head.parameters(), model.model.lm_head.parameters(), strict=True):
            part.copy_(own[list(order)])
    names = [EXPERTS[k] for k in order]
    expected = logp(steered(band, controller, model), PROFILES[0])
    assert_equal(band, logp(steered(band, rule(names, space), shuffled), PROFILES[0]), expected)


@in_any_type
def test_permutation_of_described_experts(band: Band) -> None:
    """Columns are made from descriptions, so that nothing but the names need be permuted."""
    controller = rule().model_copy(update={"head": "described"})
    shuffled = controller.model_copy(update={"experts": ["exact", "terse", "warm"]})
    assert_equal(band, logp(roused(band, shuffled), PROFILES[0]), logp(roused(band, controller), PROFILES[0]))


@in_any_type
@spaces
def test_simplex(band: Band, space: Space) -> None:
    own = roused(band, rule(space=space))
    for profile, strength in zip(PROFILES, (0.0, 0.6, 1.0), strict=True):
        total = logp(own, replace(profile, strength=strength)).double().exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@in_any_type
@spaces
def test_strength_zero_is_the_base(band: Band, space: Space) -> None:
    own = roused(band, rule(space=space))
    assert_equal(band, logp(own, replace(PROFILES[0], strength=0.0)), logp_of(own, Plan((Row(),))))


@in_any_type
@spaces
def test_untrained_it_is_the_mixture_of_the_profile(band: Band, space: Space) -> None:
    controller = rule(space=space)
    own = steered(band, controller, untrained_model(band, controller))
    for profile, strength in zip(PROFILES, (0.3, 1.0, 1.7 if space == "log" else 1.0), strict=True):
        wanted = replace(profile, strength=strength)
        assert_equal(band, logp(own, wanted), logp(own, wanted, f"mixture-{space}"))


@in_any_type
@spaces
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_broadcast_of_a_head_that_is_a_bias(band: Band, space: Space, strength: float) -> None:
    """Weights that repeat over prompts and tokens are a mixture's, and those of `constants`."""
    controller, bias = rule(space=space), [0.5, -1.0, 0.25]
    model = roused_model(band, controller)
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
        model.model.lm_head.bias.copy_(torch.tensor(bias))
    own = steered(band, controller, model)
    profile = replace(PROFILES[0], strength=strength)
    w_K = torch.softmax(torch.tensor([0.2, 0.5, 0.3]).log() + torch.tensor(bias), dim=0).tolist()
    weighted = replace(constant(profile, own.experts), w=tuple(w_K))
    plan = mixture.plan_prob(weighted) if space == "prob" else mixture.plan_log(weighted)
    fixed = steered(band, controller.model_copy(update={"constants": {profile_key(profile): bias}}))
    assert_equal(band, logp(own, profile), logp_of(own, plan))
    assert_equal(band, logp(fixed, profile), logp_of(own, plan))


# Batches and caches


def requests_of(own: Band, methods: Sequence[str]) -> list[Request]:
    """Every method for every profile and prompt that one batch may hold, of unlike lengths and sampling."""
    samplings = (
        Sampling(temperature=0, max_tokens=7),
        Sampling(seed=3, max_tokens=9),
        Sampling(seed=4, temperature=0.7, top_k=20, max_tokens=5),
        Sampling(seed=5, repetition_penalty=1.3, max_tokens=8),
    )
    asked = enumerate(product(methods, PROFILES))
    return [
        own.request(CONTEXTS[i % 3], own.plan(replace(profile, strength=0.9), method), samplings[i % 4], "token")
        for i, (method, profile) in asked
    ]


def test_batch(band: Band, monkeypatch: pytest.MonkeyPatch) -> None:
    own = roused(band, rule(encoding="text" if band.model.config.model_type == "llama" else "vector"))
    requests = requests_of(own, ("mope", "moe", "mixture-prob"))
    together = own.run(requests)
    alone = [own.run([request])[0] for request in requests]
    assert together == alone
    for one, other in zip(together, alone, strict=True):
        assert_equal(band, trace_of(one).c_TK, trace_of(other).c_TK)
    monkeypatch.setattr(own.engine, "max_rows", 9)
    assert own.run(list(reversed(requests))) == list(reversed(alone)), "joining late and leaving early"


@in_any_type
def test_batch_distributions(band: Band) -> None:
    own = roused(band, rule())
    requests = requests_of(own, ("mope", "moe", "mixture-log"))
    together = own.engine.next_distributions(requests)
    for request, row in zip(requests, together, strict=True):
        assert_equal(band, own.engine.next_distributions([request])[0], row)


@spaces
@encodings
def test_padding_and_cache_against_a_full_recompute(band: Band, space: Space, encoding: Encoding) -> None:
    """What the controller and the experts said at every token of a batched, cached decode is what each says alone."""
    own = roused(band, rule(space=space, encoding=encoding))
    requests = [replace(r, sampling=Sampling(seed=i, max_tokens=9)) for i, r in enumerate(requests_of(own, ["mope"]))]
    for request, completion in zip(requests, own.run(requests), strict=True):
        trace = trace_of(completion)
        c_TK = recomputed_weights(own, request, trace.tokens)
        assert_equal(band, trace.c_TK, c_TK)
        logp_TKV = torch.stack(
            [
                recomputed_row(own, row, context, trace.tokens)
                for row, context in zip(request.plan.rows, request.contexts[:-1], strict=True)
            ],
            dim=1,
        )
        mixed_TV = mixture.mix_prob(logp_TKV, c_TK) if space == "prob" else mixture.mix_log(logp_TKV, c_TK)
        assert_equal(band, trace.logp_T, mixed_TV.gather(1, torch.tensor(trace.tokens)[:, None])[:, 0])


@torch.no_grad()
def recomputed_weights(own: Band, request: Request, tokens: Sequence[int]) -> Tensor:
    """The reference: one plain forward of the controller over prompt and response, alone and without a cache."""
    control, model = request.plan.control, model_of(own)
    assert control is not None
    vector_1D = torch.tensor([[control.row.gate.get(name, 0.0) for name in model.dimensions]])
    ids_1T = torch.tensor([[*request.contexts[-1], *tokens[:-1]]])
    hidden_1TI = model.hidden(ids_1T, torch.ones_like(ids_1T).bool(), vector_1D if model.dimensions else None)
    z_TK = model.logits(hidden_1TI)[0, -len(tokens) :, list(control.columns)]
    alpha_TK = torch.softmax(torch.tensor(control.log_prior) + z_TK, dim=-1)
    return torch.tensor(request.plan.coefficients) + control.strength * alpha_TK


@torch.no_grad()
def recomputed_row(own: Band, row: Row, context: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """`[T, V]` of one row: one forward of the model's own modules over prompt and response."""
    ids_1T = torch.tensor([[*context, *tokens[:-1]]])
    with own.bank.gated(own.bank.gate([row.gate])):
        logits_TV = own.model(ids_1T).logits[0, -len(tokens) :]
    logp_TV: Tensor = logits_TV.float().log_softmax(-1)
    return logp_TV
