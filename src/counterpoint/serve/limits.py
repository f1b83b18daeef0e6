"""How often each owner may ask: requests and tokens within any sixty seconds, counted in this process."""

import math
import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

PARTS = 100_000
"""A minute's tokens are counted in so many parts at most, each of which takes 8 bytes of memory for every owner."""


class Limits:
    """The server's own rates, each 0 for no limit; a key's own come with the calls.

    How many tokens an answer takes is known in the end only. So a request is admitted while the last minute's tokens
    are below the limit, and what it took is told afterwards by `spend`: requests that are under way at once may
    together pass the limit, and the next ones wait for that.
    """

    def __init__(self, requests_per_minute: int = 0, tokens_per_minute: int = 0) -> None:
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._window = MovingWindowRateLimiter(MemoryStorage())

    def admit(self, owner: str, requests: int | None = None, tokens: int | None = None) -> float | None:
        """Count a request, or say in how many seconds it would be admitted."""
        by_tokens, by_requests = self._tokens(tokens), self._requests(requests)
        if by_tokens and not self._window.test(by_tokens, owner):
            return self._wait(by_tokens, owner)
        if by_requests and not self._window.hit(by_requests, owner):
            return self._wait(by_requests, owner)
        return None

    def spend(self, owner: str, spent: int, tokens: int | None = None) -> None:
        """Count the tokens of a finished request, its prompt and its answers."""
        limit = self._tokens(tokens)
        if limit:
            left = self._window.get_window_stats(limit, owner).remaining
            parts = math.ceil(spent * limit.amount / self._tokens_allowed(tokens))
            self._window.hit(limit, owner, cost=min(parts, left))

    def left(
        self, owner: str, requests: int | None = None, tokens: int | None = None
    ) -> dict[str, tuple[int, int, float]]:
        """Of what is limited, requests or tokens: a minute's whole, what is left, and seconds until some come back."""
        each = {
            "requests": (self._requests(requests), self.requests_per_minute if requests is None else requests),
            "tokens": (self._tokens(tokens), self._tokens_allowed(tokens)),
        }
        return {what: self._left(limit, whole, owner) for what, (limit, whole) in each.items() if limit}

    def _left(self, limit: RateLimitItem, whole: int, owner: str) -> tuple[int, int, float]:
        parts = self._window.get_window_stats(limit, owner).remaining
        return whole, parts * whole // limit.amount, self._wait(limit, owner) if parts < limit.amount else 0.0

    def _wait(self, limit: RateLimitItem, owner: str) -> float:
        """Seconds until the oldest of the last minute is a minute old."""
        return max(0.0, self._window.get_window_stats(limit, owner).reset_time - time.time())

    def _requests(self, own: int | None) -> RateLimitItem | None:
        return _per_minute("requests", self.requests_per_minute if own is None else own)

    def _tokens(self, own: int | None) -> RateLimitItem | None:
        return _per_minute("tokens", min(self._tokens_allowed(own), PARTS))

    def _tokens_allowed(self, own: int | None) -> int:
        return self.tokens_per_minute if own is None else own


def _per_minute(what: str, amount: int) -> RateLimitItem | None:
    return RateLimitItemPerMinute(amount, namespace=what) if amount else None
