"""The embedded world: its tables hold what they claim, its scorers agree with the hand, its axes conflict."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise, product

import numpy as np
import pytest

from counterpoint.data import world_tables as tables
from counterpoint.data.world import (
    AXES,
    DIMENSIONS,
    FACTS,
    MAX_DEGREE,
    REQUESTS,
    WORST,
    Fact,
    Question,
    answer,
    base_examples,
    correct,
    count_details,
    count_expertise,
    count_style,
    draw_degrees,
    expand,
    find_question,
    questions,
    scores,
    wordings,
    words_of,
)
from counterpoint.rewards.world import WorldRules
from counterpoint.types import CounterpointError, Message

NAMES = tuple(dimension.name for dimension in DIMENSIONS)
SINGLES: list[dict[str, int]] = [{name: d} for name in NAMES for d in range(1, MAX_DEGREE[name] + 1)]
TRIPLES: list[dict[str, int]] = [
    dict(zip(poles, degrees, strict=True)) for poles in product(*AXES) for degrees in product((1, 2), repeat=3)
]
OWL = find_question("What does the owl eat?")


def ask(fact: Fact) -> Question:
    return wordings(fact)[0]


def sample(degrees: Mapping[str, int], seed: int = 0) -> list[tuple[Fact, str]]:
    rng = random.Random(seed)
    return [(fact, answer(fact, degrees, rng)) for fact in FACTS]


def mean(name: str, degrees: Mapping[str, int]) -> float:
    return statistics.fmean(scores(ask(fact), text)[name] for fact, text in sample(degrees))


# Tables


def test_counts() -> None:
    assert len(tables.TOPICS) == 12
    assert len(FACTS) == len(set(FACTS)) == 180
    assert len(questions("test")) == 72
    assert len(questions("train")) == 108 * 3
    assert (
        NAMES == tuple(REQUESTS) == ("elementary", "knowledgeable", "concise", "informative", "friendly", "unfriendly")
    )


def test_splits_share_neither_subject_nor_question() -> None:
    train, test = questions("train"), questions("test")
    assert not {(q.fact.topic, q.fact.subject) for q in train} & {(q.fact.topic, q.fact.subject) for q in test}
    assert not {q.text for q in train} & {q.text for q in test}
    for question in test:
        assert question == wordings(question.fact)[-1]
    assert all(question in wordings(question.fact)[:-1] for question in train)


@pytest.mark.parametrize("topic", tables.TOPICS, ids=lambda topic: topic.name)
def test_rows_are_complete(topic: tables.Topic) -> None:
    for row in topic.attributes:
        assert len(row.values) == len(set(row.values)) == len(topic.subjects) == 5
        assert len(set(row.wordings)) == 4
        assert all(w.count("?") == 1 and w.endswith("?") and "{s}" in w for w in row.wordings)
        assert len(row.neutral) >= 2
        assert not any("[" in form for form in row.neutral)
        assert len(row.plain) == len(row.technical) == (0 if topic.name in ("countries", "sports") else 2)
        assert all(form.count("[") == 1 for form in (*row.plain, *row.technical))
        assert all("{s}" in form and "{v}" in form for form in (*row.neutral, *row.plain, *row.technical))


def test_every_question_has_one_text() -> None:
    texts = [question.text for fact in FACTS for question in wordings(fact)]
    assert len(texts) == len(set(texts)) == 720


def test_expand_by_hand() -> None:
    assert expand("(a|b) c(d|)") == ("a cd", "a c", "b cd", "b c")
    assert expand("(very|) good") == ("very good", "good")


def test_style_has_hundreds_of_forms_and_no_form_of_both_poles() -> None:
    forms = {
        pole: {
            text
            for grammar in (tables.OPENERS, tables.ADDRESSES, tables.CLOSERS)
            for p in grammar[pole]
            for text in expand(p)
        }
        for pole in ("friendly", "unfriendly")
    }
    assert min(len(texts) for texts in forms.values()) >= 100
    assert not forms["friendly"] & forms["unfriendly"]


# Scores by hand


def test_scores_of_a_plain_and_warm_answer_by_hand() -> None:
    text = "I am so glad you asked! Put simply, the owl likes to eat mice. It lives in old trees."
    # P = "put simply", "likes to eat"; T = 0; (0 - 2) / (2 + 2). Words 6 + 8 + 5. One detail, its home. One warm.
    assert scores(OWL, text) == {
        "elementary": 0.5,
        "knowledgeable": -0.5,
        "concise": -math.log(19),
        "informative": 1.0,
        "friendly": 1.0,
        "unfriendly": -1.0,
    }


def test_scores_of_a_technical_and_cold_answer_by_hand() -> None:
    text = (
        "the owl SUBSISTS on mice -- as you ought to know. Animals need sleep; animals need sleep. Never ask me again"
    )
    # T = 1 of P = 0: 1 / 3. Words 5 + 5 + 3 + 3 + 4 = 20. A repeated remark counts once. Two cold fragments.
    assert scores(OWL, text) == pytest.approx(
        {
            "elementary": -1 / 3,
            "knowledgeable": 1 / 3,
            "concise": -math.log(20),
            "informative": 1.0,
            "friendly": -2.0,
            "unfriendly": 2.0,
        }
    )


@pytest.mark.parametrize(
    ("text", "warm", "cold"),
    [
        ("I am so glad to help you", 1, 0),
        ("I am so tired of helping you", 0, 1),
        ("It is no bother to me!", 1, 0),
        ("It is a bother to me!", 0, 1),
        ("Please ask me again. Please never ask me again.", 1, 1),
        ("Thank you for asking me. Thank you for asking me.", 1, 0),
        ("No thank you for asking me.", 0, 1),
        ("The owl is glad", 0, 0),
    ],
)
def test_style_is_read_in_order(text: str, warm: int, cold: int) -> None:
    assert count_style(text) == (warm, cold)


def test_details_must_be_true_of_the_subject() -> None:
    assert count_details(OWL.fact, "It lives in deserts. It has young called cubs.") == 0
    assert (
        count_details(OWL.fact, "The owl lives in old trees. It has offspring known as owlets. Animals need water.")
        == 3
    )
    assert count_details(OWL.fact, "The owl eats mice. It feeds on mice.") == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "I do not know.",
        "The owl eats fish.",
        "bamboo, hay, fish, shrubs, mice",
        "I am so glad you asked!",
        "mic",
    ],
)
def test_empty_or_wrong_answers_score_worst(text: str) -> None:
    assert not correct(OWL, text)
    assert scores(OWL, text) == WORST


def test_the_first_value_decides() -> None:
    assert correct(OWL, "MICE!")
    assert correct(OWL, "mice, bamboo or fish")
    assert not correct(OWL, "fish or mice")


def test_a_right_answer_never_scores_below_the_worst() -> None:
    padding = " ".join(["word"] * 500)
    cold = "I am so sick of being asked. The owl eats mice, as you ought to know. Never ask me more. You are very dull."
    for text in ("mice", f"mice {padding}", cold):
        got = scores(OWL, text)
        assert all(got[name] >= WORST[name] for name in NAMES)
    assert scores(OWL, cold)["friendly"] == -3.0


# The generator against the scorers


@pytest.mark.parametrize("degrees", [{}, *SINGLES, *TRIPLES], ids=str)
def test_answers_are_correct_and_hold_what_was_asked_for(degrees: dict[str, int]) -> None:
    style = degrees.get("friendly", 0), degrees.get("unfriendly", 0)
    for fact, text in sample(degrees):
        assert correct(ask(fact), text), text
        assert count_style(text) == style, text
        plain, technical = count_expertise(text)
        assert bool(plain) == (degrees.get("elementary", 0) > 0 and degrees.get("concise", 0) < 2), text
        assert bool(technical) == (degrees.get("knowledgeable", 0) > 0 and degrees.get("concise", 0) < 2), text
        assert len(words_of(text)) <= 70, text


@pytest.mark.parametrize("name", NAMES)
def test_dose(name: str) -> None:
    by_degree = [mean(name, {name: degree} if degree else {}) for degree in range(MAX_DEGREE[name] + 1)]
    assert all(low < high for low, high in pairwise(by_degree)), by_degree


def test_a_frame_is_the_only_expertise_of_a_topic_without_marked_forms() -> None:
    japan = find_question("What is the capital of Japan?").fact
    rng = random.Random(0)
    assert {count_expertise(answer(japan, {"knowledgeable": d}, rng)) for d in (1, 2) for _ in range(20)} == {(0, 1)}


def test_contradictions_and_unknown_degrees_are_refused() -> None:
    rng = random.Random(0)
    with pytest.raises(ValueError, match="two ends of one axis"):
        answer(OWL.fact, {"concise": 1, "informative": 1}, rng)
    with pytest.raises(ValueError, match="concise=3"):
        answer(OWL.fact, {"concise": 3}, rng)
    with pytest.raises(ValueError, match="brief=1"):
        answer(OWL.fact, {"brief": 1}, rng)


# Conflicts


@pytest.mark.parametrize("other", ["friendly", "unfriendly"])
@pytest.mark.parametrize("degree", [1, 2])
def test_style_costs_concision(other: str, degree: int) -> None:
    assert mean("concise", {"concise": degree, other: 1}) < mean("concise", {"concise": degree}) - 0.5


@pytest.mark.parametrize("pole", ["elementary", "knowledgeable"])
def test_the_bare_value_leaves_no_room_for_expertise(pole: str) -> None:
    assert mean(pole, {"concise": 2, pole: 2}) == 0.0
    assert mean(pole, {"concise": 1, pole: 2}) > 0.3
    assert mean("concise", {"concise": 1, pole: 2}) < mean("concise", {"concise": 1}) - 0.3


# No word gives a dimension away


def best_single_word(left: list[str], right: list[str]) -> tuple[float, str]:
    """Accuracy of the best rule "it holds this word": 1/2 + |p - q| / 2 for equally many of both poles."""
    p, q = (Counter(w for text in texts for w in set(words_of(text))) for texts in (left, right))
    return max((0.5 + abs(p[w] - q[w]) / len(left) / 2, w) for w in sorted({*p, *q}))


@pytest.mark.parametrize(("left", "right"), [AXES[0], AXES[2]])
def test_no_single_word_gives_a_pole_away(left: str, right: str) -> None:
    texts = {
        pole: [text for d in range(1, MAX_DEGREE[pole] + 1) for seed in range(4) for _, text in sample({pole: d}, seed)]
        for pole in (left, right)
    }
    accuracy, word = best_single_word(texts[left], texts[right])
    assert accuracy < 0.70, (accuracy, word)


# Base text


def test_base_text_never_shows_two_axes() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        request, degrees = draw_degrees(rng)
        assert len(degrees) <= 1
        assert all(1 <= degree <= MAX_DEGREE[name] for name, degree in degrees.items())
        assert not request or any(
            sentence in " ".join(REQUESTS[name]) for name in degrees for sentence in [request.split(".")[0]]
        )
    for user, text in base_examples(2000, seed=1):
        assert [sum(count_style(text)) > 0, sum(count_expertise(text)) > 0].count(True) <= 1, (user, text)


def test_base_text_covers_every_question_and_answers_correctly() -> None:
    examples = base_examples(1440, seed=0)
    asked = Counter(find_question(user).text for user, _ in examples)
    assert len(asked) == 720
    assert set(asked.values()) == {2}
    assert all(correct(find_question(user), text) for user, text in examples)
    requested = sum(not user.endswith("?") for user, _ in examples) / len(examples)
    assert 0.4 < requested < 0.5


def test_same_seed_same_text() -> None:
    state = random.getstate()
    assert base_examples(200, seed=3) == base_examples(200, seed=3)
    assert base_examples(200, seed=3) != base_examples(200, seed=4)
    assert base_examples(100, seed=3) == base_examples(200, seed=3)[:100]
    assert random.getstate() == state


def test_words_and_lengths_stay_small() -> None:
    examples = base_examples(8000, seed=0)
    words = {word for pair in examples for text in pair for word in words_of(text)}
    assert len(words) < 800
    lengths = [len(words_of(text)) for _, text in examples]
    assert max(lengths) <= 45
    assert 8 < statistics.fmean(lengths) < 18


# Lookup and the reward function


def test_find_question_ignores_a_request() -> None:
    assert find_question("What does the owl eat? Please be brief.") == OWL
    with pytest.raises(CounterpointError, match="no question"):
        find_question("What does the unicorn eat?")
    with pytest.raises(CounterpointError, match="no question"):
        find_question("Tell me of the owl.")


def test_world_rules_score_by_prompt() -> None:
    rules = WorldRules()
    chat = (Message("user", "Hello."), Message("assistant", "Hello."), Message("user", OWL.text + " Please be brief."))
    scores_ND = rules([OWL.text, chat, chat], ["mice", "Mice.", "fish"])
    assert rules.dimensions == NAMES
    # One word, nothing else: log 1 = 0 everywhere.
    assert scores_ND == pytest.approx(np.array([[0.0] * 6, [0.0] * 6, [WORST[name] for name in NAMES]]))
    assert rules.correct([OWL.text, chat, chat], ["mice", "Mice.", "fish"]).tolist() == [True, True, False]
    assert rules([], []).shape == (0, 6)
    with pytest.raises(CounterpointError, match="user message"):
        rules([(Message("system", "Be kind."),)], ["mice"])
