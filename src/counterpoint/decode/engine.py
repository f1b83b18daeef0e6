"""The row engine: many requests, each with its own profile, method and sampling, in one batch that they join and leave.

A request is a plan's rows (one per expert of a mixture, else one, and one for a controller). Each step feeds every live
row its request's last token in one forward, mixes each request's rows into one distribution, and draws one token per
request. What a request gets does not depend on its companions (law `batch`).

Those that join are filled behind the live rows, between steps and, if asked to, in chunks: then nobody who is being
answered waits for more than a chunk of somebody's prompt.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from counterpoint.decode.logprobs import TopLogprobs, top_logprobs
from counterpoint.decode.mixing import Group, Mixture, grouped, mix
from counterpoint.decode.request import Request, Said
from counterpoint.decode.rows import cells
from counterpoint.decode.sampling import Sampling, lean, leaning, noise, penalise, sample
from counterpoint.decode.scoring import Score
from counterpoint.decode.several import LostRows, compacted
from counterpoint.decode.tracing import Recorder, Step
from counterpoint.types import Completion, CounterpointError, LanguageModel


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
    score: Score | None
    tokens: list[int] = field(default_factory=list)
    said: Counter[int] = field(default_factory=Counter)


class Engine:
    """Decodes requests over a `LanguageModel`.

    `decode` turns token ids into text (for stop strings and completions), `end_tokens` end a response, `longest` bounds
    context plus response, `max_rows` bounds the batch, and `max_cells` the room that it takes, in `rows.cells`: a
    request that does not fit waits, in order of submission. At most `chunk` tokens of those that join are fed between
    two steps (None: all).
    """

    def __init__(
        self,
        model: LanguageModel,
        decode: Callable[[Sequence[int]], str],
        end_tokens: Iterable[int],
        longest: int,
        max_rows: int = 512,
        max_cells: int | None = None,
        chunk: int | None = None,
    ) -> None:
        self.model = model
        self.decode = decode
        self.end_tokens = frozenset(end_tokens)
        self.longest = longest
        self.max_rows = max_rows
        self.max_cells = max_cells
        self.chunk = chunk
        self._waiting: deque[tuple[int, Request]] = deque()
        self._joining: list[_Live] = []
        self._live: list[_Live] = []
        self._groups: list[Group] = []
        self._mixture: Mixture | None = None
        self._next_ticket = 0

    def submit(self, request: Request) -> int:
        """Queue a request and return its ticket. Raises CounterpointError for one that can never be decoded."""
        self.check(request)
        self._waiting.append((self._next_ticket, request))
        self._next_ticket += 1
        return self._next_ticket - 1

    def check(self, request: Request) -> None:
        """Raise CounterpointError for a request that can never be decoded. Any thread may ask."""
        if len(request.contexts) > self.max_rows:
            raise CounterpointError(f"a request of {len(request.contexts)} rows; the engine holds {self.max_rows}")
        if not all(request.contexts):
            raise CounterpointError("the prompt has no tokens; a response needs at least one to follow")
        prompt = request.longest + len(request.given)
        if prompt >= self.longest + bool(request.given):
            raise CounterpointError(f"the prompt has {prompt} tokens; with the response, {self.longest} is the most")
        self._check_ids(request)
        self._check_cells(request)

    def cancel(self, ticket: int) -> bool:
        """Forget a request, and free its rows at once; False where there is none of that ticket (any more)."""
        for place, (waiting, _) in enumerate(self._waiting):
            if waiting == ticket:
                del self._waiting[place]
                return True
        found = any(one.ticket == ticket for one in (*self._joining, *self._live))
        if found:
            self._leave([ticket])
        return found

    def clear(self) -> None:
        """Forget every request."""
        self._waiting.clear()
        self._leave([one.ticket for one in (*self._joining, *self._live)])

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._joining and not self._live

    @property
    def rows(self) -> int:
        """How many rows are live or joining."""
        return sum(len(request.contexts) for request in self._together)

    @property
    def gates(self) -> list[Mapping[str, float]]:
        """Those of all rows that are live or joining."""
        return [row.gate for request in self._together for row in request.plan.all_rows]

    @property
    def waiting(self) -> int:
        """How many requests have not begun to join."""
        return len(self._waiting)

    def has_room(self, request: Request) -> bool:
        """Whether a request would begin to join with the next step, beside those that were submitted before it."""
        before = [waiting for _, waiting in self._waiting]
        return not self._joining and self._fits([*before, request])

    def run(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[Completion]:
        """Decode requests to the end; completions in the order of the requests. The engine must be idle."""
        done = self._run(requests, progress)
        return [completion for said in done if (completion := said.completion)]

    def score(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[TopLogprobs, ...]]:
        """How likely the `given` tokens of each request are, each after those before it. The engine must be idle."""
        if not all(request.given for request in requests):
            raise CounterpointError("there is nothing to score: a request has no given tokens")
        return [said.scores or () for said in self._run(requests, progress)]

    def _run(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None) -> list[Said]:
        """The last that was said of each request."""
        done: dict[int, Said] = {}
        with self._alone():
            tickets = [self.submit(request) for request in requests]
            while not self.idle:
                done |= {said.ticket: said for said in _unfailed(self.advance()) if said.completion}
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
                _unfailed(self._join())
                if self._live:
                    parts.append(self.next_logp().cpu())
                    _unfailed([Said(0, error=error) for error in self._errors.values()])
                    self._leave([live.ticket for live in self._live])
        return torch.cat(parts) if parts else torch.empty(0, self.model.vocabulary)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nothing else is being decoded, and what fails inside leaves nothing behind that a later call would meet."""
        if not self.idle:
            raise RuntimeError("requests are being decoded")
        try:
            yield
        except BaseException:
            self.clear()
            raise

    def step(self) -> list[tuple[int, Completion]]:
        """`advance`, and only what finished, by ticket. Raises the CounterpointError of a request that failed."""
        return [(said.ticket, said.completion) for said in _unfailed(self.advance()) if said.completion]

    @torch.no_grad()
    def advance(self) -> list[Said]:
        """Let those that wait join, or come closer to it, and advance every live request by a token; their news.

        A request that fails does so alone.
        """
        news = self._join()
        return news + self._speak() if self._live else news

    def _speak(self) -> list[Said]:
        """One token of every live request."""
        logp_QV = self.next_logp()
        if errors := self._errors:
            logp_QV[list(errors)] = 0.0
        told_QV = logp_QV[:, : self.model.vocabulary]
        leaning_QV = lean(told_QV, [leaning(live.request.sampling, live.said) for live in self._live])
        uniform = [live.noise[len(live.tokens)] for live in self._live]
        tokens = sample(leaning_QV, [_to_sample(live.request) for live in self._live], uniform)
        logprobs, credits = self._logprobs(tokens, told_QV), self._record(tokens, logp_QV)
        news = []
        for place, (live, token) in enumerate(zip(self._live, tokens, strict=True)):
            if place in errors:
                news.append(Said(live.ticket, error=errors[place]))
                continue
            completion = self._extend(live, token)
            said = None if token in self.end_tokens else token
            news.append(Said(live.ticket, said, completion, None, logprobs.get(place), credits.get(place)))
        if over := [said.ticket for said in news if said.completion or said.error]:
            self._leave(over)
        return news

    def next_logp(self) -> Tensor:
        """One forward over all live rows; the log-distribution `[Q, V]` of each live request's next token.

        `[Q, V + 1]` where experts know a part of theirs only; the last column is what none of a request's reported.
        """
        last = {row: _last(live, index) for live in self._live for index, row in enumerate(live.rows)}
        lost: Mapping[int, CounterpointError] = {}
        try:
            logits_BV = self.model.step([last[row] for row in range(len(last))])
        except LostRows as error:
            logits_BV, lost = error.logits_BV, error.rows
        for live in self._live:
            self._adjust(live, logits_BV)
        mixture = mix(self._groups, logits_BV, self.model.vocabulary)
        errors = {place: lost[row] for place, live in enumerate(self._live) for row in live.rows if row in lost}
        self._mixture = replace(mixture, errors={**mixture.errors, **errors})
        return mixture.logp_QV

    @property
    def _errors(self) -> Mapping[int, CounterpointError]:
        """Why live requests have no distribution in the step in progress, by their place."""
        return self._mixture.errors if self._mixture else {}

    def _adjust(self, live: _Live, logits_BV: Tensor) -> None:
        """What acts on each expert before they are mixed: the repetition penalty, and a temperature if asked for."""
        rows, sampling = live.rows[: len(live.request.plan.rows)], live.request.sampling
        if live.seen_KV is not None:
            penalty = [sampling.repetition_penalty] * len(rows)
            known_BV = logits_BV[:, : self.model.vocabulary]
            known_BV[rows] = penalise(known_BV[rows], live.seen_KV.to(logits_BV.device), penalty)
        if live.request.plan.temper == "experts" and sampling.temperature:
            logits_BV[rows] = logits_BV[rows] / sampling.temperature

    def _logprobs(self, tokens: Sequence[int], logp_QV: Tensor) -> dict[int, TopLogprobs]:
        """For those live requests that ask, by their place."""
        asked = {place: count for place, live in enumerate(self._live) if (count := live.request.logprobs) is not None}
        if not asked:
            return {}
        told = top_logprobs(logp_QV[list(asked)], [tokens[place] for place in asked], list(asked.values()))
        return dict(zip(asked, told, strict=True))

    def _record(self, tokens: Sequence[int], logp_QV: Tensor) -> dict[int, tuple[float, ...]]:
        """Remember the step for those that are traced, by their place; whose token it was."""
        credits: dict[int, tuple[float, ...]] = {}
        for group, mixed in zip(self._groups, self._mixture.mixed if self._mixture else (), strict=True):
            recorders = [(place, r) for place, m in enumerate(group.members) if (r := self._live[m].recorder)]
            if recorders:
                said, logp_GV = [tokens[m] for m in group.members], logp_QV[group.members]
                whole = any(recorder.detail == "vocabulary" for _, recorder in recorders)
                step = Step.of(said, mixed.logp_GKV, mixed.c_GK, logp_GV, group.space, self.model.vocabulary, whole)
                for place, recorder in recorders:
                    recorder.add(step, place)
                    credits[group.members[place]] = tuple(step.credit_GK[place].tolist())
        return credits

    def _join(self) -> list[Said]:
        """Begin a batch of those that wait where none is joining, and fill it, or score its given tokens, further."""
        news = [] if self._joining else self._begin()
        if not self._joining or not self.model.fill(self.chunk):
            return news
        if self._joining[0].score:
            return news + self._score(self._joining[0])
        self._live += self._joining
        self._joining = []
        self._regroup()
        return news

    def _begin(self) -> list[Said]:
        """Let rows of the next batch be filled; of several that are refused together, the first is tried alone."""
        batch = self._next_batch()
        while batch:
            contexts = [context for one in batch for context in one.request.contexts]
            try:
                self.model.begin(contexts, [row.gate for one in batch for row in one.request.plan.all_rows])
            except CounterpointError as error:
                if len(batch) == 1:
                    self._waiting.popleft()
                    return [Said(batch[0].ticket, error=error)]
                batch = batch[:1]
            else:
                for _ in batch:
                    self._waiting.popleft()
                self._joining = batch
                break
        return []

    def _next_batch(self) -> list[_Live]:
        """As many of those that wait as fit, in order: with a chunk, of about that many tokens; or one to be scored."""
        rows, tokens = self.rows, 0
        batch: list[_Live] = []
        for ticket, request in self._waiting:
            tokens += sum(map(len, request.contexts))
            alone = bool(request.given or (batch and batch[0].score)) or (
                self.chunk is not None and tokens > self.chunk
            )
            if (batch and alone) or not self._fits([*(one.request for one in batch), request]):
                break
            batch.append(self._admit(ticket, request, rows))
            rows += len(request.contexts)
        return batch

    @property
    def promised(self) -> int:
        """How many cells the requests in the batch may come to take together, of `max_cells`."""
        return self._cells(self._together)

    def _fits(self, joining: Sequence[Request]) -> bool:
        """Whether requests fit beside all that are in the batch."""
        together = [*self._together, *joining]
        rows = sum(len(request.contexts) for request in together)
        return rows <= self.max_rows and (self.max_cells is None or self._cells(together) <= self.max_cells)

    @property
    def _together(self) -> list[Request]:
        """Those that are live or joining."""
        return [one.request for one in (*self._live, *self._joining)]

    def _cells(self, requests: Sequence[Request]) -> int:
        rows = sum(len(request.contexts) for request in requests)
        return cells(rows, max(map(self._reach, requests)), self.longest) if requests else 0

    def _reach(self, request: Request) -> int:
        """How many positions a request may come to take, of each row."""
        return min(request.longest + (len(request.given) or request.sampling.max_tokens), self.longest)

    def _check_cells(self, request: Request) -> None:
        rows, reach = len(request.contexts), self._reach(request)
        if self.max_cells is None or self._cells([request]) <= self.max_cells:
            return
        room = max(
            (p for n in range(40) if cells(rows, p := min(2**n, self.longest), self.longest) <= self.max_cells),
            default=0,
        )
        raise CounterpointError(
            f"the prompt has {request.longest} tokens and the response may have {reach - request.longest}; there is "
            f"memory for {room} together, with the {rows} rows of this method"
        )

    def _check_ids(self, request: Request) -> None:
        """Token ids that a client may have sent."""
        ids = [*(token for context in request.contexts for token in context), *request.given]
        ids += [token for token, _ in request.sampling.logit_bias]
        if not 0 <= min(ids) <= max(ids) < self.model.vocabulary:
            wrong = next(token for token in ids if not 0 <= token < self.model.vocabulary)
            raise CounterpointError(f"there is no token {wrong}; ids are from 0 to {self.model.vocabulary - 1}")

    def _admit(self, ticket: int, request: Request, first_row: int) -> _Live:
        rows = list(range(first_row, first_row + len(request.contexts)))
        limit = min(request.sampling.max_tokens, self.longest - request.longest)
        seen_KV = None
        if request.sampling.repetition_penalty != 1:
            seen_KV = torch.zeros(len(request.plan.rows), self.model.vocabulary, dtype=torch.bool)
            for seen_V, context in zip(seen_KV, request.contexts, strict=False):
                seen_V[list(context)] = True
        recorder = Recorder(request.trace) if request.trace else None
        score = None
        if request.given:
            last = [context[-1] for context in request.contexts]
            score = Score(request.plan, last, request.given, request.logprobs or 0)
        uniform = [] if score else noise(request.sampling.seed, limit)
        return _Live(ticket, request, rows, uniform, limit, seen_KV, recorder, score)

    def _score(self, one: _Live) -> list[Said]:
        """Score a piece of a request's given tokens; it leaves with the last."""
        assert one.score, "a request with given tokens"
        try:
            one.score.advance(self.model, one.rows, self.chunk)
        except CounterpointError as error:
            self._leave([one.ticket])
            return [Said(one.ticket, error=error)]
        if not one.score.done:
            return []
        self._leave([one.ticket])
        completion = Completion(self.decode(one.request.given), one.request.given, "length")
        return [Said(one.ticket, completion=completion, scores=tuple(one.score.told))]

    def _leave(self, gone: Collection[int]) -> None:
        """Let requests go, by ticket; the last rows take the places of theirs, and those that join stay behind."""
        live, joining = ([one for one in part if one.ticket not in gone] for part in (self._live, self._joining))
        order = compacted([row for one in live for row in one.rows])
        order += compacted([row for one in joining for row in one.rows], len(order))
        self.model.keep(order)
        place = {old: new for new, old in enumerate(order)}
        for one in (*live, *joining):
            one.rows = [place[row] for row in one.rows]
        self._live, self._joining = live, joining
        self._regroup()

    def _regroup(self) -> None:
        self._groups = grouped([live.request.plan for live in self._live], [live.rows for live in self._live])

    def _extend(self, live: _Live, token: int) -> Completion | None:
        if token in self.end_tokens:
            return self._completion(live, "stop")
        live.tokens.append(token)
        live.said[token] += 1
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


def _to_sample(request: Request) -> Sampling:
    """How to draw from the mixture: a temperature that acted on the experts has done its work."""
    sampling = request.sampling
    tempered = request.plan.temper == "experts" and sampling.temperature
    return replace(sampling, temperature=1.0) if tempered else sampling


def _last(live: _Live, index: int) -> int:
    return live.tokens[-1] if live.tokens else live.request.contexts[index][-1]


def _unfailed(news: list[Said]) -> list[Said]:
    """What was said, unless a request failed: then its CounterpointError is raised."""
    for said in news:
        if said.error:
            raise said.error
    return news
