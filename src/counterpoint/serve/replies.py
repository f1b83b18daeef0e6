"""What is replied to OpenAI's requests, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel

from counterpoint.serve.errors import ErrorReply

Finish = Literal["stop", "length"]


class Bound(BaseModel):
    asked: float
    in_force: float


class Effective(BaseModel):
    """How an answer was made; `weights` are the coefficients in force, by dimension."""

    method: str
    profile: str | None
    strength: float
    weights: dict[str, float]
    source: Literal["request", "model", "user", "default"]
    bounds: dict[str, Bound]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Likely(BaseModel):
    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(Likely):
    top_logprobs: list[Likely]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class Credited(BaseModel):
    """A piece of text, and each expert's share of it, or the base's."""

    token: str
    credit: dict[str, float]


class Answer(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: Answer
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    trace: list[Credited] | None = None


class ChatReply(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    counterpoint: Effective


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class CompletionReply(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    counterpoint: Effective


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "A mistake, told in OpenAI's shape."},
    "5XX": {"model": ErrorReply, "description": "The server's own trouble, or that of a machine that it needs."},
}


def replies(model: type[BaseModel], events: bool = False) -> dict[int | str, dict[str, Any]]:
    """The responses of an endpoint, one that may stream included."""
    stream: dict[str, Any] = {"text/event-stream": {}} if events else {}
    header = {"X-Counterpoint-Weights": {"schema": {"type": "string"}, "description": "The weights in force."}}
    found = {"model": model, "content": stream, **({"headers": header} if events else {})}
    return {200: found, **ERRORS}
