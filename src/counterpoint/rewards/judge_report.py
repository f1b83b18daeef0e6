"""What a judge's verdicts cost, and how far they can be trusted."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

from counterpoint.types import Verdict


@dataclass(frozen=True)
class JudgeReport:
    """Counts, which add up over calls of `compare`.

    A question is asked in calls: two orders, and each of them `repeats` times. A call is one reply, or more where one
    could not be read. `asked` replies were paid for in this run and `kept` ones before; tokens are of `asked`, of which
    `untold` came without a count. `equal` questions had two equal responses and were not asked. `unanswered` ones
    lack a verdict in an order: its calls were `refused` by the judge, `rejected` by its server (as too long, say), or
    remained `unparsed`; `cut` replies ran out of tokens.
    Of `ordered` pairs, judged in both orders, `to_first` and `to_second` went by the position.
    """

    questions: int = 0
    equal: int = 0
    unanswered: int = 0
    calls: int = 0
    asked: int = 0
    kept: int = 0
    refused: int = 0
    rejected: int = 0
    unparsed: int = 0
    cut: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    untold: int = 0
    ordered: int = 0
    to_first: int = 0
    to_second: int = 0
    repeated: int = 0
    changed: int = 0

    def __add__(self, other: "JudgeReport") -> "JudgeReport":
        return JudgeReport(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def position_bias(self) -> float | None:
        """Share of pairs whose verdict changed with the order; `None` where none was judged in both."""
        return (self.to_first + self.to_second) / self.ordered if self.ordered else None

    @property
    def noise(self) -> float | None:
        """Share of pairs of the same call whose verdicts differ; `None` without repeats."""
        return self.changed / self.repeated if self.repeated else None

    def cost(self, price_in: float | None, price_out: float | None) -> float | None:
        """What `asked` replies cost at prices per million tokens; `None` where a price or a count is not known."""
        if price_in is None or price_out is None or self.untold:
            return None
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6

    def to_dict(self, price_in: float | None = None, price_out: float | None = None) -> dict[str, Any]:
        """All counts and shares, ready for JSON."""
        shares = {"position_bias": self.position_bias, "noise": self.noise}
        return asdict(self) | shares | {"cost": self.cost(price_in, price_out)}


def by_position(orders: Iterable[tuple[Verdict | None, Verdict | None]]) -> JudgeReport:
    """Position bias, from verdicts on the first response where it was shown first, and where it was shown second."""
    both = [straight - swapped for straight, swapped in orders if straight is not None and swapped is not None]
    return JudgeReport(ordered=len(both), to_first=sum(gap > 0 for gap in both), to_second=sum(gap < 0 for gap in both))


def by_repeat(calls: Iterable[Sequence[Verdict | None]]) -> JudgeReport:
    """Noise, from the verdicts of repeated calls."""
    pairs = [(a, b) for verdicts in calls for a, b in combinations([v for v in verdicts if v is not None], 2)]
    return JudgeReport(repeated=len(pairs), changed=sum(a != b for a, b in pairs))
