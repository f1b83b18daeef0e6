"""The page of an evaluation by a judge: its numbers are there, with and without rewards beside them."""

import dataclasses
import re
from pathlib import Path

import pytest

from counterpoint.evaluate.judged import Judged, gather, judge_methods
from counterpoint.evaluate.report import Report, Stage, page, summary, write_picture, write_report
from counterpoint.rewards.judge_report import JudgeReport
from counterpoint.types import CounterpointError, Verdict

ACCOUNT = JudgeReport(
    questions=8, calls=14, asked=12, kept=2, refused=1, unparsed=1, cut=1, unanswered=2, tokens_in=12345,
    tokens_out=67, ordered=6, to_first=2, to_second=1,
)  # fmt: skip


def judged() -> Judged:
    """soup beats base on three of four prompts, of which the last is not known on the general criterion."""
    places = [(0, 1, p, 0, c) for p in range(4) for c in range(2)]
    given: list[Verdict | None] = [-1, 0, -1, 0, -1, 0, 1, None]
    votes = gather(places, given, (2, 4, 1, 2))
    return judge_methods(
        votes, [[True]], methods=["base", "soup<b>"], profiles=["terse=1"], criteria=["terse"], seed=0, general=True
    )


@pytest.fixture
def report() -> Report:
    told = {"model": "judge-<1>", **ACCOUNT.to_dict(1.0, 10.0)}
    return Report("Title", None, (Stage("verdicts", 2.0),), judged=judged(), judge=told)


def text_of(report: Report, tmp_path: Path) -> str:
    file = tmp_path / "report.html"
    write_report(file, report)
    return " ".join(re.sub(r"<[^>]*>", " ", file.read_text(encoding="utf-8").split("</style>")[1]).split())


def test_what_the_judge_says_and_what_it_is_worth(report: Report, tmp_path: Path) -> None:
    """Cost: (12345 * 1 + 67 * 10) / 1e6 = 0.013; 3 of 6 pairs went by the position."""
    text = text_of(report, tmp_path)
    for part in (
        "judge-&lt;1&gt;", "8 questions, 14 calls: 12 replies paid for in this run, 2 known from before",
        "12,345 tokens", "0.01 at the prices given", "1 calls refused, 0 not taken by the server, 1 never readable",
        "2 questions have no verdict",
        "50.0% of 6 pairs: 2 times for the answer shown first, 1 times", "soup&lt;b&gt; 75%", "base 25%", "3 / 0 / 1",
        "general quality",
    ):  # fmt: skip
        assert part in text
    assert "Asked the same again" not in text
    assert "Who does best" not in text


def test_methods_are_in_the_order_of_their_average(report: Report) -> None:
    assert page(report)["by_verdicts"] == [1, 0]


def test_noise_is_told_where_it_was_measured(report: Report, tmp_path: Path) -> None:
    assert report.judge is not None
    noisy = dataclasses.replace(report, judge={**report.judge, "noise": 0.125})
    assert "said otherwise in 12.5% of cases" in text_of(noisy, tmp_path)


def test_without_rewards_there_is_no_figure_of_them(report: Report, tmp_path: Path) -> None:
    assert set(summary(report)) == {"seconds", "stages"}
    with pytest.raises(CounterpointError, match="the figure is of rewards"):
        write_picture(tmp_path / "figure.svg", report)


def test_verdicts_without_the_judges_account_are_refused(report: Report) -> None:
    with pytest.raises(CounterpointError, match="need the judge's account"):
        page(dataclasses.replace(report, judge=None))
