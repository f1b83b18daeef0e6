"""OpenAI's own client is the judge: every parameter that is served, asked for as its users ask."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import openai
import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from counterpoint.compose import soup
from counterpoint.compose.weighers.constant import constant
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import merge_into
from counterpoint.profiles import parse_profile
from counterpoint.testing import pico_model

if TYPE_CHECKING:
    from tests.serve.conftest import Served

ASK: Any = [{"role": "user", "content": "What does the owl eat?"}]
SOUP = "soup:warm=2,terse=1"
METHODS = ("base", "prompted:warm", "route:warm", SOUP, "moe:warm=0.5,exact=1,strength=1.5",
           "mixture-prob:warm+terse", "mixture-log:warm=1,exact=1,strength=1.5")  # fmt: skip


@pytest.fixture(scope="module")
def client(server: "Served") -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def text_of(reply: ChatCompletion, choice: int = 0) -> str:
    return reply.choices[choice].message.content or ""


def streamed(chunks: Sequence[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_an_answer_is_what_the_band_says_offline(client: OpenAI, band: Band) -> None:
    reply = client.chat.completions.create(model=SOUP, messages=ASK, max_tokens=12, seed=5)
    offline = band.chat(ASK, "warm=2, terse=1", "soup", Sampling(max_tokens=12, seed=5))
    assert text_of(reply) == offline != ""
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.role == "assistant"


@pytest.mark.parametrize("model", METHODS)
def test_a_stream_says_what_the_whole_says(client: OpenAI, model: str) -> None:
    """Every method; the usage comes in a last chunk without choices, where it is asked for."""
    asked: Any = {"model": model, "messages": ASK, "max_tokens": 12, "seed": 3, "n": 2, "logprobs": True}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert [streamed(chunks, i) for i in range(2)] == [text_of(whole, i) for i in range(2)]
    for index in range(2):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        logprobs = [entry for choice in mine if choice.logprobs for entry in choice.logprobs.content or ()]
        expected = whole.choices[index].logprobs
        assert expected is not None
        assert [entry.token for entry in logprobs] == [entry.token for entry in expected.content or ()]
        assert [c.finish_reason for c in mine if c.finish_reason] == [whole.choices[index].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_include_usage_tells_none(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=SOUP, messages=ASK, max_tokens=3, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_the_streaming_helper_and_the_raw_response(client: OpenAI, band: Band) -> None:
    asked: Any = {"messages": ASK, "max_tokens": 99, "seed": 1, "logit_bias": one_letter(band, "abc"), "stop": ["cc"]}
    with client.chat.completions.stream(model=SOUP, **asked) as stream:
        final = stream.get_final_completion()
    raw = client.chat.completions.with_raw_response.create(model=SOUP, **asked)
    assert final.choices[0].message.content == text_of(raw.parse())
    assert raw.headers["x-counterpoint-weights"] == "warm=0.666667, terse=0.333333"


def test_each_answer_of_n_is_that_of_its_own_seed(client: OpenAI) -> None:
    several = client.chat.completions.create(model=SOUP, messages=ASK, max_tokens=10, seed=20, n=3)
    alone = [client.chat.completions.create(model=SOUP, messages=ASK, max_tokens=10, seed=20 + i) for i in range(3)]
    assert [text_of(several, i) for i in range(3)] == [text_of(one) for one in alone]
    assert len({text_of(several, i) for i in range(3)}) == 3
    unseeded = client.chat.completions.create(model=SOUP, messages=ASK, max_tokens=10, n=4)
    assert len({text_of(unseeded, i) for i in range(4)}) == 4


def test_eight_people_at_once_get_each_their_own(server: "Served") -> None:
    """One at a time they say the same: requests share a batch, and nothing else."""
    models = [f"soup:warm={i + 1},terse={9 - i}" for i in range(4)] + ["base", "mixture-prob:warm+exact", "moe:exact"]

    async def ask(client: AsyncOpenAI, model: str) -> str:
        stream = await client.chat.completions.create(
            model=model, messages=ASK, max_tokens=16, seed=7, temperature=0.7, stream=True
        )
        return streamed([chunk async for chunk in stream])

    async def both() -> tuple[list[str], list[str]]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            together = await asyncio.gather(*(ask(client, model) for model in models))
            return together, [await ask(client, model) for model in models]

    together, alone = asyncio.run(both())
    assert together == alone
    assert len(set(alone)) == len(models)


def test_usage_counts_the_prompt_once_and_every_answer(client: OpenAI, band: Band) -> None:
    prompt = len(band.request(band.prompt(ASK), band.plan(None, "base"), Sampling()).contexts[0])
    never_ends: Any = {str(band.tokenizer.eos_token_id): -100}
    reply = client.chat.completions.create(model="base", messages=ASK, max_tokens=6, n=3, logit_bias=never_ends)
    assert reply.usage is not None
    found = reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens
    assert found == (prompt, 18, prompt + 18)
    assert {choice.finish_reason for choice in reply.choices} == {"length"}


def test_max_completion_tokens_wins_over_max_tokens(client: OpenAI, band: Band) -> None:
    bias: Any = {str(band.tokenizer.eos_token_id): -100}
    reply = client.chat.completions.create(
        model="base", messages=ASK, max_tokens=9, max_completion_tokens=4, logit_bias=bias
    )
    assert reply.usage
    assert reply.usage.completion_tokens == 4


def one_letter(band: Band, letters: str) -> Any:
    """Nothing but these letters can be said."""
    return {str(band.tokenizer.convert_tokens_to_ids(letter)): 100 for letter in letters}


def test_a_stop_string_across_tokens_ends_the_answer_and_is_not_told(client: OpenAI, band: Band) -> None:
    """`aaa` is three tokens, of which a stream must hold back two."""
    asked: Any = {"model": "base", "messages": ASK, "max_tokens": 20, "temperature": 0}
    bias = one_letter(band, "a")
    whole = client.chat.completions.create(**asked, logit_bias=bias, stop=["zzz", "aaa"])
    assert (text_of(whole), whole.choices[0].finish_reason) == ("", "stop")
    assert whole.usage
    assert whole.usage.completion_tokens == 3
    chunks = list(client.chat.completions.create(**asked, logit_bias=bias, stop="aaa", stream=True))
    assert streamed(chunks) == ""
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_characters_of_several_tokens_are_never_torn(client: OpenAI, band: Band) -> None:
    """An e with an acute accent is the bytes c3 a9, a token each; of these alone some arrive in order."""
    bias = {**one_letter(band, "\u00c3"), **one_letter(band, "\u00a9")}
    asked: Any = {"model": "base", "messages": ASK, "max_tokens": 40, "seed": 0, "temperature": 2, "logit_bias": bias}
    whole = text_of(client.chat.completions.create(**asked))
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert streamed(chunks) == whole
    assert "\u00e9" in whole


def test_a_frequency_penalty_makes_room_for_others(client: OpenAI, band: Band) -> None:
    """Greedy, of two letters the likelier by far is said for ever; each time costs it 2 with the penalty."""
    asked: Any = {"model": "base", "messages": ASK, "max_tokens": 24, "temperature": 0}
    bias = {**one_letter(band, "a"), **dict.fromkeys(one_letter(band, "b"), 90)}
    plain = text_of(client.chat.completions.create(**asked, logit_bias=bias))
    penalised = text_of(client.chat.completions.create(**asked, logit_bias=bias, frequency_penalty=2))
    assert len(set(plain)) == 1
    assert set(penalised) == {"a", "b"}


def test_content_in_parts_and_the_role_developer(client: OpenAI) -> None:
    parts: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "Who?"}], "name": "ann"},
    ]
    plain: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
    asked: Any = {"model": SOUP, "max_tokens": 10, "seed": 2}
    assert text_of(client.chat.completions.create(**asked, messages=parts)) == text_of(
        client.chat.completions.create(**asked, messages=plain)
    )


def test_an_answer_can_be_sent_back_as_a_message(client: OpenAI) -> None:
    first = client.chat.completions.create(model=SOUP, messages=ASK, max_tokens=3, seed=0)
    again = [*ASK, first.choices[0].message, {"role": "user", "content": "And then?"}]
    assert client.chat.completions.create(model=SOUP, messages=again, max_tokens=3).choices


# Log-probabilities


@pytest.fixture(scope="module")
def merged(band_folder: Any) -> Callable[[Sequence[int]], torch.Tensor]:
    """The reference: an ordinary model with the soup's delta merged into it, and its log-probabilities `[T, V]`."""
    band = Band.load(band_folder)
    model = pico_model(seed=1)
    merge_into(
        model, soup.merge(band.bank.experts, constant(parse_profile("warm=2, terse=1", band.dimensions), band.experts))
    )

    @torch.no_grad()
    def logp(ids: Sequence[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([list(ids)])).logits[0].float().log_softmax(-1)
        return found

    return logp


def test_chat_logprobs_are_the_merged_models(
    client: OpenAI, band: Band, merged: Callable[[Sequence[int]], torch.Tensor]
) -> None:
    """Before temperature, top_p and bias act: these change what is said, and not what is told of it."""
    reply = client.chat.completions.create(
        model=SOUP, messages=ASK, max_tokens=12, seed=4, logprobs=True, top_logprobs=3, temperature=1.7, top_p=0.9,
        logit_bias=one_letter(band, "e") | {str(band.tokenizer.eos_token_id): -100}, presence_penalty=2,
    )  # fmt: skip
    found = reply.choices[0].logprobs
    assert found
    entries = found.content or []
    assert b"".join(bytes(entry.bytes or ()) for entry in entries).decode(errors="replace") == text_of(reply)
    context = band.request(band.prompt(ASK), band.plan(None, "base"), Sampling()).contexts[0]
    ids = band.tokenizer.convert_tokens_to_ids(["e"]) * len(entries)
    logp_TV = merged([*context, *ids])[len(context) - 1 : -1]
    assert {entry.token for entry in entries} == {"e"}
    for entry, logp_V, token in zip(entries, logp_TV, ids, strict=True):
        assert entry.logprob == pytest.approx(float(logp_V[token]), abs=1e-4)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(logp_V.topk(3).values.tolist(), abs=1e-4)


def test_echoed_logprobs_are_the_merged_models(
    client: OpenAI, band: Band, merged: Callable[[Sequence[int]], torch.Tensor]
) -> None:
    text = "The owl eats the mouse, and is content."
    reply = client.completions.create(model=SOUP, prompt=text, echo=True, logprobs=2, max_tokens=1, temperature=0)
    found, ids = reply.choices[0].logprobs, band.tokenizer(text)["input_ids"]
    assert found is not None
    assert found.token_logprobs
    assert found.top_logprobs
    assert found.text_offset
    assert found.tokens
    assert len(found.tokens) == len(ids) + 1
    logp_TV = merged(ids)
    expected = logp_TV[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    assert [found.token_logprobs[0], found.top_logprobs[0]] == [None, None]
    assert found.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-4)
    best = [max(top.values()) for top in found.top_logprobs[1:]]
    assert best == pytest.approx(logp_TV.max(-1).values.tolist(), abs=1e-4)
    assert found.token_logprobs[-1] == best[-1], "the token that greedy decoding took is the very best float"
    for token, begin in zip(found.tokens[1:-1], found.text_offset[1:-1], strict=True):
        assert reply.choices[0].text[begin : begin + len(token)] == token


def test_the_end_of_text_token_is_told_in_a_completions_logprobs(client: OpenAI, band: Band) -> None:
    """Who scores a prompt drops the last token, which must be the one that was drawn, whatever it was."""
    end: Any = {str(band.tokenizer.eos_token_id): 100}
    reply = client.completions.create(
        model=SOUP, prompt="ab", echo=True, logprobs=1, max_tokens=1, temperature=0, logit_bias=end
    )
    found = reply.choices[0].logprobs
    assert found
    assert found.tokens == ["<s>", "a", "b", "</s>"]
    assert found.text_offset == [0, 0, 1, 2]
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("ab", "stop")


def test_max_tokens_0_scores_and_says_nothing(client: OpenAI) -> None:
    asked: Any = {"model": SOUP, "prompt": ["ab", "c"], "echo": True, "logprobs": 0}
    none = client.completions.create(**asked, max_tokens=0)
    one = client.completions.create(**asked, max_tokens=1, temperature=0)
    assert [choice.text for choice in none.choices] == ["ab", "c"]
    for short, long in zip(none.choices, one.choices, strict=True):
        told = [one.logprobs.token_logprobs or [] if one.logprobs else [] for one in (short, long)]
        assert told[0][1:] == pytest.approx(told[1][1:-1], abs=1e-5)
        assert len(told[0]) > 1
    (chunk,) = client.completions.create(**asked, max_tokens=0, stream=True)
    assert [choice.text for choice in chunk.choices] == ["ab", "c"]
    assert {choice.finish_reason for choice in chunk.choices} == {"length"}


# Completions


def test_prompts_of_all_kinds_in_order(client: OpenAI, band: Band) -> None:
    texts = ["Once upon", "The owl", "Why"]
    ids = [list(band.tokenizer(text)["input_ids"]) for text in texts]
    asked: Any = {"model": SOUP, "max_tokens": 8, "seed": 11}
    alone = [client.completions.create(**asked, prompt=text).choices[0].text for text in texts]
    for prompt in (texts, ids):
        reply = client.completions.create(**asked, prompt=prompt)
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        assert [choice.text for choice in reply.choices] == alone
    assert client.completions.create(**asked, prompt=ids[1]).choices[0].text == alone[1]
    assert reply.usage
    assert reply.usage.prompt_tokens == sum(map(len, ids))


def test_answers_to_several_prompts_are_grouped_by_prompt(client: OpenAI) -> None:
    asked: Any = {"model": SOUP, "max_tokens": 6, "seed": 1}
    reply = client.completions.create(**asked, prompt=["ab", "cd"], n=2, echo=True)
    single = [client.completions.create(**asked, prompt=prompt, n=2, echo=True) for prompt in ("ab", "cd")]
    assert [c.text for c in reply.choices] == [c.text for one in single for c in one.choices]


def test_completions_stream_what_they_say_whole(client: OpenAI) -> None:
    asked: Any = {
        "model": "mixture-prob:warm+terse", "prompt": ["ab", "cd"], "n": 2, "echo": True, "logprobs": 2, "seed": 5,
        "max_tokens": 7,
    }  # fmt: skip
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [found for chunk in chunks for found in chunk.choices if found.index == choice.index]
        assert "".join(one.text for one in mine) == choice.text
        assert choice.logprobs
        for field in ("tokens", "token_logprobs", "text_offset"):
            told = [value for one in mine if one.logprobs for value in getattr(one.logprobs, field)]
            assert (
                told == pytest.approx(getattr(choice.logprobs, field), abs=1e-5)
                if field == "token_logprobs"
                else (told == getattr(choice.logprobs, field))
            )
    assert chunks[-1].usage == whole.usage


# Whose profile


def test_the_body_wins_over_the_name_and_tells_what_is_in_force(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model=SOUP, messages=ASK, max_tokens=2, extra_body={"profile": {"exact": 3.0, "terse": 1.0}, "strength": 0.5}
    )
    told = (reply.model_extra or {})["counterpoint"]
    assert told["weights"] == pytest.approx({"exact": 0.375, "terse": 0.125})
    assert (told["source"], told["strength"], told["method"]) == ("request", 0.5, "soup")
    assert told["profile"] == "exact=3, terse=1, strength=0.5"


def test_a_stored_user_needs_only_openais_field(client: OpenAI, server: "Served") -> None:
    put = server.http.put("/v1/users/ann/profile", json={"profile": "warm=3, terse=1", "method": "moe"})
    assert put.status_code == 200
    asked: Any = {"messages": ASK, "max_tokens": 6, "seed": 9}
    stored = client.chat.completions.create(**asked, model="default", user="ann")
    named = client.chat.completions.create(**asked, model="moe:warm=3,terse=1")
    assert text_of(stored) == text_of(named)
    told = (stored.model_extra or {})["counterpoint"]
    assert (told["source"], told["method"], told["profile"]) == ("user", "moe", "warm=3, terse=1")
    over = client.chat.completions.create(**asked, model="soup", user="ann", extra_body={"strength": 2})
    told = (over.model_extra or {})["counterpoint"]
    assert (told["method"], told["weights"]) == ("soup", pytest.approx({"warm": 1.5, "terse": 0.5}))
    stranger = client.chat.completions.create(**asked, model="default", user="nobody")
    assert (stranger.model_extra or {})["counterpoint"]["source"] == "default"


def test_models_are_listed_and_named_with_profiles(client: OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"default", "base", "soup", "mixture-prob"} <= names
    assert "mope" not in names, "this band has no controller"
    assert client.models.retrieve("soup:warm=0.5").id == "soup:warm=0.5"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-9")
    assert error.value.code == "model_not_found"


# What goes wrong


@pytest.mark.parametrize(
    ("changed", "kind", "param", "code", "says"),
    [
        ({"model": "soap"}, openai.NotFoundError, "model", "model_not_found", "did you mean 'soup'"),
        ({"model": "soup:wram=1"}, openai.BadRequestError, None, None, "Known: terse, warm, exact"),
        ({"extra_body": {"profle": "warm"}}, openai.BadRequestError, "profle", "unknown_parameter", "mean 'profile'"),
        ({"extra_body": {"strength": 1.0}, "model": "soup"}, openai.BadRequestError, "strength", None, "a profile"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools", "unsupported", "no tools"),
        ({"response_format": {"type": "json"}}, openai.BadRequestError, "response_format", "unsupported", "text"),
        ({"reasoning_effort": "high"}, openai.BadRequestError, "reasoning_effort", "unsupported", "reasoning"),
        ({"temperature": 3}, openai.BadRequestError, "temperature", None, "less than or equal to 2; found 3"),
        ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs", None, "needs logprobs"),
        ({"n": 17}, openai.BadRequestError, "n", None, "less than or equal to 16"),
        ({"stop": [""]}, openai.BadRequestError, "stop.0", None, "at least 1 character"),
        ({"messages": []}, openai.BadRequestError, "messages", None, "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, openai.BadRequestError, "messages.0.role", None, "'tool'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            openai.BadRequestError, "messages.0.content.0.type", "unsupported", "image_url",
        ),
        (
            {"messages": [{"role": "user", "content": "owl " * 600}]},
            openai.BadRequestError, "messages", "context_length_exceeded", "512 is the most",
        ),
        ({"logit_bias": {"9999": 1}}, openai.BadRequestError, None, None, "no token 9999"),
        ({"model": "mixture-prob:warm=1,strength=2"}, openai.BadRequestError, None, None, "at most 1 is possible"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_is_told_with_its_field(
    client: OpenAI, changed: dict[str, Any], kind: type[openai.APIStatusError], param: str | None, code: str | None,
    says: str, stream: bool,
) -> None:  # fmt: skip
    asked: dict[str, Any] = {"model": SOUP, "messages": ASK, "max_tokens": 2, "stream": stream}
    with pytest.raises(kind) as error:
        client.chat.completions.create(**asked | changed)
    assert (error.value.param, error.value.code) == (param, code)
    assert says in error.value.message


@pytest.mark.parametrize(
    "harmless",
    [
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"]},
        {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": False},
        {"safety_identifier": "x", "prompt_cache_key": "y", "verbosity": "medium", "reasoning_effort": "none"},
        {"extra_body": {"n": None, "stop": None, "temperature": None, "tools": None, "profile": None}},
        {"stop": [], "top_p": 0},
    ],
)
def test_what_asks_for_nothing_changes_nothing(client: OpenAI, harmless: dict[str, Any]) -> None:
    asked: Any = {"model": SOUP, "messages": ASK, "max_tokens": 4, "temperature": 0}
    plain = text_of(client.chat.completions.create(**asked))
    if "temperature" in harmless.get("extra_body", {}):
        del asked["temperature"]
        asked["seed"] = 0
        plain = text_of(client.chat.completions.create(**asked))
    assert text_of(client.chat.completions.create(**asked, **harmless)) == plain


def test_a_strength_beyond_numbers_fails_alone_with_a_status(client: OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="not numbers"):
            client.chat.completions.create(model="soup:warm,strength=1e30", messages=ASK, max_tokens=4, stream=stream)


def test_an_error_after_the_first_token_is_an_event_and_the_end(
    client: OpenAI, server: "Served", monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, calls = server.band.engine.advance, []

    def failing() -> Any:
        calls.append(1)
        if len(calls) > 4:
            raise RuntimeError("a bug")
        return advance()

    stream = client.chat.completions.create(model="base", messages=ASK, max_tokens=200, stream=True)
    monkeypatch.setattr(server.band.engine, "advance", failing)
    with pytest.raises(openai.APIError, match="the engine failed at this request") as error:
        list(stream)
    assert (error.value.code, error.value.type) == ("engine_failed", "server_error")
    monkeypatch.undo()
    assert client.chat.completions.create(model="base", messages=ASK, max_tokens=2).choices
