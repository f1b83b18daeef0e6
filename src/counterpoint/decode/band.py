"""A band: one base, its experts, and the ways to combine them for a person.

band = Band.load("demo/band")
band.chat("What does the owl eat?", profile="concise=1, friendly=0.5")
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from counterpoint.compose import mixture, moe, route, soup
from counterpoint.compose.plan import Plan, Row
from counterpoint.compose.weighers.constant import constant
from counterpoint.data.chat import prompt_ids, with_request
from counterpoint.decode.engine import Engine, Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import read_adapter
from counterpoint.models.band_file import BandFile, base_path, read_band
from counterpoint.models.bank import LoraBank
from counterpoint.models.load import load_model, load_tokenizer
from counterpoint.profiles import parse_profile
from counterpoint.types import Completion, CounterpointError, Message, Profile, Prompt, Weighting

METHODS = ("base", "prompted", "best-expert", "route", "soup", "moe", "mixture-prob", "mixture-log")
SOUPS_KEPT = 16


class Band:
    """A loaded band. Requests of any methods and profiles share its one model and its one engine."""

    def __init__(self, file: BandFile, model: Any, tokenizer: Any, bank: LoraBank, max_rows: int = 512) -> None:
        self.file = file
        self.model = model
        self.tokenizer = tokenizer
        self.bank = bank
        self.experts = file.typed_experts()
        self.dimensions = tuple(entry.name for entry in file.dimensions)
        self._soups: OrderedDict[str, None] = OrderedDict()
        self._weightings: dict[str, Weighting] = {}
        self.engine = Engine(
            Rows(model, bank), self._text, end_tokens(model, tokenizer), model.config.max_position_embeddings, max_rows
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        max_rows: int = 512,
    ) -> "Band":
        """Load a band folder. Raises CounterpointError that names the file at fault."""
        folder = Path(folder)
        file = read_band(folder)
        base = base_path(folder, file)
        model, tokenizer = load_model(base, dtype, device), load_tokenizer(base)
        bank = LoraBank(model)
        for expert in file.experts:
            bank.add(expert.name, read_adapter(folder / "experts" / expert.name))
        return cls(file, model, tokenizer, bank, max_rows)

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str] | Message],
        profile: str | Mapping[str, float] | Profile | None = None,
        method: str = "soup",
        sampling: Sampling | None = None,
    ) -> str:
        """Answer one person. A string is one user message (or plain text, for a model without a chat template)."""
        wanted = None if profile is None else parse_profile(profile, self.dimensions)
        prompt = self._prompt(messages)
        return self.respond([prompt], [wanted], method if wanted else "base", sampling)[0].text

    def respond(
        self,
        prompts: Sequence[Prompt],
        profiles: Sequence[Profile | None],
        method: str = "soup",
        sampling: Sampling | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """Answer prompts, each for its own profile, in one batch; prompt i is drawn with seed `sampling.seed + i`."""
        sampling = sampling or Sampling()
        requests = [
            self.request(prompt, self.plan(profile, method), replace(sampling, seed=sampling.seed + index))
            for index, (prompt, profile) in enumerate(zip(prompts, profiles, strict=True))
        ]
        return self.run(requests, progress)

    def run(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[Completion]:
        """Decode requests made by `request`, with their soups merged, then forget the soups not used for long."""
        for request in requests:
            self._merge_soups(request.plan)
        completions = self.engine.run(requests, progress)
        while len(self._soups) > SOUPS_KEPT:
            self.bank.remove(self._soups.popitem(last=False)[0])
        return completions

    def request(self, prompt: Prompt, plan: Plan, sampling: Sampling) -> Request:
        """Render the prompt of each of a plan's rows."""
        contexts = tuple(tuple(prompt_ids(self._asking(prompt, row), self.tokenizer)) for row in plan.rows)
        return Request(plan, contexts, sampling)

    def plan(self, profile: Profile | None, method: str) -> Plan:
        """How a method serves a profile. Raises CounterpointError for an unknown method."""
        if method not in METHODS:
            raise CounterpointError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
        if profile is None or ((profile := parse_profile(profile, self.dimensions)) and method == "base"):
            return Plan((Row(),))
        if method == "prompted":
            return Plan((Row(requests=tuple(name for name, weight in profile.weights.items() if weight > 0)),))
        if method == "best-expert":
            return Plan((Row({self.best_expert(profile): profile.strength}),))
        weighting = constant(profile, self.experts)
        match method:
            case "soup":
                return soup.plan(self._soup(weighting))
            case "moe":
                return moe.plan(weighting)
            case "mixture-prob":
                return mixture.plan_prob(weighting)
            case "mixture-log":
                return mixture.plan_log(weighting)
            case _:
                return route.plan(weighting)

    def best_expert(self, profile: Profile) -> str:
        """The one expert with the largest weighted mean of its measured scores on the profile's dimensions."""
        scored = [entry for entry in self.file.experts if entry.scores]
        if not scored:
            raise CounterpointError("best-expert needs the experts' measured scores, and this band.json holds none")
        return max(scored, key=lambda e: sum(w * e.scores.get(d, 0.0) for d, w in profile.weights.items())).name

    def _soup(self, weighting: Weighting) -> str:
        """The name of a soup, which is merged when a request needs it."""
        name = "soup:" + ",".join(f"{expert}*{c!r}" for expert, c in soup.coefficients(weighting).items())
        self._weightings[name] = weighting
        return name

    def _merge_soups(self, plan: Plan) -> None:
        for name in (name for row in plan.rows for name in row.gate if name in self._weightings):
            if name not in self._soups:
                self.bank.add(name, soup.merge(self.bank.experts, self._weightings[name]))
            self._soups[name] = None
            self._soups.move_to_end(name)

    def _asking(self, prompt: Prompt, row: Row) -> Prompt:
        requests = (self.file.dimension(name).request or f"Please be {name}." for name in row.requests)
        return with_request(prompt, " ".join(requests))

    def _prompt(self, messages: str | Sequence[Mapping[str, str] | Message]) -> Prompt:
        if isinstance(messages, str):
            return (Message("user", messages),) if self.tokenizer.chat_template else messages
        try:
            prompt = tuple(m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in messages)
        except (TypeError, KeyError):
            raise CounterpointError(
                f"messages are a string, or a list of {{'role': ..., 'content': ...}}; got {messages!r}"
            ) from None
        if not prompt or prompt[-1].role != "user":
            raise CounterpointError("a conversation must end with a message of the role 'user'")
        return prompt

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a response: the tokenizer's and the generation config's."""
    configured = model.generation_config.eos_token_id
    more = configured if isinstance(configured, list) else [configured]
    return {token for token in (tokenizer.eos_token_id, *more) if token is not None}
