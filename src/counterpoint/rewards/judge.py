"""A language model as a judge: which of two responses has more of a dimension?

Every pair is judged in both orders, since judges favour a position (Wang et al. 2023, arXiv 2305.17926): verdicts that
agree stand, others are a tie. One criterion per question, as in Personalized Soups (arXiv 2310.11564).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from counterpoint.artifacts import check_place
from counterpoint.data.places import brief
from counterpoint.decode.chats import Caller, Rejected, Reply
from counterpoint.decode.remote import begin, result_of, together
from counterpoint.models.band_file import parse_endpoint
from counterpoint.rewards.judge_cache import ReplyCache, key_of
from counterpoint.rewards.judge_prompts import RULES, Shown, asking, for_first, plain, read_verdict
from counterpoint.rewards.judge_report import JudgeReport, by_position, by_repeat
from counterpoint.types import CounterpointError, Question, Verdict

Progress = Callable[[int, int], None]

WARMER = 0.5
"""The least temperature of another attempt: at 0 a judge would say again what could not be read."""

SEEDS = 1000
"""Seeds of a repeat's attempts, whatever their number: with more attempts, what was asked before is not new."""


@dataclass(frozen=True)
class JudgeConfig:
    """A judge behind the OpenAI-compatible API at `url`, as in http://host:8000/v1.

    `api_key_env` names the environment variable of its key, which begins with COUNTERPOINT_KEY. `attempts` is how often
    a call is made until its reply can be read, `repeats` how often each order is asked to see the judge's noise, of
    which the majority counts. `timeout_s` is for a reply; prices are per million tokens; `cache` is a file.
    """

    url: str
    model: str
    api_key_env: str | None = None
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0
    attempts: int = 3
    repeats: int = 1
    concurrency: int = 8
    timeout_s: float = 120.0
    price_in: float | None = None
    price_out: float | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "attempts", "repeats", "concurrency"):
            if getattr(self, name) < 1:
                raise CounterpointError(f"judge: {name} is {getattr(self, name)}; expected 1 or more")
        for name in ("temperature", "price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise CounterpointError(f"judge: {name} is {value}; expected a number of 0 or more")


@dataclass(frozen=True)
class Call:
    """A question on `prompt` in one order, in words, asked for the `repeat`-th time."""

    prompt: str
    text: str
    forced: bool
    repeat: int


@dataclass(frozen=True)
class Heard:
    """What came of a call: the verdict that was shown, `None` where there is none, and its replies by who paid.

    `rejection` is what the server said of a call that it did not take.
    """

    shown: Shown | None
    asked: tuple[Reply, ...]
    kept: tuple[Reply, ...]
    rejection: str = ""

    @property
    def refused(self) -> bool:
        return any(reply.refused for reply in (*self.asked, *self.kept))


Orders = tuple[tuple[Call, ...], tuple[Call, ...]]
"""The calls of a question with its first response shown first, and with it shown second."""


class LLMJudge:
    """Gives verdicts by asking a language model, and keeps account of them in `report`.

    Raises CounterpointError for a wrong setting, a key that is not there, and a cache that cannot be used.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        entry = parse_endpoint(
            url=config.url, model=config.model, api_key_env=config.api_key_env, timeout_s=config.timeout_s
        )
        self.caller = Caller(entry, "judge")
        self.report = JudgeReport()
        self.rejections: dict[str, str] = {}
        if config.cache is not None:
            check_place(config.cache)
            if config.cache.exists():
                _ = self.cache  # what is no cache is refused before work is spent on questions

    @cached_property
    def cache(self) -> ReplyCache:
        """The replies that are known; a file that is not there is made when the first question is."""
        return ReplyCache(self.config.cache)

    def compare(
        self, questions: Sequence[Question], forced: bool, progress: Progress | None = None
    ) -> list[Verdict | None]:
        """A verdict per question: on both orders' agreement, 0 where they differ; `None` where one has no verdict.

        With `forced` the judge has to choose, and a 0 means that its choice went by the position. Equal responses are a
        tie, unasked; what was asked before, here or in an earlier run with the same cache, is not asked again. What
        the server will not take is in `rejections`, by prompt, and in no cache. Raises CounterpointError where the
        server fails or takes nothing; replies until then are kept.
        """
        orders = [self._orders(question, forced) for question in questions]
        heard = self._hear(orders, progress)
        self.report += report_on(orders, heard)
        return [0 if both is None else settle(*verdicts_of(both, heard)) for both in orders]

    def count(self, questions: Sequence[Question], forced: bool) -> tuple[int, int]:
        """How many calls `compare` would make of the server, if each can be read at once, and how many it knows."""
        calls = unlike_calls([self._orders(question, forced) for question in questions])
        kept = sum(self.cache.get(key_of(self._body(call, 0), call.repeat)) is not None for call in calls)
        return len(calls) - kept, kept

    def account(self) -> dict[str, Any]:
        """The report and whose it is, ready for JSON."""
        config = self.config
        report = self.report.to_dict(config.price_in, config.price_out)
        return {"model": config.model, **report, "rejections": self.rejections}

    def _orders(self, question: Question, forced: bool) -> Orders | None:
        if question.first == question.second:
            return None
        prompt, repeats = plain(question.prompt), range(self.config.repeats)
        straight, swapped = (
            tuple(Call(prompt, asking(question, forced, order), forced, repeat) for repeat in repeats)
            for order in (False, True)
        )
        return straight, swapped

    def _hear(self, orders: Sequence[Orders | None], progress: Progress | None) -> dict[Call, Heard]:
        calls = unlike_calls(orders)
        waiting, heard = iter(calls), dict[Call, Heard]()

        async def work() -> None:
            for call in waiting:
                heard[call] = await self._call(call)
                if progress is not None:
                    progress(len(heard), len(calls))

        async def all_at_work() -> None:
            await together([work() for _ in range(min(self.config.concurrency, len(calls)))])

        result_of(begin(all_at_work()))
        self._note_rejections(heard)
        return heard

    def _note_rejections(self, heard: Mapping[Call, Heard]) -> None:
        rejected = {call.prompt: each.rejection for call, each in heard.items() if each.rejection}
        if rejected and all(each.rejection for each in heard.values()):
            prompt, said = next(iter(rejected.items()))
            raise CounterpointError(f"no call was taken; that on prompt {brief(prompt)}: {said}")
        self.rejections |= rejected

    async def _call(self, call: Call) -> Heard:
        """Ask until the reply can be read; a refusal is not argued with."""
        asked, known = list[Reply](), list[Reply]()
        for attempt in range(self.config.attempts):
            try:
                reply, kept = await self._reply(self._body(call, attempt), call.repeat)
            except Rejected as error:
                return Heard(None, tuple(asked), tuple(known), str(error))
            (known if kept else asked).append(reply)
            shown = None if reply.refused else read_verdict(reply.text, call.forced)
            if shown is not None or reply.refused:
                break
        return Heard(shown, tuple(asked), tuple(known))

    async def _reply(self, body: dict[str, Any], repeat: int) -> tuple[Reply, bool]:
        """A reply, and whether it was kept from before; one that is new is kept before it is looked at."""
        key = key_of(body, repeat)
        async with self.cache.claimed(key):
            kept = self.cache.get(key)
            if kept is not None:
                self.caller.taken = True
                return kept, True
            reply = await self.caller.reply(body)
            self.cache.put(key, body, reply)
            return reply, False

    def _body(self, call: Call, attempt: int) -> dict[str, Any]:
        """What the server is sent. Each attempt and repeat has its own seed, and a later attempt is warmer."""
        config = self.config
        return {
            "model": config.model,
            "messages": [{"role": "system", "content": RULES}, {"role": "user", "content": call.text}],
            "temperature": float(max(config.temperature, WARMER) if attempt else config.temperature),
            "max_tokens": config.max_tokens,
            "seed": config.seed + call.repeat * SEEDS + attempt,
        }


def unlike_calls(orders: Sequence[Orders | None]) -> list[Call]:
    """Each call once, in the order of the questions: a question that is mirrored or repeated makes no new ones."""
    return list(dict.fromkeys(call for both in orders if both is not None for calls in both for call in calls))


def verdicts_of(both: Orders, heard: Mapping[Call, Heard]) -> tuple[list[Verdict | None], list[Verdict | None]]:
    """The verdicts on the first response of all repeats in either order."""

    def on_first(call: Call, swapped: bool) -> Verdict | None:
        shown = heard[call].shown
        return None if shown is None else for_first(shown, swapped)

    straight, swapped = both
    return [on_first(call, False) for call in straight], [on_first(call, True) for call in swapped]


def settle(straight: Sequence[Verdict | None], swapped: Sequence[Verdict | None]) -> Verdict | None:
    """One verdict from both orders: that on which they agree, or a tie; `None` where an order has none."""
    first, second = majority(straight), majority(swapped)
    if first is None or second is None:
        return None
    return first if first == second else 0


def majority(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """The sign of the sum of the verdicts that there are; `None` where there are none."""
    given = [verdict for verdict in verdicts if verdict is not None]
    if not given:
        return None
    total = sum(given)
    return 1 if total > 0 else -1 if total < 0 else 0


def report_on(orders: Sequence[Orders | None], heard: Mapping[Call, Heard]) -> JudgeReport:
    """The report on one `compare`; equal pairs count once for position and noise, however many ask for them."""
    judged = [None if both is None else verdicts_of(both, heard) for both in orders]
    unlike = {frozenset(both): verdicts_of(both, heard) for both in orders if both is not None}
    settled = [0 if verdicts is None else settle(*verdicts) for verdicts in judged]
    said = JudgeReport(questions=len(orders), equal=orders.count(None), unanswered=settled.count(None))
    in_order = by_position((majority(straight), majority(swapped)) for straight, swapped in unlike.values())
    return said + tally(heard.values()) + in_order + by_repeat(v for both in unlike.values() for v in both)


def tally(heard: Collection[Heard]) -> JudgeReport:
    """What was asked and kept, and what came of it."""
    asked, kept = ([reply for each in heard for reply in getattr(each, whose)] for whose in ("asked", "kept"))
    silent = [each for each in heard if each.shown is None]
    return JudgeReport(
        calls=len(heard),
        asked=len(asked),
        kept=len(kept),
        refused=sum(each.refused for each in silent),
        rejected=sum(bool(each.rejection) for each in silent),
        unparsed=sum(not (each.refused or each.rejection) for each in silent),
        cut=sum(reply.cut for reply in (*asked, *kept)),
        tokens_in=sum(reply.tokens_in or 0 for reply in asked),
        tokens_out=sum(reply.tokens_out or 0 for reply in asked),
        untold=sum(reply.tokens_in is None or reply.tokens_out is None for reply in asked),
    )
