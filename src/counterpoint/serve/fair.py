"""Who is next: of all who wait, one whose owner has the fewest rows under way.

An owner is a path, as in (key, user): keys share alike, and the users of a key share what it has, so that no key gets
more by naming more users.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
Owner = tuple[str, ...]


class FairQueue(Generic[T]):
    """What waits, by owner. Of owners with equally many rows under way the one that was served longest ago is next."""

    def __init__(self) -> None:
        self._waiting: dict[Owner, deque[T]] = {}
        self._rows: Counter[Owner] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, owner: Owner, things: Iterable[T]) -> None:
        self._waiting.setdefault(owner, deque()).extend(things)

    def next(self) -> T | None:
        """The oldest of the owner that is next; None where nothing waits."""
        owner = self._owner()
        return None if owner is None else self._waiting[owner][0]

    def take(self, rows: int) -> T:
        """Remove what `next` gave, which has so many rows under way until it leaves."""
        owner = self._owner()
        if owner is None:
            raise IndexError("nothing waits")
        waiting = self._waiting.pop(owner)
        taken = waiting.popleft()
        self._count(owner, rows)
        if waiting:
            self._waiting[owner] = waiting
        return taken

    def leave(self, owner: Owner, rows: int) -> None:
        self._count(owner, -rows)

    def forget(self, owner: Owner, unwanted: Callable[[T], bool]) -> int:
        """Remove what an owner no longer waits for; how many that were."""
        waiting = self._waiting.get(owner, deque())
        kept = deque(thing for thing in waiting if not unwanted(thing))
        if kept:
            self._waiting[owner] = kept
        else:
            self._waiting.pop(owner, None)
        return len(waiting) - len(kept)

    def _count(self, owner: Owner, rows: int) -> None:
        for part in _parts(owner):
            self._rows[part] += rows
            if not self._rows[part]:
                del self._rows[part]

    def _owner(self) -> Owner | None:
        return min(self._waiting, key=lambda owner: [self._rows[part] for part in _parts(owner)], default=None)


def _parts(owner: Owner) -> list[Owner]:
    """The owner, and whatever it belongs to, widest first."""
    return [owner[: n + 1] for n in range(len(owner))]


class Pace:
    """How fast a queue has moved lately, to tell those who are turned away when to come again."""

    LONGEST = 60.0

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=64)

    def mark(self, now: float | None = None) -> None:
        """One of those who waited has begun."""
        self._times.append(time.monotonic() if now is None else now)

    def wait_for(self, count: int, now: float | None = None) -> float:
        """Seconds until so many have begun: count / (begun per second lately), from 1 to 60."""
        if not self._times:
            return 1.0
        since = (time.monotonic() if now is None else now) - self._times[0]
        return min(max(count * since / len(self._times), 1.0), self.LONGEST)
