"""Rates over the last minute, on a clock that stands still until it is moved."""

import threading
import time

import pytest

from counterpoint.serve.limits import Limits


class Clock:
    """Seconds, in place of `time.time`."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def test_in_any_minute_there_are_as_many_requests_as_allowed(clock: Clock) -> None:
    limits = Limits(requests_per_minute=3)
    admitted = []
    for _ in range(600):  # one every half second
        clock.now += 0.5
        if limits.admit("k") is None:
            admitted.append(clock.now)
    assert all(later - earlier >= 60 for earlier, later in zip(admitted, admitted[3:], strict=False))
    assert len(admitted) == 15  # 3 in each of the 300 s' 5 minutes


def test_a_refusal_says_when_to_come_again(clock: Clock) -> None:
    limits = Limits(requests_per_minute=2)
    assert limits.admit("k") is None
    clock.now += 20
    assert limits.admit("k") is None
    clock.now += 10
    wait = limits.admit("k")
    assert wait is not None
    assert wait == pytest.approx(30)  # the first was 30 s ago
    clock.now += wait - 0.1
    assert limits.admit("k") == pytest.approx(0.1)
    clock.now += 0.2
    assert limits.admit("k") is None
    assert limits.admit("k") == pytest.approx(19.9)  # now the second is the oldest, 40.1 s ago


def test_a_refused_request_does_not_count(clock: Clock) -> None:
    limits = Limits(requests_per_minute=1)
    assert limits.admit("k") is None
    for _ in range(50):
        assert limits.admit("k") is not None
    clock.now += 60.1
    assert limits.admit("k") is None


def test_an_owner_does_not_wait_for_another(clock: Clock) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=10)
    assert limits.admit("a") is None
    limits.spend("a", 10)
    assert limits.admit("a") is not None
    assert limits.admit("b") is None


def test_tokens_that_were_used_up_are_waited_for(clock: Clock) -> None:
    limits = Limits(tokens_per_minute=100)
    assert limits.admit("k") is None
    limits.spend("k", 99)
    clock.now += 15
    assert limits.admit("k") is None
    limits.spend("k", 5000)  # more than is left fills the minute
    assert limits.admit("k") == pytest.approx(45)
    clock.now += 45.1
    assert limits.admit("k") is None  # 99 of them are a minute old
    limits.spend("k", 99)
    assert limits.admit("k") == pytest.approx(14.9)


def test_many_tokens_are_counted_in_parts_and_rounded_up(clock: Clock) -> None:
    limits = Limits(tokens_per_minute=10**9)  # 100 000 parts of 10 000
    for _ in range(990):
        limits.spend("k", 1_000_001)  # 101 parts, and 990 * 101 = 99 990
    assert limits.admit("k") is None
    limits.spend("k", 90_001)  # the 10 that are left
    assert limits.admit("k") == pytest.approx(60)


def test_a_request_that_waits_for_tokens_is_not_counted_as_a_request(clock: Clock) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=10)
    limits.spend("k", 10)
    assert limits.admit("k") == pytest.approx(60)
    clock.now += 60.1
    assert limits.admit("k") is None


def test_a_keys_own_rates_take_the_place_of_the_servers(clock: Clock) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=1)
    for _ in range(5):
        assert limits.admit("k", requests=5, tokens=0) is None
        limits.spend("k", 1000, tokens=0)
    assert limits.admit("k", requests=5, tokens=0) == pytest.approx(60)


def test_what_is_left_and_when_some_comes_back(clock: Clock) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=10**6)  # parts of 10 tokens
    assert limits.left("k") == {"requests": (3, 3, 0.0), "tokens": (10**6, 10**6, 0.0)}
    limits.admit("k")
    limits.spend("k", 15)  # 2 parts
    clock.now += 20
    limits.admit("k")
    left = limits.left("k")
    assert left["requests"][:2] == (3, 1)
    assert left["tokens"][:2] == (10**6, 10**6 - 20)
    assert [seconds for _, _, seconds in left.values()] == pytest.approx([40, 40])
    assert limits.left("k", requests=0, tokens=0) == {}


def test_zero_is_no_limit(clock: Clock) -> None:
    limits = Limits()
    for _ in range(2000):
        assert limits.admit("k") is None
        limits.spend("k", 10**6)


def test_threads_together_get_no_more_than_one_would() -> None:
    limits = Limits(requests_per_minute=100)
    admitted: list[None] = []

    def ask() -> None:
        admitted.extend(None for _ in range(50) if limits.admit("k") is None)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 100
