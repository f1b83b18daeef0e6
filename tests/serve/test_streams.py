"""The text of an answer as it grows: what was told is always how the whole text begins, and is never taken back."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from counterpoint.serve.streams import Growing, overlap, runs
from counterpoint.testing import pico_tokenizer

Decode = Callable[[Sequence[int]], str]


def with_byte_fallback() -> Any:
    """A tokenizer that writes spaces and bytes as Llama's does, and drops the space that a text begins with."""
    words = ["\u2581the", "\u2581", "e", "\u00e9", "\u2581\u00e9"]
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", clean_up_tokenization_spaces=False)


PIECES = (" the", " ", "e", "\u00e9", "\u20ac", "\U0001f600")
TOKENIZERS = {"byte level": pico_tokenizer, "byte fallback": with_byte_fallback}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def decoder(tokenizer: Any) -> Decode:
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True))


def grown(decode: Decode, ids: Sequence[int]) -> str:
    growing, told = Growing(decode), ""
    for token in ids:
        told += growing.add(token)
        assert decode(ids).startswith(told)
    return told + growing.end(decode(ids))


def test_told_in_pieces_it_is_the_whole_text_even_of_bytes_that_are_none() -> None:
    decode, generator = decoder(pico_tokenizer()), torch.Generator().manual_seed(0)
    for _ in range(200):
        ids = torch.randint(len(pico_tokenizer()), (12,), generator=generator).tolist()
        assert grown(decode, ids) == decode(ids)


def test_told_in_pieces_it_is_the_whole_text(tokenizer: Any) -> None:
    """Texts of characters of one to four bytes, most of which are a token each byte."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        picked = torch.randint(6, (8,), generator=generator).tolist()
        ids = tokenizer("".join(PIECES[i] for i in picked))["input_ids"]
        assert grown(decoder(tokenizer), ids) == decoder(tokenizer)(ids)


def test_a_character_is_told_once_its_last_byte_is_there(tokenizer: Any) -> None:
    """U+1F600 is f0 9f 98 80."""
    names = ["\u00f0", "\u0141", "\u013a", "\u0122"] if "\u0141" in tokenizer.get_vocab() else None
    names = names or ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    growing = Growing(decoder(tokenizer))
    told = [growing.add(tokenizer.convert_tokens_to_ids(name)) for name in names]
    assert told == ["", "", "", "\U0001f600"]


def spell(text: str) -> list[int]:
    return list(pico_tokenizer().convert_tokens_to_ids(list(text)))


def test_what_may_become_a_stop_string_is_held_back() -> None:
    """`ab` waits after `xa`, since `abc` would end the text; the `d` settles it."""
    growing = Growing(decoder(pico_tokenizer()), ("abc", "q"))
    assert [growing.add(token) for token in spell("xabd")] == ["x", "", "", "abd"]
    assert growing.end("xabd") == ""


def test_of_a_stop_string_nothing_is_told() -> None:
    growing = Growing(decoder(pico_tokenizer()), ("STOP",))
    told = [growing.add(token) for token in spell("noSTO")]
    assert "".join(told) + growing.end("no", spell("P")[0]) == "no"


@pytest.mark.parametrize(
    ("text", "stop", "shared"), [("xab", "abc", 2), ("ab", "ab", 2), ("aab", "aba", 2), ("x", "y", 0)]
)
def test_overlap_by_hand(text: str, stop: str, shared: int) -> None:
    assert overlap(text, stop) == shared


def test_runs_cover_each_piece_that_was_told(tokenizer: Any) -> None:
    """Every character belongs to one token, and of half a character's tokens to the last."""
    decode, generator = decoder(tokenizer), torch.Generator().manual_seed(1)
    ids = torch.randint(len(tokenizer), (40,), generator=generator).tolist()
    growing, borders = Growing(decode, ("the",)), [0]
    for token in ids[:-1]:
        growing.add(token)
        borders.append(growing.told)
    growing.end(decode(ids), ids[-1])
    borders.append(growing.told)
    pieces = [run for begin, end in pairwise(borders) for run in runs(growing.starts, begin, end)]
    assert "".join(growing.text[a:b] for _, a, b in pieces) == decode(ids)
    assert [token for token, _, _ in pieces] == sorted(token for token, _, _ in pieces)


def test_runs_by_hand() -> None:
    """Tokens 0 and 1 wrote `ab` and `c`, token 2 half of what token 3 wrote, `d`."""
    assert list(runs([0, 2, 3, 3], 1, 4)) == [(0, 1, 2), (1, 2, 3), (3, 3, 4)]
