"""Learning a person's profile over HTTP: pairs to choose from, feedback, what is believed, and a sentence."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, model_validator
from starlette.concurrency import run_in_threadpool

from counterpoint.decode.sampling import Sampling
from counterpoint.profiles import format_profile
from counterpoint.profiles.tuning import Verdict
from counterpoint.serve.answers import Answer, answer_id, forgotten
from counterpoint.serve.app_state import State, owner_of, state_of
from counterpoint.serve.asking import chat_prompt, request_for
from counterpoint.serve.calls import Answering, news, submit, unless_gone
from counterpoint.serve.errors import Refused
from counterpoint.serve.learning import Learner
from counterpoint.serve.people import UserRoute
from counterpoint.serve.replies import ERRORS
from counterpoint.serve.seen import seen_of
from counterpoint.serve.store import Feedback, Kind, check_user, new_id, strength_for
from counterpoint.serve.streams import Growing
from counterpoint.serve.unserved import mistake
from counterpoint.serve.wanted import Asked, check_method, effective, header, plan_of
from counterpoint.serve.wire import Asking, ChatMessage, Length
from counterpoint.serve.worker import Stream
from counterpoint.types import Profile, Prompt

router = APIRouter(route_class=UserRoute, tags=["people"], responses=ERRORS)

Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]

FORMS = (
    ("chosen", "rejected"),
    ("messages", "chosen_text", "rejected_text"),
    ("pair", "choice"),
    ("completion", "rating"),
)
"""The fields of each way to say something; exactly one is taken."""


class FeedbackBody(Asking):
    """One answer chosen over another, by the ids of completions, by texts or in a pair that was shown; or a rating."""

    user: str
    id: str | None = Field(
        None, description="The client's own, or the pair's: said again it changes nothing, or is a 409."
    )
    chosen: str | None = Field(None, description="The id of a completion, with `#1` for its second choice.")
    rejected: str | None = None
    messages: Messages | None = None
    chosen_text: str | None = None
    rejected_text: str | None = None
    pair: str | None = None
    choice: Literal["a", "b", "tie"] | None = None
    completion: str | None = None
    rating: int | None = Field(None, ge=1, le=5)

    @model_validator(mode="after")
    def _one_form(self) -> "FeedbackBody":
        given = {name for form in FORMS for name in form if getattr(self, name) is not None}
        if given not in map(set, FORMS):
            forms = "; ".join(" and ".join(form) for form in FORMS)
            raise mistake("feedback", f"expected exactly one of: {forms}. Found: {', '.join(sorted(given)) or 'none'}")
        for chosen, rejected in (("chosen", "rejected"), ("chosen_text", "rejected_text")):
            if chosen in given and getattr(self, chosen) == getattr(self, rejected):
                raise mistake(rejected, f"{rejected} is the same as {chosen}; a choice is between two answers")
        return self


class Believed(BaseModel):
    weight: float
    low: float
    high: float


class ZoneReply(BaseModel):
    adequate: float
    desired: float


class BeliefReply(BaseModel):
    """What is believed of a person's wishes: by dimension the weight and its 90 % interval, in logits.

    `sure` is the probability that `profile` serves them almost as well as any. From 0.5 on it is theirs, unless they
    have one that was set; once it is `settled` there is little left to ask. `choices` count what tells something
    today: N ratings as N - 1, and nothing that was said of dimensions or scores which are gone. Before any the
    `profile` is that of their last sentence. `zones` are the server's, by dimension.
    """

    dimensions: dict[str, Believed]
    choices: int
    sure: float
    settled: bool
    profile: str | None
    features: Literal["rewards", "profiles"]
    zones: dict[str, ZoneReply]


class FeedbackReply(BaseModel):
    id: str
    user: str
    choices: int = Field(description="As the belief counts them.")
    belief: BeliefReply
    revealed: dict[str, str] | None = Field(None, description="Of a pair: the coefficients that made `a` and `b`.")


class PairBody(Asking):
    messages: Messages
    method: str | None = Field(None, description="The person's own, or the server's, unless given.")
    max_tokens: Length | None = None


class PairReply(BaseModel):
    """Two answers by two profiles, in an order that says nothing of them."""

    pair: str
    a: str
    b: str


class SentenceBody(Asking):
    text: Annotated[str, Field(min_length=1, max_length=2000)]
    save: bool = Field(False, description="Make it the person's profile, if it says one.")


class HeardDimension(BaseModel):
    weight: float
    similarity: float
    confidence: float


class SentenceReply(BaseModel):
    """What was understood: no profile where the sentence says nothing of any dimension.

    Clauses in `not_understood` are like no dimension, those in `uncertain` want less of one that has no opposite.
    """

    profile: str | None
    dimensions: dict[str, HeardDimension]
    not_understood: list[str]
    uncertain: list[str]
    saved: bool


class ScoreBody(Asking):
    messages: Messages
    responses: Annotated[list[str], Field(min_length=1, max_length=64)]


class ScoreReply(BaseModel):
    """A row of scores for each response, in the units of the band's reward models."""

    dimensions: list[str]
    scores: list[list[float]]


@router.post("/v1/feedback", status_code=201, summary="Say which answer was the better, or rate one")
def feedback(request: Request, body: FeedbackBody) -> FeedbackReply:
    """Keep what a person said, and learn from it. What is answered with 201 is on the disk."""
    state, owner = state_of(request), owner_of(request)
    name = body.id or body.pair or new_id()
    try:
        said = feedback_of(state, owner, name, body)
    except Refused:  # the answers are forgotten, but it may have been said before
        if all(one.id != name for one in state.store.feedback(owner, body.user)):
            raise
        user = state.store.user(owner, body.user)
    else:
        user = state.store.add_feedback(owner, body.user, said)
    if user is None:
        raise Refused(f"user {body.user!r} was deleted meanwhile", 404, "user_not_found", "user")
    verdict = state.learner.learn(owner, user)
    return FeedbackReply(
        id=name,
        user=user.name,
        choices=verdict.choices,
        belief=belief_reply(state, verdict),
        revealed=revealed(state, owner, body),
    )


@router.get("/v1/users/{user}/belief", summary="What is believed of a person")
def belief(request: Request, user: str) -> BeliefReply:
    """Worked out from all that they said; of one who said nothing yet, what is believed of anybody."""
    state = state_of(request)
    return belief_reply(state, state.learner.verdict(owner_of(request), user))


@router.post("/v1/users/{user}/pair", summary="Two answers to choose from")
async def pair(request: Request, user: str, body: PairBody) -> PairReply:
    """The two profiles are drawn from what is believed (Thompson sampling): the choice between them tells the most."""
    state, owner = state_of(request), owner_of(request)
    known = await run_in_threadpool(state.store.user, owner, user)
    before = known.current if known else None
    method = body.method or (before and before.method) or state.default[1]
    check_method(method)
    seen_of(request).method = method
    strength = strength_for(before, method, state.band.file.strengths)
    profiles = await run_in_threadpool(drawn, state.learner, owner, user, strength)
    prompt = chat_prompt(state.band, body.messages)
    whose = user if before and before.strength is not None else None
    asked = [Asked(method, profile, "user", whose) for profile in profiles]
    plans = [await plan_of(state.worker, one) for one in asked]
    sampling = Sampling(max_tokens=state.limit(body.max_tokens), seed=secrets.randbits(32))
    requests = [await run_in_threadpool(request_for, state.band, prompt, plan, sampling, "messages") for plan in plans]
    stream = submit(request, state.worker, (owner, user), requests, len(requests[0].contexts[0]))
    answers = [Answering(Growing(state.band.engine.decode)) for _ in requests]
    await unless_gone(request, heard(state, stream, answers))
    name = f"pair-{secrets.token_hex(12)}"
    for index, (one, plan, answering) in enumerate(zip(asked, plans, answers, strict=True)):
        weights = effective(state.band, one, plan)["weights"]
        state.answers.keep(answer_id(name, index), Answer(owner, prompt, answering.whole.text, weights, user))
    return PairReply(pair=name, a=answers[0].whole.text, b=answers[1].whole.text)


@router.post("/v1/users/{user}/sentence", summary="A profile from what a person says of themselves")
def sentence(request: Request, user: str, body: SentenceBody) -> SentenceReply:
    """Read by a small embedding model, which mistakes much: it says how sure it is, and what is saved is where learning
    from choices starts."""
    state, owner = state_of(request), owner_of(request)
    check_user(user)
    reading = state.learner.read(body.text)
    saved = bool(body.save and reading.profile)
    if saved and reading.profile:
        known = state.store.user(owner, user)
        before = known.current if known else None
        state.store.set_profile(owner, user, reading.profile, "sentence", before.method if before else None)
    return SentenceReply(
        profile=format_profile(reading.profile) if reading.profile else None,
        dimensions={name: HeardDimension(**asdict(heard)) for name, heard in reading.dimensions.items()},
        not_understood=list(reading.not_understood),
        uncertain=list(reading.uncertain),
        saved=saved,
    )


@router.post("/v1/score", summary="Score answers on the band's dimensions")
def score(request: Request, body: ScoreBody) -> ScoreReply:
    """By the band's reward models; 404 where it has none."""
    scorers = state_of(request).scorers
    if not scorers.dimensions:
        raise Refused("this band has no reward models; `counterpoint train reward` makes them", 404, "no_scorers")
    found = scorers.scores(chat_prompt(state_of(request).band, body.messages), body.responses)
    names = list(scorers.dimensions)
    return ScoreReply(dimensions=names, scores=[[row[name] for name in names] for row in found])


async def heard(state: State, stream: Stream, answers: Sequence[Answering]) -> None:
    async for index, said in news(state.worker, stream):
        answers[index].hear(said)


def drawn(learner: Learner, owner: str, user: str, strength: float) -> list[Profile]:
    """Two profiles in a random order."""
    generator = np.random.default_rng()
    pair = learner.tuning.pair(learner.belief(owner, user), generator)
    return [replace(pair[place], strength=strength) for place in generator.permutation(2)]


def feedback_of(state: State, owner: str, name: str, body: FeedbackBody) -> Feedback:
    """What a person said, with what is known of the answers that they said it of. Raises `Refused` for unknown ones."""
    kind, answers = answers_of(state, owner, body)
    return Feedback(
        name,
        kind,
        {part: state.learner.features(answer) for part, answer in answers.items()},
        state.learner.measure,
        body.rating,
        tuple(filter(None, (body.chosen, body.rejected, body.pair, body.choice, body.completion))),
        {part: {"prompt": as_json(answer.prompt), "text": answer.text} for part, answer in answers.items()},
    )


def answers_of(state: State, owner: str, body: FeedbackBody) -> tuple[Kind, dict[str, Answer]]:
    """The kind of some feedback, and the answers that it is about."""
    if body.completion:
        return "rating", {"rated": shown_to(state, owner, body.user, body.completion)}
    if body.messages:
        prompt = chat_prompt(state.band, body.messages)
        if state.learner.measure != "rewards":
            raise Refused(
                "texts say nothing without reward models, and this band has not two; give ids of completions, or of a "
                "pair", param="messages",
            )  # fmt: skip
        texts = {"chosen": body.chosen_text or "", "rejected": body.rejected_text or ""}
        return "choice", {part: Answer(owner, prompt, text, {}) for part, text in texts.items()}
    if body.pair:
        a, b = (shown_to(state, owner, body.user, answer_id(body.pair, index)) for index in range(2))
        if body.choice == "tie":
            return "tie", {"a": a, "b": b}
        return "choice", {"chosen": a if body.choice == "a" else b, "rejected": b if body.choice == "a" else a}
    return "choice", {
        "chosen": shown_to(state, owner, body.user, body.chosen or ""),
        "rejected": shown_to(state, owner, body.user, body.rejected or ""),
    }


def shown_to(state: State, owner: str, user: str, name: str) -> Answer:
    """An answer that a person can speak of. Raises `Refused` with 404 also for one of a pair of somebody else's."""
    found = state.answers.find(owner, name)
    if found.user not in (None, user):
        raise forgotten(name)
    return found


def revealed(state: State, owner: str, body: FeedbackBody) -> dict[str, str] | None:
    """What the answers of a pair were made with, which may be told once the choice is made; None for other feedback."""
    try:
        names = {part: answer_id(body.pair or "", index) for index, part in enumerate("ab")}
        return {part: header(state.answers.find(owner, name).weights) for part, name in names.items()}
    except Refused:
        return None


def as_json(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt]


def belief_reply(state: State, verdict: Verdict) -> BeliefReply:
    return BeliefReply(
        dimensions={name: Believed(**asdict(weight)) for name, weight in verdict.dimensions.items()},
        choices=verdict.choices,
        sure=verdict.sure,
        settled=verdict.settled,
        profile=format_profile(verdict.profile) if verdict.profile else None,
        features=state.learner.measure,
        zones={name: ZoneReply(adequate=z.adequate, desired=z.desired) for name, z in state.learner.zones.items()},
    )
