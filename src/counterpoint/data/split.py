"""Which comparisons are learned from, and which measure what was learned: parted by prompt, never by pair."""

from collections.abc import Sequence

import numpy as np

from counterpoint.types import Comparison, CounterpointError, Prompt


def opening(prompt: Prompt) -> str:
    """What a conversation begins with: its first user message; of a prompt in plain text, the whole of it.

    Data often holds one conversation cut at several turns, and the longer cut gives away the shorter.
    """
    if isinstance(prompt, str):
        return prompt
    return next((message.content for message in prompt if message.role == "user"), "")


def split_by_prompt(
    comparisons: Sequence[Comparison], dimension: str, share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """One dimension's comparisons, to learn from and to measure by.

    A `share` of the prompts, at least two, is held out with all their comparisons: two pairs of one prompt are so much
    alike that one would give away the other. Prompts of one `opening` count as one. Raises CounterpointError where
    nothing is left to learn from, or fewer than two prompts to measure by.
    """
    if not 0 < share < 1:
        raise CounterpointError(f"the share of prompts that is held out is {share:g}; it must lie between 0 and 1")
    own = [c for c in comparisons if c.dimension == dimension]
    prompts = list(dict.fromkeys(opening(c.prompt) for c in own))
    order = np.random.default_rng(seed).permutation(len(prompts))
    held = {prompts[index] for index in order[: max(2, round(len(prompts) * share))]}
    seen, unseen = ([c for c in own if (opening(c.prompt) in held) == wanted] for wanted in (False, True))
    if not seen or len(held) < 2:
        raise CounterpointError(
            f"dimension {dimension!r}: {len(seen)} comparisons to learn from and {len(unseen)} to measure by are too "
            f"few, from {len(prompts)} different prompts; give comparisons of more prompts, or where a reward labels "
            "them, one that tells responses apart"
        )
    return seen, unseen
