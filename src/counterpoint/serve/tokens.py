"""What a token is called in a reply: its text where its bytes are whole characters, else the bytes themselves."""

import json
import re
from collections.abc import Sequence
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from counterpoint.decode.logprobs import TopLogprobs

BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
"""How byte-level vocabularies write a byte."""

SPACE = "\u2581"
"""How SentencePiece vocabularies write a space."""

LEAST = -9999.0
"""What is told of a token that cannot occur: JSON has no infinity, and this is what OpenAI says."""


class Names:
    """The bytes and names of a tokenizer's tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_level = _is_byte_level(tokenizer)
        self._special = set(tokenizer.all_special_ids)
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def name(self, token: int) -> str:
        """Its text; `bytes:\\xe2\\x80` for a part of a character, as OpenAI's completions call one."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def lead(self, text: str, tokens: Sequence[int]) -> str:
        """The space that a text's tokens begin with, where the tokenizer leaves it out as if all began there."""
        return " " if tokens and self.bytes_of(tokens[0]).startswith(b" ") and not text.startswith(" ") else ""

    def _read(self, token: int) -> bytes:
        piece: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        if token in self._special:
            return piece.encode()
        if self._byte_level and all(character in BYTE_OF for character in piece):
            return bytes(BYTE_OF[character] for character in piece)
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return False
    state = json.loads(backend.decoder.__getstate__())
    return "ByteLevel" in [state["type"], *(part["type"] for part in state.get("decoders", ()))]


def chat_logprob(names: Names, token: int, found: TopLogprobs) -> dict[str, Any]:
    """A token of a chat's `logprobs.content`."""
    return {**_entry(names, token, found.logp), "top_logprobs": [_entry(names, *pair) for pair in found.top]}


def _entry(names: Names, token: int, logp: float) -> dict[str, Any]:
    return {"token": names.name(token), "bytes": list(names.bytes_of(token)), "logprob": max(logp, LEAST)}


def completion_logprobs(
    names: Names, tokens: Sequence[int], found: Sequence[TopLogprobs | None], offsets: Sequence[int]
) -> dict[str, Any]:
    """`logprobs` of a completion; None is the first token of a text, which nothing comes before."""
    return {
        "tokens": [names.name(token) for token in tokens],
        "token_logprobs": [f and max(f.logp, LEAST) for f in found],
        "top_logprobs": [f and _by_name(names, token, f) for token, f in zip(tokens, found, strict=True)],
        "text_offset": list(offsets),
    }


def _by_name(names: Names, token: int, found: TopLogprobs) -> dict[str, float]:
    """The likeliest tokens and the one that was said; of tokens of one name the likeliest counts."""
    told: dict[str, float] = {}
    for other, logp in (*found.top, (token, found.logp)):
        name = names.name(other)
        told[name] = max(logp, told.get(name, LEAST))
    return told
