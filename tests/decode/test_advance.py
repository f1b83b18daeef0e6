"""The engine step by step, as a server drives it: news of every token, requests that are cancelled or fail alone.

Tokens are numbers below 10, and 9 ends a response.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from counterpoint.compose.mixture import mix_prob
from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request, Said
from counterpoint.decode.sampling import Sampling
from counterpoint.testing import ScriptedLM
from counterpoint.types import Completion, CounterpointError

END = 9
Script = Callable[[str, tuple[int, ...]], Sequence[float]]


def sure(token: int) -> list[float]:
    return [9.0 if t == token else 0.0 for t in range(10)]


def echo(_: str, context: tuple[int, ...]) -> list[float]:
    """Says the first token of its context over and over."""
    return sure(context[0])


def counting(_: str, context: tuple[int, ...]) -> list[float]:
    """Says the number that follows the last, up to the end at 9."""
    return sure(context[-1] + 1)


def text_of(tokens: Sequence[int]) -> str:
    return "".join(map(str, tokens))


def engine(script: Script = echo, max_rows: int = 8, chunk: int | None = None, max_cells: int | None = None) -> Engine:
    return Engine(ScriptedLM(10, script), text_of, {END}, 64, max_rows, max_cells, chunk)


def scripted(of: Engine) -> ScriptedLM:
    assert isinstance(of.model, ScriptedLM)
    return of.model


def greedy(max_tokens: int = 3, stop: tuple[str, ...] = ()) -> Sampling:
    return Sampling(temperature=0, max_tokens=max_tokens, stop=stop)


def ask(*context: int, rows: int = 1, sampling: Sampling | None = None, logprobs: int | None = None) -> Request:
    plan = Plan(tuple(Row({name: 1.0}) for name in "xyz"[:rows]), (1 / rows,) * rows, "prob")
    return Request(plan, (context,) * rows, sampling or greedy(), logprobs=logprobs)


def told(news: Sequence[Said]) -> dict[int, int | None]:
    return {said.ticket: said.token for said in news}


def to_the_end(of: Engine) -> dict[int, Said]:
    """The last news of every request."""
    last: dict[int, Said] = {}
    while not of.idle:
        last |= {said.ticket: said for said in of.advance()}
    return last


# News


def test_every_live_request_has_news_of_every_step() -> None:
    by_hand = engine()
    first, second = by_hand.submit(ask(1)), by_hand.submit(ask(2, sampling=greedy(2)))
    assert by_hand.advance() == [Said(first, 1), Said(second, 2)]
    assert by_hand.advance() == [Said(first, 1), Said(second, 2, Completion("22", (2, 2), "length"))]
    assert by_hand.advance() == [Said(first, 1, Completion("111", (1, 1, 1), "length"))]
    assert by_hand.idle
    assert by_hand.advance() == []


def test_the_end_of_text_token_is_not_said() -> None:
    by_hand = engine(counting)
    ticket = by_hand.submit(ask(7))
    assert by_hand.advance() == [Said(ticket, 8)]
    assert by_hand.advance() == [Said(ticket, None, Completion("8", (8,), "stop"))]


def test_the_token_that_completes_a_stop_string_is_said() -> None:
    by_hand = engine(counting)
    ticket = by_hand.submit(ask(1, sampling=greedy(9, ("34",))))
    assert [told(by_hand.advance())[ticket] for _ in range(2)] == [2, 3]
    assert by_hand.advance() == [Said(ticket, 4, Completion("2", (2, 3, 4), "stop"))]


def test_rows_and_waiting_are_counted() -> None:
    crowded = engine(max_rows=3)
    for _ in range(3):
        crowded.submit(ask(1, rows=2))
    assert (crowded.rows, crowded.waiting) == (0, 3)
    crowded.advance()
    assert (crowded.rows, crowded.waiting) == (2, 2)


# Log-probabilities


def test_logprobs_by_hand() -> None:
    """p = (.5 .3 .2) over tokens 0 to 2, whatever the temperature, the bias and the penalties make of them."""
    p = [0.5, 0.3, 0.2]
    three = Engine(ScriptedLM(3, lambda *_: [math.log(q) for q in p]), str, (), 9)
    bent = Sampling(temperature=0, max_tokens=1, logit_bias=((2, 5.0),), presence_penalty=1)
    three.submit(ask(0, sampling=bent, logprobs=2))
    (said,) = three.advance()
    assert said.token == 2
    assert said.logprobs is not None
    assert said.logprobs.logp == pytest.approx(math.log(0.2), abs=1e-6)
    assert [token for token, _ in said.logprobs.top] == [0, 1]
    assert [logp for _, logp in said.logprobs.top] == pytest.approx([math.log(0.5), math.log(0.3)], abs=1e-6)


def test_logprobs_are_those_of_the_mixture() -> None:
    p = {"x": [0.6, 0.3, 0.1], "y": [0.2, 0.3, 0.5]}
    three = Engine(ScriptedLM(3, lambda gate, _: [math.log(q) for q in p[gate]]), str, (), 9)
    three.submit(ask(0, rows=2, sampling=Sampling(max_tokens=1, temperature=0.01), logprobs=3))
    (said,) = three.advance()
    expected = mix_prob(torch.tensor([p["x"], p["y"]]).log(), torch.tensor([0.5, 0.5]))
    assert said.logprobs is not None
    assert dict(said.logprobs.top) == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-6)
    assert said.logprobs.logp == said.logprobs.top[0][1], "of the likeliest token it is the very same float"


def test_only_those_who_ask_are_told_and_as_many_as_they_ask_for() -> None:
    by_hand = engine()
    tickets = [by_hand.submit(ask(n, logprobs=count)) for n, count in enumerate([None, 0, 4, 1])]
    found = {said.ticket: said.logprobs for said in by_hand.advance()}
    best = sure(0)[0] - math.log(math.exp(9.0) + 9)
    assert found[tickets[0]] is None
    own = found[tickets[1]]
    assert own is not None
    assert own.logp == pytest.approx(best, abs=1e-6)
    assert [len(one.top) for one in found.values() if one] == [0, 4, 1]
    assert [one.top[0][0] for one in found.values() if one and one.top] == [2, 3]


def test_credit_is_told_to_those_who_are_traced() -> None:
    """x gives token 0 .6 and y .2, with half the weight each: .3 / .4 and .1 / .4."""
    p = {"x": [0.6, 0.4], "y": [0.2, 0.8]}
    two = Engine(ScriptedLM(2, lambda gate, _: [math.log(q) for q in p[gate]]), str, (), 9)
    plan = ask(0, rows=2).plan
    bias = Sampling(temperature=0, max_tokens=1, logit_bias=((0, 9.0),))
    for trace in ("token", None):
        two.submit(Request(plan, ((0,), (0,)), bias, trace))
    first, second = two.advance()
    assert (first.token, second.token) == (0, 0)
    assert first.credit == pytest.approx((0.75, 0.25), abs=1e-6)
    assert second.credit is None


# Penalties and bias


def flat(*_: object) -> list[float]:
    """Token 0 is the likeliest, then 1, by .5 each."""
    return [-0.5 * token for token in range(10)]


@pytest.mark.parametrize(
    ("sampling", "tokens"),
    [
        # 0 falls by .6 below 1, then both by .6 below 2; what was said twice falls no further
        ({"presence_penalty": 0.6}, (0, 1, 0, 0)),
        # after 0: -.4; still first. After 0 0: -.8 against -.5
        ({"frequency_penalty": 0.4}, (0, 0, 1, 0)),
        ({"logit_bias": ((3, 100.0),)}, (3, 3, 3, 3)),
        ({"logit_bias": ((0, -100.0), (1, -100.0))}, (2, 2, 2, 2)),
        ({"logit_bias": ((0, 0.3),), "frequency_penalty": 0.45}, (0, 0, 1, 0)),
    ],
)
def test_penalties_and_bias_by_hand(sampling: dict[str, object], tokens: tuple[int, ...]) -> None:
    """The logits 0, -.5, -1, ... and what is taken from them, after the context (0, 1), which does not count.

    Presence .6: (0), -.5, -1: 0. Then -.6, -.5: 1. Then -.6, -1.1, -1: 0. Then the same: 0.
    Frequency .4: 0. Then -.4: 0. Then -.8, -.5: 1. Then -.8, -.9, -1: 0.
    Bias .3 with frequency .45: .3: 0. Then -.15: 0. Then -.6, -.5: 1. Then -.6, -.95: 0.
    """
    wanted = Sampling(temperature=0, max_tokens=4, **sampling)  # type: ignore[arg-type]
    assert engine(flat).run([ask(0, 1, sampling=wanted), ask(0, 1, sampling=greedy(4))])[0].tokens == tokens


def test_a_neighbours_penalty_changes_nothing() -> None:
    bent = Sampling(temperature=0, max_tokens=4, presence_penalty=2, logit_bias=((0, -100.0),))
    assert engine(flat).run([ask(0, sampling=bent), ask(0, sampling=greedy(4))])[1].tokens == (0, 0, 0, 0)


def test_presence_penalties_act_on_the_mixture_and_not_on_its_experts() -> None:
    """x = (.6 .4) and y = (.1 .9), half each: (.35 .65); 1 is said, and falls by 1: .65 / e = .24 is less than .35.

    On each expert: x = (.6, .147) -> (.80 .20) and y = (.1 .331) -> (.23 .77), whose mean is (.52 .48): also 0. With
    a penalty of .65 the mixture gives .35 and .339: 0; the experts (.74 .26) and (.175 .825) give (.458 .542): 1.
    """
    p = {"x": [0.6, 0.4], "y": [0.1, 0.9]}
    two = Engine(ScriptedLM(2, lambda gate, _: [math.log(q) for q in p[gate]]), str, (), 9)
    wanted = Sampling(temperature=0, max_tokens=2, presence_penalty=0.65)
    assert two.run([ask(0, rows=2, sampling=wanted)])[0].tokens == (1, 0)


# Cancelling


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_who_is_cancelled_leaves_and_the_others_go_on(steps: int, which: int) -> None:
    """Two of three fit, so that one of them waits at first."""
    busy = engine(counting, max_rows=2)
    tickets = [busy.submit(ask(n, sampling=greedy(4))) for n in range(3)]
    for _ in range(steps):
        busy.advance()
    rows = scripted(busy).rows
    assert busy.cancel(tickets[which])
    assert scripted(busy).rows == rows - (steps > 0 and which < 2), "its row is free at once"
    last = to_the_end(busy)
    assert tickets[which] not in last
    for n, ticket in enumerate(tickets):
        if n != which:
            assert last[ticket].completion == Completion(
                text_of(range(n + 1, n + 5)), (*range(n + 1, n + 5),), "length"
            )


def test_cancelling_what_is_over_or_never_was_is_no_harm() -> None:
    busy = engine()
    ticket = busy.submit(ask(1, sampling=greedy(1)))
    busy.advance()
    assert not busy.cancel(ticket)
    assert not busy.cancel(77)


def test_clear_forgets_all() -> None:
    busy = engine(max_rows=2, chunk=2)
    for length in (1, 7, 1):
        busy.submit(ask(*[1] * length))
    busy.advance()
    busy.advance()
    busy.clear()
    assert busy.idle
    assert scripted(busy).rows == 0
    assert busy.run([ask(4)])[0].tokens == (4, 4, 4)


# Failing alone


def sick(_: str, context: tuple[int, ...]) -> list[float]:
    """Who began with a 6 is no number any more after three tokens."""
    return [math.nan] * 10 if context[0] == 6 and len(context) > 2 else sure(context[0])


def test_a_request_without_numbers_fails_alone() -> None:
    mixed = engine(sick)
    tickets = [mixed.submit(ask(n, rows=rows)) for n, rows in ((1, 1), (6, 3), (2, 2), (6, 1))]
    last = to_the_end(mixed)
    for ticket, tokens in ((tickets[0], (1, 1, 1)), (tickets[2], (2, 2, 2))):
        completion = last[ticket].completion
        assert completion is not None
        assert completion.tokens == tokens
    for ticket in (tickets[1], tickets[3]):
        assert isinstance(last[ticket].error, CounterpointError)
        assert "logits are not numbers" in str(last[ticket].error)
        assert last[ticket].completion is None


def test_run_raises_what_fails_and_leaves_nothing_behind() -> None:
    mixed = engine(sick)
    with pytest.raises(CounterpointError, match="logits are not numbers"):
        mixed.run([ask(1), ask(6)])
    assert mixed.idle
    assert scripted(mixed).rows == 0


class Choosy(ScriptedLM):
    """Takes no context that begins with 5."""

    def begin(self, contexts: Sequence[Sequence[int]], gates: object) -> None:
        if any(context[0] == 5 for context in contexts):
            raise CounterpointError("not a 5")
        super().begin(contexts, gates)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_request_that_the_model_refuses_fails_alone(place: int) -> None:
    choosy = Engine(Choosy(10, echo), text_of, {END}, 64)
    firsts = [1, 2, 3]
    firsts.insert(place, 5)
    tickets = [choosy.submit(ask(first)) for first in firsts]
    last = to_the_end(choosy)
    for first, ticket in zip(firsts, tickets, strict=True):
        if first == 5:
            assert str(last[ticket].error) == "not a 5"
        else:
            assert last[ticket].completion == Completion(text_of([first] * 3), (first,) * 3, "length")


@pytest.mark.parametrize("wrong", [{"logit_bias": ((10, 1.0),)}, {"context": (1, 10)}, {"context": (-1,)}])
def test_token_ids_that_there_are_not(wrong: dict[str, tuple[tuple[int, float], ...]]) -> None:
    context = wrong.get("context", (1,))
    sampling = Sampling(logit_bias=wrong.get("logit_bias", ()))
    with pytest.raises(CounterpointError, match=r"there is no token (10|-1); ids are from 0 to 9"):
        engine().submit(Request(Plan((Row(),)), (context,), sampling))  # type: ignore[arg-type]


# Joining in chunks


def test_those_who_speak_wait_for_a_chunk_at_most() -> None:
    """Chunks of 4: of a context of 11, 10 tokens are filled, 4 and 4 and 2, while 1 says a token each time."""
    chunked = engine(chunk=4)
    first = chunked.submit(ask(1, sampling=greedy(9)))
    chunked.advance()
    second = chunked.submit(ask(*[2] * 11))
    assert [told(chunked.advance()) for _ in range(4)] == [
        {first: 1},
        {first: 1},
        {first: 1, second: 2},
        {first: 1, second: 2},
    ]
    assert scripted(chunked).calls[1:] == [
        ("step", (1,)), ("join", (11,)), ("fill", (1, 4)), ("step", (1,)), ("fill", (1, 4)), ("step", (1,)),
        ("fill", (1, 2)), ("step", (1, 2)), ("step", (1, 2)),
    ]  # fmt: skip


def test_without_a_chunk_all_are_filled_at_once() -> None:
    whole = engine()
    tickets = [whole.submit(ask(n, *[1] * 40)) for n in range(4)]
    assert told(whole.advance()) == {ticket: n for n, ticket in enumerate(tickets)}


def test_of_those_that_wait_a_chunk_joins_and_the_others_join_after_it() -> None:
    """Chunks of 8: contexts of 3, 3 and 3 make 9, so that the third joins once the first two are filled."""
    chunked = engine(chunk=8)
    tickets = [chunked.submit(ask(n, n, n, sampling=greedy(9))) for n in range(3)]
    heard = [set(told(chunked.advance())) for _ in range(3)]
    assert heard == [set(), set(tickets[:2]), set(tickets)]
    assert [call for call in scripted(chunked).calls if call[0] == "join"] == [("join", (3, 3)), ("join", (3,))]


@pytest.mark.parametrize("gone", range(5))
@pytest.mark.parametrize("after", range(1, 7))
def test_who_leaves_while_others_are_filled_disturbs_nobody(gone: int, after: int) -> None:
    """Two speak and three join, of 1, 2 and 3 rows; one of the five leaves after so many steps."""
    chunked = engine(counting, max_rows=16, chunk=3)
    starts = [(0,), (1,), (0, 0, 0, 0, 2), (0, 3), (0, 0, 4)]
    tickets = [
        chunked.submit(ask(*start, rows=rows, sampling=greedy(4 + rows)))
        for start, rows in zip(starts[:2], (1, 3), strict=True)
    ]
    chunked.advance()
    tickets += [
        chunked.submit(ask(*start, rows=rows, sampling=greedy(2)))
        for start, rows in zip(starts[2:], (1, 2, 3), strict=True)
    ]
    last: dict[int, Said] = {}
    for _ in range(after):
        last |= {said.ticket: said for said in chunked.advance()}
    was_there = chunked.cancel(tickets[gone])
    last |= to_the_end(chunked)
    for index, (start, ticket) in enumerate(zip(starts, tickets, strict=True)):
        completion = last[ticket].completion if ticket in last else None
        if index == gone and was_there:
            assert completion is None
        else:
            assert completion is not None
            assert completion.tokens == tuple(range(start[-1] + 1, start[-1] + 1 + len(completion.tokens)))
            assert len(completion.tokens) == [5, 7, 2, 2, 2][index]
    assert scripted(chunked).rows == 0


def test_has_room_counts_those_who_wait() -> None:
    crowded = engine(max_rows=4)
    assert crowded.has_room(ask(1, rows=3))
    crowded.submit(ask(1, rows=2))
    assert crowded.has_room(ask(1, rows=2))
    assert not crowded.has_room(ask(1, rows=3))
    crowded.advance()
    assert crowded.has_room(ask(1, rows=2))
    assert not crowded.has_room(ask(1, rows=3))


# A budget of memory


def test_what_does_not_fit_the_memory_waits() -> None:
    """64 cells: 4 rows of 16. Each asks for 10 + 3 positions, which are 16: four fit, and a fifth makes 8 rows."""
    tight = engine(max_cells=64)
    for _ in range(6):
        tight.submit(ask(*[1] * 10, sampling=greedy(3)))
    rows = []
    while not tight.idle:
        tight.advance()
        rows.append(max(len(tokens) for call, tokens in scripted(tight).calls if call == "step"))
    assert max(rows) == 4
    assert len([call for call, _ in scripted(tight).calls if call == "step"]) == 6


def test_a_long_one_beside_short_ones_counts_for_all_rows() -> None:
    """64 cells: 2 rows of 16; a context of 20 makes them of 32, which fits; one of 40 makes them of 64."""
    tight = engine(max_cells=64)
    tight.submit(ask(*[1] * 10))
    assert tight.has_room(ask(*[1] * 20))
    assert not tight.has_room(ask(*[1] * 40))


def test_what_never_fits_is_refused_with_what_would() -> None:
    tight = engine(max_cells=64)
    with pytest.raises(
        CounterpointError,
        match="the prompt has 10 tokens and the response may have 7; there is memory for 16 together, with the 3 rows",
    ):
        tight.submit(ask(*[1] * 10, rows=3, sampling=greedy(7)))
    tight.submit(ask(*[1] * 10, rows=3, sampling=greedy(6)))


# Scoring


def test_scores_by_hand() -> None:
    """Two rows that give p(0) = .5 and .1 of three tokens after an even number of tokens, and .25 and .75 after an odd.

    The mixture has (.5 + .1) / 2 = .3 and (.25 + .75) / 2 = .5 on token 0, and half of what is left on each other one.
    """

    def script(gate: str, context: tuple[int, ...]) -> list[float]:
        p = {"x": (0.5, 0.25), "y": (0.1, 0.75)}[gate][len(context) % 2]
        return [math.log(p), *[math.log((1 - p) / 2)] * 2]

    three = Engine(ScriptedLM(3, script), str, (), 9)
    request = Request(ask(0, rows=2).plan, ((1,), (1,)), given=(0, 1, 0), logprobs=1)
    (told_T,) = three.score([request])
    assert [told.logp for told in told_T] == pytest.approx([math.log(0.5), math.log(0.35), math.log(0.5)], abs=1e-6)
    assert [told.top[0][0] for told in told_T][::2] == [0, 0]
    assert told_T[0].top[0][1] == told_T[0].logp, "of the likeliest token it is the very same float"


def test_scoring_and_speaking_take_turns() -> None:
    """A text of 7 in pieces of 3 is scored while 1 goes on speaking, and news of it come with the last piece."""
    chunked = engine(chunk=3)
    first = chunked.submit(ask(1, sampling=greedy(9)))
    chunked.advance()
    second = chunked.submit(Request(Plan((Row(),)), ((2, 2),), given=(2,) * 7))
    heard = [chunked.advance() for _ in range(3)]
    assert [told(news).get(first) for news in heard] == [1, 1, 1]
    assert [said.ticket for news in heard for said in news if said.scores] == [second]
    assert next(said for said in heard[-1] if said.scores).completion == Completion("2222222", (2,) * 7, "length")
    assert scripted(chunked).rows == 1


def test_a_text_without_numbers_fails_alone() -> None:
    mixed = engine(sick)
    spoken, scored = mixed.submit(ask(1)), mixed.submit(Request(Plan((Row(),)), ((6,),), given=(1, 2, 3)))
    last = to_the_end(mixed)
    assert last[spoken].completion is not None
    assert "logits are not numbers" in str(last[scored].error)


def test_scoring_nothing_is_refused() -> None:
    with pytest.raises(CounterpointError, match="nothing to score"):
        engine().score([ask(1)])
