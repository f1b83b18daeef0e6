"""Scoring many responses: each once, in parts, with word of how far it is."""

from collections.abc import Callable, Sequence

import numpy as np

from counterpoint.types import Prompt, RewardFn

PART = 256
"""Responses between two words of progress."""


class Scorer:
    """A reward that scores equal pairs of prompt and response once, shorter responses first.

    `progress` is called with (responses scored, `total`) over all calls, since pairs are scored in two.
    """

    def __init__(self, reward: RewardFn, progress: Callable[[int, int], None] | None = None, total: int = 0) -> None:
        self.reward = reward
        self.progress = progress
        self.total = total
        self.done = 0

    @property
    def dimensions(self) -> tuple[str, ...]:
        return self.reward.dimensions

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        pairs = list(zip(prompts, responses, strict=True))
        unlike = sorted(dict.fromkeys(pairs), key=lambda pair: len(pair[1]))
        row = {pair: index for index, pair in enumerate(unlike)}
        scores_ND = np.zeros((len(unlike), len(self.dimensions)))
        before = self.done
        for start in range(0, len(unlike), PART):
            part = unlike[start : start + PART]
            scores_ND[start : start + len(part)] = self.reward([p for p, _ in part], [r for _, r in part])
            self._say(before + start + len(part))
        self._say(before + len(pairs))
        return scores_ND[[row[pair] for pair in pairs]]

    def _say(self, done: int) -> None:
        self.done = done
        if self.progress:
            self.progress(done, max(self.total, done))
