"""What every entry answers: each prompt, for each profile, by one method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from counterpoint.compose.plan import Plan
from counterpoint.decode.band import Band
from counterpoint.decode.parts import run_in_parts
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.types import CounterpointError, Profile, Prompt

Progress = Callable[[int, int], None]
Texts = tuple[tuple[str, ...], ...]
"""`texts_PR[p][r]`: the answer to a prompt for a profile."""


@dataclass(frozen=True)
class Entry:
    """A method as it is judged: its name in tables, the method, and the strength of its profiles; `None`: their own."""

    name: str
    method: str
    strength: float | None = None

    def served(self, profile: Profile) -> Profile:
        """The profile at this entry's strength."""
        return profile if self.strength is None else replace(profile, strength=self.strength)


@dataclass(frozen=True)
class Answered:
    """What every entry said, `texts_MPR`, and how good that was, `scores_MPRD`."""

    entries: tuple[Entry, ...]
    prompts: tuple[Prompt, ...]
    profiles: tuple[Profile, ...]
    dimensions: tuple[str, ...]
    texts_MPR: tuple[Texts, ...]
    scores_MPRD: np.ndarray


def requests_of(band: Band, plans: Sequence[Plan], prompts: Sequence[Prompt], sampling: Sampling) -> list[Request]:
    """Every prompt through every plan, plans changing fastest.

    A prompt's noise is the same for every plan, so that comparisons between plans are paired.
    """
    return [
        band.request(prompt, plan, replace(sampling, seed=sampling.seed + index))
        for index, prompt in enumerate(prompts)
        for plan in plans
    ]


def entry_requests(
    band: Band, entry: Entry, profiles: Sequence[Profile], prompts: Sequence[Prompt], sampling: Sampling
) -> list[Request]:
    """What one entry is asked. The base, which knows no profile, is asked once for all."""
    served = profiles[:1] if entry.method == "base" else profiles
    plans = [band.plan(entry.served(profile), entry.method) for profile in served]
    return requests_of(band, plans, prompts, sampling)


def usable_prompts(band: Band, plan: Plan, prompts: Sequence[Prompt], skip: bool) -> tuple[list[Prompt], list[str]]:
    """The prompts that a plan can answer, and what is wrong with the others: they leave no room for an answer, say.

    Raises CounterpointError for the first such prompt, unless these are to be skipped.
    """
    usable: list[Prompt] = []
    wrong: list[str] = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            band.request(prompt, plan, Sampling())
        except CounterpointError as error:
            said = prompt if isinstance(prompt, str) else prompt[-1].content
            wrong.append(f"prompt {number} ({said[:40]!r}): {error}")
        else:
            usable.append(prompt)
    if wrong and not skip:
        raise CounterpointError(f"{wrong[0]}; change it, or leave such prompts out with --skip-bad")
    return usable, wrong


def answer_entry(
    band: Band, requests: Sequence[Request], prompts: int, profiles: int, progress: Progress, work: Path | None = None
) -> Texts:
    """The answers to `entry_requests`; with `work`, what was said before a kill is read from there."""
    done = band.run(requests, progress) if work is None else run_in_parts(band, requests, work, progress)
    texts = [completion.text for completion in done]
    each = len(texts) // prompts
    return tuple(tuple(texts[start : start + each]) * (profiles // each) for start in range(0, len(texts), each))
