"""The row engine over a scripted model, whose every answer is known beforehand."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from counterpoint.compose.mixture import mix_log, mix_prob
from counterpoint.compose.plan import Plan, Row, Space
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.testing import ScriptedLM
from counterpoint.types import Completion, CounterpointError, LanguageModel

LETTERS = "abcdefghij"
END = 10
VOCABULARY = 11

Script = Callable[[str, tuple[int, ...]], Sequence[float]]


def ids(text: str) -> tuple[int, ...]:
    """Letters as tokens; "." ends."""
    return tuple(END if letter == "." else LETTERS.index(letter) for letter in text)


def text_of(tokens: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in tokens)


def sure(token: int, by: float = 9.0) -> list[float]:
    """Logits that favour one token."""
    return [by if t == token else 0.0 for t in range(VOCABULARY)]


def says(story: str, after: int = 1) -> Script:
    """A script that tells `story` after contexts of `after` tokens, whatever the gate, and then ends."""
    return lambda _, context: sure(ids(story + "." * 50)[len(context) - after])


def echo(_: str, context: tuple[int, ...]) -> list[float]:
    """Says the first token of its context over and over."""
    return sure(context[0])


def engine(script: Script, longest: int = 100, max_rows: int = 8) -> Engine:
    return Engine(ScriptedLM(VOCABULARY, script), text_of, {END}, longest, max_rows)


def scripted(of: Engine) -> ScriptedLM:
    assert isinstance(of.model, ScriptedLM)
    return of.model


def greedy(max_tokens: int = 20, stop: tuple[str, ...] = (), repetition_penalty: float = 1.0) -> Sampling:
    return Sampling(temperature=0, max_tokens=max_tokens, stop=stop, repetition_penalty=repetition_penalty)


def ask(text: str = "a", sampling: Sampling | None = None) -> Request:
    return Request(Plan((Row(),)), (ids(text),), sampling or greedy())


def blend(
    coefficients: tuple[float, ...],
    space: Space = "prob",
    texts: tuple[str, ...] = (),
    sampling: Sampling | None = None,
) -> Request:
    """A request with a row per expert, named x, y, z."""
    plan = Plan(tuple(Row({name: 1.0}) for name, _ in zip("xyz", coefficients, strict=False)), coefficients, space)
    return Request(plan, tuple(map(ids, texts or ("a",) * len(coefficients))), sampling or greedy())


# How a response ends


def test_an_end_token_ends_a_response_and_is_no_part_of_it() -> None:
    assert engine(says("bcd")).run([ask()]) == [Completion("bcd", ids("bcd"), "stop")]


def test_any_end_token_ends_a_response() -> None:
    model = ScriptedLM(VOCABULARY, says("bcd"))
    two = Engine(model, text_of, {END, ids("c")[0]}, longest=100)
    assert two.run([ask()]) == [Completion("b", ids("b"), "stop")]


def test_an_end_token_at_once_is_an_empty_response() -> None:
    assert engine(says("")).run([ask()]) == [Completion("", (), "stop")]


def test_max_tokens() -> None:
    assert engine(says("bcdefg")).run([ask(sampling=greedy(3))]) == [Completion("bcd", ids("bcd"), "length")]


def test_the_end_token_as_the_last_that_is_allowed_counts_as_the_end() -> None:
    """Two letters fit into max_tokens = 3, and the third token is the end."""
    assert engine(says("bc")).run([ask(sampling=greedy(3))])[0].finish == "stop"
    assert engine(says("bc")).run([ask(sampling=greedy(2))])[0].finish == "length"


def test_context_and_response_are_at_most_the_longest() -> None:
    """longest = 7, a context of 3: 4 tokens of response, of which the last is never fed."""
    tight = engine(echo, longest=7)
    assert tight.run([ask("abc")]) == [Completion("aaaa", ids("aaaa"), "length")]
    assert [call for call in scripted(tight).calls if call[0] == "step"][-1] == ("step", ids("a"))
    assert len([call for call in scripted(tight).calls if call[0] == "step"]) == 4


def test_the_longest_of_several_contexts_bounds_the_response() -> None:
    """longest = 7 and contexts of 1 and 5: 2 tokens."""
    done = engine(echo, longest=7).run([blend((0.5, 0.5), texts=("a", "aaaaa"))])
    assert done == [Completion("aa", ids("aa"), "length")]


@pytest.mark.parametrize(
    ("story", "stop", "text", "tokens"),
    [
        ("bcdef", ("d",), "bc", "bcd"),
        ("bcdef", ("cd",), "b", "bcd"),  # across a border of tokens
        ("bcdef", ("b",), "", "b"),  # the very first token
        ("bcdef", ("bcd",), "", "bcd"),
        ("bcdef", ("e", "c"), "b", "bc"),  # the one that comes first, not the one named first
        ("bcdef", ("cd", "d", "bcd"), "", "bcd"),  # of several that end together, the one that starts first
        ("bbbcc", ("bc",), "bb", "bbbc"),
        ("bcdef", ("x",), "bcdef", "bcdef"),
        ("bcdef", ("ab",), "bcdef", "bcdef"),  # the context "a" before the response "b" does not count
    ],
)
def test_stop_strings(story: str, stop: tuple[str, ...], text: str, tokens: str) -> None:
    assert engine(says(story)).run([ask(sampling=greedy(stop=stop))]) == [Completion(text, ids(tokens), "stop")]


def test_a_stop_string_inside_one_token_cuts_it() -> None:
    """Tokens are words here: "no" inside "known" stops, and "k" is left."""
    words = ["", "I ", "known ", "you "]
    model = ScriptedLM(4, lambda _, context: [9.0 if t == len(context) else 0.0 for t in range(4)])
    worded = Engine(model, lambda tokens: "".join(words[t] for t in tokens), (), longest=4)
    request = Request(Plan((Row(),)), ((0,),), greedy(stop=("no",)))
    assert worded.run([request]) == [Completion("I k", (1, 2), "stop")]


def test_a_stop_string_in_the_last_token_allowed_is_a_stop() -> None:
    assert engine(says("bcd")).run([ask(sampling=greedy(2, ("c",)))]) == [Completion("b", ids("bc"), "stop")]


# Who is in the batch


def test_completions_are_in_the_order_of_requests_whatever_ends_first() -> None:
    lengths = [5, 1, 4, 2, 3]
    requests = [ask(LETTERS[n], greedy(n)) for n in lengths]
    assert [c.text for c in engine(echo).run(requests)] == [LETTERS[n] * n for n in lengths]


@pytest.mark.parametrize("max_rows", [1, 2, 3, 5])
def test_more_requests_than_rows(max_rows: int) -> None:
    lengths = [4, 1, 3, 2, 5, 1, 2]
    crowded = engine(echo, max_rows=max_rows)
    done = crowded.run([ask(LETTERS[index], greedy(n)) for index, n in enumerate(lengths)])
    assert [c.text for c in done] == [LETTERS[index] * n for index, n in enumerate(lengths)]
    steps = [len(tokens) for call, tokens in scripted(crowded).calls if call == "step"]
    assert max(steps) == max_rows
    assert sum(steps) == sum(lengths), "a row is stepped once per token"
    assert crowded.idle
    assert scripted(crowded).rows == 0


def test_a_late_request_joins_where_one_left_while_others_go_on() -> None:
    """Two rows. a is said 3 times and b once; c, which waited, joins at step 2 beside a, and both go on."""
    crowded = engine(echo, max_rows=2)
    crowded.run([ask("a", greedy(3)), ask("b", greedy(1)), ask("c", greedy(2))])
    a, b, c = range(3)
    assert scripted(crowded).calls == [
        ("join", (1, 1)), ("step", (a, b)), ("keep", (0,)),
        ("join", (1,)), ("step", (a, c)), ("step", (a, c)), ("keep", ()),
    ]  # fmt: skip


def test_the_last_row_takes_the_place_of_one_that_left() -> None:
    """Of three the first leaves: row 2 moves to 0 and row 1 stays, so that one row is copied and not two."""
    moving = engine(echo)
    moving.run([ask("a", greedy(1)), ask("b", greedy(2)), ask("c", greedy(2))])
    a, b, c = range(3)
    assert scripted(moving).calls == [
        ("join", (1, 1, 1)), ("step", (a, b, c)), ("keep", (2, 1)), ("step", (c, b)), ("keep", ()),
    ]  # fmt: skip


def test_nobody_overtakes_in_the_queue() -> None:
    """Two rows: behind a, a request of two rows waits; c would fit beside a, but came later."""
    queued = engine(echo, max_rows=2)
    wide = blend((0.5, 0.5), texts=("b", "b"), sampling=greedy(1))
    done = queued.run([ask("a", greedy(2)), wide, ask("c", greedy(1))])
    a, b, c = range(3)
    assert [tokens for call, tokens in scripted(queued).calls if call == "step"] == [(a,), (a,), (b, b), (c,)]
    assert [completion.text for completion in done] == ["aa", "b", "c"]


def test_tickets_name_requests_in_order_and_step_returns_what_finished() -> None:
    by_hand = engine(echo)
    assert by_hand.idle
    first, second = by_hand.submit(ask("a", greedy(2))), by_hand.submit(ask("b", greedy(1)))
    assert first < second
    assert by_hand.step() == [(second, Completion("b", ids("b"), "length"))]
    third = by_hand.submit(ask("c", greedy(1)))
    assert third > second
    assert by_hand.step() == [
        (first, Completion("aa", ids("aa"), "length")),
        (third, Completion("c", ids("c"), "length")),
    ]
    assert by_hand.idle
    assert by_hand.step() == []


def test_progress_counts_finished_requests() -> None:
    seen: list[tuple[int, int]] = []
    engine(echo).run([ask("a", greedy(3)), ask("b", greedy(1))], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (1, 2), (2, 2)]


def test_no_requests() -> None:
    assert engine(echo).run([]) == []
    assert engine(echo).next_distributions([]).shape == (0, VOCABULARY)


# What is refused


def test_a_request_of_more_rows_than_fit() -> None:
    with pytest.raises(CounterpointError, match="a request of 3 rows; the engine holds 2"):
        engine(echo, max_rows=2).submit(blend((0.2, 0.3, 0.5)))


def test_a_prompt_that_is_too_long() -> None:
    assert engine(echo, longest=5).run([ask("aaaa")])[0].text == "a"
    with pytest.raises(CounterpointError, match="the prompt has 5 tokens; with the response, 5 is the most"):
        engine(echo, longest=5).submit(ask("aaaaa"))


def test_a_prompt_without_tokens() -> None:
    with pytest.raises(CounterpointError, match="the prompt has no tokens"):
        engine(echo).submit(ask(""))


def test_a_request_has_a_context_per_row() -> None:
    with pytest.raises(ValueError, match="2 rows but 1 contexts"):
        Request(Plan((Row(), Row()), (0.5, 0.5)), ((1,),))


def test_regression_a_refused_request_leaves_nothing_behind() -> None:
    """Those before it stayed in the queue, and the next run met tickets that it did not know."""
    tight = engine(echo, longest=5)
    with pytest.raises(CounterpointError, match="5 tokens"):
        tight.run([ask("a"), ask("aaaaa")])
    assert tight.idle
    assert tight.run([ask("b", greedy(2))]) == [Completion("bb", ids("bb"), "length")]
    with pytest.raises(CounterpointError, match="5 tokens"):
        tight.next_distributions([ask("a"), ask("aaaaa")])
    assert tight.idle


def test_regression_an_interrupted_run_leaves_nothing_behind() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    crowded = engine(echo, max_rows=2)
    with pytest.raises(KeyboardInterrupt):
        crowded.run([ask("a"), ask("b"), ask("c")], interrupt)
    assert crowded.idle
    assert scripted(crowded).rows == 0
    assert crowded.run([ask("b", greedy(2))]) == [Completion("bb", ids("bb"), "length")]


def test_run_and_next_distributions_do_not_take_over_what_is_being_decoded() -> None:
    busy = engine(echo)
    ticket = busy.submit(ask("a", greedy(2)))
    busy.step()
    with pytest.raises(RuntimeError, match="being decoded"):
        busy.run([ask("b")])
    with pytest.raises(RuntimeError, match="being decoded"):
        busy.next_distributions([ask("b")])
    assert busy.step() == [(ticket, Completion("aa", ids("aa"), "length"))]


def test_regression_a_huge_max_tokens_costs_no_more_than_the_room_that_there_is() -> None:
    """A random number was drawn ahead for each of max_tokens positions."""
    assert engine(echo, longest=9).run([ask("a", greedy(10**12))])[0].text == "a" * 8


# Rows and mixing


def first_token(context: tuple[int, ...]) -> list[float]:
    return sure(context[0], by=2.0)


def test_each_row_has_its_own_context_and_gate_and_the_response_grows_in_all() -> None:
    seen: list[tuple[str, str]] = []

    def script(gate: str, context: tuple[int, ...]) -> list[float]:
        seen.append((gate, text_of(context)))
        return sure(ids("gh.")[len(context) - {"x": 1, "y": 3}[gate]])

    done = engine(script).run([blend((0.5, 0.5), texts=("a", "bcd"))])
    assert done[0].text == "gh"
    assert seen == [("x", "a"), ("y", "bcd"), ("x", "ag"), ("y", "bcdg"), ("x", "agh"), ("y", "bcdgh")]


P = {"x": [0.1, 0.6, 0.3], "y": [0.5, 0.1, 0.4], "z": [0.25, 0.25, 0.5], "": [0.2, 0.3, 0.5]}
CASES: dict[str, tuple[Request, list[float]]] = {
    # .3 * (.1 .6 .3) + .7 * (.5 .1 .4)
    "prob": (blend((0.3, 0.7)), [0.38, 0.25, 0.37]),
    # sqrt(.1 * .5) = .22361, sqrt(.6 * .1) = .24495, sqrt(.3 * .4) = .34641; their sum is .81497
    "log": (blend((0.5, 0.5), "log"), [0.27438, 0.30056, 0.42506]),
    # y^2 / x = .25 / .1 = 2.5, .01 / .6 = .016667, .16 / .3 = .53333; their sum is 3.05
    "log beyond": (blend((-1.0, 2.0), "log"), [0.81967, 0.00546, 0.17486]),
    # .5 * x + .25 * y + .25 * z
    "three": (blend((0.5, 0.25, 0.25)), [0.2375, 0.3875, 0.375]),
    "single": (ask(), [0.2, 0.3, 0.5]),
    "one expert": (blend((1.0,)), [0.1, 0.6, 0.3]),
}


def small_engine(max_rows: int = 100) -> Engine:
    return Engine(ScriptedLM(3, lambda gate, _: [math.log(p) for p in P[gate]]), str, (), 10, max_rows)


@pytest.mark.parametrize("case", CASES)
def test_next_distributions_by_hand(case: str) -> None:
    request, expected = CASES[case]
    found = small_engine().next_distributions([request])
    torch.testing.assert_close(found.exp(), torch.tensor([expected]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_rows", [100, 6, 3])
def test_all_kinds_of_requests_in_one_batch(max_rows: int) -> None:
    """Regression: `next_distributions` gave those of the requests that fitted alone, and left the others waiting."""
    shared = small_engine(max_rows)
    requests = [*(request for request, _ in CASES.values()), *(request for request, _ in reversed(CASES.values()))]
    expected = [p for _, p in CASES.values()]
    found = shared.next_distributions(requests)
    torch.testing.assert_close(found.exp(), torch.tensor([*expected, *reversed(expected)]), atol=1e-5, rtol=0)
    assert shared.idle
    best = [[max(range(3), key=p.__getitem__)] * 9 for p in [*expected, *reversed(expected)]]
    assert [list(completion.tokens) for completion in shared.run(requests)] == best


def test_the_repetition_penalty_acts_on_each_experts_raw_logits_before_mixing() -> None:
    """Token 0 is in the context. Penalty 2, weights 1/2:

    x: logits (2, 0) -> (1, 0): p = e / (e + 1) = .73106 and .26894
    y: logits (-1, 0) -> (-2, 0): p = 1 / (1 + e^2) = .11920 and .88080
    mixed: .42513 and .57487. On the mixture of (.88080, .11920) and (.26894, .73106), which is (.57487, .42513), the
    penalty would double log .57487 = -.55361 to -1.10722, which beside log .42513 = -.85536 gives .43737.
    """
    logits = {"x": [2.0, 0.0], "y": [-1.0, 0.0]}
    model = ScriptedLM(2, lambda gate, _: logits[gate])
    two = Engine(model, str, (), longest=10)
    request = blend((0.5, 0.5), sampling=greedy(repetition_penalty=2.0))
    found = two.next_distributions([request]).exp()
    torch.testing.assert_close(found, torch.tensor([[0.42513, 0.57487]]), atol=1e-5, rtol=0)


def test_the_repetition_penalty_sees_each_rows_own_context_and_the_response() -> None:
    """Flat logits of 1, penalty 2: what a row has seen falls to 1/2. Rows saw {a} and {b}; c is said, then d..."""
    seen: list[list[float]] = []

    class Watched(Engine):
        def next_logp(self) -> torch.Tensor:
            logp_QV = super().next_logp()
            seen.append(logp_QV[0].exp().tolist())
            return logp_QV

    flat = Watched(ScriptedLM(4, lambda _, __: [1.0] * 4), str, (), longest=10)
    flat.run([blend((0.5, 0.5), texts=("a", "b"), sampling=greedy(2, repetition_penalty=2.0))])
    e, root = math.e, math.exp(0.5)
    # step 1: per row one of four is lowered; in the mixture a and b are each lowered in one row of two
    low, high = root / (root + 3 * e), e / (root + 3 * e)
    assert seen[0] == pytest.approx([(low + high) / 2, (low + high) / 2, high, high], abs=1e-6)
    # step 2: c (token 2, the first of the best) was said, so each row has lowered two of four
    low, high = root / (2 * root + 2 * e), e / (2 * root + 2 * e)
    assert seen[1] == pytest.approx([(low + high) / 2, (low + high) / 2, low, high], abs=1e-6)


def test_a_neighbours_penalty_changes_nothing() -> None:
    model = ScriptedLM(3, lambda _, __: [1.0, 0.9, 0.0])
    requests = [ask("a", greedy(1, repetition_penalty=2.0)), ask("a", greedy(1))]
    assert [c.tokens for c in Engine(model, str, (), longest=10).run(requests)] == [(1,), (0,)]


def test_top_p_acts_on_the_mixture_and_not_on_its_experts() -> None:
    """x = (.6 .4 0) and y = (0 .4 .6), weights 1/2: the mixture is (.3 .4 .3).

    Top-p .35 of the mixture keeps b alone. Top-p .35 of each expert would keep a of x and c of y, and never b.
    """
    p = {"x": [0.6, 0.4, 0.0], "y": [0.0, 0.4, 0.6]}
    model = ScriptedLM(3, lambda gate, _: [math.log(q) if q else -1e9 for q in p[gate]])
    three = Engine(model, str, (), longest=10)

    def drawn(top_p: float) -> set[int]:
        requests = [blend((0.5, 0.5), sampling=Sampling(top_p=top_p, max_tokens=1, seed=s)) for s in range(100)]
        return {completion.tokens[0] for completion in three.run(requests)}

    assert drawn(0.35) == {1}
    assert drawn(1.0) == {0, 1, 2}


def test_distributions_are_mixed_by_the_functions_of_the_mixture_space() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(7, generator=generator).tolist() for name in "xyz"}
    seven = Engine(ScriptedLM(7, lambda gate, _: logits[gate]), str, (), longest=10)
    logp_KV = torch.tensor([logits[name] for name in "xyz"]).log_softmax(-1)
    w_K = torch.tensor([0.2, 0.5, 0.3])
    found = seven.next_distributions([blend((0.2, 0.5, 0.3), "prob"), blend((0.2, 0.5, 0.3), "log")])
    torch.testing.assert_close(found, torch.stack([mix_prob(logp_KV, w_K), mix_log(logp_KV, w_K)]))


# The scripted model keeps the protocol, and sees to it that others do


def test_the_scripted_model_is_a_language_model() -> None:
    model: LanguageModel = ScriptedLM(VOCABULARY, echo)
    model.join([ids("ab"), ids("c")], [{}, {"x": 0.5, "y": 0.0}])
    assert model.step(ids("bc")).argmax(-1).tolist() == [0, 2]
    model.keep([1])
    assert model.step(ids("d")).shape == (1, VOCABULARY)


def test_the_scripted_model_refuses_calls_out_of_order() -> None:
    model = ScriptedLM(3, lambda _, __: [0.0] * 3)
    with pytest.raises(AssertionError, match="step of no rows"):
        model.step([])
    with pytest.raises(AssertionError, match="without a context"):
        model.join([()], [{}])
    model = ScriptedLM(3, lambda _, __: [0.0] * 3)
    model.join([(0, 1), (2,)], [{}, {}])
    with pytest.raises(AssertionError, match="3 tokens for 2 rows"):
        model.step([1, 2, 0])
    with pytest.raises(AssertionError, match="row 0 joined before 1, but 2 was fed"):
        model.step([2, 2])
    with pytest.raises(AssertionError, match="no move to the front"):
        model.keep([1, 0])
    with pytest.raises(AssertionError, match="kept twice"):
        model.keep([1, 1])
    with pytest.raises(AssertionError, match="not in the vocabulary"):
        model.join([(7,)], [{}])
