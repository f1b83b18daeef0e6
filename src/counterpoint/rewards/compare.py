"""Turn scored responses into comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from counterpoint.types import Comparison, CounterpointError, Prompt


@dataclass(frozen=True)
class Labelled:
    """Comparisons, how many pairs were ties on each dimension, and how many pairs had equal or empty texts."""

    comparisons: tuple[Comparison, ...]
    ties: Mapping[str, int]
    unusable: int


def label_comparisons(
    prompts: Sequence[Prompt],
    responses_PN: Sequence[Sequence[str]],
    scores_PND: np.ndarray,
    dimensions: Sequence[str],
    pairs_per_prompt: int,
    seed: int,
    margin: float = 0.0,
) -> Labelled:
    """Draw pairs among the N responses of each prompt, without repetition, and label each pair on every dimension.

    The response with the higher score is chosen; a difference of at most `margin` is a tie. A usable pair gives up to
    D comparisons. Raises CounterpointError for shapes that do not match and for more pairs than N responses have.
    """
    scores_PND = np.asarray(scores_PND, dtype=float)
    _check(prompts, responses_PN, scores_PND, dimensions, pairs_per_prompt, margin)
    generator = np.random.default_rng(seed)
    pairs = list(combinations(range(scores_PND.shape[1]), 2))
    comparisons: list[Comparison] = []
    ties = dict.fromkeys(dimensions, 0)
    unusable = 0
    for prompt, responses, scores_ND in zip(prompts, responses_PN, scores_PND, strict=True):
        for index in generator.choice(len(pairs), size=pairs_per_prompt, replace=False):
            a, b = pairs[index]
            if responses[a] == responses[b] or not (responses[a].strip() and responses[b].strip()):
                unusable += 1
                continue
            for name, difference in zip(dimensions, scores_ND[a] - scores_ND[b], strict=True):
                if abs(difference) <= margin:
                    ties[name] += 1
                    continue
                better, worse = (a, b) if difference > 0 else (b, a)
                comparisons.append(Comparison(prompt, responses[better], responses[worse], name))
    return Labelled(tuple(comparisons), ties, unusable)


def _check(
    prompts: Sequence[Prompt],
    responses_PN: Sequence[Sequence[str]],
    scores_PND: np.ndarray,
    dimensions: Sequence[str],
    pairs_per_prompt: int,
    margin: float,
) -> None:
    count = len(responses_PN[0]) if len(responses_PN) else 0
    if any(len(responses) != count for responses in responses_PN):
        raise CounterpointError(f"expected {count} responses for every prompt, as for the first one")
    expected = (len(prompts), count, len(dimensions))
    if scores_PND.shape != expected:
        raise CounterpointError(
            f"expected scores of prompts by responses by dimensions {expected}, found shape {scores_PND.shape}"
        )
    if len(responses_PN) != len(prompts):
        raise CounterpointError(f"expected responses for {len(prompts)} prompts, found {len(responses_PN)}")
    if not np.isfinite(scores_PND).all():
        raise CounterpointError("a score is not finite; leave that prompt out")
    possible = count * (count - 1) // 2
    if not 1 <= pairs_per_prompt <= possible:
        raise CounterpointError(
            f"found pairs_per_prompt={pairs_per_prompt}, expected 1 to {possible}, since {count} responses have "
            f"{possible} pairs"
        )
    if not margin >= 0:
        raise CounterpointError(f"found margin={margin}, expected 0 or more")
