"""The row engine: many requests, each with its own profile, method and sampling, in one batch that they join and leave.

A request is a plan's rows (one per expert of a mixture, else one, and one for a controller). Each step feeds every live
row its request's last token in one forward, mixes each request's rows into one distribution, and draws one token per
request. What a request gets does not depend on its companions (law `batch`).
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from counterpoint.compose.mixture import mix_log, mix_partial_log, mix_prob, without_silent
from counterpoint.compose.plan import Plan, Space
from counterpoint.decode.sampling import Sampling, noise, penalise, sample
from counterpoint.decode.tracing import Detail, Recorder, Step
from counterpoint.types import Completion, CounterpointError, LanguageModel


@dataclass(frozen=True)
class Request:
    """A plan, the context of each of its rows (token ids), and how to sample.

    With `trace` its completion tells how each token came about; "vocabulary" keeps every row's whole distribution.
    """

    plan: Plan
    contexts: tuple[tuple[int, ...], ...]
    sampling: Sampling = field(default_factory=Sampling)
    trace: Detail | None = None

    def __post_init__(self) -> None:
        if len(self.contexts) != len(self.plan.all_rows):
            raise ValueError(f"{len(self.plan.all_rows)} rows but {len(self.contexts)} contexts")


@dataclass
class _Live:
    """A request in the batch: where its rows are and what it has said."""

    ticket: int
    request: Request
    rows: list[int]
    noise: list[float]
    limit: int
    seen_KV: Tensor | None
    recorder: Recorder | None
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Group:
    """Live requests whose rows are mixed alike: indices of their rows `[G, K]` and coefficients `[G, K]`.

    `as_is`: the one row of each is its distribution, and nothing is to be mixed.
    """

    members: list[int]
    rows_GK: Tensor
    c_GK: Tensor
    space: Space
    as_is: bool
    steering: "_Steering | None"


@dataclass(frozen=True)
class _Steering:
    """The controllers of a group's requests: their rows `[G]`, and what `Control` says of each mixed row `[G, K]`."""

    row_G: Tensor
    column_GK: Tensor
    log_prior_GK: Tensor
    strength_G1: Tensor

    def share(self, logits_BV: Tensor) -> Tensor:
        """strength * softmax(log_prior + z), `[G, K]`."""
        device = logits_BV.device
        z_GK = logits_BV[self.row_G].gather(-1, self.column_GK.to(device))
        return self.strength_G1.to(device) * torch.softmax(self.log_prior_GK.to(device) + z_GK, dim=-1)


@dataclass(frozen=True)
class _Mixed:
    """What a group's rows were in the step in progress, `[G, K, V]`, and what mixed them, `[G, K]`."""

    logp_GKV: Tensor
    c_GK: Tensor


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
        self._mixed: list[_Mixed] = []
        self._next_ticket = 0

    def submit(self, request: Request) -> int:
        """Queue a request and return its ticket."""
        if len(request.contexts) > self.max_rows:
            raise CounterpointError(f"a request of {len(request.contexts)} rows; the engine holds {self.max_rows}")
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
        """The log-distribution `[Q, V]` of each request's first token, `[Q, V + 1]` as in `next_logp`.

        Nothing is decoded; the engine must be idle.
        """
        parts: list[Tensor] = []
        with self._alone():
            for request in requests:
                self.submit(request)
            while not self.idle:
                self._join()
                parts.append(self.next_logp().cpu())
                self._leave([])
        return torch.cat(parts) if parts else torch.empty(0, self.model.vocabulary)

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
        if logp_QV.shape[1] > self.model.vocabulary and (logp_QV[:, :-1] == -math.inf).all(-1).any():
            raise CounterpointError(
                "no expert of a request told any token; ask their endpoints for more, with a larger top"
            )
        if logp_QV.isnan().any():
            raise CounterpointError("the model's logits are not numbers; a profile's strength may be far too large")
        uniform = [live.noise[len(live.tokens)] for live in self._live]
        tokens = sample(logp_QV[:, : self.model.vocabulary], [_to_sample(live.request) for live in self._live], uniform)
        self._record(tokens, logp_QV)
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
        """One forward over all live rows; the log-distribution `[Q, V]` of each live request's next token.

        `[Q, V + 1]` where experts know a part of theirs only; the last column is what none of a request's reported.
        """
        last = {row: _last(live, index) for live in self._live for index, row in enumerate(live.rows)}
        logits_BV = self.model.step([last[row] for row in range(len(last))])
        shares = [group.steering.share(logits_BV) if group.steering else 0.0 for group in self._groups]
        for live in self._live:
            self._adjust(live, logits_BV)
        logp_BV = torch.log_softmax(logits_BV, dim=-1)
        partial = logp_BV.shape[-1] > self.model.vocabulary
        silent_B = (logits_BV == -math.inf).all(-1) if partial else None
        logp_QV = logp_BV.new_empty(len(self._live), logp_BV.shape[-1])
        self._mixed = []
        for group, share in zip(self._groups, shares, strict=True):
            logp_GKV, c_GK = logp_BV[group.rows_GK], group.c_GK.to(logp_BV.device) + share
            if silent_B is not None and silent_B[group.rows_GK].any():
                c_GK = without_silent(c_GK, silent_B[group.rows_GK])
                logp_GKV[silent_B[group.rows_GK]] = -math.inf
            logp_QV[group.members] = logp_GKV[:, 0] if group.as_is else _mix(logp_GKV, c_GK, group.space, partial)
            self._mixed.append(_Mixed(logp_GKV, c_GK))
        return logp_QV

    def _adjust(self, live: _Live, logits_BV: Tensor) -> None:
        """What acts on each expert before they are mixed: the repetition penalty, and a temperature if asked for."""
        rows, sampling = live.rows[: len(live.request.plan.rows)], live.request.sampling
        if live.seen_KV is not None:
            penalty = [sampling.repetition_penalty] * len(rows)
            known_BV = logits_BV[:, : self.model.vocabulary]
            known_BV[rows] = penalise(known_BV[rows], live.seen_KV.to(logits_BV.device), penalty)
        if live.request.plan.temper == "experts" and sampling.temperature:
            logits_BV[rows] = logits_BV[rows] / sampling.temperature

    def _record(self, tokens: Sequence[int], logp_QV: Tensor) -> None:
        for group, mixed in zip(self._groups, self._mixed, strict=True):
            recorders = [(place, r) for place, m in enumerate(group.members) if (r := self._live[m].recorder)]
            if recorders:
                said, logp_GV = [tokens[m] for m in group.members], logp_QV[group.members]
                whole = any(recorder.detail == "vocabulary" for _, recorder in recorders)
                step = Step.of(said, mixed.logp_GKV, mixed.c_GK, logp_GV, group.space, self.model.vocabulary, whole)
                for place, recorder in recorders:
                    recorder.add(step, place)

    def _join(self) -> None:
        rows = sum(len(live.rows) for live in self._live)
        joining: list[_Live] = []
        for ticket, request in self._waiting:
            if rows + len(request.contexts) > self.max_rows:
                break
            joining.append(self._admit(ticket, request, rows))
            rows += len(request.contexts)
        if joining:
            contexts = [context for live in joining for context in live.request.contexts]
            self.model.join(contexts, [row.gate for live in joining for row in live.request.plan.all_rows])
            for _ in joining:
                self._waiting.popleft()
            self._live += joining
            self._regroup()

    def _admit(self, ticket: int, request: Request, first_row: int) -> _Live:
        rows = list(range(first_row, first_row + len(request.contexts)))
        limit = min(request.sampling.max_tokens, self.longest - max(map(len, request.contexts)))
        seen_KV = None
        if request.sampling.repetition_penalty != 1:
            seen_KV = torch.zeros(len(request.plan.rows), self.model.vocabulary, dtype=torch.bool)
            for seen_V, context in zip(seen_KV, request.contexts, strict=False):
                seen_V[list(context)] = True
        recorder = Recorder(request.trace) if request.trace else None
        return _Live(ticket, request, rows, noise(request.sampling.seed, limit), limit, seen_KV, recorder)

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
        alike: dict[tuple[int, Space, bool, bool], list[int]] = {}
        for member, live in enumerate(self._live):
            plan = live.request.plan
            steered = plan.control is not None
            as_is = plan.coefficients == (1.0,) and not steered
            alike.setdefault((len(plan.rows), plan.space, as_is, steered), []).append(member)
        self._groups = [
            _Group(
                members,
                torch.tensor([self._live[m].rows[:mixed] for m in members]),
                torch.tensor([self._live[m].request.plan.coefficients for m in members]),
                space,
                as_is,
                self._steering(members) if steered else None,
            )
            for (mixed, space, as_is, steered), members in alike.items()
        ]

    def _steering(self, members: Sequence[int]) -> _Steering:
        controls = [control for m in members if (control := self._live[m].request.plan.control)]
        return _Steering(
            torch.tensor([self._live[m].rows[-1] for m in members]),
            torch.tensor([control.columns for control in controls]),
            torch.tensor([control.log_prior for control in controls]),
            torch.tensor([[control.strength] for control in controls]),
        )

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
        trace = live.recorder.trace() if live.recorder else None
        return Completion(text[: min(ends)] if ends else text, tuple(live.tokens), finish, trace)


def _mix(logp_GKV: Tensor, c_GK: Tensor, space: Space, partial: bool) -> Tensor:
    if space == "prob":
        return mix_prob(logp_GKV, c_GK)
    return mix_partial_log(logp_GKV, c_GK) if partial else mix_log(logp_GKV, c_GK)


def _to_sample(request: Request) -> Sampling:
    """How to draw from the mixture: a temperature that acted on the experts has done its work."""
    sampling = request.sampling
    tempered = request.plan.temper == "experts" and sampling.temperature
    return replace(sampling, temperature=1.0) if tempered else sampling


def _last(live: _Live, index: int) -> int:
    return live.tokens[-1] if live.tokens else live.request.contexts[index][-1]
