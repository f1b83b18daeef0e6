"""The page in a real browser: what a person can do with it, by pointer and by keyboard, on a desk and on a phone."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from counterpoint.models.band_file import read_band, write_band
from counterpoint.profiles.sentence import Heard, Reading
from counterpoint.serve.keys import Keys
from counterpoint.serve.measured import BESIDE
from counterpoint.types import Profile, Prompt

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the page is tested with")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium, which the page is tested in")

Page = Any
Serve = Callable[..., AbstractContextManager[Any]]

SCORES = {
    "terse": {"terse": 1.0, "warm": -1.0, "exact": 0.0},
    "warm": {"terse": -1.0, "warm": 2.0, "exact": 0.5},
    "exact": {"terse": 0.25, "warm": 0.0, "exact": 1.0},
}
"""Mean rewards of the experts, by dimension."""


@pytest.fixture(scope="module")
def folder(band_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico band with measured scores, two poles of one axis, and a cap."""
    folder = tmp_path_factory.mktemp("page") / "band"
    shutil.copytree(band_folder, folder)
    file = read_band(folder)
    for expert in file.experts:
        expert.scores = SCORES[expert.name]
    file.dimensions[0].axis = file.dimensions[1].axis = "tone"
    file.bounds = {"exact": (0.0, 0.5)}
    file.strengths = {"soup": 2.0, "mixture-prob": 1.0}
    write_band(folder, file)
    (folder.parent / BESIDE).write_text(
        '{"method": "soup", "strength": 2, "profile": "terse=1", "scores": {"terse": 0.5, "warm": -0.25}}\n'
    )
    return folder


class ByLetter:
    """Scores that can be worked out by hand, and that no two texts share by chance."""

    dimensions = ("terse", "warm")

    def scores(self, prompt: Prompt, responses: Sequence[str]) -> list[dict[str, float]]:
        return [{"terse": -float(sum(map(ord, one))), "warm": float(sum(map(str.isalpha, one)))} for one in responses]


@pytest.fixture(scope="module")
def place(serve: Serve, folder: Path) -> Iterator[Any]:
    """A server whose answers end when their tokens are spent, and not before."""
    with serve(folder=folder) as running:
        running.band.engine.end_tokens = frozenset()
        running.state.scorers = running.state.learner.scorers = ByLetter()
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def errors() -> list[str]:
    """What a page wrote on the console; a test that provokes a refusal takes the browser's word of it out."""
    return []


@pytest.fixture
def open_page(browser: Any, errors: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens a page that is ready; whatever it writes on the console fails the test."""
    contexts = []

    def opened(url: str, width: int = 1280, **options: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 450}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: errors.append(said.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(open_page: Callable[..., Page], place: Any) -> Page:
    return ready(open_page(place.url))


def ready(page: Page) -> Page:
    page.wait_for_selector("body[data-ready]")
    return page


def slide(page: Page, selector: str, value: float) -> None:
    page.locator(selector).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )


def send(page: Page, prompt: str, tokens: int = 8) -> None:
    page.fill("#max-tokens", str(tokens))
    page.fill("#prompt", prompt)
    page.click("#send")


def ended(page: Page, answers: int = 1) -> list[str]:
    """The texts of the answers, once all have come to an end."""
    page.wait_for_selector(".answer[aria-busy=true]", state="detached")
    texts: list[str] = page.locator(".said").all_inner_texts()
    assert len(texts) == answers
    return texts


def refused(errors: list[str], status: int) -> None:
    """Take out what the browser itself says of a reply of this status, and nothing else."""
    said = f"Failed to load resource: the server responded with a status of {status}"
    assert errors
    assert all(error.startswith(said) for error in errors), errors
    errors.clear()


def test_nothing_is_fetched_from_elsewhere_and_nothing_inline_runs(page: Page, place: Any) -> None:
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    policy = page.reload().headers["content-security-policy"]
    page.locator("#picture").scroll_into_view_if_needed()
    page.wait_for_selector("#picture .main-svg")
    assert any("plotly" in url for url in fetched)
    assert all(url.startswith(place.url) for url in fetched)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_only_the_page_s_own_files_are_given_out(place: Any) -> None:
    assert place.http.get("/static/style.css").headers["content-type"].startswith("text/css")
    for name in ("playground.py", "..%2Fplayground.py", "%2Fetc%2Fpasswd", ""):
        assert place.http.get(f"/static/{name}").status_code == 404


def test_every_control_reaches_the_request(page: Page) -> None:
    page.select_option("#method", "mixture-prob")
    slide(page, "#weight-terse", 0.25)
    slide(page, "#weight-warm", 1)
    slide(page, "#weight-exact", 0)
    slide(page, "#strength", 0.5)
    slide(page, "#temperature", 0.7)
    page.fill("#seed", "5")
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, "hello", tokens=3)
    asked = json.loads(sent.value.post_data)
    assert asked == {
        "model": "mixture-prob:terse=0.25,warm=1,strength=0.5",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.7, "max_tokens": 3, "seed": 5, "stream": True, "trace": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert page.inner_text("#model") == asked["model"]
    ended(page)
    assert "seed 5" in page.inner_text(".facts")
    assert "every token has the same shares" not in page.inner_text(".facts")
    assert "terse 0.1, warm 0.4" in page.inner_text(".facts")  # 0.5 * (0.25, 1) / 1.25


def test_the_controls_start_as_the_band_was_vetted(page: Page) -> None:
    assert page.input_value("#method") == "soup"
    assert page.input_value("#strength") == "2"
    page.select_option("#method", "mixture-prob")
    assert page.input_value("#strength") == "1"
    slide(page, "#strength", 0.3)
    page.select_option("#method", "soup")
    assert page.input_value("#strength") == "0.3", "a strength that a person chose stays"
    assert page.inner_text("fieldset legend") == "tone"
    assert page.locator("fieldset .weight").count() == 2
    assert "Held to 0 to 0.5 by the operator" in page.inner_text("#weight-exact-help")


def test_the_server_s_default_profile_is_on_the_sliders(open_page: Callable[..., Page], serve: Serve) -> None:
    with serve(profile="warm=0.75, strength=1.25", method="moe") as server:
        page = ready(open_page(server.url))
        assert page.inner_text("#model") == "moe:warm=0.75,strength=1.25"


def test_methods_that_the_band_lacks_cannot_be_chosen_and_say_why(page: Page) -> None:
    assert page.locator("#method option[value=mope]").is_disabled()
    page.click("#unavailable summary")
    assert "this band has no controller" in page.inner_text("#unavailable")


def test_a_developer_can_copy_the_request(page: Page, place: Any) -> None:
    page.fill("#prompt", "it's")
    page.click("text=Python (openai)")
    page.click("text=curl >> nth=0")
    assert f"{place.url}/v1" in page.inner_text("#python")
    assert page.inner_text("#model") in page.inner_text("#python")
    assert "it'\\''s" in page.inner_text("#curl")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-model")
    page.wait_for_selector("#copied:has-text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#model")


WATCH = """() => {
  window.lengths = [];
  const look = () => {
    const busy = document.querySelector(".answer[aria-busy=true] .said");
    if (busy) window.lengths.push(busy.textContent.length);
  };
  new MutationObserver(look).observe(document.getElementById("answers"), { childList: true, subtree: true });
}"""
"""Notes how long the text of an answer under way is whenever it changes."""


def test_text_grows_before_it_ends_and_is_what_the_server_says(page: Page, place: Any) -> None:
    page.fill("#seed", "3")
    page.evaluate(WATCH)
    send(page, "hello", tokens=300)
    ended(page)
    lengths = page.evaluate("lengths")
    assert len(set(lengths)) >= 3
    assert lengths == sorted(lengths)
    asked = {
        "model": page.inner_text("#model"),
        "seed": 3,
        "max_tokens": 300,
        "messages": [{"role": "user", "content": "hello"}],
    }
    whole = place.http.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
    assert said(page) == whole


def test_tokens_have_the_colours_and_words_of_their_experts(page: Page) -> None:
    page.select_option("#method", "mixture-prob")
    slide(page, "#weight-terse", 0.5)
    slide(page, "#weight-warm", 0.5)
    slide(page, "#weight-exact", 0)
    send(page, "hello", tokens=40)
    ended(page)
    legend = page.inner_text(".legend")
    assert "terse" in legend
    assert "warm" in legend
    assert "exact" not in legend
    token = wordy(page)
    assert "gradient" in str(token.get_attribute("style"))
    shares = str(token.get_attribute("data-shares"))
    assert re.fullmatch(r"(terse|warm) \d+ %(, (terse|warm) \d+ %)?", shares)
    token.hover()
    assert shares in page.inner_text("#shares")


def test_stopping_keeps_what_was_said_and_frees_the_server(page: Page, place: Any) -> None:
    send(page, "hello", tokens=480)
    page.wait_for_selector(".token", state="attached")
    page.keyboard.press("Escape")
    page.wait_for_selector("#status:has-text('Stopped')")
    assert "stopped by you" in page.inner_text(".facts")
    assert page.locator(".token").count() > 0
    assert page.is_enabled("#send")
    until = time.monotonic() + 2
    while not place.band.engine.idle and time.monotonic() < until:
        time.sleep(0.01)
    assert place.band.engine.idle


def test_two_methods_side_by_side_have_one_prompt_seed_and_profile(page: Page) -> None:
    page.check("#compare")
    page.select_option("#method", "mixture-prob")
    page.select_option("#second", "soup")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data) if "chat" in request.url else None)
    send(page, "hello")
    assert all(ended(page, 2))
    facts = page.locator(".facts").all_inner_texts()
    assert ["every token has the same shares" in fact for fact in facts] == [False, True]
    asked = [json.loads(one) for one in sent]
    first, second = (one.pop("model") for one in asked)
    assert (first, second) == ("mixture-prob:terse=0.5,exact=0.5", "soup:terse=0.5,exact=0.5,strength=2")
    assert asked[0] == asked[1]
    boxes = [card.bounding_box() for card in page.locator(".answer").all()]
    assert boxes[0]["y"] == boxes[1]["y"], "beside each other on a desk"
    assert boxes[0]["x"] < boxes[1]["x"]


def test_a_refusal_is_told_beside_the_answer(page: Page, errors: list[str]) -> None:
    page.select_option("#method", "mixture-prob")
    slide(page, "#strength", 3)
    send(page, "hello")
    wrong = page.wait_for_selector(".wrong[role=alert]").inner_text()
    assert "strength" in wrong
    assert page.is_enabled("#send")
    refused(errors, 400)
    slide(page, "#strength", 1)
    send(page, "hello")
    assert ended(page)[0]
    assert page.locator(".wrong").count() == 0


def test_a_full_server_says_when_to_come_again(open_page: Callable[..., Page], serve: Serve, errors: list[str]) -> None:
    with serve(requests_per_minute=2) as full:
        page = ready(open_page(full.url))  # the first request, for the band
        send(page, "hello")
        ended(page)
        send(page, "hello")
        assert re.search(r"Try again in \d+ seconds?\.", page.wait_for_selector(".wrong").inner_text())
        refused(errors, 429)


def test_a_server_that_went_away_is_told(open_page: Callable[..., Page], serve: Serve, errors: list[str]) -> None:
    with serve() as gone:
        page = ready(open_page(gone.url))
    send(page, "hello")
    assert "The server does not answer" in page.wait_for_selector(".wrong").inner_text()
    page.click("#save")
    assert "The server does not answer" in page.wait_for_selector("#alert p").inner_text()
    assert all("ERR_CONNECTION_REFUSED" in error for error in errors)
    errors.clear()


def test_an_answer_that_breaks_off_is_told_and_kept(page: Page) -> None:
    begun = 'data: {"choices": [{"index": 0, "delta": {"content": "As I was"}}]}\n\n'
    failed = 'data: {"error": {"message": "the model is gone", "type": "server_error"}}\n\n'
    for body, told in ((begun, "The answer was cut off"), (begun + failed, "the model is gone")):
        page.route("**/v1/chat/completions", replying(body))
        send(page, "hello")
        assert told in page.wait_for_selector(".wrong").inner_text()
        assert page.inner_text(".said") == "As I was"


def replying(body: str) -> Callable[[Any], None]:
    return lambda route: route.fulfill(body=body)


def test_a_key_is_asked_for_and_used(open_page: Callable[..., Page], serve: Serve, errors: list[str]) -> None:
    with serve(require_keys=True) as locked:
        _, secret = Keys(locked.state.store.database).add("page")
        page = open_page(locked.url)
        page.wait_for_selector("#key-card:not([hidden])")
        refused(errors, 401)
        page.fill("#key", secret)
        page.keyboard.press("Enter")
        ready(page)
        assert page.is_hidden("#key-card")
        page.click("text=curl >> nth=0")
        assert "Authorization: Bearer YOUR KEY" in page.inner_text("#curl")
        assert secret not in page.content()
        send(page, "hello")
        assert ended(page)[0]


def test_the_picture_tells_measured_and_predicted_rewards(page: Page) -> None:
    slide(page, "#weight-terse", 0.5)
    slide(page, "#weight-warm", 0.25)
    slide(page, "#weight-exact", 0)
    page.select_option("#across", "terse")
    page.select_option("#up", "warm")
    page.locator("#picture").scroll_into_view_if_needed()
    page.wait_for_selector("#picture .textpoint:has-text('you')")
    assert page.locator("#picture .textpoint").count() == 4
    assert page.locator("#picture .point").count() == 5
    rows = table(page)
    assert "◆ terse\t1\t−1" in rows
    # (0.5 * 1 + 0.25 * -1) / 0.75 = 1/3 of terse, and (0.5 * -1 + 0.25 * 2) / 0.75 = 0 of warm
    assert "▲ soup terse=1, strength=2\t0.5\t−0.25" in rows
    assert "★ you\t0.33\t0" in rows
    assert "a prediction" in page.inner_text("#picture-says")


def test_answers_are_scored_and_placed(page: Page) -> None:
    send(page, "hello", tokens=12)
    text = said(page)
    page.select_option("#view", "here")
    page.select_option("#across", "terse")
    page.select_option("#up", "warm")
    page.wait_for_selector("#points td:has-text('1: soup')", state="attached")
    assert f"● 1: soup\t−{sum(map(ord, text))}\t{sum(map(str.isalpha, text))}" in table(page)
    page.select_option("#up", "exact")
    assert "No answer was scored on these two dimensions" in page.inner_text("#picture-says")


def test_a_prompt_is_measured_for_everyone(page: Page) -> None:
    page.select_option("#view", "here")
    page.fill("#max-tokens", "4")
    page.click("#measure")
    assert "Write a prompt first" in page.inner_text("#status")
    page.fill("#prompt", "hello")
    page.click("#measure")
    page.wait_for_selector("#measure-says:has-text('8 answers each to “hello”')")
    page.select_option("#up", "warm")
    assert [row.split("\t")[0] for row in table(page)[1:]] == ["■ you", "■ base", "■ terse", "■ warm", "■ exact"]


def wordy(page: Page) -> Any:
    """A token that can be pointed at: some of what a random model says has no width."""
    return page.locator(".token", has_text=re.compile("[A-Za-z]")).first


def table(page: Page) -> list[str]:
    """The rows of the table of points, the head first."""
    page.locator("#picture-card details").evaluate("one => { one.open = true; }")
    rows: list[str] = page.locator("#points tr").all_inner_texts()
    return rows


def said(page: Page, place: int = 0) -> str:
    """What an answer says, without the signs that show its line ends."""
    ended(page, page.locator(".answer").count())
    text: str = page.locator(".said").nth(place).evaluate("said => said.textContent")
    return text.replace("↵\n", "\n")


def test_blind_choices_teach_a_profile(page: Page) -> None:
    page.fill("#user", "blind")
    page.click("#tab-choose")
    page.wait_for_selector("#belief:has-text('No choices yet')")
    assert page.is_disabled("#use")
    send(page, "hello", tokens=30)
    better = terser(page)
    for name in ("terse", "warm", "exact", "soup"):
        assert name not in page.inner_text("#pair-card"), "it is blind"
    page.click(f"#choose-{better}")
    page.wait_for_selector("#belief:has-text('after 1 choice.')")
    revealed = page.inner_text("#revealed")
    assert f"You chose {better.upper()}." in revealed
    assert re.search(r"A was made with \w+=[\d., a-z=]+, B with \w+=", revealed)
    assert page.is_hidden("#choose-a"), "a pair is chosen from once"
    page.keyboard.press("Enter")  # the button for the next pair has the focus
    page.keyboard.press(terser(page))
    page.wait_for_selector("#belief:has-text('after 2 choices.')")
    assert page.locator(".bars .figures").count() == 2, "those that can be scored"
    profile = page.inner_text("#belief code")
    assert "terse" in profile
    page.click("#use")
    weight = float(dict(entry.strip().split("=") for entry in profile.split(","))["terse"])
    assert float(page.input_value("#weight-terse")) == pytest.approx(weight, abs=0.006)
    page.click("#tab-choose")
    page.click("#next")
    terser(page)
    page.keyboard.press("t")
    page.wait_for_selector("#belief:has-text('after 3 choices.')")
    assert "You saw no difference." in page.inner_text("#revealed")


def terser(page: Page) -> str:
    """Which of the two answers scores higher, once they are there to be chosen from."""
    page.wait_for_selector("#choose-a")
    texts = page.locator(".blind .text").evaluate_all("all => all.map(one => one.textContent)")
    scores = [one["terse"] for one in ByLetter().scores("", texts)]
    return "ab"[scores.index(max(scores))]


def test_a_sentence_becomes_a_profile_and_where_learning_starts(
    page: Page, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = {"terse": Heard(1.0, 0.6, 0.9), "warm": Heard(0.0, 0.1, 0.4), "exact": Heard(0.5, 0.3, 0.55)}
    reading = Reading(Profile({"terse": 1.0, "exact": 0.5}), heard, ("what of tea",), ("not so warm",))
    monkeypatch.setattr("counterpoint.serve.learning.read_sentence", lambda *_: reading)
    monkeypatch.setattr("counterpoint.serve.learning.embedder", lambda: None)
    page.fill("#user", "said")
    page.click("#tab-choose")
    page.fill("#sentence", "I am a nurse, keep it short")
    page.keyboard.press("Enter")
    page.wait_for_selector("#use-sentence")
    told = page.inner_text("#understood")
    assert "terse 1, 90 % confident" in told
    assert "exact 0.5, 55 % confident" in told
    assert "Perhaps meant, but too unsure to use: warm (40 %)." in told
    assert "Not understood: “what of tea”." in told
    assert "Uncertain: “not so warm”." in told
    page.click("#use-sentence")
    assert [page.input_value(f"#weight-{name}") for name in ("terse", "warm", "exact")] == ["1", "0", "0.5"]
    page.click("#start-sentence")
    page.wait_for_selector("#belief:has-text('No choices yet; this is what your sentence says.')")
    assert place.http.get("/v1/users/said").json()["source"] == "sentence"


def test_letters_that_are_typed_are_no_choices(page: Page, place: Any) -> None:
    page.fill("#user", "typing")
    page.click("#tab-choose")
    send(page, "hello")
    page.wait_for_selector("#choose-a")
    page.type("#prompt", "a better b")
    assert page.is_visible("#choose-a")
    assert place.http.get("/v1/users/typing").status_code == 404
    page.locator("#pair-title").click()
    page.keyboard.press("b")
    page.wait_for_selector("#revealed:has-text('You chose B.')")


def test_a_stored_profile_comes_back_onto_the_sliders(page: Page) -> None:
    page.fill("#user", "Ada Lovelace/1")
    slide(page, "#weight-terse", 0.2)
    slide(page, "#weight-exact", 0.9)
    slide(page, "#strength", 1.5)
    page.click("#save")
    page.wait_for_selector("#person-says:has-text('Saved')")
    page.click("#none")
    slide(page, "#strength", 1)
    page.click("#load")
    page.wait_for_selector("#person-says:has-text('is on the sliders')")
    assert page.input_value("#weight-exact") == "0.9"
    assert page.input_value("#strength") == "1.5"


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab") if page.evaluate("document.activeElement.id") != "prompt" else None
    page.keyboard.type("hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("there")
    assert page.input_value("#prompt") == "hello\nthere"
    page.keyboard.press("Enter")
    ended(page)
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "token":
            break
    first = page.inner_text("#shares")
    assert "%" in first
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "shares"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.previousElementSibling.className") == "token"
    page.keyboard.press("Escape")
    assert page.is_hidden("#shares")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") != "token", "an answer is one stop of the Tab key"


def test_every_control_has_a_name_and_shows_its_focus(page: Page) -> None:
    page.check("#compare")
    names = page.locator("input:visible, select:visible, textarea:visible, button:visible").evaluate_all(
        "all => all.map(one => (one.labels?.[0] ?? one).textContent.trim())"
    )
    assert len(names) > 15
    assert all(names)
    page.focus("#weight-terse")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#weight-terse") == "0.51"
    assert style(page, "#weight-terse", "outlineStyle") == "solid"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(open_page: Callable[..., Page], place: Any, theme: str) -> None:
    """WCAG 2.2, 1.4.3: (L1 + 0.05) / (L2 + 0.05) >= 4.5 of the relative luminances of text and what it stands on."""
    other = {"light": "dark", "dark": "light"}[theme]
    page = ready(open_page(place.url, color_scheme=other))
    before = style(page, "body", "backgroundColor")
    page.select_option("#theme", theme)
    assert style(page, "body", "backgroundColor") != before
    card = style(page, "#picture-card", "backgroundColor")
    for selector in ("#picture-card h2", "#keys", "#send"):
        colours = page.locator(selector).evaluate(
            "one => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]"
        )
        ground = card if colours[1] == "rgba(0, 0, 0, 0)" else colours[1]
        assert contrast(colours[0], ground) >= 4.5, selector
    page.reload()
    assert page.input_value("#theme") == theme, "the choice is remembered"


def style(page: Page, selector: str, name: str) -> str:
    found: str = page.locator(selector).evaluate("(one, name) => getComputedStyle(one)[name]", name)
    return found


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: Callable[..., Page], place: Any) -> None:
    page = ready(open_page(place.url, width=360, has_touch=True))
    page.check("#compare")
    send(page, "hello " + "w" * 80, tokens=40)
    ended(page, 2)
    boxes = [card.bounding_box() for card in page.locator(".answer").all()]
    assert boxes[0]["y"] < boxes[1]["y"], "below each other on a phone"
    page.locator("#picture").scroll_into_view_if_needed()
    page.wait_for_selector("#picture .main-svg")
    page.locator("details summary").evaluate_all(
        "all => all.forEach(summary => { summary.parentElement.open = true; })"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wordy(page).tap()
    box = page.locator("#shares").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.click("#tab-choose")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_less_motion_is_respected(open_page: Callable[..., Page], place: Any) -> None:
    moving, still = (ready(open_page(place.url, reduced_motion=wish)) for wish in ("no-preference", "reduce"))
    for page, name in ((moving, "blink"), (still, "none")):
        send(page, "hello", tokens=480)
        page.wait_for_selector(".answer[aria-busy=true]")
        assert page.evaluate("getComputedStyle(document.querySelector('.said'), '::after').animationName") == name
        page.keyboard.press("Escape")
        ended(page)
