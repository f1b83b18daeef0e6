"""The log-probabilities of a given text, under any plan: its tokens are fed to the plan's rows, a piece at a time.

    log p(token_t | context, token_1 .. token_{t-1})    for every t

in one forward per piece, of the same mixture from which the token would have been drawn, before anything that sampling
does to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from counterpoint.compose.plan import Plan
from counterpoint.decode.logprobs import TopLogprobs, top_logprobs
from counterpoint.decode.mixing import mix_alone
from counterpoint.types import LanguageModel

PIECE = 512
"""Tokens of all rows together that are fed at once, where nobody waits for less."""


@dataclass
class Score:
    """How far the text `given` after a plan's contexts is scored, with the `top` likeliest tokens beside each token."""

    plan: Plan
    last_R: Sequence[int]
    """The last token of each row's context, which is fed first."""
    given: Sequence[int]
    top: int
    told: list[TopLogprobs] = field(default_factory=list)

    def advance(self, model: LanguageModel, rows: Sequence[int], most: int | None) -> None:
        """Score the next piece, of at most `most` tokens in all rows together, but one at least.

        Raises CounterpointError where the rows have no distribution.
        """
        done = len(self.told)
        size = max(1, min(most or PIECE, PIECE) // len(rows))
        piece = self.given[done : done + size]
        before = self.given[max(done - 1, 0) : done + len(piece) - 1]
        fed_RT = [[*([] if done else [last]), *before] for last in self.last_R]
        mixture = mix_alone(self.plan, model.extend(rows, fed_RT), model.vocabulary)
        for error in mixture.errors.values():
            raise error
        logp_TV = mixture.logp_QV[:, : model.vocabulary]
        self.told += top_logprobs(logp_TV, piece, [self.top] * len(piece))

    @property
    def done(self) -> bool:
        return len(self.told) == len(self.given)
