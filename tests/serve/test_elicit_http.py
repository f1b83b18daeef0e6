"""Learning a profile over HTTP: what is shown, kept, believed, forgotten, and when it becomes the person's own."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from counterpoint.decode.band import Band
from counterpoint.profiles.tuning import direction
from counterpoint.serve.answers import Answer, Answers
from counterpoint.serve.errors import Refused
from counterpoint.serve.learning import ENOUGH
from counterpoint.serve.scorers import Scorers
from counterpoint.serve.wanted import header
from counterpoint.train.k_head import KHeadConfig, train_k_head
from counterpoint.types import Comparison, CounterpointError, Message, Profile

if TYPE_CHECKING:
    from tests.serve.conftest import Served

Serve = Callable[..., "AbstractContextManager[Served]"]
MESSAGES = [{"role": "user", "content": "What does the owl eat?"}]
NAMES = ("terse", "warm", "exact")


@pytest.fixture(scope="module")
def scored_folder(band_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico band with a reward model of all its dimensions, hardly trained."""
    folder = tmp_path_factory.mktemp("scored") / "band"
    shutil.copytree(band_folder, folder)
    pairs = [Comparison("Who?", "An owl.", "I do not know.", name) for name in NAMES for _ in range(2)]
    train_k_head(KHeadConfig(str(band_folder / "base"), NAMES, steps=1, batch=2), pairs, folder / "rewards" / "all")
    return folder


@pytest.fixture(scope="module")
def scored(serve: Serve, scored_folder: Path) -> Iterator["Served"]:
    with serve(folder=scored_folder) as running:
        yield running


def post(server: "Served", path: str, status: int = 200, **body: Any) -> Any:
    reply = server.http.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def shown(server: "Served", user: str) -> Any:
    return post(server, f"/v1/users/{user}/pair", messages=MESSAGES, max_tokens=4)


def stored(server: "Served", user: str) -> list[dict[str, Any]]:
    feedback: list[dict[str, Any]] = server.http.get(f"/v1/users/{user}/export").json()["feedback"]
    return feedback


def test_of_a_stranger_as_much_is_believed_as_of_anybody(server: "Served") -> None:
    belief = server.http.get("/v1/users/stranger/belief").json()
    assert set(belief["dimensions"]) == set(NAMES)
    assert (belief["choices"], belief["settled"], belief["profile"]) == (0, False, None)
    assert server.http.get("/v1/users/stranger").status_code == 404, "asking makes nobody"


def test_a_pair_is_by_two_profiles_and_its_choice_moves_the_belief(server: "Served") -> None:
    """Without reward models an answer is known by the direction of the profile that made it."""
    pair = shown(server, "amy")
    reply = post(server, "/v1/feedback", 201, user="amy", pair=pair["pair"], choice="a")
    (kept,) = stored(server, "amy")
    assert kept["measure"] == "profiles" == reply["belief"]["features"]
    assert kept["texts"] is None
    chosen, rejected = kept["features"]["chosen"], kept["features"]["rejected"]
    assert chosen != rejected
    made = {
        part: server.state.answers.find("local", pair["pair"] + end).weights for part, end in (("a", ""), ("b", "#1"))
    }
    assert reply["revealed"] == {part: header(weights) for part, weights in made.items()}
    assert sum(value**2 for value in chosen.values()) == pytest.approx(1)
    gain = {name: chosen[name] - rejected[name] for name in NAMES}
    weight = {name: one["weight"] for name, one in reply["belief"]["dimensions"].items()}
    assert sum(gain[name] * weight[name] for name in NAMES) > 0, "what was chosen is believed to be liked"


def test_a_choice_for_b_says_the_opposite_of_one_for_a(server: "Served") -> None:
    pair = shown(server, "opposite")
    for choice in "ab":
        post(server, "/v1/feedback", 201, user="opposite", id=choice, pair=pair["pair"], choice=choice)
    first, second = stored(server, "opposite")
    assert first["features"]["chosen"] == second["features"]["rejected"]
    assert first["features"]["rejected"] == second["features"]["chosen"]


def test_choices_and_ratings_name_completions_and_their_choices(server: "Served") -> None:
    """`ID` is the first choice of a call, `ID#1` its second; features are those of the profile in force."""
    asked: Any = {"messages": MESSAGES, "max_tokens": 3, "n": 2}
    warm = post(server, "/v1/chat/completions", model="soup:warm=2,terse=1", **asked)
    exact = post(server, "/v1/chat/completions", model="moe:exact", **asked)
    post(server, "/v1/feedback", 201, user="kim", chosen=warm["id"] + "#1", rejected=exact["id"])
    post(server, "/v1/feedback", 201, user="kim", completion=exact["id"] + "#1", rating=2)
    choice, rating = stored(server, "kim")
    assert choice["features"]["chosen"] == pytest.approx(direction(Profile({"warm": 2, "terse": 1}), NAMES))
    assert choice["features"]["rejected"] == direction(Profile({"exact": 1}), NAMES)
    assert (rating["kind"], rating["rating"], rating["features"]["rated"]["exact"]) == ("rating", 2, 1.0)


def test_streamed_and_plain_completions_can_be_chosen_between(server: "Served") -> None:
    lines = server.http.post(
        "/v1/chat/completions", json={"model": "soup:warm", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    ).text
    chat = lines.split('"id":"')[1].split('"')[0]
    plain = post(server, "/v1/completions", model="soup:exact", prompt="Once", max_tokens=3)["id"]
    post(server, "/v1/feedback", 201, user="lee", chosen=chat, rejected=plain)
    assert stored(server, "lee")[0]["features"]["rejected"]["exact"] == 1.0


def test_said_again_with_its_id_it_changes_nothing_even_once_the_answers_are_forgotten(server: "Served") -> None:
    pair = shown(server, "twice")
    first = post(server, "/v1/feedback", 201, user="twice", id="one", pair=pair["pair"], choice="tie")
    assert post(server, "/v1/feedback", 201, user="twice", id="one", pair=pair["pair"], choice="tie") == first
    server.state.answers = Answers()
    again = post(server, "/v1/feedback", 201, user="twice", id="one", pair=pair["pair"], choice="tie")
    assert again == first | {"revealed": None}
    error = post(server, "/v1/feedback", 404, user="twice", id="two", pair=pair["pair"], choice="tie")["error"]
    assert error["code"] == "answer_not_found"
    assert len(stored(server, "twice")) == 1


@pytest.mark.parametrize(
    "body",
    [
        {}, {"chosen": "x"}, {"pair": "x", "choice": "c"}, {"completion": "x", "rating": 6},
        {"chosen": "x", "rejected": "y", "rating": 3}, {"pair": "x", "choise": "a"},
        {"messages": MESSAGES, "chosen_text": "a", "rejected_text": "b"},
    ],
)  # fmt: skip
def test_feedback_that_says_nothing_or_too_much_is_refused(server: "Served", body: dict[str, Any]) -> None:
    """The last: texts are known by their scores alone, and this band has no reward models."""
    assert post(server, "/v1/feedback", 400, user="nobody", **body)["error"]["type"] == "invalid_request_error"
    assert server.http.get("/v1/users/nobody").status_code == 404


def test_a_pair_is_answered_once(server: "Served") -> None:
    pair = shown(server, "once")["pair"]
    first = post(server, "/v1/feedback", 201, user="once", pair=pair, choice="a")
    assert first["id"] == pair
    assert post(server, "/v1/feedback", 201, user="once", pair=pair, choice="a") == first
    post(server, "/v1/feedback", 409, user="once", pair=pair, choice="b")
    assert len(stored(server, "once")) == 1


def test_a_pair_that_was_shown_to_somebody_else_is_not_there(server: "Served") -> None:
    pair = shown(server, "bob")["pair"]
    for body in ({"pair": pair, "choice": "a"}, {"chosen": pair, "rejected": f"{pair}#1"}):
        error = post(server, "/v1/feedback", 404, user="zed", **body)["error"]
        assert error["code"] == "answer_not_found"
    assert server.http.get("/v1/users/zed").status_code == 404


def test_a_choice_between_an_answer_and_itself_is_refused(server: "Served") -> None:
    texts: Any = {"messages": MESSAGES, "chosen_text": "Mice.", "rejected_text": "Mice."}
    for body, param in (({"chosen": "x", "rejected": "x"}, "rejected"), (texts, "rejected_text")):
        assert post(server, "/v1/feedback", 400, user="same", **body)["error"]["param"] == param


def warmer(server: "Served", user: str, **body: Any) -> None:
    """Show a pair and choose the warmer answer of it."""
    pair = post(server, f"/v1/users/{user}/pair", messages=MESSAGES, max_tokens=2, **body)["pair"]
    answers = [server.state.answers.find("local", pair + end) for end in ("", "#1")]
    warmth = [direction(Profile(answer.weights), NAMES)["warm"] for answer in answers]
    choice = "tie" if warmth[0] == warmth[1] else "ab"[warmth[1] > warmth[0]]
    post(server, "/v1/feedback", 201, user=user, pair=pair, choice=choice)


def test_regression_what_was_learned_is_served_by_every_method(
    server: "Served", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The band's best strength for soup is beyond what mixture-prob can do: a learned profile takes neither along."""
    monkeypatch.setitem(server.band.file.strengths, "soup", 3.0)
    for choices in range(1, 41):
        warmer(server, "mia", method="mixture-prob")
        user = server.http.get("/v1/users/mia").json()
        if choices >= 20 and user["source"]:
            break
    assert (user["source"], user["strength"]) == ("learned", None)
    for method, strength in (("soup", 3.0), ("mixture-prob", 1.0), ("mixture-log", 1.0), ("route", 1.0)):
        asked: Any = {"model": method, "messages": MESSAGES, "max_tokens": 2, "user": "mia"}
        told = post(server, "/v1/chat/completions", **asked)["counterpoint"]
        assert (told["source"], told["strength"]) == ("user", strength)


def test_what_can_never_be_served_is_not_stored(server: "Served") -> None:
    bodies: list[dict[str, Any]] = [
        {"method": "pmol"}, {"method": "mixture-prob", "strength": 2}, {"strength": 1e30},
    ]  # fmt: skip
    for body in bodies:
        reply = server.http.put("/v1/users/never/profile", json={"profile": "warm", **body})
        assert reply.status_code == 400, reply.text
    assert server.http.get("/v1/users/never").status_code == 404


def test_a_stored_profile_that_a_method_cannot_serve_is_named(server: "Served") -> None:
    assert server.http.put("/v1/users/ada/profile", json={"profile": "warm", "strength": 2}).status_code == 200
    asked: Any = {"model": "mixture-prob", "messages": MESSAGES, "max_tokens": 2, "user": "ada"}
    error = post(server, "/v1/chat/completions", 409, **asked)["error"]
    assert error["code"] == "profile_outdated"
    assert error["message"].startswith("the stored profile of user 'ada': mixture-prob")
    assert post(server, "/v1/chat/completions", strength=1, **asked)["counterpoint"]["strength"] == 1


def test_what_is_learned_is_theirs_once_it_is_more_likely_right_than_not(server: "Served") -> None:
    """Somebody who always likes `warm` best; their default-model answers then follow, with nothing set by anyone."""
    for _ in range(40):
        warmer(server, "max")
        belief = server.http.get("/v1/users/max/belief").json()
        user = server.http.get("/v1/users/max").json()
        assert (user["source"] == "learned") == (belief["sure"] >= ENOUGH)
        if user["source"]:
            break
    assert user["source"] == "learned"
    assert max(user["profile"], key=user["profile"].get) == "warm"
    told = post(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=2, user="max")["counterpoint"]
    assert (told["source"], set(told["weights"])) == ("user", set(user["profile"]))


def test_a_profile_that_was_set_is_not_overruled_by_choices(server: "Served") -> None:
    server.http.put("/v1/users/max/profile", json={"profile": "exact", "strength": 2})
    pair = shown(server, "max")
    belief = post(server, "/v1/feedback", 201, user="max", pair=pair["pair"], choice="tie")["belief"]
    user = server.http.get("/v1/users/max").json()
    assert belief["sure"] >= ENOUGH
    assert (user["profile"], user["strength"], user["source"]) == ({"exact": 1.0}, 2.0, "set")


# With reward models


def test_answers_are_known_by_their_scores_where_there_are_reward_models(scored: "Served") -> None:
    pair = shown(scored, "amy")
    scores = post(scored, "/v1/score", messages=MESSAGES, responses=[pair["a"], pair["b"]])
    reply = post(scored, "/v1/feedback", 201, user="amy", pair=pair["pair"], choice="b")
    (kept,) = stored(scored, "amy")
    assert reply["belief"]["features"] == kept["measure"] == "rewards"
    rows = [dict(zip(scores["dimensions"], row, strict=True)) for row in scores["scores"]]
    assert kept["features"]["rejected"] == pytest.approx(rows[0], abs=1e-5)
    assert kept["features"]["chosen"] == pytest.approx(rows[1], abs=1e-5)


def test_texts_of_elsewhere_can_be_chosen_between(scored: "Served") -> None:
    texts: Any = {"chosen_text": "Mice.", "rejected_text": "It eats mice and voles, which it hunts by night."}
    reply = post(scored, "/v1/feedback", 201, user="bob", messages=MESSAGES, **texts)
    assert reply["choices"] == 1
    assert stored(scored, "bob")[0]["texts"] is None, "texts are not kept unless the operator wants them"


def test_scores_of_the_server_are_the_reward_models_own(scored: "Served", scored_folder: Path, band: Band) -> None:
    found = post(scored, "/v1/score", messages=MESSAGES, responses=["Mice.", "An owl."])
    prompt = (Message("user", MESSAGES[0]["content"]),)
    rows = Scorers(scored_folder).scores(prompt, ["Mice.", "An owl."])
    assert found["dimensions"] == list(NAMES)
    assert found["scores"][1] == pytest.approx([rows[1][name] for name in NAMES], abs=1e-5)
    assert found["scores"][0] != found["scores"][1]
    long: Any = {"messages": MESSAGES, "responses": ["x" * 600]}
    assert "tokens" in post(scored, "/v1/score", 400, **long)["error"]["message"]


def test_without_reward_models_nothing_is_scored(server: "Served") -> None:
    assert post(server, "/v1/score", 404, messages=MESSAGES, responses=["x"])["error"]["code"] == "no_scorers"


def test_texts_are_kept_where_the_operator_wants_them(serve: Serve) -> None:
    with serve(keep_texts=True) as server:
        pair = shown(server, "amy")
        post(server, "/v1/feedback", 201, user="amy", pair=pair["pair"], choice="a")
        (kept,) = stored(server, "amy")
    assert kept["texts"]["chosen"] == {"prompt": MESSAGES, "text": pair["a"]}


# A sentence


def test_a_sentence_says_what_it_understood_and_is_kept_on_demand(server: "Served", monkeypatch: Any) -> None:
    """Words instead of the embedding model, which has tests of its own."""
    words = ("terse", "few", "warm", "kind", "exact", "terms")
    monkeypatch.setattr(
        "counterpoint.serve.learning.embedder",
        lambda: lambda texts: np.array([[1.0 + (w in t.lower()) for w in words] for t in texts]),
    )
    said: Any = {"text": "I am a nurse, be kind and warm"}
    heard = post(server, "/v1/users/nina/sentence", **said)
    assert (heard["profile"], heard["saved"]) == ("warm=1", False)
    assert "I am a nurse" in heard["not_understood"]
    assert server.http.get("/v1/users/nina").status_code == 404
    assert post(server, "/v1/users/nina/sentence", **said, save=True)["saved"]
    user = server.http.get("/v1/users/nina").json()
    assert (user["profile"], user["source"]) == ({"warm": 1.0}, "sentence")
    nothing = post(server, "/v1/users/nina/sentence", text="I am a nurse", save=True)
    assert (nothing["profile"], nothing["saved"]) == (None, False)


def test_learning_starts_from_the_sentence(server: "Served") -> None:
    """The mean before any choice is what was read; `exact` is still the likeliest after a choice that says little."""
    server.state.store.set_profile("local", "zoe", Profile({"exact": 0.9, "warm": 0.5}), "sentence")
    before = server.http.get("/v1/users/zoe/belief").json()
    assert {name: one["weight"] for name, one in before["dimensions"].items()} == {
        "terse": 0.0, "warm": 0.5, "exact": 0.9,
    }  # fmt: skip
    assert (before["choices"], before["profile"]) == (0, "warm=0.36, exact=0.64")
    pair = shown(server, "zoe")
    after = post(server, "/v1/feedback", 201, user="zoe", pair=pair["pair"], choice="tie")["belief"]
    assert after["choices"] == 1
    weights = {name: one["weight"] for name, one in after["dimensions"].items()}
    assert max(weights, key=lambda name: weights[name]) == "exact"


# Zones of tolerance


def test_zones_of_the_server_are_told_and_make_what_is_enough_enough(serve: Serve, scored_folder: Path) -> None:
    """Two answers beyond what is desired are alike: a choice between them tells nothing of that dimension."""
    with serve(folder=scored_folder, zones="terse=-2000:-1000, warm=-2000:-1000") as server:
        texts: Any = {"chosen_text": "Mice.", "rejected_text": "It eats mice and voles."}
        belief = post(server, "/v1/feedback", 201, user="amy", messages=MESSAGES, **texts)["belief"]
    assert belief["zones"]["terse"] == {"adequate": -2000.0, "desired": -1000.0}
    weights = {name: abs(one["weight"]) for name, one in belief["dimensions"].items()}
    assert weights["exact"] > 5 * max(weights["terse"], weights["warm"])


def test_zones_need_reward_models(serve: Serve, scored_folder: Path) -> None:
    unscored, unknown = serve(zones="terse=0:1"), serve(folder=scored_folder, zones="cold=0:1")
    with pytest.raises(CounterpointError, match="this band has not two"), unscored:
        pass
    with pytest.raises(CounterpointError, match="setting zones 'cold=0:1': unknown dimension 'cold'"), unknown:
        pass


# The memory of answers


def answer(owner: str, text: str) -> Answer:
    return Answer(owner, "p", text, {})


def test_the_oldest_answers_are_forgotten_by_number_and_by_size() -> None:
    """Each is a character of prompt and ten of text: of 40 characters three have room."""
    few, small = Answers(most=2), Answers(characters=40)
    for name in "abcd":
        few.keep(name, answer("me", "x"))
        small.keep(name, answer("me", "x" * 10))
    for kept, names in ((few, "cd"), (small, "bcd")):
        assert [name for name in "abcd" if _has(kept, name)] == list(names)


def _has(answers: Answers, name: str) -> bool:
    try:
        return bool(answers.find("me", name))
    except Refused:
        return False


def test_another_owners_answer_is_not_there() -> None:
    answers = Answers()
    answers.keep("a", answer("me", "x"))
    with pytest.raises(Refused) as error:
        answers.find("you", "a")
    assert (error.value.status, error.value.code) == (404, "answer_not_found")
