"""What bodies are taken, what they come to, and what is told of those that are not."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from counterpoint.decode.sampling import Sampling
from counterpoint.serve.errors import Refused, invalid
from counterpoint.serve.unserved import UNSERVED, UNSUPPORTED
from counterpoint.serve.wire import LEAST_TOP_P, Body, ChatBody, CompletionBody, Ids

ASK: Any = [{"role": "user", "content": "Who?"}]


def chat(**body: Any) -> ChatBody:
    return ChatBody.model_validate({"messages": ASK} | body)


def refusal(kind: type[Body], body: Any) -> Refused:
    with pytest.raises(ValidationError) as error:
        kind.model_validate(body)
    return invalid(error.value.errors())


def test_a_body_that_says_nothing_asks_for_openais_defaults() -> None:
    assert chat().sampling(7) == Sampling(temperature=1.0, top_p=1.0, max_tokens=7)
    assert (chat().n, chat().limit, chat().top, chat().stream) == (1, None, None, False)


def test_every_field_of_the_draw_reaches_the_sampling() -> None:
    body = chat(
        temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2, presence_penalty=1,
        frequency_penalty=-2, logit_bias={"12": -100, "3": 4.5}, stop=["a", "b"],
    )  # fmt: skip
    assert body.sampling(9) == Sampling(
        temperature=0.5, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.2, max_tokens=9, stop=("a", "b"),
        presence_penalty=1, frequency_penalty=-2, logit_bias=((12, -100.0), (3, 4.5)),
    )  # fmt: skip
    assert chat(stop="ab").sampling(1).stop == ("ab",)
    assert chat(top_p=0).sampling(1).top_p == LEAST_TOP_P


@pytest.mark.parametrize("field", [name for name in ChatBody.model_fields if name != "messages"])
def test_null_is_as_good_as_nothing(field: str) -> None:
    assert chat(**{field: None}) == chat()


def test_the_document_allows_null_where_it_is_taken() -> None:
    fields = ChatBody.model_json_schema()["properties"]
    assert {"type": "null"} not in fields["messages"].get("anyOf", [])
    assert all({"type": "null"} in field["anyOf"] for name, field in fields.items() if name != "messages")


@pytest.mark.parametrize("field", UNSERVED)
def test_what_is_not_served_is_told_and_its_harmless_values_are_taken(field: str) -> None:
    harmless, instead = UNSERVED[field]
    for value in (*harmless, None):
        assert chat(**{field: value}) == chat()
    error = refusal(ChatBody, {"messages": ASK, field: {"anything": "else"}})
    assert (error.code, error.param) == (UNSUPPORTED, field)
    assert instead in str(error)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("ab", ("ab",)), ("", ("",)), (["ab", "c"], ("ab", "c")), ([1, 2], (Ids((1, 2)),)),
        ([[1], [2, 3]], (Ids((1,)), Ids((2, 3)))), (["ab", [1]], ("ab", Ids((1,)))),
    ],
)  # fmt: skip
def test_prompts_of_all_kinds(given: Any, prompts: tuple[str | Ids, ...]) -> None:
    found = CompletionBody.model_validate({"prompt": given}).prompt
    assert found == prompts
    assert list(map(type, found)) == list(map(type, prompts))


@pytest.mark.parametrize("given", [[], [[]], [True], [-1], [1, "a"], 5, {"a": 1}, [2**31], ["a"] * 257])
def test_what_is_no_prompt(given: Any) -> None:
    error = refusal(CompletionBody, {"prompt": given})
    assert error.param == "prompt"
    assert "expected text, token ids, or a list of 1 to 256 of them" in str(error)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"seed": 2**63}, "seed", "less than 9223372036854775808"),
        ({"temperature": float("nan")}, "temperature", "finite number; found nan"),
        ({"profile": {"warm": float("inf")}}, "profile.warm", "finite number; found inf"),
        ({"profile": 5}, "profile", "valid string or Input should be a valid dictionary; found 5"),
        ({"strength": -1}, "strength", "greater than or equal to 0"),
        ({"stream": "yes"}, "stream", "valid boolean; found 'yes'"),
        ({"n": True}, "n", "valid integer"),
        ({"stop": ["x"] * 17}, "stop", "at most 16 items"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a", "match pattern"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "less than or equal to 100"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream: true"),
        (
            {"stream": True, "stream_options": {"include_use": 1}},
            "stream_options.include_use",
            "did you mean 'include_usage'",
        ),
        ({"best_of": 2}, "best_of", "every answer is returned"),
        ({"strenght": 1}, "strenght", "did you mean 'strength'"),
        ({"qqq": 1}, "qqq", "expected some of: model, profile"),
        ({"user": "\ud800"}, "body", "half a character, 0xd800"),
        ({"messages": [{"role": "user", "content": "x", "toool": 1}]}, "messages.0.toool", "unknown field 'toool'"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]}, "messages.0.tool_calls", "no tools"),
        ({"messages": "hello"}, "messages", "valid list"),
    ],
)
def test_a_mistake_names_its_field_and_what_was_found(body: dict[str, Any], param: str, says: str) -> None:
    error = refusal(ChatBody, {"messages": ASK} | body)
    assert (error.param, error.status) == (param, 400)
    assert says in str(error)


def test_what_is_found_is_quoted_in_short() -> None:
    """A mistake in a long body is no reason to send all of it back."""
    assert len(str(refusal(ChatBody, {"messages": "x" * 10_000}))) < 200


def test_a_completion_of_nothing_needs_an_echo() -> None:
    assert refusal(CompletionBody, {"prompt": "a", "max_tokens": 0}).param == "max_tokens"
    assert CompletionBody.model_validate({"prompt": "a", "max_tokens": 0, "echo": True}).max_tokens == 0


def test_no_body_at_all() -> None:
    assert refusal(ChatBody, {}).param == "messages"
    assert "dictionary" in str(refusal(ChatBody, json.loads("[1]")))
