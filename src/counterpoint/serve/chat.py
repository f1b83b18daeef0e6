"""`/v1/chat/completions`: one person's answer, whole or as it grows."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from counterpoint.decode.request import Request as Asking
from counterpoint.serve.answers import Answer, answer_id
from counterpoint.serve.app_state import State, owner_of, state_of
from counterpoint.serve.asking import answers_to, chat_prompt, request_for
from counterpoint.serve.calls import Answering, Events, begun, news, submit, unless_gone, usage
from counterpoint.serve.credits import credited, is_gated
from counterpoint.serve.replies import ChatReply, replies
from counterpoint.serve.seen import seen_of
from counterpoint.serve.streams import Growing
from counterpoint.serve.tokens import chat_logprob
from counterpoint.serve.wanted import effective, header, plan_of
from counterpoint.serve.wire import ChatBody
from counterpoint.serve.worker import Stream
from counterpoint.types import Prompt

router = APIRouter(tags=["openai"])


@dataclass(frozen=True)
class Chat:
    """One call: its stream, and what every part of the reply repeats."""

    state: State
    body: ChatBody
    owner: str
    prompt: Prompt
    stream: Stream
    head: Mapping[str, Any]
    effective: Mapping[str, Any]

    @property
    def requests(self) -> Sequence[Asking]:
        return self.stream.requests

    def begin(self) -> list[Answering]:
        return [Answering(Growing(self.state.band.engine.decode, r.sampling.stop)) for r in self.requests]

    def remember(self, index: int, answering: Answering) -> None:
        answer = Answer(self.owner, self.prompt, answering.whole.text, self.effective["weights"])
        self.state.answers.keep(answer_id(self.head["id"], index), answer)

    def usage(self, answers: Sequence[Answering]) -> dict[str, int]:
        return usage(len(self.requests[0].contexts[0]), sum(len(answering.whole.tokens) for answering in answers))


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation for one person",
    response_model=None,
    responses=replies(ChatReply, events=True),
)
async def chat(body: ChatBody, request: Request) -> Response:
    """As OpenAI's, with a profile; `counterpoint` in the reply, and a header, tell the weights in force.

    Log-probabilities are those of the mixture, before temperature, penalties and bias act on it.
    """
    call = await opened(body, request)
    headers = {"X-Counterpoint-Weights": header(call.effective["weights"])}
    if body.stream:
        bodies = await unless_gone(request, begun(chunks(call)))
        return Events(call.state.worker, call.stream, bodies, headers)
    return JSONResponse(await unless_gone(request, whole(call)), headers=headers)


async def opened(body: ChatBody, request: Request) -> Chat:
    """Submit what a body asks for."""
    state, owner = state_of(request), owner_of(request)
    wanted = await state.asked(owner, body)
    seen_of(request).method = wanted.method
    plan = await plan_of(state.worker, wanted)
    prompt = chat_prompt(state.band, body.messages)
    sampling = body.sampling(state.limit(body.limit))
    first = await run_in_threadpool(request_for, state.band, prompt, plan, sampling, "messages")
    if body.trace and not is_gated(plan):
        first = replace(first, trace="token")
    asking = answers_to(first, body.n, body.seed, body.top)
    stream = submit(request, state.worker, (owner, body.user or ""), asking, len(first.contexts[0]))
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": body.model}
    return Chat(state, body, owner, prompt, stream, head, effective(state.band, wanted, plan))


async def whole(call: Chat) -> dict[str, Any]:
    answers = call.begin()
    async for index, said in news(call.state.worker, call.stream):
        answers[index].hear(said)
    choices = [await choice(call, index, answering) for index, answering in enumerate(answers)]
    tail = {"choices": choices, "usage": call.usage(answers), "counterpoint": call.effective}
    return {**call.head, "object": "chat.completion", **tail}


async def choice(call: Chat, index: int, answering: Answering) -> dict[str, Any]:
    call.remember(index, answering)
    completion = answering.whole
    message = {"role": "assistant", "content": completion.text, "refusal": None}
    found = {"index": index, "message": message, "logprobs": logprobs(call, answering)}
    found["finish_reason"] = completion.finish
    if call.body.trace:
        found["trace"] = await credited(call.state.worker, call.requests[index], answering)
    return found


async def chunks(call: Chat) -> AsyncIterator[dict[str, Any]]:
    """The reply as it grows: a chunk for each piece of an answer's text, with the news of the tokens that it took."""
    answers, head = call.begin(), {**call.head, "object": "chat.completion.chunk"}
    if call.body.tells_usage:
        head["usage"] = None
    told_later = await begun(news(call.state.worker, call.stream))
    role = [delta(index, {"role": "assistant", "content": ""}) for index in range(len(answers))]
    yield {**head, "choices": role, "counterpoint": call.effective}
    async for index, said in told_later:
        answering = answers[index]
        begin, text = answering.growing.told, answering.hear(said)
        if text or answering.completion:
            yield {**head, "choices": [await piece(call, index, answering, begin, text)]}
    if call.body.tells_usage:
        yield {**head, "choices": [], "usage": call.usage(answers)}


async def piece(call: Chat, index: int, answering: Answering, begin: int, text: str) -> dict[str, Any]:
    """A choice of a chunk, whose text begins so many characters into the answer."""
    found = delta(index, {"content": text} if text else {}, logprobs(call, answering))
    if answering.completion:
        found["finish_reason"] = answering.completion.finish
        call.remember(index, answering)
    if call.body.trace:
        found["trace"] = await credited(call.state.worker, call.requests[index], answering, begin)
    return found


def delta(index: int, new: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "delta": new, "logprobs": found, "finish_reason": None}


def logprobs(call: Chat, answering: Answering) -> dict[str, Any] | None:
    """Of an answer's tokens that were not told yet; the end-of-text token is none of them."""
    if call.body.top is None:
        return None
    said = [one for _, one in answering.fresh()]
    names = call.state.names
    content = [chat_logprob(names, s.token, s.logprobs) for s in said if s.token is not None and s.logprobs]
    return {"content": content, "refusal": None}
