import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from counterpoint.evaluate.adherence import adherence
from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.evaluate.claims import make_claim
from counterpoint.evaluate.compare import Standings, compare
from counterpoint.evaluate.pareto import hypervolume_interval
from counterpoint.evaluate.report import (
    Dose,
    Report,
    RewardModel,
    Sample,
    Stage,
    Sweep,
    TradeOff,
    heat,
    number,
    percent,
    seconds,
    summary,
    write_report,
)
from counterpoint.evaluate.text import text_stats
from counterpoint.types import CounterpointError

METHODS = ("base", "prompted", "soup", "moe", "mixture-prob", "mixture-log", "mope", "best-expert")
DIMENSIONS = ("concise", "detailed", "friendly", "neutral", "expert", "elementary")
PROFILES = tuple(f"{a}, {b}, {c}" for a in DIMENSIONS[:2] for b in DIMENSIONS[2:4] for c in DIMENSIONS[4:])
LEVEL = np.array([0, 0.5, 0.75, 0.78, 0.45, 0.72, 0.93, 0.4])
OPTIONAL = ("claims", "text", "trade_off", "sweeps", "doses", "reward_models", "samples", "notes")
HEADINGS = {
    "claims": "Claims",
    "text": "how does it read",
    "trade_off": "Trade-off",
    "sweeps": "How strongly",
    "doses": "Does more weight",
    "reward_models": "Can the scores be trusted",
    "samples": "Side by side",
    "notes": "Notes",
}


def random_report(seed: int = 0, prompts: int = 60) -> Report:
    """A report with every part, from random scores around plausible levels."""
    generator = np.random.default_rng(seed)
    selected = np.array([[name in profile.split(", ") for name in DIMENSIONS] for profile in PROFILES])
    shape = (len(METHODS), prompts, len(PROFILES), len(DIMENSIONS))
    scores = generator.normal(0, 0.8, size=shape) + (LEVEL[:, None, None, None] + 0.2) * np.where(selected, 1, -0.6)
    scores += generator.normal(0, 0.3, size=(1, prompts, 1, 1))
    table = compare(
        scores,
        selected,
        np.full(len(DIMENSIONS), 0.1),
        methods=METHODS,
        profiles=PROFILES,
        dimensions=DIMENSIONS,
        seed=seed,
        correct_MPR=generator.uniform(size=shape[:3]) > 0.04,
        resamples=300,
    )
    strengths = (0.25, 0.5, 1.0, 1.5, 2.0)
    return Report(
        title="Six experts & eight profiles",
        about="Small models answer questions about an invented world, in the style that each person asked for.",
        standings=table,
        stages=(Stage("base model", 75.2), Stage("experts", 28.4), Stage("answers", 35.1)),
        claims=(
            make_claim(
                "mope earns more reward than soup",
                metric="reward",
                a="mope",
                b="soup",
                difference=table.reward_difference_MM[6][2] or Interval(0, 0, 0),
                prompts=prompts,
                seeds=[0],
                command="counterpoint demo",
                seconds=200,
            ),
            make_claim(
                "moe earns more reward than soup",
                metric="reward",
                a="moe",
                b="soup",
                difference=Interval(0.01, -0.03, 0.05),
                prompts=prompts,
                seeds=[0],
                command="counterpoint demo",
                seconds=200,
            ),
        ),
        text={method: text_stats(["a lake is a lake", "the hill", ""]) for method in METHODS},
        trade_off=TradeOff(
            "concise",
            "friendly",
            {
                method: tuple(
                    (float(scores[m, :, r, 0].mean()), float(scores[m, :, r, 2].mean())) for r in (0, 2, 4, 6)
                )
                for m, method in enumerate(METHODS)
            },
            {
                method: hypervolume_interval(
                    scores[m][:, (0, 2, 4, 6)][..., (0, 2)].swapaxes(0, 1), (-2, -2), seed=seed, resamples=50
                )
                for m, method in enumerate(METHODS)
            },
            (-2.0, -2.0),
        ),
        sweeps=tuple(
            Sweep(
                method,
                strengths,
                tuple(
                    mean_interval(LEVEL[m] * (s - s * s / 3) + generator.normal(0, 0.3, size=60), seed=0, resamples=50)
                    for s in strengths
                ),
                chosen=1.5 if m % 2 else 1.0,
            )
            for m, method in enumerate(METHODS[2:], start=2)
        ),
        doses=(
            Dose("soup", "concise", adherence((0, 1, 2), np.arange(3)[:, None] + generator.normal(size=30), seed=0)),
            Dose("base", "concise", adherence((0, 1, 2), np.ones((3, 30)), seed=0)),
        ),
        reward_models=tuple(
            RewardModel(name, Interval(0.93, 0.9, 0.95), {"length": Interval(0.6, 0.55, 0.65)}, 300)
            for name in DIMENSIONS
        ),
        samples=(
            Sample(
                "Where is the lake <Orrin>?",
                PROFILES[0],
                {
                    method: ""
                    if method == "base"
                    else "It lies <b>north</b> & far. <script>alert(1)</script> " * (m % 3 + 1)
                    for m, method in enumerate(METHODS)
                },
                {method: float(LEVEL[m]) for m, method in enumerate(METHODS)},
            ),
        ),
        notes=("One training seed.", "Prompting works only where the training text holds requests."),
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return random_report()


@pytest.fixture(scope="module")
def html(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, report)
    return path.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags that are open, to see that every one is closed; ids; and attributes that fetch."""

    VOID = ("meta", "input", "br", "hr", "img", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action") and not (value or "").startswith("#"):
                self.fetched.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def test_the_page_is_whole_and_fetches_nothing(html: str) -> None:
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    assert outline.fetched == []
    assert not {"script", "link", "img", "iframe"} & set(outline.tags)
    assert "http://" not in html
    assert "https://" not in html
    assert "url(http" not in html
    assert "@import" not in html


def test_headings_and_choices_have_ids_of_their_own(html: str) -> None:
    own = re.findall(r'<(?:h2|input)[^>]* id="([^"]*)"', html)
    assert len(own) == len(set(own)) > len(METHODS)
    assert set(re.findall(r'aria-labelledby="([^"]*)"', html)) <= set(own)
    assert set(re.findall(r'<label for="([^"]*)"', html)) <= set(own)


def test_texts_are_escaped(html: str) -> None:
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&lt;Orrin&gt;" in html
    assert "<title>Six experts &amp; eight profiles</title>" in html


def test_figures_have_names_and_take_the_colours_of_the_page(html: str) -> None:
    figures = re.findall(r"<svg[^>]*>", html)
    assert len(figures) == 3 + len(METHODS) - 2
    assert all('role="img"' in figure and "aria-label=" in figure for figure in figures)
    assert "#0a0a" not in html
    assert "#0a0b" not in html
    assert "var(--c0)" in html
    assert "<metadata" not in html


def test_tables_have_captions_and_header_cells(html: str) -> None:
    assert html.count("<table") == html.count("<caption>")
    assert all("scope=" in cell for cell in re.findall(r"<th\b[^>]*>", html))


def table_of(report: Report) -> Standings:
    assert report.standings is not None
    return report.standings


@pytest.mark.parametrize("part", OPTIONAL)
def test_a_missing_part_leaves_its_section_out(part: str, report: Report, html: str, tmp_path: Path) -> None:
    assert HEADINGS[part] in html
    without = dataclasses.replace(report, **{part: None})  # type: ignore[arg-type]
    if part == "text":
        without = dataclasses.replace(
            without, standings=dataclasses.replace(table_of(report), correctness_M=None, correctness_MR=None)
        )
    write_report(tmp_path / "report.html", without)
    assert HEADINGS[part] not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_smallest_report(report: Report, tmp_path: Path) -> None:
    table = compare(
        np.zeros((2, 2, 1, 1)),
        [[1]],
        [0.0],
        methods=("a", "b"),
        profiles=("p",),
        dimensions=("d",),
        seed=0,
        resamples=10,
    )
    write_report(tmp_path / "report.html", Report("Nothing", table, ()))
    assert "cannot tell them apart" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_same_report_gives_the_same_bytes(report: Report, html: str, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


def test_the_lead_is_named_with_its_interval(report: Report, html: str) -> None:
    lead = table_of(report).reward_difference_MM[6][3]
    assert lead is not None
    assert "<b>mope</b> has the highest reward" in html
    assert f"{number(lead.value)} ({number(lead.low)} to {number(lead.high)})" in html


def test_half_a_part_is_refused(report: Report, tmp_path: Path) -> None:
    assert report.sweeps
    assert report.trade_off
    sweep = dataclasses.replace(report.sweeps[0], chosen=3.0)
    with pytest.raises(CounterpointError, match="soup: strength 3 was chosen but not among those tried"):
        write_report(tmp_path / "report.html", dataclasses.replace(report, sweeps=(sweep,)))
    trade_off = dataclasses.replace(report.trade_off, reference=None)
    with pytest.raises(CounterpointError, match="needs its reference point"):
        write_report(tmp_path / "report.html", dataclasses.replace(report, trade_off=trade_off))
    assert not (tmp_path / "report.html").exists()


def test_evaluation_needs_no_torch() -> None:
    code = "import sys, counterpoint.evaluate.report, counterpoint.evaluate.ranking; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_summary_is_json_and_agrees_with_the_table(report: Report) -> None:
    plain = json.loads(json.dumps(summary(report), allow_nan=False))
    assert plain["seconds"] == pytest.approx(75.2 + 28.4 + 35.1)
    assert plain["stages"][0] == {"name": "base model", "seconds": 75.2}
    assert list(plain["methods"]) == list(METHODS)
    assert plain["methods"]["mope"]["reward"] == table_of(report).reward_M[6].to_dict()
    assert set(plain["methods"]["mope"]["by_profile"]) == set(PROFILES)
    assert set(plain["methods"]["mope"]["by_profile"][PROFILES[0]]["average_win_rate"]) == {"value", "low", "high"}


def test_summary_without_correctness(report: Report) -> None:
    table = dataclasses.replace(table_of(report), correctness_M=None, correctness_MR=None)
    assert summary(dataclasses.replace(report, standings=table))["methods"]["base"]["correctness"] is None


def test_numbers_as_a_reader_sees_them() -> None:
    assert [number(-0.254), number(-0.001), number(None), number(3.14159, 1)] == ["−0.25", "0.00", "–", "3.1"]
    assert [percent(0.505, 1), percent(None), percent(1.0)] == ["50.5%", "–", "100%"]
    assert [seconds(5.04), seconds(200)] == ["5.0 s", "3 min 20 s"]
    assert heat(-2.0) == "background:rgb(var(--down)/0.50)"
