"""The engine's thread over a scripted model, whose every answer is known beforehand."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.profiles import parse_profile
from counterpoint.serve.errors import Refused
from counterpoint.serve.fair import FairQueue, Pace
from counterpoint.serve.worker import Stream, Worker
from counterpoint.testing import ScriptedLM
from counterpoint.types import Completion, CounterpointError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ENDLESS = 100_000
"""More tokens than are said before a test is over."""
Test = Callable[[Worker], Awaitable[None]]


def ids(text: str) -> tuple[int, ...]:
    return tuple(LETTERS.index(letter) for letter in text)


def text_of(tokens: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in tokens)


def echo(_: str, context: tuple[int, ...]) -> list[float]:
    """Says the first token of its context over and over; "z" is a model that breaks down."""
    if context[0] == LETTERS.index("z"):
        raise RuntimeError("the model broke down")
    return [9.0 if token == context[0] else 0.0 for token in range(len(LETTERS))]


def ask(text: str, tokens: int = 3, rows: int = 1) -> Request:
    """Says the first letter of a text, so many times; a mixture of so many rows."""
    plan = Plan((Row(),) * rows, (1 / rows,) * rows, "prob")
    return Request(plan, (ids(text),) * rows, Sampling(temperature=0, max_tokens=tokens))


def run(test: Test, max_rows: int = 8, max_waiting: int = 64, chunk: int | None = None, longest: int = 10**6) -> Worker:
    """Let a test talk to the worker of a scripted engine; what became of the worker."""
    engine = Engine(ScriptedLM(len(LETTERS), echo), text_of, (), longest, max_rows, chunk=chunk)
    return run_over(cast(Band, SimpleNamespace(engine=engine)), test, max_waiting)


def run_over(band: Band, test: Test, max_waiting: int = 64) -> Worker:
    worker = Worker(band, max_waiting)

    async def whole() -> None:
        worker.start()
        try:
            async with asyncio.timeout(20):
                await test(worker)
        finally:
            worker.stop()
        await asyncio.sleep(0)

    asyncio.run(whole())
    return worker


class Held:
    """Inside the block the engine's thread stands still between two steps."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def __aenter__(self) -> None:
        self._go, standing = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def stand() -> None:
            loop.call_soon_threadsafe(standing.set)
            self._go.wait(20)

        self._call = asyncio.ensure_future(self.worker.call(stand))
        await standing.wait()

    async def __aexit__(self, *_: object) -> None:
        self._go.set()
        await self._call


async def texts(stream: Stream) -> list[str]:
    """What was said to each request of a call, once its completion is checked against the tokens on the way."""
    said: list[list[int]] = [[] for _ in stream.requests]
    whole: dict[int, Completion] = {}
    async for index, news in stream:
        if news.error:
            raise news.error
        if news.token is not None:
            said[index].append(news.token)
        if news.completion:
            whole[index] = news.completion
    assert [list(whole[index].tokens) for index in range(len(said))] == said
    return [whole[index].text for index in range(len(said))]


async def begun(stream: Stream) -> Stream:
    """A stream, once it was told something."""
    async for _ in stream:
        break
    return stream


async def settled(worker: Worker) -> None:
    """Once what was asked for so far is done."""
    await worker.call(lambda: None)


# What is told


def test_each_of_many_calls_is_told_its_own_and_all_of_it() -> None:
    async def test(worker: Worker) -> None:
        streams = [
            worker.submit((f"owner {n % 5}",), [ask(LETTERS[n % 25], 1 + n % 7)] * (1 + n % 3)) for n in range(30)
        ]
        told = await asyncio.gather(*map(texts, streams))
        assert told == [[LETTERS[n % 25] * (1 + n % 7)] * (1 + n % 3) for n in range(30)]

    worker = run(test)
    assert (worker.live_rows, worker.waiting) == (0, 0)
    assert worker.tokens_said == sum((1 + n % 7) * (1 + n % 3) for n in range(30))
    assert worker.prompt_tokens == sum(1 + n % 3 for n in range(30))


def test_a_stream_knows_when_each_token_was_said_and_what_came_of_it() -> None:
    async def test(worker: Worker) -> None:
        stream = worker.submit(("me",), [ask("a", 3), ask("b", 1)])
        await texts(stream)
        assert [len(times) for times in stream.times] == [3, 1]
        assert stream.submitted <= stream.times[0][0] < stream.times[0][1] < stream.times[0][2]
        assert {index: done.text for index, done in stream.completions.items()} == {0: "aaa", 1: "b"}
        assert not stream.open

    run(test)


def test_who_comes_while_another_is_answered_joins() -> None:
    async def test(worker: Worker) -> None:
        first = await begun(worker.submit(("me",), [ask("a", ENDLESS)]))
        assert await texts(worker.submit(("you",), [ask("b", 50)])) == ["b" * 50]
        assert first.open

    run(test)


def test_streams_of_many_profiles_and_methods_are_not_crossed(band: Band) -> None:
    """Each request can say one token alone, its own, since the bias forbids all others; every third is given up."""
    band.bound(16, chunk=8)
    methods = ("soup", "moe", "mixture-prob", "mixture-log", "base")

    def own(number: int) -> Request:
        profile = parse_profile({"terse": 1 + number, "warm": 2, "exact": 3}, band.dimensions)
        sampling = Sampling(max_tokens=3 + number % 5, seed=number, logit_bias=((60 + number, 100.0),))
        return band.request("all" * (1 + number), band.plan(profile, methods[number % 5]), sampling)

    async def test(worker: Worker) -> None:
        streams = [worker.submit((f"owner {number % 4}",), [own(number)]) for number in range(30)]
        for stream in streams[::3]:
            worker.cancel(await begun(stream))
        going_on = [number for number in range(30) if number % 3]
        await asyncio.gather(*(texts(streams[number]) for number in going_on))
        for number in going_on:
            assert streams[number].completions[0].tokens == (60 + number,) * (3 + number % 5)

    assert run_over(band, test).live_rows == 0


# Who is next


def test_of_owners_who_wait_the_one_with_the_fewest_rows_under_way_is_next() -> None:
    """Room for 2. A has six requests and B comes last with two: A, B, then A and B again, and then A alone."""

    async def test(worker: Worker) -> None:
        order: list[str] = []

        async def follow(owner: str) -> None:
            await texts(worker.submit((owner,), [ask("a", 1)]))
            order.append(owner)

        async with Held(worker):
            following = [asyncio.ensure_future(follow(owner)) for owner in "AAAAAABB"]
            await asyncio.sleep(0)
        await asyncio.gather(*following)
        assert "".join(order) == "ABABAAAA"

    run(test, max_rows=2)


def test_the_rows_of_a_mixture_all_count() -> None:
    """Four of seven rows are A's one mixture: B's three requests of a row come before A's next."""

    async def test(worker: Worker) -> None:
        async with Held(worker):
            mixture = worker.submit(("A",), [ask("a", 9, rows=4), ask("b", 1)])
            others = [worker.submit(("B",), [ask("c", 9)]) for _ in range(3)]
        await asyncio.gather(*map(texts, (mixture, *others)))
        assert mixture.times[1][0] > max(stream.times[0][0] for stream in others)

    run(test, max_rows=7)


def test_a_large_request_is_not_passed_over_for_ever() -> None:
    """It needs all 4 rows, and small ones of ever new people go on coming; those that came before it go first."""

    async def test(worker: Worker) -> None:
        async with Held(worker):
            before = [worker.submit((f"{n}",), [ask("a", 4)]) for n in range(4)]
            large = worker.submit(("large",), [ask("b", 1, rows=4)])
            after = [worker.submit((f"{n}",), [ask("c", 1)]) for n in range(4, 8)]
        await asyncio.gather(*map(texts, (*before, large, *after)))
        assert large.times[0][0] < min(stream.times[0][0] for stream in after)

    run(test, max_rows=4)


def test_a_key_gets_no_more_by_naming_more_users() -> None:
    """Key A's three users and key B's one, in a room for six rows: three for each key, of A's one for each user."""
    waiting: FairQueue[str] = FairQueue()
    for user in "xyz":
        waiting.add(("A", user), [f"A{user}"] * 6)
    waiting.add(("B", "x"), ["Bx"] * 6)
    order = []
    for _ in range(6):
        order.append(waiting.next())
        waiting.take(1)
    assert order == ["Ax", "Bx", "Ay", "Bx", "Az", "Bx"]
    waiting.leave(("A", "y"), 1)
    assert waiting.next() == "Ay"


def test_equal_owners_take_turns() -> None:
    waiting: FairQueue[str] = FairQueue()
    waiting.add(("A",), ["a1", "a2"])
    waiting.add(("B",), ["b1", "b2"])
    order = []
    for _ in range(4):
        order.append(str(waiting.next()))
        owner = order[-1][0].upper()
        waiting.take(1)
        waiting.leave((owner,), 1)
    assert order == ["a1", "b1", "a2", "b2"]
    assert waiting.next() is None


def test_what_is_forgotten_is_no_longer_next() -> None:
    waiting: FairQueue[str] = FairQueue()
    waiting.add(("A",), ["a1", "a2", "a3"])
    assert waiting.forget(("A",), lambda thing: thing != "a2") == 2
    assert (waiting.next(), len(waiting)) == ("a2", 1)
    assert waiting.forget(("B",), lambda _: True) == 0
    assert waiting.forget(("A",), lambda _: True) == 1
    assert waiting.next() is None


# How many may wait


def test_more_than_may_wait_are_refused_at_once_and_told_when_to_come_again() -> None:
    async def test(worker: Worker) -> None:
        async with Held(worker):
            streams = [worker.submit(("me",), [ask("a")]) for _ in range(3)]
            with pytest.raises(Refused, match="3 requests wait already; come again in") as refused:
                worker.submit(("you",), [ask("b")])
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert refused.value.retry_after is not None
        assert 1 <= refused.value.retry_after <= 60
        await asyncio.gather(*map(texts, streams))
        assert await texts(worker.submit(("you",), [ask("b")])) == ["bbb"]

    run(test, max_waiting=3)


def test_a_call_of_more_than_may_ever_wait_is_a_mistake() -> None:
    async def test(worker: Worker) -> None:
        with pytest.raises(Refused, match="4 requests in one call; at most 3 may wait") as refused:
            worker.submit(("me",), [ask("a")] * 4)
        assert refused.value.status == 400

    run(test, max_waiting=3)


def test_when_to_come_again_by_hand() -> None:
    """4 began within 2 seconds, half a second each: 10 more take 5 seconds. A standstill counts as time."""
    pace = Pace()
    assert pace.wait_for(10) == 1.0
    for at in (100.0, 100.3, 101.0, 101.8):
        pace.mark(at)
    assert pace.wait_for(10, now=102.0) == pytest.approx(5.0)
    assert pace.wait_for(10, now=104.0) == pytest.approx(10.0)
    assert pace.wait_for(1, now=102.0) == 1.0
    assert pace.wait_for(1000, now=102.0) == 60.0


# Who goes


def test_one_who_goes_frees_the_rows_at_once() -> None:
    async def test(worker: Worker) -> None:
        going = await begun(worker.submit(("me",), [ask("a", ENDLESS, rows=2)] * 2))
        staying = await begun(worker.submit(("you",), [ask("b", ENDLESS)]))
        worker.cancel(going)
        await settled(worker)
        assert worker.cancelled == 2
        assert worker.live_rows == worker.band.engine.rows == 1
        assert staying.open
        assert await texts(worker.submit(("me",), [ask("c", rows=7)])) == ["ccc"]

    run(test)


def test_one_who_goes_before_the_turn_came_is_never_begun() -> None:
    async def test(worker: Worker) -> None:
        async with Held(worker):
            first, going = worker.submit(("me",), [ask("a", 5)]), worker.submit(("me",), [ask("b", 5)] * 3)
            worker.cancel(going)
        assert await texts(first) == ["aaaaa"]
        assert (worker.waiting, worker.cancelled) == (0, 3)

    assert run(test).tokens_said == 5


def test_one_who_goes_while_the_prompt_is_read() -> None:
    """A token of the prompt between two steps: "me" goes long before it is read."""

    async def test(worker: Worker) -> None:
        await begun(worker.submit(("you",), [ask("b", ENDLESS)]))
        going = worker.submit(("me",), [ask("a" * ENDLESS)])
        while worker.waiting:
            await settled(worker)
        worker.cancel(going)
        await settled(worker)
        assert worker.live_rows == worker.band.engine.rows == 1
        assert await texts(worker.submit(("me",), [ask("c")])) == ["ccc"]
        assert not going.times[0]

    run(test, chunk=1)


def test_one_who_goes_when_all_is_said_changes_nothing() -> None:
    async def test(worker: Worker) -> None:
        stream = worker.submit(("me",), [ask("a")])
        assert await texts(stream) == ["aaa"]
        worker.cancel(stream)
        await settled(worker)
        assert worker.cancelled == 0

    run(test)


# What fails


def test_a_request_that_can_never_be_decoded_is_refused_at_once() -> None:
    async def test(worker: Worker) -> None:
        for wrong, why in ((ask("a", rows=9), "9 rows; the engine holds 8"), (ask("a" * 100), "has 100 tokens")):
            with pytest.raises(CounterpointError, match=why):
                worker.submit(("me",), [ask("b"), wrong])
        assert worker.waiting == 0
        assert await texts(worker.submit(("me",), [ask("b")])) == ["bbb"]

    run(test, longest=100)


def test_a_request_that_the_engine_takes_no_longer_is_told_and_those_behind_it_go_on() -> None:
    """The band may have been read anew while it waited: the engine then has other limits."""

    async def test(worker: Worker) -> None:
        async with Held(worker):
            wide, behind = worker.submit(("me",), [ask("a", rows=3)]), worker.submit(("me",), [ask("b")])
            worker.band.engine.max_rows = 2
        with pytest.raises(CounterpointError, match="3 rows; the engine holds 2"):
            await texts(wide)
        assert await texts(behind) == ["bbb"]

    assert run(test).failed == 1


def test_a_broken_step_is_told_to_those_in_it_and_logged_and_the_next_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(worker: Worker) -> None:
        async with Held(worker):
            both = [worker.submit(("me",), [ask("a", ENDLESS)]), worker.submit(("you",), [ask("z")])]
        for stream in both:
            with pytest.raises(Refused, match="the engine failed") as failed:
                await texts(stream)
            assert failed.value.status == 500
            assert "broke down" not in str(failed.value)
        assert worker.alive
        assert await texts(worker.submit(("me",), [ask("a")])) == ["aaa"]

    worker = run(test)
    assert (worker.live_rows, worker.failed) == (0, 2)
    assert "RuntimeError: the model broke down" in caplog.text


def test_a_function_runs_between_two_steps_and_its_result_or_error_comes_back() -> None:
    async def test(worker: Worker) -> None:
        assert await worker.call(lambda: threading.current_thread().name) == "engine"
        with pytest.raises(CounterpointError, match="no such file"):
            await worker.call(_mistake)
        assert await texts(worker.submit(("me",), [ask("a")])) == ["aaa"]

    run(test)


def _bug() -> None:
    ids("!")


def _mistake() -> None:
    raise CounterpointError("no such file")


def test_a_caller_who_went_before_the_function_ran_does_not_end_the_thread() -> None:
    async def test(worker: Worker) -> None:
        ran: list[int] = []
        async with Held(worker):
            call = asyncio.ensure_future(worker.call(lambda: ran.append(1)))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await settled(worker)
        assert not ran
        assert worker.alive

    run(test)


def test_a_thread_that_ends_by_a_bug_says_so_to_everyone(caplog: pytest.LogCaptureFixture) -> None:
    async def test(worker: Worker) -> None:
        async with Held(worker):
            stream = worker.submit(("me",), [ask("a", ENDLESS)] * 2)
            worker._inbox.put(_bug)
            late = asyncio.ensure_future(worker.call(lambda: None))
            await asyncio.sleep(0)
        for waiting in (texts(stream), late):
            with pytest.raises(Refused, match="the engine has stopped") as stopped:
                await waiting
            assert stopped.value.status == 503
        assert not worker.alive
        with pytest.raises(Refused, match="the engine has stopped"):
            worker.submit(("me",), [ask("a")])
        with pytest.raises(Refused, match="the engine has stopped"):
            await worker.call(lambda: None)

    run(test)
    assert "substring not found" in caplog.text


def test_at_the_end_those_under_way_are_told() -> None:
    async def test(worker: Worker) -> None:
        stream = await begun(worker.submit(("me",), [ask("a", ENDLESS)]))
        worker.stop()
        with pytest.raises(Refused, match="the engine has stopped"):
            await texts(stream)

    assert not run(test).alive
