"""What the clients ask for: everything follows from a request's number, so that its answer can be made again."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.models import ADAPTERS, random_prompts
from benchmarks.ours import weights
from benchmarks.serve_band import EXPERTS, SPECIAL, word
from benchmarks.serve_load import Ask

METHODS = ("soup", "moe", "mixture-prob", "mixture-log", "pmol", "mope", "base")
MARK = 7
"""Tokens of a request's mark."""
END = 2


@dataclass(frozen=True)
class Mix:
    """Clients with all methods among them, unlike lengths and sampling, and profiles that are `alike` or not.

    `warmth` multiplies temperatures: a random model's distribution may be so flat that top-p keeps most of a
    vocabulary, as it does of no trained model's. With marks a request can say nothing but the few tokens of its own
    mark, which no request beside it has: a token that reaches another stream is seen there.
    """

    clients: int
    vocabulary: int
    alike: bool = False
    marked: bool = False
    warmth: float = 1.0

    def asks(self, each: int) -> list[list[Ask]]:
        """So many requests of each client."""
        return [[self.ask(client + turn * self.clients) for turn in range(each)] for client in range(self.clients)]

    def ask(self, number: int) -> Ask:
        """Chats and completions in turn; a profile is in the model's name or in the body."""
        draw = random.Random(number)
        client = number % self.clients
        method, profile = METHODS[client % len(METHODS)], self.profile(client)
        body: dict[str, Any] = {
            "model": method,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": draw.randint(16, 64),
            "temperature": self.warmth * draw.choice([0.0, 0.7, 1.0]),
            "top_p": draw.choice([0.9, 1.0]),
            "seed": number,
            "logit_bias": {str(token): 100 for token in self.mark(number)} if self.marked else {str(END): -100},
        }
        if method != "base" and number % 2:
            body["profile"] = profile
        elif method != "base":
            body["model"] += ":" + ",".join(f"{name}={weight}" for name, weight in profile.items())
        prompt = [draw.randrange(len(SPECIAL), self.vocabulary) for _ in range(draw.randint(4, 64))]
        if number // self.clients % 2:
            return {"number": number, "path": "/v1/completions", "body": {**body, "prompt": prompt}}
        messages = [{"role": "user", "content": " ".join(map(word, prompt))}]
        return {"number": number, "path": "/v1/chat/completions", "body": {**body, "messages": messages}}

    def profile(self, client: int) -> Mapping[str, float]:
        draw = random.Random(0 if self.alike else client)
        return {name: round(draw.uniform(0.05, 1), 3) for name in EXPERTS}

    def mark(self, number: int) -> range:
        """As many marks as the vocabulary has room for, in turn."""
        marks = (self.vocabulary - len(SPECIAL)) // MARK
        start = len(SPECIAL) + number % marks * MARK
        return range(start, start + MARK)


def eight(tokens: int) -> list[list[Ask]]:
    """Eight clients with eight profiles over four experts, for us."""
    return [
        [_greedy(i, tokens, {
            "model": "moe", "profile": dict(zip(EXPERTS, weights(i), strict=True)), "logit_bias": {str(END): -100},
        })]
        for i in range(8)
    ]  # fmt: skip


def eight_for_llama_server(tokens: int) -> list[list[Ask]]:
    """The same for llama-server: all scales are given, since those left out would keep their last value."""
    scales = [[*weights(i), *([0.0] * (ADAPTERS - 4))] for i in range(8)]
    return [
        [_greedy(i, tokens, {
            "ignore_eos": True, "cache_prompt": False,
            "lora": [{"id": adapter, "scale": scale} for adapter, scale in enumerate(scales[i])],
        })]
        for i in range(8)
    ]  # fmt: skip


def _greedy(number: int, tokens: int, more: Mapping[str, Any]) -> Ask:
    prompt: Sequence[int] = random_prompts(8)[number]
    body = {"prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **more}  # fmt: skip
    return {"number": number, "path": "/v1/completions", "body": body}
