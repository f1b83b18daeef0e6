"""What a trace tells, against short recomputations over a scripted model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from zlib import crc32

import pytest
import torch
from torch import Tensor

from counterpoint.compose.mixture import mix_log, spread_tail
from counterpoint.compose.plan import Control, Plan, Row, Space
from counterpoint.decode import tracing
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.testing import ScriptedLM
from counterpoint.types import Completion, CounterpointError, Trace

VOCABULARY, END = 9, 8
NONE = -math.inf
Script = Callable[[str, tuple[int, ...]], Sequence[float]]
CONTEXTS = ((1, 2), (3,), (4, 5, 6), (7, 7))
SPACES: tuple[Space, Space] = ("prob", "log")


def logits_of(gate: str, seen: tuple[int, ...]) -> list[float]:
    """Logits in [-2, 2) that tell the row and every token seen, the end token's 2 less so that it is rare."""
    return [crc32(repr((gate, seen, v)).encode()) % 400 / 100 - 2 - 2 * (v == END) for v in range(VOCABULARY)]


def partly(gate: str, seen: tuple[int, ...]) -> list[float]:
    """As an endpoint tells its four likeliest tokens; the row "here" knows all, and "silent" nothing any more."""
    if gate == "silent":
        return [NONE] * (VOCABULARY + 1)
    logp_V = torch.tensor(logits_of(gate, seen)).log_softmax(-1)
    kept = set(range(VOCABULARY)) if gate == "here" else set(logp_V.topk(4).indices.tolist())
    rest = 1 - sum(math.exp(logp_V[v]) for v in kept)
    told = [float(logp_V[v]) if v in kept else NONE for v in range(VOCABULARY)]
    return [*told, NONE if gate == "here" else math.log(rest)]


def run(requests: Sequence[Request], script: Script = logits_of, max_rows: int = 40) -> list[Completion]:
    return Engine(ScriptedLM(VOCABULARY, script), text_of, {END}, 40, max_rows).run(requests)


def text_of(tokens: Sequence[int]) -> str:
    return "".join(map(str, tokens))


def blend(
    c: tuple[float, ...] = (0.2, 0.5, 0.3),
    space: Space = "prob",
    names: Sequence[str] = ("x", "y", "z", "u"),
    sampling: Sampling | None = None,
) -> Request:
    """A traced request whose rows have contexts of unlike lengths."""
    plan = Plan(tuple(Row({name: 1.0}) for name, _ in zip(names, c, strict=False)), c, space)
    return Request(plan, CONTEXTS[: len(c)], sampling or Sampling(seed=1, max_tokens=12), "token")


def trace_of(completion: Completion) -> Trace:
    assert completion.trace is not None
    return completion.trace


def rows_logp(request: Request, said: Sequence[int], script: Script = logits_of) -> Tensor:
    """The rows' log-distributions after `said`, `[K, V]`."""
    pairs = zip(request.plan.rows, request.contexts, strict=False)
    logits_KV = [script("+".join(row.gate), (*context, *said)) for row, context in pairs]
    return torch.tensor(logits_KV).log_softmax(-1)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# Against a recomputation


@pytest.mark.parametrize("c", [(0.2, 0.5, 0.3), (0.0, 1.0, 0.0), (1.0,)])
def test_a_trace_in_probability_space(c: tuple[float, ...]) -> None:
    request = blend(c)
    trace = trace_of(run([request])[0])
    for t, token in enumerate(trace.tokens):
        p_K = rows_logp(request, trace.tokens[:t])[:, token].exp()
        w_K = torch.tensor(c)
        assert_close(trace.c_TK[t], w_K)
        assert_close(trace.logp_TK[t].exp(), p_K)
        assert_close(trace.logp_T[t].exp(), w_K @ p_K)
        assert_close(trace.credit_TK[t], w_K * p_K / (w_K @ p_K))
    assert_close(trace.credit_TK.sum(-1), torch.ones(len(trace.tokens)))
    assert trace.lost_T.tolist() == [0.0] * len(trace.tokens)
    assert len(trace.tokens) > 3


@pytest.mark.parametrize("c", [(0.2, 0.5, 0.3), (1.0, 1.4, -0.6), (0.0, 1.0, 0.0), (1.0,), (2.0,)])
def test_a_trace_in_log_space(c: tuple[float, ...]) -> None:
    """The credit is the derivative of the token's log-probability by the logarithm of the coefficient, by autograd."""
    request = blend(c, "log")
    trace = trace_of(run([request])[0])
    for t, token in enumerate(trace.tokens):
        logp_KV = rows_logp(request, trace.tokens[:t])
        c_K = torch.tensor(c).requires_grad_()
        logp = (c_K[:, None] * logp_KV).sum(0).log_softmax(-1)[token]
        (slope_K,) = torch.autograd.grad(logp, c_K)
        assert_close(trace.c_TK[t], c_K.detach())
        assert_close(trace.logp_TK[t], logp_KV[:, token])
        assert_close(trace.logp_T[t], logp.detach())
        assert_close(trace.credit_TK[t], c_K.detach() * slope_K)
    assert len(trace.tokens) > 3


def test_the_end_token_is_in_the_trace_and_not_in_the_response() -> None:
    def script(gate: str, seen: tuple[int, ...]) -> list[float]:
        return [5.0 * (v == (END if len(seen) > 3 else 2)) for v in range(VOCABULARY)]

    done = run([replace(blend((0.5, 0.5)), contexts=((1,), (1,)), sampling=Sampling(temperature=0))], script)[0]
    assert (done.tokens, done.finish) == ((2, 2, 2), "stop")
    assert trace_of(done).tokens == (2, 2, 2, END)
    assert trace_of(done).c_TK.shape == (4, 2)


def test_a_response_that_was_cut_short_is_traced_to_its_last_token() -> None:
    """By its length, or by a stop string that ends it within what was said."""
    done = run([blend(sampling=Sampling(temperature=0, max_tokens=3))])[0]
    assert (trace_of(done).tokens, done.finish) == (done.tokens, "length")
    assert len(done.tokens) == 3
    stopped = run([blend(sampling=Sampling(temperature=0, stop=(done.text[:2],)))])[0]
    assert (trace_of(stopped).tokens, stopped.finish) == (done.tokens[:2], "stop")


@pytest.mark.parametrize("space", SPACES)
def test_the_whole_vocabulary_if_asked_for(space: Space) -> None:
    request = replace(blend(space=space), trace="vocabulary")
    trace = trace_of(run([request])[0])
    assert trace.logp_TKV is not None
    for t in range(len(trace.tokens)):
        assert_close(trace.logp_TKV[t], rows_logp(request, trace.tokens[:t]))
    assert trace_of(run([blend(space=space)])[0]).logp_TKV is None


# Requests together


def test_what_is_said_is_the_same_with_and_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where no request is traced, nothing of a step is computed for it."""
    requests = [blend(space=space, sampling=Sampling(seed=seed, max_tokens=9)) for space in SPACES for seed in range(3)]
    traced = run(requests)
    monkeypatch.delattr(tracing.Step, "of")
    plain = run([replace(request, trace=None) for request in requests])
    assert plain == traced
    assert all(completion.trace is None for completion in plain)
    with pytest.raises(AttributeError):
        run(requests[:1])


@pytest.mark.parametrize("max_rows", [40, 5])
def test_traced_and_untraced_requests_share_a_batch(max_rows: int) -> None:
    """Of unlike spaces, rows and details, joining late and leaving early: each has the trace that it has alone."""
    kinds: list[tuple[tuple[float, ...], Space]] = [
        ((0.2, 0.5, 0.3), "prob"),
        ((1.0, 0.5, -0.5), "log"),
        ((1.0,), "log"),
        ((2.0,), "log"),
        ((0.4, 0.6), "prob"),
    ]
    requests = [
        replace(blend(c, space, sampling=Sampling(seed=n, max_tokens=3 + n)), trace=detail)
        for n, (c, space) in enumerate(kinds)
        for detail in ("token", None, "vocabulary")
    ]
    together = run(requests, max_rows=max_rows)
    for request, completion in zip(requests, together, strict=True):
        assert completion == run([request])[0]
        if request.trace is None:
            assert completion.trace is None
            continue
        trace, alone = trace_of(completion), trace_of(run([request])[0])
        assert trace.tokens == alone.tokens
        for name in ("c_TK", "logp_TK", "logp_T", "credit_TK", "lost_T"):
            assert_close(getattr(trace, name), getattr(alone, name))
        assert (trace.logp_TKV is not None) == (request.trace == "vocabulary")


# A controller's row


def steered(
    strength: float = 1.0,
    c: tuple[float, ...] = (0.0, 0.0, 0.0),
    space: Space = "prob",
    prior: tuple[float, ...] = (0.5, 0.5, 1.0),
) -> Request:
    """Rows x, y, z with columns 2, 0, 3 of the row "control"."""
    log_prior = tuple(math.log(p) if p else NONE for p in prior)
    control = Control(Row({"control": 1.0}), (2, 0, 3), log_prior, strength)
    plan = Plan(tuple(Row({name: 1.0}) for name in "xyz"), c, space, control)
    return Request(plan, CONTEXTS, Sampling(seed=2, max_tokens=10), "token")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("strength", "c"), [(1.0, (0.0, 0.0, 0.0)), (0.6, (0.4, 0.0, 0.0)), (0.5, (0.1, 0.3, 0.1))])
def test_a_controller_moves_the_coefficients_at_every_token(
    space: Space, strength: float, c: tuple[float, ...]
) -> None:
    request = steered(strength, c, space)
    trace = trace_of(run([request])[0])
    for t in range(len(trace.tokens)):
        z = logits_of("control", (*CONTEXTS[3], *trace.tokens[:t]))
        share_K = torch.tensor([0.5 * math.exp(z[2]), 0.5 * math.exp(z[0]), math.exp(z[3])])
        assert_close(trace.c_TK[t], torch.tensor(c) + strength * share_K / share_K.sum())
        logp_K, c_K = rows_logp(request, trace.tokens[:t])[:, trace.tokens[t]], trace.c_TK[t]
        assert_close(trace.logp_TK[t], logp_K)
        if space == "prob":
            assert_close(trace.logp_T[t].exp(), c_K @ logp_K.exp())
    assert trace.c_TK.std(0).min() > 0.01
    assert_close(trace.c_TK.sum(-1), torch.full((len(trace.tokens),), sum(c) + strength))


def test_a_prior_of_zero_leaves_a_row_with_its_coefficient() -> None:
    trace = trace_of(run([steered(0.75, (0.0, 0.25, 0.0), prior=(1.0, 0.0, 2.0))])[0])
    assert_close(trace.c_TK[:, 1], torch.full((len(trace.tokens),), 0.25))
    assert trace.c_TK[:, 0].std() > 0.01


def test_steered_and_fixed_requests_of_as_many_rows_share_a_batch() -> None:
    requests = [steered(), blend(), steered(0.5, (0.0, 0.5, 0.0)), blend((0.1, 0.1, 0.8))]
    assert run(requests) == [run([request])[0] for request in requests]


# A temperature on the experts


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_temperature_on_the_experts_in_probability_space(temperature: float) -> None:
    request = blend(sampling=Sampling(temperature=temperature, seed=5, max_tokens=6))
    request = replace(request, plan=replace(request.plan, temper="experts"))
    trace = trace_of(run([request])[0])
    for t, token in enumerate(trace.tokens):
        p_KV = (rows_logp(request, trace.tokens[:t]) / temperature).softmax(-1)
        mixed_V = torch.tensor(request.plan.coefficients) @ p_KV
        assert_close(trace.logp_TK[t].exp(), p_KV[:, token])
        assert_close(trace.logp_T[t].exp(), mixed_V[token])
        below = float(mixed_V[:token].sum())
        assert below <= uniform(5, t) <= below + float(mixed_V[token]), "drawn from that, and not tempered again"


def uniform(seed: int, t: int) -> float:
    return float(torch.rand(t + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[t])


@pytest.mark.parametrize("temperature", [0.0, 0.4, 2.5])
def test_in_log_space_it_makes_no_difference_whose_temperature_it_is(temperature: float) -> None:
    on_mixture = [
        blend((1.0, 0.8, -0.5), "log", sampling=Sampling(temperature=temperature, seed=seed)) for seed in range(5)
    ]
    on_experts = [replace(request, plan=replace(request.plan, temper="experts")) for request in on_mixture]
    assert run(on_experts) == run(on_mixture)


def test_in_probability_space_it_makes_one() -> None:
    on_mixture = [blend(sampling=Sampling(temperature=2.5, seed=seed)) for seed in range(5)]
    on_experts = [replace(request, plan=replace(request.plan, temper="experts")) for request in on_mixture]
    assert run(on_experts) != run(on_mixture)


# Distributions known in part


def test_partial_rows_in_probability_space() -> None:
    request = blend(names=("here", "y", "z"))
    trace = trace_of(run([request], partly)[0])
    for t, token in enumerate(trace.tokens):
        told_KW = torch.tensor(
            [partly(name, (*c, *trace.tokens[:t])) for name, c in zip(("here", "y", "z"), CONTEXTS, strict=False)]
        )
        w_K = torch.tensor([0.2, 0.5, 0.3])
        assert_close(trace.lost_T[t], w_K @ told_KW[:, -1].exp())
        assert_close(trace.logp_T[t].exp(), w_K @ told_KW[:, token].exp())
        assert_close(trace.credit_TK[t], w_K * told_KW[:, token].exp() / (w_K @ told_KW[:, token].exp()))
    assert trace.lost_T.min() > 0
    assert max(trace.tokens) < VOCABULARY


@pytest.mark.parametrize("c", [(0.2, 0.5, 0.3), (1.0, 0.7, -0.4), (1.0,)])
def test_partial_rows_in_log_space_are_traced_as_they_were_mixed(c: tuple[float, ...]) -> None:
    """With their tails spread: the credit of an expert that did not report a token is finite, and the derivative."""
    names = ("here", "y", "z") if len(c) > 1 else ("y",)
    request = replace(blend(c, "log", names), trace="vocabulary")
    trace = trace_of(run([request], partly)[0])
    for t, token in enumerate(trace.tokens):
        told = [partly(name, (*context, *trace.tokens[:t])) for name, context in zip(names, CONTEXTS, strict=False)]
        spread_KV, c_K = spread_tail(torch.tensor(told)), torch.tensor(c).requires_grad_()
        mixed_V = mix_log(spread_KV, c_K)
        (slope_K,) = torch.autograd.grad(mixed_V[token], c_K)
        assert trace.logp_TKV is not None
        assert_close(trace.logp_TKV[t], spread_KV)
        assert_close(trace.logp_TK[t], spread_KV[:, token])
        assert_close(trace.logp_T[t], mixed_V[token].detach())
        assert_close(trace.credit_TK[t], c_K.detach() * slope_K)
        tail_K = torch.tensor([row[VOCABULARY] for row in told]).exp()
        assert_close(trace.lost_T[t], (tail_K * torch.tensor(c).abs()).sum() / torch.tensor(c).abs().sum())
    assert len(trace.tokens) > 3


def test_a_repetition_penalty_acts_on_what_partial_rows_report() -> None:
    request = blend(names=("here", "y", "z"), sampling=Sampling(repetition_penalty=1.8, seed=3, max_tokens=6))
    trace = trace_of(run([request], partly)[0])
    told_W = torch.tensor(partly("y", CONTEXTS[1]))
    told_W[3] *= 1.8  # a logarithm, so negative; 3 is what the row has seen
    assert_close(trace.logp_TK[0, 1], told_W.log_softmax(-1)[trace.tokens[0]])


@pytest.mark.parametrize("space", SPACES)
def test_a_silent_row_is_left_out_and_the_others_take_its_share(space: Space) -> None:
    both = blend((0.2, 0.5, 0.3), space, ("x", "silent", "z"))
    left = Request(
        Plan((Row({"x": 1.0}), Row({"z": 1.0})), (0.4, 0.6), space), (CONTEXTS[0], CONTEXTS[2]), both.sampling, "token"
    )
    ours, expected = run([both], partly)[0], run([left], partly)[0]
    assert ours == expected
    trace, without = trace_of(ours), trace_of(expected)
    assert_close(trace.c_TK, without.c_TK[:, [0, 0, 1]] * torch.tensor([1.0, 0.0, 1.0]))
    assert_close(trace.credit_TK[:, [0, 2]], without.credit_TK)
    assert trace.credit_TK[:, 1].tolist() == [0.0] * len(trace.tokens)
    assert_close(trace.logp_T, without.logp_T)
    assert_close(trace.lost_T, without.lost_T)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("c", [(1.0,), (0.4, 0.6)])
def test_all_silent_is_an_error(space: Space, c: tuple[float, ...]) -> None:
    with pytest.raises(CounterpointError, match="see to their endpoints"):
        run([blend(c, space, ("silent", "silent"))], partly)
