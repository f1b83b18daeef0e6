"""From samples to labelled comparisons, with a labeller whose every answer is known."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from counterpoint.build.label import ByReward, Tally, find_pairs, label, to_ask, write_labelled
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.pair_types import KINDS
from counterpoint.data.samples import Sample
from counterpoint.rewards.rules import Rewards, parse_rule
from counterpoint.testing import LetterReward
from counterpoint.types import Comparison, CounterpointError, Dimension, Message, Prompt, Question, Verdict

CONCISE, WORDY = Dimension("concise", axis="detail"), Dimension("wordy", axis="detail")
TABLE = [CONCISE, WORDY]


def sample(prompt: Prompt, response: str, *asked: str) -> Sample:
    return Sample(prompt, asked, response, 0, True, 0)


SAMPLES = [
    sample("p", "n n"), sample("p", "n n n"),
    sample("p", "c c", "concise"), sample("p", "c", "concise"),
    sample("p", "w w w w", "wordy"), sample("p", "w", "wordy"),
]  # fmt: skip


class Scripted:
    """Answers in turn, and remembers what it was asked."""

    def __init__(self, *verdicts: Verdict | None) -> None:
        self.verdicts = verdicts
        self.asked: list[Question] = []

    def compare(
        self, questions: Sequence[Question], forced: bool, progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict | None]:
        assert forced
        self.asked += questions
        return list(self.verdicts)


def test_by_a_rule_by_hand() -> None:
    """Fewer words are more concise. Asked for: 'c c' against 'c'. Known: c c > n n (a tie to the rule), c > n n n;
    c c > w w w w, c > w (a tie); n n > w w w w, n n n > w (wrong by the rule)."""
    pairs = find_pairs(SAMPLES, [CONCISE], KINDS, TABLE)
    found = label(pairs, ByReward([parse_rule("concise=-length")[1]]), check=True)
    assert [(row.kind, row.comparison.chosen, row.comparison.rejected) for row in found.rows] == [
        ("same", "c", "c c"), ("neutral", "c c", "n n"), ("neutral", "c", "n n n"),
        ("opposite", "c c", "w w w w"), ("opposite", "c", "w"),
        ("neutral-opposite", "n n", "w w w w"), ("neutral-opposite", "n n n", "w"),
    ]  # fmt: skip
    assert found.tallies == (
        Tally("concise", "same", pairs=1, kept=1),
        Tally("concise", "neutral", pairs=2, kept=2, checked=2),
        Tally("concise", "opposite", pairs=2, kept=2, checked=2),
        Tally("concise", "neutral-opposite", pairs=2, kept=2, checked=2, against=1),
    )


@pytest.mark.parametrize(
    ("verdict", "chosen", "tally"),
    [
        (1, ["c c"], Tally("concise", "same", pairs=1, kept=1)),
        (-1, ["c"], Tally("concise", "same", pairs=1, kept=1)),
        (0, [], Tally("concise", "same", pairs=1, ties=1)),
        (None, [], Tally("concise", "same", pairs=1, unanswered=1)),
    ],
)
def test_every_verdict_of_a_judge(verdict: Verdict | None, chosen: list[str], tally: Tally) -> None:
    judge = Scripted(verdict)
    found = label(find_pairs(SAMPLES, [CONCISE], ["same"], TABLE), judge)
    assert judge.asked == [Question("p", "c c", "c", CONCISE)]
    assert [row.comparison.chosen for row in found.rows] == chosen
    assert found.tallies == (tally,)


def test_what_is_known_by_construction_is_not_asked() -> None:
    pairs = find_pairs(SAMPLES, TABLE, ["neutral", "opposite"], TABLE)
    assert to_ask(pairs, check=False) == []
    assert len(label(pairs, None).rows) == 8
    assert len(to_ask(pairs, check=True)) == 8
    with pytest.raises(CounterpointError, match="8 pairs need a label, and neither a --reward nor a --judge is named"):
        label(pairs, None, check=True)


def test_empty_and_equal_responses_are_counted_and_never_asked_about() -> None:
    samples = [sample("p", "", "concise"), sample("p", "c", "concise"), sample("p", "n"), sample("p", "c ")]
    judge = Scripted()
    found = label(find_pairs(samples, [CONCISE], ["same", "neutral"], TABLE), judge, check=True)
    assert judge.asked == []
    assert found.rows == ()
    assert [(t.kind, t.pairs, t.unusable) for t in found.tallies] == [("same", 1, 1), ("neutral", 2, 2)]


def test_each_preference_is_labelled_by_its_own_reward() -> None:
    samples = [sample("p", "aab", "x"), sample("p", "bb", "x"), sample("p", "aab", "y"), sample("p", "bb", "y")]
    rewards = ByReward([LetterReward("a", "x"), LetterReward("b", "y")])
    done: list[tuple[int, int]] = []
    pairs = find_pairs(samples, [Dimension("x"), Dimension("y")], ["same"], [])
    found = label(pairs, rewards, progress=lambda *said: done.append(said))
    assert [(row.comparison.dimension, row.comparison.chosen) for row in found.rows] == [("x", "aab"), ("y", "bb")]
    assert label(pairs, ByReward([Rewards(rewards.parts)])) == found, "one reward of both"
    assert done[-1] == (4, 4)
    with pytest.raises(CounterpointError, match=r"no reward labels the preference 'concise'; there are .* x, y"):
        rewards.compare([Question("p", "a", "b", CONCISE)], forced=True)


def test_a_preference_without_pairs_is_named() -> None:
    with pytest.raises(CounterpointError, match=r"'loud': the samples make no pairs.*nothing, concise, wordy"):
        find_pairs(SAMPLES, [CONCISE, Dimension("loud")], KINDS, TABLE)


def test_what_is_written_is_read_as_comparisons_with_their_kind(tmp_path: Path) -> None:
    talk = (Message("user", "Hi"),)
    samples = [*SAMPLES, sample(talk, "long one", "concise"), sample(talk, "one", "concise")]
    found = label(find_pairs(samples, [CONCISE], KINDS, TABLE), ByReward([parse_rule("concise=-length")[1]]))
    write_labelled(tmp_path / "c.jsonl", found.rows)
    read = read_comparisons(tmp_path / "c.jsonl")
    assert list(read.comparisons) == [row.comparison for row in found.rows]
    assert [rest["kind"] for rest in read.rest] == [row.kind for row in found.rows]
    assert Comparison(talk, "one", "long one", "concise") in read.comparisons
