"""The bodies of OpenAI's requests, and what is asked for beyond them; what is not served is an error."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, WithJsonSchema, model_validator

from counterpoint.decode.sampling import Sampling
from counterpoint.serve.unserved import mistake, only_served, unsupported, whole_characters

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_TOP = 20
MOST_PROMPTS = 256

LEAST_TOP_P = 1e-9
"""What a `top_p` of 0 is taken for: the likeliest token alone."""

Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Length = Annotated[int, Field(ge=1, le=2**31)]
Digits = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Ids(tuple[int, ...]):
    """A prompt as token ids."""

    __slots__ = ()


def _nullable(schema: dict[str, Any]) -> None:
    """Null is as good as nothing in every field that may be left out."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()):
            said = {key: field.pop(key) for key in ("description", "title", "default") if key in field}
            kinds = [kind for kind in field.get("anyOf", [field]) if kind != {"type": "null"}]
            schema["properties"][name] = {"anyOf": [*kinds, {"type": "null"}], **said}


class Asking(BaseModel):
    """A body whose unknown fields are mistakes, and whose nulls are as good as nothing."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=_nullable)

    @model_validator(mode="before")
    @classmethod
    def _served(cls, body: Any) -> Any:
        return only_served(whole_characters(body), cls.model_fields)


class Part(BaseModel):
    """A piece of a message's text."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise unsupported("type", "messages are text", f"a part of type {kind!r}")
        return part


class ChatMessage(BaseModel):
    """One turn of a conversation; a `developer` is a `system`, and `name` is taken and says nothing to the model."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_nullable)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _served(cls, message: Any) -> Any:
        return only_served(message, cls.model_fields)

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_nullable)
    include_usage: bool = Field(False, description="Tell the usage in a last chunk, which has no choices.")
    include_obfuscation: bool = Field(False, description="Taken; chunks are never padded.")

    @model_validator(mode="before")
    @classmethod
    def _served(cls, options: Any) -> Any:
        return only_served(options, cls.model_fields)


class Body(Asking):
    """What chats and completions share."""

    model: str = Field(
        "default",
        description="METHOD, METHOD:PROFILE such as `soup:concise=0.7,friendly=0.3`, or `default`. "
        "Where a comma cannot be sent, a semicolon says the same.",
    )
    profile: str | dict[str, float] | None = Field(
        None, description="Weights by dimension, or as text; wins over the model name and the user's stored profile."
    )
    strength: Annotated[float, Field(ge=0)] | None = Field(
        None, description="How far from the base; wins over the profile's own."
    )
    user: str | None = Field(None, description="Whose stored profile applies where no other is given.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES, description="Answers; answer i is drawn with the seed `seed + i`.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="The same seed and request: the same answer.")
    temperature: float = Field(1.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0, le=2**31, description="Beyond OpenAI's; 0 keeps all.")
    min_p: float = Field(0.0, ge=0, le=1, description="Beyond OpenAI's.")
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="Beyond OpenAI's; acts on each expert's logits.")
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[Digits, Bias] = Field({}, description="By token id; acts on the mixture.")
    best_of: int | None = Field(None, ge=1, description="As many as `n`, or left out.")
    store: bool = Field(False, description="Taken; answers are not stored.")
    metadata: dict[str, str] = Field({}, description="Taken and left aside, as are the fields that follow.")
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] = {}
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "Body":
        if self.stream_options and not self.stream:
            raise mistake("stream_options", "stream_options needs stream: true")
        if self.best_of not in (None, self.n):
            raise unsupported("best_of", f"every answer is returned; leave it out, or give n, which is {self.n}")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, limit: int) -> Sampling:
        """How answers are drawn, the seed aside."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p or LEAST_TOP_P,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_tokens=limit,
            stop=self.stops,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in self.logit_bias.items()),
        )


class ChatBody(Body):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Length | None = None
    max_tokens: Length | None = Field(None, description="The older name of max_completion_tokens, which wins.")
    logprobs: bool = Field(
        False, description="Tell each token's log-probability: of the mixture, before temperature, penalties and bias."
    )
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP, description="And that of so many likeliest tokens.")
    trace: bool = Field(False, description="Beyond OpenAI's: tell whose token each was.")

    @model_validator(mode="after")
    def _top_of_logprobs(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise mistake("top_logprobs", "top_logprobs needs logprobs: true")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likeliest tokens are told beside each, None where not even its own probability is."""
        return (self.top_logprobs or 0) if self.logprobs else None


def _read_prompts(given: Any) -> tuple[str | Ids, ...]:
    """One prompt or several, each text or token ids."""
    several = isinstance(given, list) and not _are_ids(given)
    prompts: Sequence[Any] = given if several else [given]
    if not 1 <= len(prompts) <= MOST_PROMPTS or not all(isinstance(p, str) or _are_ids(p) for p in prompts):
        raise mistake("prompt", f"expected text, token ids, or a list of 1 to {MOST_PROMPTS} of them")
    return tuple(p if isinstance(p, str) else Ids(p) for p in prompts)


def _are_ids(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(token) is int and 0 <= token < 2**31 for token in given)


IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}, "minItems": 1}
ONE = {"anyOf": [{"type": "string"}, IDS]}
PROMPTS = {"anyOf": [*ONE["anyOf"], {"type": "array", "items": ONE, "minItems": 1, "maxItems": MOST_PROMPTS}]}


class CompletionBody(Body):
    prompt: Annotated[tuple[str | Ids, ...], PlainValidator(_read_prompts), WithJsonSchema(PROMPTS)]
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = Field(None, description="0 with echo alone.")
    echo: bool = Field(False, description="Begin each text with its prompt, and tell its log-probabilities as well.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_TOP,
        description="Tell each token's log-probability and those of so many likeliest tokens: of the mixture, before "
        "temperature, penalties and bias.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "CompletionBody":
        if self.max_tokens == 0 and not self.echo:
            raise mistake("max_tokens", "max_tokens is 0, which needs echo: true")
        return self
