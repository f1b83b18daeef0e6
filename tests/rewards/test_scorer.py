from collections.abc import Sequence

import numpy as np

from counterpoint.rewards import scorer
from counterpoint.rewards.scorer import Scorer
from counterpoint.testing import LetterReward
from counterpoint.types import Prompt


class Counted(LetterReward):
    """A reward that remembers what it scored."""

    def __init__(self) -> None:
        super().__init__("a")
        self.scored: list[tuple[Prompt, str]] = []

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        self.scored += zip(prompts, responses, strict=True)
        return super().__call__(prompts, responses)


def random_pairs(count: int) -> tuple[list[Prompt], list[str]]:
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("ab"), size=generator.integers(0, 5))) for _ in range(count)]
    return [f"prompt {i % 3}" for i in range(count)], texts


def test_scores_are_the_rewards_own_and_no_pair_is_scored_twice() -> None:
    prompts, texts = random_pairs(700)
    reward = Counted()
    np.testing.assert_array_equal(Scorer(reward)(prompts, texts), LetterReward("a")(prompts, texts))
    assert len(reward.scored) == len(set(reward.scored)) == len(set(zip(prompts, texts, strict=True)))
    assert Scorer(reward)([], []).shape == (0, 1)


def test_progress_rises_to_the_total_over_two_calls() -> None:
    texts = [str(i) for i in range(2 * scorer.PART + 10)]
    told: list[tuple[int, int]] = []
    scored = Scorer(LetterReward("1"), lambda done, total: told.append((done, total)), 2 * len(texts))
    scored([""] * len(texts), texts)
    scored([""] * len(texts), ["same"] * len(texts))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[0] == (scorer.PART, 2 * len(texts))
    assert told[-1] == (2 * len(texts), 2 * len(texts))
