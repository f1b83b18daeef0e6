"""The exact scorers of the embedded world as a reward function."""

from collections.abc import Sequence

import numpy as np

from counterpoint.data.world import DIMENSIONS, Question, correct, find_question, scores
from counterpoint.types import CounterpointError, Prompt


class WorldRules:
    """Scores by the world's own rules, which need no model: `scores_ND` on the six dimensions, higher is better.

    A prompt's question is looked up by its last user message; a request in words after it is ignored. Raises
    CounterpointError for a question that the world does not hold.
    """

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in DIMENSIONS)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        rows = [scores(asked_by(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
        return np.array([[row[name] for name in self.dimensions] for row in rows]).reshape(-1, len(self.dimensions))

    def correct(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Whether each response is right: `correct_N`."""
        return np.array([correct(asked_by(p), r) for p, r in zip(prompts, responses, strict=True)], dtype=bool)


def asked_by(prompt: Prompt) -> Question:
    """The question of a prompt's last user message."""
    if isinstance(prompt, str):
        return find_question(prompt)
    said = [message.content for message in prompt if message.role == "user"]
    if not said:
        raise CounterpointError(f"a prompt without a user message asks nothing: {prompt!r}")
    return find_question(said[-1])
