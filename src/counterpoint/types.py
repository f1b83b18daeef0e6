"""The nouns of the package. Nothing here needs torch, so that importing it costs nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class CounterpointError(Exception):
    """A mistake that its reader can mend: the message says what was found, what was expected and what to do."""


class Away(CounterpointError):
    """A server that is needed did not answer as it should. The message names it, for whoever runs it."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""What a response answers: text that is continued as it stands, or messages that a chat template renders."""


@dataclass(frozen=True)
class Completion:
    """A response; `tokens` excludes the end-of-text token and any stop string is cut from `text`."""

    text: str
    tokens: tuple[int, ...]
    finish: Literal["stop", "length"]
    trace: "Trace | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Trace:
    """How a mixture came to say each token, the end-of-text token included: `T` tokens, `K` rows of its plan.

    `c_TK` mixed the rows' distributions, which gave the token `logp_TK`, to one that gave it `logp_T`; float32, nats.
    `credit_TK` is whose token it was (`compose.mixture.credit`). `lost_T` is the probability that experts did not
    tell of, their mean by `|c|`: in probability space a bound on the distance to the whole mixture, in log space none.
    `logp_TKV`, all that the rows' distributions were, is there where it was asked for.
    """

    tokens: tuple[int, ...]
    c_TK: "Tensor"
    logp_TK: "Tensor"
    logp_T: "Tensor"
    credit_TK: "Tensor"
    lost_T: "Tensor"
    logp_TKV: "Tensor | None" = None


@dataclass(frozen=True)
class Comparison:
    """On one dimension, `chosen` answers `prompt` better than `rejected`."""

    prompt: Prompt
    chosen: str
    rejected: str
    dimension: str


@dataclass(frozen=True)
class Dimension:
    """Something that a person may want more of; `request` is how one would ask for it in words.

    Dimensions of one `axis` are its poles, of which a person takes one. `criterion` is what a judge is told to look at.
    """

    name: str
    description: str = ""
    request: str = ""
    axis: str = ""
    criterion: str = ""


@dataclass(frozen=True)
class Profile:
    """What one person wants: relative non-negative weights per dimension, and how far from the base to go.

    Build one with `counterpoint.profiles.parse_profile`, which checks names and numbers.
    """

    weights: Mapping[str, float]
    strength: float = 1.0


@dataclass(frozen=True)
class Expert:
    """One adapter, and the dimension that it was trained for."""

    name: str
    dimension: str
    trained_on: str = ""


@dataclass(frozen=True)
class Weighting:
    """How much of each expert: `w` sums to one in the order of `experts`, `strength` scales the step from the base."""

    experts: tuple[str, ...]
    w: tuple[float, ...]
    strength: float = 1.0

    def __post_init__(self) -> None:
        if len(self.experts) != len(self.w):
            raise ValueError(f"{len(self.experts)} experts but {len(self.w)} weights")
        if not (0 <= self.strength < math.inf and all(0 <= w < math.inf for w in self.w)):
            raise CounterpointError(
                f"weights {self.w} at strength {self.strength}: all must be finite and none negative; to have less of "
                "a dimension, give weight to its opposite"
            )

    @property
    def coefficients(self) -> dict[str, float]:
        """What multiplies each expert's delta: strength * w_k."""
        return {name: self.strength * w for name, w in zip(self.experts, self.w, strict=True)}


@dataclass(frozen=True)
class Question:
    """Which of two responses to a prompt has more of a dimension?"""

    prompt: Prompt
    first: str
    second: str
    dimension: Dimension


Verdict = Literal[1, 0, -1]
"""1 where the first response is the better, -1 where the second is, 0 for a tie."""


class RewardFn(Protocol):
    """Scores responses on named dimensions: `scores_ND`, higher is better, `N` responses by `D` dimensions."""

    @property
    def dimensions(self) -> tuple[str, ...]: ...

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> "np.ndarray": ...


class LanguageModel(Protocol):
    """Rows of (context, gate) that grow by one token a step; a row is one expert's view of one request.

    Rows that are not filled yet stand behind those that are, and no others join meanwhile.
    """

    @property
    def vocabulary(self) -> int: ...

    def join(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows at the end, filled: all of a context but its last token enters the cache."""
        ...

    def begin(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        """Append rows at the end that are yet to be filled."""
        ...

    def fill(self, most: int | None = None) -> bool:
        """Let at most `most` more tokens of rows that joined enter the cache (None: all); whether all are filled."""
        ...

    def step(self, tokens_B: Sequence[int]) -> "Tensor":
        """Feed one token to each of the first rows and return next-token logits `[B, V]`.

        Where some rows know a part of their distribution only, `[B, V + 1]`: the last column is the logarithm of what
        is left, and the row is normalised; a row of -inf alone has nothing to say any more. A controller's rows hold
        its logits in their first columns.
        """
        ...

    def extend(self, rows: Sequence[int], tokens_RT: Sequence[Sequence[int]]) -> "Tensor":
        """Feed some filled rows several tokens each and return the logits after each of them, `[R, T, V]`."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but `rows`, which take the places 0, 1, ... in the order given, unfilled ones last."""
        ...


class Policy(Protocol):
    """The face that evaluation and serving see: prompts and profiles in, completions out."""

    def respond(self, prompts: Sequence[Prompt], profiles: Sequence[Profile]) -> list[Completion]: ...
