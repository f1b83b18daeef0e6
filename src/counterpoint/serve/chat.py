"""`/v1/chat/completions`: one person's answer, whole or as it grows."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from counterpoint.decode.engine import Request as Asking
from counterpoint.serve.app_state import State, state_of
from counterpoint.serve.streams import Growing
from counterpoint.serve.wanted import Asked, header, plan_of, told
from counterpoint.serve.wire import ChatBody
from counterpoint.serve.worker import Stream
from counterpoint.types import Completion, Message, Prompt

router = APIRouter()
ROLES = {"developer": "system"}


@router.post("/v1/chat/completions")
async def chat(body: ChatBody, request: Request) -> Response:
    state = state_of(request)
    asked = await state.asked(request, body)
    plan = await plan_of(state.worker, asked)
    limit = state.limit(body.max_completion_tokens or body.max_tokens)
    seed = secrets.randbits(32) if body.seed is None else body.seed
    top = (body.top_logprobs or 0) if body.logprobs else None
    sampling = body.sampling(limit, seed)
    first = state.band.request(prompt_of(state, body), plan, sampling, "token" if body.trace else None)
    asking = [replace(first, sampling=replace(first.sampling, seed=seed + i), logprobs=top) for i in range(body.n)]
    stream = state.worker.submit(state.owner(request, body), asking)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": body.model}
    headers = {"X-Counterpoint-Weights": header(told(state.band, asked)["weights"])}
    if body.stream:
        return StreamingResponse(events(state, stream, head, asked, body), 200, headers, "text/event-stream")
    return JSONResponse(await whole(state, stream, head, asked), headers=headers)


def prompt_of(state: State, body: ChatBody) -> Prompt:
    messages = [Message(ROLES.get(m.role, m.role), m.text) for m in body.messages]
    if not state.band.tokenizer.chat_template and len(messages) == 1:
        return state.band.prompt(messages[0].content)
    return state.band.prompt(messages)


async def whole(state: State, stream: Stream, head: dict[str, Any], asked: Asked) -> dict[str, Any]:
    done: dict[int, Completion] = {}
    try:
        async for index, said in stream:
            if said.error:
                raise said.error
            if said.completion:
                done[index] = said.completion
    finally:
        if len(done) < len(stream.requests):
            state.worker.cancel(stream)
    choices = [
        {"index": i, "message": {"role": "assistant", "content": done[i].text}, "logprobs": None,
         "finish_reason": done[i].finish}
        for i in sorted(done)
    ]  # fmt: skip
    counted = usage(stream.requests[0], list(done.values()))
    return {**head, "object": "chat.completion", "choices": choices, "usage": counted, "counterpoint": told(state.band, asked)}


def usage(request: Asking, done: list[Completion]) -> dict[str, int]:
    prompt, said = len(request.contexts[0]), sum(len(completion.tokens) for completion in done)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


async def events(
    state: State, stream: Stream, head: dict[str, Any], asked: Asked, body: ChatBody
) -> AsyncIterator[str]:
    growing = [Growing(state.band.engine.decode, r.sampling.stop) for r in stream.requests]
    done: list[Completion] = []
    head = {**head, "object": "chat.completion.chunk"}
    try:
        yield event({**head, "choices": [_delta(i, {"role": "assistant", "content": ""}) for i in range(body.n)], "counterpoint": told(state.band, asked)})
        async for index, said in stream:
            if said.error:
                raise said.error
            if said.completion:
                done.append(said.completion)
                yield event({**head, "choices": [_delta(index, {"content": growing[index].rest(said.completion.text)}, said.completion.finish)]})
            elif said.token is not None and (text := growing[index].add(said.token)):
                yield event({**head, "choices": [_delta(index, {"content": text})]})
        if body.stream_options and body.stream_options.include_usage:
            yield event({**head, "choices": [], "usage": usage(stream.requests[0], done)})
        yield "data: [DONE]\n\n"
    finally:
        if len(done) < len(stream.requests):
            state.worker.cancel(stream)


def _delta(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
