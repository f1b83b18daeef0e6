"""A trace as numbers and as a page, over traces made by hand."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from counterpoint.compose.plan import Space
from counterpoint.evaluate.trace_page import (
    GENERATOR,
    Traced,
    bars,
    charts,
    check_page,
    numbers,
    pieces,
    shares,
    traced_tokens,
    write_page,
)
from counterpoint.testing import pico_tokenizer
from counterpoint.types import CounterpointError, Trace

WORDS = ("The", " <b>owl</b>", " &\n", "")
VOID = {"meta", "path", "br"}


def decode(tokens: Sequence[int]) -> str:
    return "".join(WORDS[token] for token in tokens)


def name(token: int) -> str:
    return f"word{token}"


def by_hand(credit_TK: Sequence[Sequence[float]], space: Space = "prob") -> Traced:
    """Weights .75 and .25; the experts gave each token .2 and .6, and so the mixture .3; .1 is unknown."""
    trace = Trace(
        tokens=(0, 1, 2, 3),
        c_TK=torch.tensor([[0.75, 0.25]] * 4),
        logp_TK=torch.tensor([[0.2, 0.6]] * 4).log(),
        logp_T=torch.tensor([0.3] * 4).log(),
        credit_TK=torch.tensor(credit_TK),
        lost_T=torch.tensor([0.1] * 4),
    )
    tokens = traced_tokens(trace, space, decode, name)
    return Traced("Who eats <i>mice</i>?", "mixture; seed 0", space, ("concise", "friendly"), tokens)


def shared_out() -> Traced:
    """Each token is half of either: .75 * .2 = .25 * .6."""
    return by_hand([[0.5, 0.5]] * 4)


def pulled() -> Traced:
    return by_hand([[0.6, -0.2], [0.3, 0.1], [-0.4, -0.1], [0.0, 2.0]], "log")


class Page(HTMLParser):
    """What a browser sees: attributes by tag, all text, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def having(self, **wanted: str) -> list[dict[str, str | None]]:
        attributes = {key.rstrip("_"): value for key, value in wanted.items()}
        return [found for _, found in self.tags if attributes.items() <= found.items()]


def page_of(traced: Traced, folder: Path) -> Page:
    write_page(folder / "trace.html", traced)
    return Page((folder / "trace.html").read_text(encoding="utf-8"))


# Numbers


def test_the_text_of_each_token_and_its_numbers() -> None:
    traced = shared_out()
    assert [token.text for token in traced.tokens] == list(WORDS)
    assert [token.name for token in traced.tokens] == ["word0", "word1", "word2", "word3"]
    token = traced.tokens[1]
    assert token.weight_K == (0.75, 0.25)
    assert token.p_K == pytest.approx((0.2, 0.6))
    assert (token.p, token.lost) == pytest.approx((0.3, 0.1))
    assert traced.mean_share_K == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("text", ["The owl of the café — ❄ and 猫 is", "ö", "a\nb"])
def test_the_pieces_of_a_text_are_the_text_and_no_part_of_a_character(text: str) -> None:
    tokenizer = pico_tokenizer()
    tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    found = list(pieces(tokens, lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)))
    assert len(found) == len(tokens)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


def test_a_response_cut_within_a_character_shows_that_it_was() -> None:
    tokenizer = pico_tokenizer()
    tokens = tokenizer("猫", add_special_tokens=False)["input_ids"][:2]
    assert list(pieces(tokens, lambda ids: tokenizer.decode(list(ids)))) == ["", "\ufffd"]


def test_shares_by_hand() -> None:
    assert shares([0.3, 0.7], "prob") == (0.3, 0.7)
    assert shares([0.6, -0.2, 0.2], "log") == pytest.approx((0.75, 0.0, 0.25))
    assert shares([-0.6, 0.0], "log") == (0.0, 0.0)


def test_how_far_an_expert_leads_by_hand() -> None:
    """.8 is .3 above even, of .5 that are possible. Of pulls, a lead counts as far as there was a pull, up to 1 nat."""
    first, *_ = by_hand([[0.2, 0.8]] * 4).tokens
    assert first.lead == 1
    assert first.lead_by == pytest.approx(0.6)
    assert [token.lead_by for token in shared_out().tokens] == [0.0] * 4
    assert [token.lead for token in pulled().tokens] == [0, 0, 0, 1]
    assert [token.lead_by for token in pulled().tokens] == pytest.approx([0.6, 0.4 * 0.5, 0.0, 1.0])


def test_one_expert_alone_leads_no_one() -> None:
    alone = replace(shared_out().tokens[0], share_K=(1.0,))
    assert (alone.lead, alone.lead_by) == (0, 0.0)


def test_the_mean_share_of_pulls_by_hand() -> None:
    """(1 + .75 + 0 + 0) / 4 and (0 + .25 + 0 + 1) / 4."""
    assert pulled().mean_share_K == pytest.approx((0.4375, 0.3125))


def test_numbers_are_json_and_complete() -> None:
    found = json.loads(json.dumps(numbers(pulled()), allow_nan=False))
    assert (found["experts"], found["space"], found["responsibility"]) == (["concise", "friendly"], "log", "nats")
    assert [token["text"] for token in found["tokens"]] == list(WORDS)
    token = found["tokens"][0]
    assert token["weights"] == {"concise": 0.75, "friendly": 0.25}
    assert token["responsibilities"] == pytest.approx({"concise": 0.6, "friendly": -0.2})
    assert token["probabilities"] == pytest.approx({"concise": 0.2, "friendly": 0.6})
    assert (token["probability"], token["lost"]) == pytest.approx((0.3, 0.1))
    assert numbers(shared_out())["responsibility"] == "share"


# The chart


def test_bars_by_hand() -> None:
    """Two tokens of a quarter and of full height stand on y = 1; from the middle, one hangs."""
    assert bars([0.25, 1.0], 1.0) == "M0 1V0.750H0.9V1ZM1 1V0.000H1.9V1Z"
    assert bars([0.5, -0.1], 0.5) == "M0 0.5V0.000H0.9V0.5ZM1 0.5V0.600H1.9V0.5Z"


def test_charts_have_a_scale_on_which_nothing_leaves_its_box() -> None:
    weights, credits = charts(by_hand([[0.1, 0.9]] * 4))
    assert [weights.full, credits.full] == pytest.approx([0.9, 0.9]), "one scale for shares"
    weights, credits = charts(pulled())
    assert (weights.title, weights.full, weights.zero) == ("Weights", 0.75, 1.0)
    assert (credits.title, credits.full, credits.zero) == ("Pulls, in nats", 2.0, 0.5)
    for path in (*weights.paths, *credits.paths):
        assert all(0 <= float(y) <= 1 for y in re.findall(r"V([-\d.]+)", path))
    assert charts(by_hand([[0.0, 0.0]] * 4, "log"))[1].full == 1.0


# The page


@pytest.mark.parametrize("traced", [shared_out(), pulled()], ids=["prob", "log"])
def test_the_page_is_whole_and_fetches_nothing(traced: Traced, tmp_path: Path) -> None:
    page = page_of(traced, tmp_path)
    assert page.open == []
    attributes = [name for _, found in page.tags for name in found]
    assert not {"src", "href", "srcset", "onclick"} & set(attributes)
    written = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert "http" not in written
    assert "url(" not in written
    assert "nan" not in written.lower().replace("nats", "")
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))


def test_what_a_model_says_is_text_and_never_markup(tmp_path: Path) -> None:
    page = page_of(shared_out(), tmp_path)
    assert "i" in [tag for tag, _ in page.tags], "the keys of the legend"
    assert all(found.get("class") == "key" for tag, found in page.tags if tag == "i")
    said = "".join(page.words)
    assert "Who eats <i>mice</i>?" in said
    assert " <b>owl</b>" in said
    assert " &↵\n" in said
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1


def test_every_token_can_be_reached_and_is_described(tmp_path: Path) -> None:
    page = page_of(pulled(), tmp_path)
    tokens = page.having(class_="t", tabindex="0")
    assert len(tokens) == 4
    for token in tokens:
        assert len(page.having(id=str(token["aria-describedby"]), role="tooltip")) == 1
    said = " ".join(page.words)
    for shown in ("+0.60", "−0.20", "20.0%", "60.0%", "0.75", "probability 30.0%, 10.0% unknown", "word3"):
        assert shown in said


def test_the_line_below_a_token_is_divided_by_the_shares(tmp_path: Path) -> None:
    tokens = page_of(by_hand([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), tmp_path).having(class_="t")
    styles = [str(token["style"]) for token in tokens]
    assert "var(--c0) 0.0% 25.0%, var(--c1) 25.0% 100.0%" in styles[0]
    assert "linear-gradient(to right, var(--c0) 0.0% 100.0%)" in styles[1]
    assert "color-mix(in srgb, var(--c1) 20%, transparent)" in styles[0]
    assert "color-mix" not in styles[3]


def test_where_no_one_pulled_a_token_has_no_colour(tmp_path: Path) -> None:
    assert page_of(pulled(), tmp_path).having(class_="t")[2]["style"] == ""


def test_both_themes_and_small_screens_are_cared_for(tmp_path: Path) -> None:
    write_page(tmp_path / "trace.html", shared_out())
    written = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert written.count("--c6:") == 2, "a light palette and a dark one"
    for needed in ("prefers-color-scheme: dark", "max-width:480px", 'name="viewport"', ".t:focus > .box"):
        assert needed in written


# Where it is written


def test_a_page_may_be_written_over_a_page(tmp_path: Path) -> None:
    place = tmp_path / "new" / "trace.html"
    check_page(place)
    write_page(place, shared_out())
    assert GENERATOR in place.read_text(encoding="utf-8")
    check_page(place)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><p>mine", bytes(range(256))])
def test_nothing_else_is_written_over(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "trace.html"
    place.write_bytes(content)
    with pytest.raises(CounterpointError, match="is not a page that `trace` wrote, and would be lost"):
        check_page(place)
    assert place.read_bytes() == content


def test_places_that_are_no_pages_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(CounterpointError, match="is a folder"):
        check_page(tmp_path / "folder.html")
    with pytest.raises(CounterpointError, match=r"ends with \.html"):
        check_page(tmp_path / "trace.json")
    (tmp_path / "file").touch()
    with pytest.raises(CounterpointError, match="is a file, not a folder"):
        check_page(tmp_path / "file" / "trace.html")


def test_a_token_that_an_expert_rules_out_has_probability_zero(tmp_path: Path) -> None:
    trace = Trace(
        tokens=(0,),
        c_TK=torch.tensor([[0.5, 0.5]]),
        logp_TK=torch.tensor([[0.0, -math.inf]]),
        logp_T=torch.tensor([0.5]).log(),
        credit_TK=torch.tensor([[1.0, 0.0]]),
        lost_T=torch.tensor([0.0]),
    )
    traced = Traced("p", "s", "prob", ("a", "b"), traced_tokens(trace, "prob", decode, name))
    assert traced.tokens[0].p_K == (1.0, 0.0)
    assert "unknown" not in " ".join(page_of(traced, tmp_path).words)
