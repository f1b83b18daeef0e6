"""From samples to comparisons: pairs of four kinds, labelled by rules, reward models or a judge, or by construction."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from counterpoint.artifacts import write_text
from counterpoint.data.pair_types import Kind, TypedPair, pairs_of
from counterpoint.data.preferences import opposites_of
from counterpoint.data.responses import prompt_column
from counterpoint.data.samples import Sample
from counterpoint.rewards.load import one_of
from counterpoint.rewards.scorer import Scorer
from counterpoint.types import Comparison, CounterpointError, Dimension, Prompt, Question, RewardFn, Verdict

Progress = Callable[[int, int], None]


class Labeller(Protocol):
    """Who says which response has more of a dimension: `rewards.judge.LLMJudge`, or `ByReward`."""

    def compare(
        self, questions: Sequence[Question], forced: bool, progress: Progress | None = None
    ) -> list[Verdict | None]:
        """A verdict per question, `None` where there is none; with `forced` a judge may not call a tie by itself."""
        ...


@dataclass(frozen=True)
class ByReward:
    """Rewards as a labeller: the response that scores higher on the question's dimension; equal scores are a tie."""

    parts: Sequence[RewardFn]

    def compare(
        self, questions: Sequence[Question], forced: bool, progress: Progress | None = None
    ) -> list[Verdict | None]:
        """Raises CounterpointError for a dimension that the reward does not score."""
        verdicts: dict[int, Verdict] = {}
        for name in dict.fromkeys(question.dimension.name for question in questions):
            own = [index for index, question in enumerate(questions) if question.dimension.name == name]
            scorer = Scorer(self._on(name), progress, 2 * len(questions))
            scorer.done = 2 * len(verdicts)
            verdicts |= dict(zip(own, _signs(scorer, [questions[index] for index in own]), strict=True))
        return [verdicts[index] for index in range(len(questions))]

    def _on(self, name: str) -> RewardFn:
        part = next((part for part in self.parts if name in part.dimensions), None)
        if part is None:
            known = [known for part in self.parts for known in part.dimensions]
            raise CounterpointError(
                f"no reward labels the preference {name!r}; there are rewards for {', '.join(known)}"
            )
        return one_of(part, name, name)


def _signs(reward: RewardFn, questions: Sequence[Question]) -> list[Verdict]:
    prompts = [question.prompt for question in questions]
    first_N = reward(prompts, [question.first for question in questions])[:, 0]
    second_N = reward(prompts, [question.second for question in questions])[:, 0]
    return [1 if gap > 0 else -1 if gap < 0 else 0 for gap in first_N - second_N]


@dataclass(frozen=True)
class Labelled:
    """A comparison and the kind of pair that it came of."""

    comparison: Comparison
    kind: Kind


@dataclass
class Tally:
    """What became of a preference's pairs of one kind.

    `unusable`: a response is empty, or both are the same. `ties` and `unanswered`, which have no verdict, were left out
    of what was labelled; of pairs known by construction that were `checked`, which are kept all the same, the labeller
    found `against` the other way round.
    """

    dimension: str
    kind: Kind
    pairs: int = 0
    unusable: int = 0
    kept: int = 0
    ties: int = 0
    unanswered: int = 0
    checked: int = 0
    against: int = 0


@dataclass(frozen=True)
class LabelledPairs:
    """What `label` gives; `rows` are ready for `write_labelled`."""

    rows: tuple[Labelled, ...]
    tallies: tuple[Tally, ...]


def find_pairs(
    samples: Sequence[Sample], preferences: Sequence[Dimension], kinds: Sequence[Kind], table: Sequence[Dimension]
) -> list[TypedPair]:
    """The pairs of samples on each preference; a preference's opposites are looked up in the whole `table`.

    Raises CounterpointError for a preference on which there is none.
    """
    found: list[TypedPair] = []
    for preference in preferences:
        own = pairs_of(samples, preference, opposites_of(preference, table), kinds)
        if not own:
            asked = dict.fromkeys("+".join(sample.asked) or "nothing" for sample in samples)
            raise CounterpointError(
                f"preference {preference.name!r}: the samples make no pairs of the kinds {', '.join(kinds)}; they were "
                f"asked for {', '.join(asked)}; sample more, or leave the preference out"
            )
        found += own
    return found


def to_ask(pairs: Sequence[TypedPair], check: bool) -> list[Question]:
    """What a labeller is asked: pairs that are not known by construction, and with `check` those too."""
    return [pair.question for pair in pairs if _is_asked(pair, check)]


def label(
    pairs: Sequence[TypedPair], labeller: Labeller | None, check: bool = False, progress: Progress | None = None
) -> LabelledPairs:
    """Label the pairs that are not known by construction; with `check` count how often the labeller is against those.

    Raises CounterpointError where there is something to ask and no labeller.
    """
    questions = to_ask(pairs, check)
    if questions and labeller is None:
        raise CounterpointError(
            f"{len(questions)} pairs need a label, and neither a --reward nor a --judge is named; name one, or leave "
            "out --check, and from --pairs the kind 'same': the other kinds are known by construction"
        )
    said = iter(labeller.compare(questions, forced=True, progress=progress) if labeller and questions else [])
    tallies: dict[tuple[str, Kind], Tally] = {}
    rows = []
    for pair in pairs:
        name = pair.question.dimension.name
        tally = tallies.setdefault((name, pair.kind), Tally(name, pair.kind))
        was_asked = _is_asked(pair, check)
        verdict = _counted(pair, next(said) if was_asked else None, was_asked, tally)
        if verdict:
            rows.append(Labelled(_comparison(pair.question, verdict), pair.kind))
    return LabelledPairs(tuple(rows), tuple(tallies.values()))


def _is_asked(pair: TypedPair, check: bool) -> bool:
    return pair.usable and (check or not pair.by_construction)


def _counted(pair: TypedPair, said: Verdict | None, was_asked: bool, tally: Tally) -> Verdict | None:
    """The verdict that a pair is kept with, or none; what became of it is counted."""
    tally.pairs += 1
    if not pair.usable:
        tally.unusable += 1
        return None
    if pair.by_construction:
        tally.checked += was_asked
        tally.against += said == -1
    else:
        tally.unanswered += said is None
        tally.ties += said == 0
    verdict: Verdict | None = 1 if pair.by_construction else said
    tally.kept += bool(verdict)
    return verdict


def _comparison(question: Question, verdict: Verdict) -> Comparison:
    first, second = question.first, question.second
    better, worse = (first, second) if verdict > 0 else (second, first)
    return Comparison(question.prompt, better, worse, question.dimension.name)


def write_labelled(path: Path, rows: Sequence[Labelled]) -> None:
    """Write comparisons with the `kind` of each as JSON lines, atomically; `data.comparisons` reads them."""
    write_text(path, "".join(json.dumps(_row(row), ensure_ascii=False) + "\n" for row in rows))


def _row(row: Labelled) -> Mapping[str, Any]:
    prompt: Prompt = row.comparison.prompt
    return {**vars(row.comparison), "prompt": prompt_column(prompt), "kind": row.kind}
