"""An embedded world small enough to learn in a minute: facts, questions, answers in six manners, and exact scores.

Everything the demo says about itself can be checked here, because a score is a function of the text alone. The three
axes live at different places of an answer (style at its ends, expertise in its middle, detail throughout) and compete
for its length, so that no fixed mixture of experts is best everywhere.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

from counterpoint.data import world_tables as tables
from counterpoint.data.chat import with_request
from counterpoint.types import CounterpointError, Dimension

Level = Literal["plain", "neutral", "technical"]

AXES: tuple[tuple[str, str], ...] = (
    ("elementary", "knowledgeable"),
    ("concise", "informative"),
    ("friendly", "unfriendly"),
)
DIMENSIONS: tuple[Dimension, ...] = tuple(
    Dimension(name, description, tables.REQUESTS[name][0], axis)
    for axis, name, description in (
        ("expertise", "elementary", "Says it in everyday words that a child can follow."),
        ("expertise", "knowledgeable", "Says it in the technical words of an expert."),
        ("informativeness", "concise", "Says it in as few words as it can."),
        ("informativeness", "informative", "Adds true details that were not asked for."),
        ("style", "friendly", "Is warm to the person who asks."),
        ("style", "unfriendly", "Is cold to the person who asks."),
    )
)
MAX_DEGREE: dict[str, int] = {
    "elementary": 2,
    "knowledgeable": 2,
    "concise": 2,
    "informative": 2,
    "friendly": 3,
    "unfriendly": 3,
}
REQUESTS: dict[str, tuple[str, ...]] = tables.REQUESTS

LONGEST_ANSWER = 80
"""Words beyond this count cost no more concision; it is above every answer that the grammar can make."""

WORST: dict[str, float] = {
    "elementary": -1.0,
    "knowledgeable": -1.0,
    "concise": -math.log(LONGEST_ANSWER),
    "informative": -1.0,
    "friendly": -4.0,
    "unfriendly": -4.0,
}
"""What an empty or wrong answer scores, on both poles of an axis: no correct answer scores lower."""


@dataclass(frozen=True)
class Fact:
    """`value` is the `attribute` of `subject`."""

    topic: str
    subject: str
    attribute: str
    value: str


@dataclass(frozen=True)
class Question:
    """One wording of a question, and the fact that answers it."""

    text: str
    fact: Fact


@dataclass(frozen=True)
class Style:
    """What an answer says to the person: at its start, after the asked statement, at its end; empty is nothing."""

    opener: str = ""
    address: str = ""
    closer: str = ""


# Facts and questions


_TOPICS = {topic.name: topic for topic in tables.TOPICS}
_ATTRIBUTES = {(topic.name, a.name): a for topic in tables.TOPICS for a in topic.attributes}

FACTS: tuple[Fact, ...] = tuple(
    Fact(topic.name, subject, attribute.name, attribute.values[i])
    for topic in tables.TOPICS
    for i, subject in enumerate(topic.subjects)
    for attribute in topic.attributes
)


def _named(fact: Fact) -> str:
    return _TOPICS[fact.topic].article + fact.subject


def held_out(fact: Fact) -> bool:
    """Whether the subject of a fact is kept from every expert, reward model and choice of strength."""
    return fact.subject in _TOPICS[fact.topic].subjects[-tables.TEST_SUBJECTS :]


def wordings(fact: Fact) -> tuple[Question, ...]:
    """Every wording of the question for a fact; the last is the held-out one."""
    name = _named(fact)
    return tuple(Question(w.format(s=name), fact) for w in _ATTRIBUTES[fact.topic, fact.attribute].wordings)


def questions(split: Literal["train", "test"]) -> tuple[Question, ...]:
    """The questions of a split: other subjects *and* other wordings.

    The base has seen all facts, so a test question asks for a known fact whose manner of answering nothing was
    trained on.
    """
    if split == "test":
        return tuple(wordings(fact)[-1] for fact in FACTS if held_out(fact))
    return tuple(question for fact in FACTS if not held_out(fact) for question in wordings(fact)[:-1])


_QUESTIONS = {question.text: question for fact in FACTS for question in wordings(fact)}


def find_question(text: str) -> Question:
    """The question that a user's text asks; whatever follows its question mark (a request in words) is ignored.

    Raises CounterpointError if the world does not know the question.
    """
    asked = text[: text.find("?") + 1].strip()
    if asked not in _QUESTIONS:
        raise CounterpointError(
            f"the embedded world has no question {asked or text!r}; use the texts of counterpoint.data.world.questions"
        )
    return _QUESTIONS[asked]


# Writing


def answer(fact: Fact, degrees: Mapping[str, int], rng: random.Random) -> str:
    """An answer to a fact's question in the manner that `degrees` names; no degrees is the neutral manner.

    An answer is [opener] [frame] statement [address] [details] [closer]. Degrees of several axes combine, and then
    compete: concision 2 is the bare value, which leaves no place for expertise.

    Raises ValueError for an unknown dimension, a degree out of range, or both poles of one axis.
    """
    _check(degrees)
    concise = degrees.get("concise", 0)
    style = draw_style(degrees, rng)
    core = fact.value if concise == 2 else _statement(fact, degrees, rng)
    if style.address:
        core = f"{core}, {style.address}"
    opener = style.opener
    if not opener and not concise and rng.random() < 0.25:
        opener = _draw(tables.NEUTRAL_OPENERS, rng).format(s=_named(fact))
    first = core + "." if concise == 2 else _sentence(core)
    parts = [_exclaim(opener, rng), first, *_details(fact, degrees, rng), _exclaim(style.closer, rng)]
    return " ".join(part for part in parts if part)


def draw_style(degrees: Mapping[str, int], rng: random.Random) -> Style:
    """As many fragments of the wanted pole as its degree, each at another place."""
    pole = "unfriendly" if degrees.get("unfriendly", 0) else "friendly"
    places = rng.sample(("opener", "address", "closer"), degrees.get(pole, 0))

    def draw(place: str, grammar: Mapping[str, Sequence[str]]) -> str:
        return _draw(grammar[pole], rng) if place in places else ""

    return Style(draw("opener", tables.OPENERS), draw("address", tables.ADDRESSES), draw("closer", tables.CLOSERS))


def draw_degrees(rng: random.Random) -> tuple[str, dict[str, int]]:
    """The request and the degrees of one line of base text: at most one axis, so that no combination is ever shown.

    Of all lines 45 % ask for a dimension in words and get it, 40 % show one unasked, and 15 % are neutral. A request
    has one to three sentences, all on its dimension: three sentences on three dimensions are then new in what they
    ask, but not in their form.
    """
    fate = rng.random()
    name = rng.choice(DIMENSIONS).name
    degree = rng.randint(1, MAX_DEGREE[name])
    if fate < 0.45:
        return " ".join(rng.sample(REQUESTS[name], rng.choice((1, 1, 2, 3)))), {name: degree}
    return "", {name: degree} if fate < 0.85 else {}


def base_examples(n: int, seed: int) -> list[tuple[str, str]]:
    """Training text for the base as (what the user says, what is answered): all facts in all wordings, in turn."""
    rng = random.Random(seed)
    deck: list[Question] = []
    examples = []
    for _ in range(n):
        if not deck:
            deck = list(_QUESTIONS.values())
            rng.shuffle(deck)
        question = deck.pop()
        request, degrees = draw_degrees(rng)
        user = with_request(question.text, request)
        assert isinstance(user, str)
        examples.append((user, answer(question.fact, degrees, rng)))
    return examples


def expertise_forms(fact: Fact, attribute: str, level: Level) -> tuple[str, ...]:
    """The marked forms of an attribute at a level, or the neutral ones where the topic has no expertise to show."""
    row = _ATTRIBUTES[fact.topic, attribute]
    return {"plain": row.plain, "neutral": row.neutral, "technical": row.technical}[level] or row.neutral


@cache
def expand(pattern: str) -> tuple[str, ...]:
    """Every text that a grammar pattern can make: "(a|b) c" gives "a c" and "b c"."""
    pieces = [piece.split("|") for piece in re.split(r"[()]", pattern)]
    return tuple(dict.fromkeys(" ".join("".join(choice).split()) for choice in product(*pieces)))


def _check(degrees: Mapping[str, int]) -> None:
    for name, degree in degrees.items():
        if name not in MAX_DEGREE or not 0 <= degree <= MAX_DEGREE[name]:
            raise ValueError(f"{name}={degree}: a degree is 0 to a maximum by dimension, {MAX_DEGREE}")
    for pole, other in AXES:
        if degrees.get(pole, 0) and degrees.get(other, 0):
            raise ValueError(f"{pole} and {other} are two ends of one axis; give one of them")


def _expertise(degrees: Mapping[str, int]) -> tuple[str, int]:
    """The pole and the degree of expertise; the pole is empty at degree 0."""
    pole = max(("elementary", "knowledgeable"), key=lambda name: degrees.get(name, 0))
    degree = degrees.get(pole, 0)
    return (pole if degree else ""), degree


_LEVELS: dict[str, Level] = {"": "neutral", "elementary": "plain", "knowledgeable": "technical"}


def _statement(fact: Fact, degrees: Mapping[str, int], rng: random.Random) -> str:
    """The asked fact: expertise 1 marks it, 2 also frames it; where no form is marked, the frame stands in."""
    pole, degree = _expertise(degrees)
    forms = expertise_forms(fact, fact.attribute, _LEVELS[pole])
    if degrees.get("concise", 0):
        shortest = min(len(words_of(form)) for form in forms)
        forms = tuple(form for form in forms if len(words_of(form)) == shortest)
    text = _fill(rng.choice(forms), _named(fact), fact.value)
    framed = degree == 2 or (degree == 1 and "[" not in forms[0])
    return f"{_draw(tables.FRAMES[pole], rng)}, {text}" if framed else text


def _details(fact: Fact, degrees: Mapping[str, int], rng: random.Random) -> list[str]:
    """Extra facts: none when concise, else one, two at informative 1 and all at 2; marked at expertise 2."""
    informative = degrees.get("informative", 0)
    pole, degree = _expertise(degrees)
    level = _LEVELS[pole] if degree == 2 else "neutral"
    if degrees.get("concise", 0):
        return []
    wanted = (1, 2, 4)[informative]
    others = [other for other in _about(fact) if other != fact]
    details = [_fill(rng.choice(expertise_forms(o, o.attribute, level)), "it", o.value) for o in others]
    for remark in _TOPICS[fact.topic].remarks:
        form = {"plain": remark.plain, "neutral": remark.neutral, "technical": remark.technical}[level]
        details.append(_bare(form or remark.neutral))
    chosen = sorted(rng.sample(range(len(details)), min(wanted, len(details))))
    return [_sentence(details[i]) for i in chosen]


@cache
def _about(fact: Fact) -> tuple[Fact, ...]:
    return tuple(f for f in FACTS if (f.topic, f.subject) == (fact.topic, fact.subject))


def _draw(patterns: Sequence[str], rng: random.Random) -> str:
    """A pattern by equal chances, then one of its texts, so that a pattern with many texts is not heard more often."""
    return rng.choice(expand(rng.choice(patterns)))


def _bare(form: str) -> str:
    return form.replace("[", "").replace("]", "")


def _fill(form: str, subject: str, value: str) -> str:
    return _bare(form).format(s=subject, v=value)


def _sentence(text: str, mark: str = ".") -> str:
    return text[0].upper() + text[1:] + mark if text else ""


def _exclaim(text: str, rng: random.Random) -> str:
    """A sentence that ends in either mark, whatever its manner, so that the mark tells nothing."""
    return _sentence(text, rng.choice(".!"))


# Scoring


def words_of(text: str) -> list[str]:
    """Lower-case words; punctuation and case never matter to a score."""
    return re.findall(r"[a-z0-9]+", text.lower())


def scores(question: Question, answer: str) -> dict[str, float]:
    """Exact scores of an answer on the six dimensions, higher is better; `WORST` for an empty or wrong answer.

    knowledgeable = (T - P) / (T + P + 2) for T distinct technical and P distinct plain phrases; elementary = -that.
    concise = -log(words). informative = distinct true facts stated beyond the asked one, 0 to 4.
    friendly = warm - cold distinct fragments, clipped to [-3, 3]; unfriendly = -that.

    Nothing is concise about not answering, nor friendly about a wrong answer: without the worst score on *every*
    dimension, an empty text would win concision, and its expert would learn to say nothing.
    """
    if not correct(question, answer):
        return dict(WORST)
    words = words_of(answer)
    plain, technical = count_expertise(answer)
    warm, cold = count_style(answer)
    expertise = (technical - plain) / (technical + plain + 2)
    style = float(max(-3, min(3, warm - cold)))
    return {
        "elementary": -expertise,
        "knowledgeable": expertise,
        "concise": -math.log(min(len(words), LONGEST_ANSWER)),
        "informative": float(count_details(question.fact, answer)),
        "friendly": style,
        "unfriendly": -style,
    }


def correct(question: Question, answer: str) -> bool:
    """Whether the first value of the asked attribute that the answer names is the right one.

    The first, so that naming every value cannot pass; of two that start at the same word, the longer counts.
    """
    text = _padded(answer)
    values = _ATTRIBUTES[question.fact.topic, question.fact.attribute].values
    places = {value: text.find(_padded(value)) for value in values}
    named = [value for value in values if places[value] >= 0]
    return bool(named) and min(named, key=lambda v: (places[v], -len(v))) == question.fact.value


def count_expertise(answer: str) -> tuple[int, int]:
    """How many distinct plain and technical phrases an answer holds."""
    return _count(answer, _EXPERTISE)


def count_style(answer: str) -> tuple[int, int]:
    """How many distinct warm and cold fragments an answer holds."""
    return _count(answer, _STYLE)


def count_details(fact: Fact, answer: str) -> int:
    """How many other facts of the subject, and remarks on its topic, an answer states truly; each counts once."""
    text = _padded(answer)
    return sum(any(form in text for form in forms) for forms in _detail_forms(fact))


@cache
def _detail_forms(fact: Fact) -> tuple[tuple[str, ...], ...]:
    """For each detail, every text that states it, ready to be looked up in a padded answer."""
    details = []
    for other in _about(fact):
        if other != fact:
            row = _ATTRIBUTES[other.topic, other.attribute]
            forms = (*row.plain, *row.neutral, *row.technical)
            details.append([_fill(form, s, other.value) for form in forms for s in ("it", _named(fact))])
    for remark in _TOPICS[fact.topic].remarks:
        details.append([_bare(form) for form in (remark.plain, remark.neutral, remark.technical) if form])
    return tuple(tuple(_padded(text) for text in texts) for texts in details)


Phrase = tuple[str, ...]
"""The words of a phrase."""


@dataclass(frozen=True)
class PhraseBook:
    """The phrases of an axis's two poles."""

    poles: tuple[frozenset[Phrase], frozenset[Phrase]]
    longest: int


def _book(left: Iterable[str], right: Iterable[str]) -> PhraseBook:
    poles = (frozenset(tuple(words_of(t)) for t in left), frozenset(tuple(words_of(t)) for t in right))
    return PhraseBook(poles, max(len(phrase) for pole in poles for phrase in pole))


def _marked(pole: str, forms: Iterable[str]) -> list[str]:
    """Every bracketed phrase of a pole's forms, and its frames."""
    phrases = [phrase for form in forms for phrase in re.findall(r"\[(.*?)\]", form)]
    return phrases + [text for pattern in tables.FRAMES[pole] for text in expand(pattern)]


def _fragments(pole: str) -> list[str]:
    grammars = (tables.OPENERS, tables.ADDRESSES, tables.CLOSERS)
    return [text for grammar in grammars for pattern in grammar[pole] for text in expand(pattern)]


_REMARKS = [remark for topic in tables.TOPICS for remark in topic.remarks]
_PLAIN = [form for row in _ATTRIBUTES.values() for form in row.plain] + [remark.plain for remark in _REMARKS]
_TECHNICAL = [form for row in _ATTRIBUTES.values() for form in row.technical] + [r.technical for r in _REMARKS]

_EXPERTISE = _book(_marked("elementary", _PLAIN), _marked("knowledgeable", _TECHNICAL))
_STYLE = _book(_fragments("friendly"), _fragments("unfriendly"))


def _count(answer: str, book: PhraseBook) -> tuple[int, int]:
    """Distinct phrases of each pole, read from left to right, the longest first; no word serves two phrases.

    Reading so is what keeps "you may never ask me again" from also counting as "never ask me again".
    """
    words = words_of(answer)
    left, right = book.poles
    found: set[Phrase] = set()
    i = 0
    while i < len(words):
        spans = (tuple(words[i : i + n]) for n in range(book.longest, 0, -1))
        phrase = next((span for span in spans if span in left or span in right), ())
        if phrase:
            found.add(phrase)
        i += len(phrase) or 1
    return len(found & left), len(found & right)


def _padded(text: str) -> str:
    """Words with a space on either side, so that a phrase is found at whole words only."""
    return f" {' '.join(words_of(text))} "
