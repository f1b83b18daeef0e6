"""Best-of-n: keep the best of n samples per prompt, to imitate them with `train_sft`.

Selection only (rejection sampling as in Touvron et al. 2023, arXiv 2307.09288, sec. 3.2.3): no model is needed here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from counterpoint.data.chat import prompt_ids
from counterpoint.data.examples import Example
from counterpoint.types import Completion, CounterpointError, Prompt


def best_of_n(
    prompts: Sequence[Prompt], samples: Sequence[Sequence[Completion]], scores_PN: np.ndarray, keep: int = 1
) -> list[tuple[Prompt, Completion]]:
    """The `keep` highest-scored different samples of each prompt, best first; the earlier one where scores are equal.

    A sample that was kept already for an equal prompt is passed over, so fewer than `keep` may be left.
    Raises CounterpointError where shapes differ or a score is not a number.
    """
    _check(prompts, samples, scores_PN, keep)
    chosen: dict[tuple[Prompt, tuple[int, ...], str], tuple[Prompt, Completion]] = {}
    for prompt, completions, scores_N in zip(prompts, samples, scores_PN, strict=True):
        left = keep
        for n in np.argsort(-scores_N, kind="stable"):
            sample = completions[n]
            key = (prompt, sample.tokens, sample.finish)
            if left and key not in chosen:
                chosen[key] = (prompt, sample)
                left -= 1
    return list(chosen.values())


def _check(
    prompts: Sequence[Prompt], samples: Sequence[Sequence[Completion]], scores_PN: np.ndarray, keep: int
) -> None:
    if keep < 1:
        raise CounterpointError(f"keep is {keep}; it must be at least 1")
    shape = (len(prompts), len(samples[0]) if samples else 0)
    if scores_PN.shape != shape or any(len(s) != shape[1] for s in samples) or len(samples) != shape[0]:
        raise CounterpointError(
            f"{len(prompts)} prompts with {sorted({len(s) for s in samples})} samples each, but the scores have the "
            f"shape {scores_PN.shape}; give every prompt the same number of samples and a score for each"
        )
    if not np.isfinite(scores_PN).all():
        row, column = np.argwhere(~np.isfinite(scores_PN))[0]
        raise CounterpointError(f"the score of prompt {row}, sample {column} is {scores_PN[row, column]}")


def to_examples(chosen: Sequence[tuple[Prompt, Completion]], tokenizer: Any) -> list[Example]:
    """Examples from the completions' own token ids, which need not be those that their text would be tokenised to.

    The end-of-text token follows where a completion ended by itself; one that was cut by its length must not be
    learned to end there.
    """
    return [Example(tuple(prompt_ids(prompt, tokenizer)), _ids(completion, tokenizer)) for prompt, completion in chosen]


def _ids(completion: Completion, tokenizer: Any) -> tuple[int, ...]:
    end = (tokenizer.eos_token_id,) if completion.finish == "stop" else ()
    return (*completion.tokens, *end)
