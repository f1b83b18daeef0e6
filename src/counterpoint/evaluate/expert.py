"""What one expert learned from comparisons: log-probabilities of both responses, with the expert and without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.data.examples import example
from counterpoint.evaluate.accuracy import by_prompt
from counterpoint.evaluate.bootstrap import Interval
from counterpoint.evaluate.ranking import (
    Ranking,
    difficulty,
    dpo_loss,
    ranked_right,
    ranking,
    rewarded_right,
    threshold_loss,
)
from counterpoint.models.bank import LoraBank
from counterpoint.models.logprobs import sequence_logp
from counterpoint.types import Comparison


@dataclass(frozen=True)
class PairLogps:
    """Summed log-probabilities `[P]` of chosen and rejected responses, in nats; `ref_` is the base."""

    chosen_P: np.ndarray
    rejected_P: np.ndarray
    ref_chosen_P: np.ndarray
    ref_rejected_P: np.ndarray
    lengths_P2: np.ndarray

    @property
    def four(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """In the order in which the functions of `evaluate.ranking` take them."""
        return self.chosen_P, self.rejected_P, self.ref_chosen_P, self.ref_rejected_P


def pair_logps(
    bank: LoraBank,
    expert: str,
    tokenizer: Any,
    comparisons: Sequence[Comparison],
    progress: Callable[[int, int], None] | None = None,
    part: int = 64,
) -> PairLogps:
    """Log-probabilities of the comparisons' responses by `expert` of the bank, and by its base."""
    responses = [(c.prompt, c.chosen) for c in comparisons] + [(c.prompt, c.rejected) for c in comparisons]
    examples = [example(*pair, tokenizer) for pair in responses]
    own_N, ref_N = np.zeros(len(examples)), np.zeros(len(examples))
    by_length = sorted(range(len(examples)), key=lambda n: examples[n].length)
    for start in range(0, len(examples), part):
        rows = by_length[start : start + part]
        ref_N[rows] = sequence_logp(bank.model, [examples[n] for n in rows])
        with bank.gated(bank.gate([{expert: 1.0}])):
            own_N[rows] = sequence_logp(bank.model, [examples[n] for n in rows])
        if progress:
            progress(start + len(rows), len(examples))
    pairs = len(comparisons)
    lengths_N = np.array([len(e.response_ids) for e in examples])
    return PairLogps(own_N[:pairs], own_N[pairs:], ref_N[:pairs], ref_N[pairs:], lengths_N.reshape(2, pairs).T)


@dataclass(frozen=True)
class ExpertQuality:
    """One expert on comparisons of held-out prompts, with intervals by prompt.

    reward_accuracy: the share of pairs in which training raised the chosen response more than the rejected one
    (DPO's implicit reward). loss: DPO's, ln 2 for the base. ranking: which response is likelier. flip_loss: half of
    the pairs that the base ranks wrong are ranked right only at a loss below this; `None` where there are none.
    """

    pairs: int
    reward_accuracy: Interval
    loss: Interval
    accuracy: Interval
    base_accuracy: Interval
    ranking: Ranking
    flip_loss: float | None


def expert_quality(logps: PairLogps, comparisons: Sequence[Comparison], beta: float, seed: int) -> ExpertQuality:
    """All measures of an expert; `beta` is DPO's."""
    difficulty_P = difficulty(logps.ref_chosen_P, logps.ref_rejected_P)
    wrong_P = difficulty_P > 0
    return ExpertQuality(
        pairs=len(comparisons),
        reward_accuracy=by_prompt(rewarded_right(*logps.four), comparisons, seed),
        loss=by_prompt(dpo_loss(*logps.four, beta=beta), comparisons, seed),
        accuracy=by_prompt(ranked_right(logps.chosen_P, logps.rejected_P), comparisons, seed),
        base_accuracy=by_prompt(ranked_right(logps.ref_chosen_P, logps.ref_rejected_P), comparisons, seed),
        ranking=ranking(*logps.four, lengths_P2=logps.lengths_P2),
        flip_loss=float(np.median(threshold_loss(difficulty_P[wrong_P], beta))) if wrong_P.any() else None,
    )
