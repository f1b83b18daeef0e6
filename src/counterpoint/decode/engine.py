"""The row engine: many requests, each with its own profile, method and sampling, in one batch that they join and leave.

A request is a plan's rows (one per expert of a mixture, else one). Each step feeds every live row its request's last
token in one forward, mixes each request's rows into one distribution, and draws one token per request. What a request
gets does not depend on its companions (law `batch`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from counterpoint.compose.mixture import mix_log, mix_prob
from counterpoint.compose.plan import Plan
from counterpoint.decode.sampling import Sampling, noise, penalise, sample
from counterpoint.types import Completion, CounterpointError, LanguageModel


@dataclass(frozen=True)
class Request:
    """A plan, the context of each of its rows (token ids), and how to sample."""

    plan: Plan
    contexts: tuple[tuple[int, ...], ...]
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if len(self.contexts) != len(self.plan.rows):
            raise ValueError(f"{len(self.plan.rows)} rows but {len(self.contexts)} contexts")


@dataclass
class _Live:
    """A request in the batch: where its rows are and what it has said."""

    ticket: int
    request: Request
    rows: list[int]
    noise: list[float]
    limit: int
    seen_KV: Tensor | None
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Group:
    """Live requests whose rows are mixed alike: indices of their rows `[G, K]` and coefficients `[G, K]`."""

    members: list[int]
    rows_GK: Tensor
    c_GK: Tensor
    space: str


class Engine:
    """Decodes requests over a `LanguageModel`.

    `decode` turns token ids into text (for stop strings and completions), `end_tokens` end a response, `longest` bounds
    context plus response, `max_rows` bounds the batch: a request that does not fit waits, in order of submission.
    """

    def __init__(
        self,
        model: LanguageModel,
        decode: Callable[[Sequence[int]], str],
        end_tokens: Iterable[int],
        longest: int,
        max_rows: int = 512,
    ) -> None:
        self.model = model
        self.decode = decode
        self.end_tokens = frozenset(end_tokens)
        self.longest = longest
        self.max_rows = max_rows
        self._waiting: deque[tuple[int, Request]] = deque()
        self._live: list[_Live] = []
        self._groups: list[_Group] = []
        self._next_ticket = 0

    def submit(self, request: Request) -> int:
        """Queue a request and return its ticket."""
        if len(request.plan.rows) > self.max_rows:
            raise CounterpointError(f"a request of {len(request.plan.rows)} rows; the engine holds {self.max_rows}")
        if not all(request.contexts):
            raise CounterpointError("the prompt has no tokens; a response needs at least one to follow")
        prompt = max(map(len, request.contexts))
        if prompt >= self.longest:
            raise CounterpointError(f"the prompt has {prompt} tokens; with the response, {self.longest} is the most")
        self._waiting.append((self._next_ticket, request))
        self._next_ticket += 1
        return self._next_ticket - 1

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._live

    def run(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[Completion]:
        """Decode requests to the end; completions in the order of the requests. The engine must be idle."""
        done: dict[int, Completion] = {}
        with self._alone():
            tickets = [self.submit(request) for request in requests]
            while not self.idle:
                done.update(self.step())
                if progress:
                    progress(len(done), len(requests))
        return [done[ticket] for ticket in tickets]

    @torch.no_grad()
    def next_distributions(self, requests: Sequence[Request]) -> Tensor:
        """The log-distribution `[Q, V]` of each request's first token. Nothing is decoded; the engine must be idle."""
        parts = [torch.empty(0, self.model.vocabulary)]
        with self._alone():
            for request in requests:
                self.submit(request)
            while not self.idle:
                self._join()
                parts.append(self.next_logp().to(parts[0]))
                self._leave([])
        return torch.cat(parts)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nothing else is being decoded, and what fails inside leaves nothing behind that a later call would meet."""
        if not self.idle:
            raise RuntimeError("requests are being decoded")
        try:
            yield
        except BaseException:
            self._waiting.clear()
            self._leave([])
            raise

    @torch.no_grad()
    def step(self) -> list[tuple[int, Completion]]:
        """Let waiting requests join, advance every live one by a token, and return what finished, by ticket."""
        if self.idle:
            return []
        self._join()
        logp_QV = self.next_logp()
        if logp_QV.isnan().any():
            raise CounterpointError("the model's logits are not numbers; a profile's strength may be far too large")
        uniform = [live.noise[len(live.tokens)] for live in self._live]
        tokens = sample(logp_QV, [live.request.sampling for live in self._live], uniform)
        finished, staying = [], []
        for live, token in zip(self._live, tokens, strict=True):
            completion = self._extend(live, token)
            if completion:
                finished.append((live.ticket, completion))
            else:
                staying.append(live)
        if finished:
            self._leave(staying)
        return finished

    def next_logp(self) -> Tensor:
        """One forward over all live rows; the log-distribution `[Q, V]` of each live request's next token."""
        last = {row: _last(live, index) for live in self._live for index, row in enumerate(live.rows)}
        logits_BV = self.model.step([last[row] for row in range(len(last))])
        for live in self._live:
            if live.seen_KV is not None:
                penalty = [live.request.sampling.repetition_penalty] * len(live.rows)
                logits_BV[live.rows] = penalise(logits_BV[live.rows], live.seen_KV.to(logits_BV.device), penalty)
        logp_BV = torch.log_softmax(logits_BV, dim=-1)
        logp_QV = logp_BV.new_empty(len(self._live), logp_BV.shape[-1])
        for group in self._groups:
            if group.rows_GK.shape[1] == 1:
                logp_QV[group.members] = logp_BV[group.rows_GK[:, 0]]
            else:
                mix = mix_prob if group.space == "prob" else mix_log
                logp_QV[group.members] = mix(logp_BV[group.rows_GK], group.c_GK.to(logp_BV.device))
        return logp_QV

    def _join(self) -> None:
        rows = sum(len(live.rows) for live in self._live)
        joining: list[_Live] = []
        for ticket, request in self._waiting:
            if rows + len(request.plan.rows) > self.max_rows:
                break
            joining.append(self._admit(ticket, request, rows))
            rows += len(request.plan.rows)
        if joining:
            contexts = [context for live in joining for context in live.request.contexts]
            self.model.join(contexts, [row.gate for live in joining for row in live.request.plan.rows])
            for _ in joining:
                self._waiting.popleft()
            self._live += joining
            self._regroup()

    def _admit(self, ticket: int, request: Request, first_row: int) -> _Live:
        rows = list(range(first_row, first_row + len(request.plan.rows)))
        limit = min(request.sampling.max_tokens, self.longest - max(map(len, request.contexts)))
        seen_KV = None
        if request.sampling.repetition_penalty != 1:
            seen_KV = torch.zeros(len(rows), self.model.vocabulary, dtype=torch.bool)
            for seen_V, context in zip(seen_KV, request.contexts, strict=True):
                seen_V[list(context)] = True
        return _Live(ticket, request, rows, noise(request.sampling.seed, limit), limit, seen_KV)

    def _leave(self, staying: list[_Live]) -> None:
        kept = {row for live in staying for row in live.rows}
        holes = (row for row in range(len(kept)) if row not in kept)
        place = {row: row if row < len(kept) else next(holes) for row in sorted(kept)}
        by_place = {new: old for old, new in place.items()}
        self.model.keep([by_place[new] for new in range(len(kept))])
        for live in staying:
            live.rows = [place[row] for row in live.rows]
        self._live = staying
        self._regroup()

    def _regroup(self) -> None:
        alike: dict[tuple[int, str], list[int]] = {}
        for member, live in enumerate(self._live):
            alike.setdefault((len(live.rows), live.request.plan.space), []).append(member)
        self._groups = [
            _Group(
                members,
                torch.tensor([self._live[m].rows for m in members]),
                torch.tensor([self._live[m].request.plan.coefficients for m in members]),
                space,
            )
            for (_, space), members in alike.items()
        ]

    def _extend(self, live: _Live, token: int) -> Completion | None:
        if token in self.end_tokens:
            return self._completion(live, "stop")
        live.tokens.append(token)
        if live.seen_KV is not None:
            live.seen_KV[:, token] = True
        if self._has_stopped(live):
            return self._completion(live, "stop")
        return self._completion(live, "length") if len(live.tokens) >= live.limit else None

    def _has_stopped(self, live: _Live) -> bool:
        """Whether the last tokens hold a stop string; a character is at most four tokens, and a few may be silent."""
        stops = live.request.sampling.stop
        if not stops:
            return False
        tail = self.decode(live.tokens[-(4 * max(map(len, stops)) + 16) :])
        return any(stop in tail for stop in stops)

    def _completion(self, live: _Live, finish: Literal["stop", "length"]) -> Completion:
        text = self.decode(live.tokens)
        ends = [text.find(stop) for stop in live.request.sampling.stop if stop in text]
        return Completion(text[: min(ends)] if ends else text, tuple(live.tokens), finish)


def _last(live: _Live, index: int) -> int:
    return live.tokens[-1] if live.tokens else live.request.contexts[index][-1]
