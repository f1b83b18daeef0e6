"""Names and bytes of tokens, and text that goes on, also where a tokenizer drops the space that it begins with."""

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from counterpoint.decode.logprobs import TopLogprobs
from counterpoint.models.band_file import new_band
from counterpoint.models.load import load_tokenizer
from counterpoint.serve.tokens import LEAST, Names, chat_logprob, completion_logprobs
from counterpoint.testing import pico_tokenizer
from counterpoint.types import Dimension

if TYPE_CHECKING:
    from tests.serve.conftest import Served

Serve = Callable[..., "AbstractContextManager[Served]"]


def ids(tokenizer: Any, *pieces: str) -> list[int]:
    return [int(tokenizer.convert_tokens_to_ids(piece)) for piece in pieces]


def test_names_and_bytes_by_hand() -> None:
    """In byte-level vocabularies `Ġ` is the space 20, `Ã` the byte c3 and `©` a9: together an e with an accent."""
    tokenizer = pico_tokenizer()
    names = Names(tokenizer)
    the, first, second, end = ids(tokenizer, "\u0120the", "\u00c3", "\u00a9", "</s>")
    assert (names.name(the), names.bytes_of(the)) == (" the", b" the")
    assert (names.name(first), names.bytes_of(first)) == (r"bytes:\xc3", b"\xc3")
    assert (names.bytes_of(first) + names.bytes_of(second)).decode() == "\u00e9"
    assert names.name(end) == "</s>"
    assert names.lead("the", [the]) == " "
    assert names.lead(" the", [the]) == names.lead("", []) == ""


@pytest.mark.parametrize("text", ["Once upon a time, the owl.", "caf\u00e9 \u20ac\U0001f600", "  two  spaces\n"])
def test_the_bytes_of_tokens_are_those_of_the_text(text: str, shared: Path) -> None:
    """Byte-level, and SentencePiece with a byte each for what is in no piece, which puts a space before it all."""
    for tokenizer, before in ((pico_tokenizer(), ""), (load_tokenizer(str(shared / "models" / "stories260k")), " ")):
        names = Names(tokenizer)
        raw = b"".join(names.bytes_of(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"])
        assert raw.decode() == before + text


def test_a_token_that_cannot_be_is_told_as_openai_tells_it() -> None:
    """JSON has no infinity."""
    tokenizer = pico_tokenizer()
    (a, b) = ids(tokenizer, "a", "b")
    told = chat_logprob(Names(tokenizer), a, TopLogprobs(-math.inf, ((b, -0.5),)))
    assert told == {
        "token": "a", "bytes": [97], "logprob": LEAST,
        "top_logprobs": [{"token": "b", "bytes": [98], "logprob": -0.5}],
    }  # fmt: skip


def test_completion_logprobs_by_hand() -> None:
    """The token that was said is among the likeliest, be it none of them; nothing comes before the first."""
    tokenizer = pico_tokenizer()
    (a, b) = ids(tokenizer, "a", "b")
    found = completion_logprobs(Names(tokenizer), [a, b], [None, TopLogprobs(-2.0, ((a, -0.5),))], [0, 1])
    assert found == {
        "tokens": ["a", "b"], "token_logprobs": [None, -2.0], "top_logprobs": [None, {"a": -0.5, "b": -2.0}],
        "text_offset": [0, 1],
    }  # fmt: skip


def test_text_goes_on_with_the_space_that_its_tokenizer_drops(serve: Serve, shared: Path, tmp_path: Path) -> None:
    """`The cat` and `sat` are `The cat sat`, whole and streamed; offsets point into that text."""
    new_band(tmp_path / "band", str(shared / "models" / "stories260k"), [Dimension("happy")])
    asked: Any = {
        "model": "base",
        "prompt": "Once upon a",
        "max_tokens": 3,
        "temperature": 0,
        "echo": True,
        "logprobs": 0,
    }
    with serve(folder=tmp_path / "band") as server:
        (whole,) = server.http.post("/v1/completions", json=asked).json()["choices"]
        streamed = server.http.post("/v1/completions", json=asked | {"stream": True}).text
    assert whole["text"].startswith("Once upon a time")
    logprobs = whole["logprobs"]
    for token, begin in list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))[2:]:
        assert whole["text"][begin : begin + len(token)] == token
    pieces = [line.split('"text":"')[1].split('"')[0] for line in streamed.split("\n\n") if '"text":"' in line]
    assert "".join(pieces) == whole["text"]


def test_words_of_a_method_leave_no_prompt_to_score(server: "Served") -> None:
    """`prompted` adds words to a prompt: it continues text, and scores none; ids hold no words."""
    asked: Any = {"model": "prompted:warm", "max_tokens": 2}
    assert server.http.post("/v1/completions", json=asked | {"prompt": "ab"}).status_code == 200
    for more in ({"prompt": "ab", "echo": True, "logprobs": 1}, {"prompt": [5, 6]}):
        error = server.http.post("/v1/completions", json=asked | more).json()["error"]
        assert "adds words" in error["message"]


def test_a_prompt_of_one_token_and_of_all_positions(server: "Served") -> None:
    """Of one token there is nothing to score; 512 are scored, and leave no room for an answer."""
    asked: Any = {"model": "soup:warm", "echo": True, "logprobs": 0}
    one = server.http.post("/v1/completions", json=asked | {"prompt": [5], "max_tokens": 1}).json()
    assert len(one["choices"][0]["logprobs"]["tokens"]) == 2
    full = server.http.post("/v1/completions", json=asked | {"prompt": [5] * 512, "max_tokens": 0}).json()
    assert len(full["choices"][0]["logprobs"]["token_logprobs"]) == 512
    over = server.http.post("/v1/completions", json=asked | {"prompt": [5] * 512, "max_tokens": 1})
    assert over.json()["error"]["code"] == "context_length_exceeded"


def test_a_prompt_of_nothing(serve: Serve, band_folder: Path, tmp_path: Path) -> None:
    """It is the token that texts begin with; a model without one cannot begin."""
    folder = tmp_path / "band"
    shutil.copytree(band_folder, folder)
    with serve(folder=folder) as server:
        reply = server.http.post("/v1/completions", json={"prompt": "", "max_tokens": 2}).json()
    assert reply["usage"]["prompt_tokens"] == 1
