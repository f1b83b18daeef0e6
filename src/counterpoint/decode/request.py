"""What the engine is asked, and what it says of it step by step."""

from dataclasses import dataclass, field

from counterpoint.compose.plan import Plan
from counterpoint.decode.logprobs import TopLogprobs
from counterpoint.decode.sampling import Sampling
from counterpoint.decode.tracing import Detail
from counterpoint.types import Completion, CounterpointError


@dataclass(frozen=True)
class Request:
    """A plan, the context of each of its rows (token ids), and how to sample.

    With `trace` its completion tells how each token came about; "vocabulary" keeps every row's whole distribution.
    `logprobs` asks for so many of the likeliest tokens beside each token (0: the token's own log-probability), of the
    mixture, before temperature, the penalties on what was said and the bias act on it. With `given` tokens nothing is
    drawn: these are scored instead.
    """

    plan: Plan
    contexts: tuple[tuple[int, ...], ...]
    sampling: Sampling = field(default_factory=Sampling)
    trace: Detail | None = None
    logprobs: int | None = None
    given: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.contexts) != len(self.plan.all_rows):
            raise ValueError(f"{len(self.plan.all_rows)} rows but {len(self.contexts)} contexts")

    @property
    def longest(self) -> int:
        """The longest of its contexts, in tokens."""
        return max(map(len, self.contexts))


@dataclass(frozen=True)
class Said:
    """What a step brought to a request. With a `completion` or an `error` it is over, and has left.

    `token` is None where none was said: by the end-of-text token, and in what is not drawn. `logprobs` and `credit`
    (`Trace.credit_TK`) are there for those who asked. `scores` are those of a request's given tokens.
    """

    ticket: int
    token: int | None = None
    completion: Completion | None = None
    error: CounterpointError | None = None
    logprobs: TopLogprobs | None = None
    credit: tuple[float, ...] | None = None
    scores: tuple[TopLogprobs, ...] | None = None
