"""`/v1/completions`: text that goes on, from text or token ids, one prompt or many; and how likely a given text is."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from counterpoint.compose.plan import Plan
from counterpoint.data.chat import prompt_ids
from counterpoint.decode.logprobs import TopLogprobs
from counterpoint.decode.request import Request as Asking
from counterpoint.decode.request import Said
from counterpoint.serve.answers import Answer, answer_id
from counterpoint.serve.app_state import State, owner_of, state_of
from counterpoint.serve.asking import answers_to, request_for, scoring
from counterpoint.serve.calls import Answering, Events, begun, news, submit, unless_gone, usage
from counterpoint.serve.errors import Refused
from counterpoint.serve.replies import CompletionReply, replies
from counterpoint.serve.seen import seen_of
from counterpoint.serve.streams import Growing
from counterpoint.serve.tokens import completion_logprobs
from counterpoint.serve.wanted import effective, header, plan_of
from counterpoint.serve.wire import CompletionBody, Ids
from counterpoint.serve.worker import Stream
from counterpoint.types import Completion

router = APIRouter(tags=["openai"])


@dataclass
class Prompted:
    """A prompt: what was sent, its ids and its text.

    Where it is echoed with log-probabilities, also where in the text each id begins, and how likely it was.
    """

    sent: str | Ids
    ids: Ids
    text: str
    starts: list[int]
    scores: list[TopLogprobs | None] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One call: answer `i` of prompt `p` is choice `p * n + i`."""

    state: State
    body: CompletionBody
    owner: str
    prompts: Sequence[Prompted]
    stream: Stream
    head: Mapping[str, Any]
    effective: Mapping[str, Any]

    def begin(self) -> list[Answering]:
        """An answer for each choice; complete where nothing is to be said."""
        choices = len(self.prompts) * self.body.n
        answers = [Answering(Growing(self.decode, self.body.stops)) for _ in range(choices)]
        if not self.stream.requests:
            for answering in answers:
                answering.completion = Completion("", (), "length")
        return answers

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that go on with another."""
        text = self.state.band.engine.decode(tokens)
        return self.state.names.lead(text, tokens) + text

    def going_on(self, said: Said) -> Said:
        """The same news, of a text that goes on with its prompt's."""
        if said.completion is None:
            return said
        lead = self.state.names.lead(said.completion.text, said.completion.tokens)
        return replace(said, completion=replace(said.completion, text=lead + said.completion.text))

    def prompt(self, choice: int) -> Prompted:
        return self.prompts[choice // self.body.n]

    def echoed(self, choice: int) -> str:
        """What stands before an answer in its choice's text."""
        return self.prompt(choice).text if self.body.echo else ""

    def remember(self, choice: int, answering: Answering) -> None:
        sent = self.prompt(choice).sent
        if isinstance(sent, str):
            answer = Answer(self.owner, sent, answering.whole.text, self.effective["weights"])
            self.state.answers.keep(answer_id(self.head["id"], choice), answer)

    def usage(self, answers: Sequence[Answering]) -> dict[str, int]:
        prompts = sum(len(prompt.ids) for prompt in self.prompts)
        return usage(prompts, sum(len(answering.whole.tokens) for answering in answers))


@router.post(
    "/v1/completions",
    summary="Continue text, or tell how likely it is, for one person",
    response_model=None,
    responses=replies(CompletionReply, events=True),
)
async def completions(body: CompletionBody, request: Request) -> Response:
    """As OpenAI's, with a profile; `counterpoint` in the reply, and a header, tell the weights in force.

    Log-probabilities are those of the mixture, before temperature, penalties and bias act on it; with `echo` those of
    the prompt as well, whose first token has none.
    """
    call = await opened(body, request)
    headers = {"X-Counterpoint-Weights": header(call.effective["weights"])}
    if body.stream:
        bodies = await unless_gone(request, begun(chunks(call)))
        return Events(call.state.worker, call.stream, bodies, headers)
    return JSONResponse(await unless_gone(request, whole(call)), headers=headers)


async def opened(body: CompletionBody, request: Request) -> Call:
    """Score the prompts where that is asked for, and submit what is to be answered."""
    state, owner = state_of(request), owner_of(request)
    wanted = await state.asked(owner, body)
    seen_of(request).method = wanted.method
    plan = await plan_of(state.worker, wanted)
    prompts = await run_in_threadpool(read, state, body)
    length = sum(len(prompt.ids) for prompt in prompts)
    asking = await run_in_threadpool(requests_for, state, body, plan)
    queue = owner, body.user or ""
    if body.echo and body.logprobs is not None:
        stream = submit(request, state.worker, queue, scores_wanted(plan, prompts, body.logprobs), length)
        await unless_gone(request, score(state, stream, prompts))
    stream = submit(request, state.worker, queue, asking, length)
    head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
    return Call(state, body, owner, prompts, stream, {**head, "model": body.model}, effective(state.band, wanted, plan))


def read(state: State, body: CompletionBody) -> list[Prompted]:
    found = []
    for sent in body.prompt:
        ids = sent if isinstance(sent, Ids) else Ids(prompt_ids(sent, state.band.tokenizer))
        text = sent if isinstance(sent, str) else state.band.engine.decode(ids)
        starts = starts_in(ids, len(text), state) if body.echo and body.logprobs is not None else []
        found.append(Prompted(sent, ids, text, starts))
    return found


def requests_for(state: State, body: CompletionBody, plan: Plan) -> list[Asking]:
    """An answer to each prompt, `n` times; none where there is nothing to say."""
    if body.max_tokens == 0:
        return []
    sampling = body.sampling(state.limit(body.max_tokens))
    first = [request_for(state.band, prompt, plan, sampling, "prompt") for prompt in body.prompt]
    return [one for request in first for one in answers_to(request, body.n, body.seed, body.logprobs)]


def scores_wanted(plan: Plan, prompts: Sequence[Prompted], top: int) -> list[Asking]:
    if any(row.requests for row in plan.rows):
        raise Refused("this method adds words to a prompt, whose log-probabilities would be another text's; "
                      "ask without echo, or without logprobs", param="echo")  # fmt: skip
    return [scoring(plan, prompt.ids, top) for prompt in prompts if len(prompt.ids) > 1]


async def score(state: State, stream: Stream, prompts: Sequence[Prompted]) -> None:
    """Tell each prompt how likely its tokens are; nothing comes before the first."""
    for prompt in prompts:
        prompt.scores = [None]
    long = [prompt for prompt in prompts if len(prompt.ids) > 1]
    async for index, said in news(state.worker, stream):
        long[index].scores += said.scores or ()


async def whole(call: Call) -> dict[str, Any]:
    answers = call.begin()
    async for index, said in news(call.state.worker, call.stream):
        answers[index].hear(call.going_on(said))
    for index, answering in enumerate(answers):
        call.remember(index, answering)
    choices = await run_in_threadpool(choices_of, call, answers)
    return {**call.head, "choices": choices, "usage": call.usage(answers), "counterpoint": call.effective}


def choices_of(call: Call, answers: Sequence[Answering]) -> list[dict[str, Any]]:
    """Whole answers; naming the tokens of many long prompts takes seconds."""
    return [
        piece(
            index,
            call.echoed(index) + answering.whole.text,
            logprobs(call, index, answering, call.body.echo),
            answering.whole.finish,
        )
        for index, answering in enumerate(answers)
    ]


async def chunks(call: Call) -> AsyncIterator[dict[str, Any]]:
    """The reply as it grows: first what is echoed, then a chunk for each piece of text, with the tokens it took."""
    answers, head = call.begin(), dict(call.head)
    if call.body.tells_usage:
        head["usage"] = None
    told_later = await begun(news(call.state.worker, call.stream))
    finish = None if call.stream.requests else "length"
    echoed = [
        piece(index, call.echoed(index), logprobs(call, index, one, True) if call.body.echo else None, finish)
        for index, one in enumerate(answers)
    ]
    yield {**head, "choices": echoed, "counterpoint": call.effective}
    async for index, said in told_later:
        answering = answers[index]
        text = answering.hear(call.going_on(said))
        if not text and not answering.completion:
            continue
        found = logprobs(call, index, answering, False)
        if answering.completion:
            call.remember(index, answering)
        finish = answering.completion.finish if answering.completion else None
        yield {**head, "choices": [piece(index, text, found, finish)]}
    if call.body.tells_usage:
        yield {**head, "choices": [], "usage": call.usage(answers)}


def piece(index: int, text: str, found: Mapping[str, Any] | None, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": found, "finish_reason": finish}


def logprobs(call: Call, choice: int, answering: Answering, echo: bool) -> dict[str, Any] | None:
    """Of an answer's tokens that were not told yet, behind those of the prompt if they are echoed.

    The end-of-text token is one of them, so that a caller that drops the last token drops one that was drawn.
    """
    if call.body.logprobs is None:
        return None
    prompt, state, said = call.prompt(choice), call.state, answering.fresh()
    starts = [*answering.growing.starts, len(answering.growing.text)]
    ids = [min(state.band.engine.end_tokens) if one.token is None else one.token for _, one in said]
    found: list[TopLogprobs | None] = [one.logprobs for _, one in said]
    offsets = [len(call.echoed(choice)) + starts[place] for place, _ in said]
    if echo:
        ids, found = [*prompt.ids, *ids], [*prompt.scores, *found]
        offsets = [*prompt.starts, *offsets]
    return completion_logprobs(state.names, ids, found, offsets)


def starts_in(ids: Ids, length: int, state: State) -> list[int]:
    """Where each token of a prompt begins; special tokens, which have no text, take no room."""
    growing = Growing(state.band.engine.decode)
    for token in ids:
        growing.add(token)
    return [min(start, length) for start in growing.starts]
