"""Roll-outs of a model behind an OpenAI-compatible endpoint, by chat completions: each is on the disk once it is paid.

Servers take a seed, but few promise the same answer to it, so that only the order and number of samples are a law here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.build.sample import Drawn, SampleConfig, counted, drawn, note_kept, run_config, sample_of, wishes
from counterpoint.data.places import brief
from counterpoint.data.preferences import as_requested
from counterpoint.data.responses import prompt_column
from counterpoint.data.sample_log import SampleLog
from counterpoint.data.samples import Ask, Sample, asks, read_samples
from counterpoint.decode.chats import Caller
from counterpoint.decode.remote import begin, result_of
from counterpoint.models.band_file import EndpointEntry
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError, Dimension, Message, Prompt

AHEAD = 4
"""Samples under way or waiting to be written, for each that the server is asked at once: a slow one holds up few."""


@dataclass(frozen=True)
class Speaker:
    """A model on a server, and how it is asked."""

    caller: Caller
    config: SampleConfig
    requests: Mapping[str, str]

    async def say(self, ask: Ask) -> Sample:
        """One sample; a refusal is one without a text. Raises CounterpointError that names the prompt."""
        try:
            reply = await self.caller.reply(self._body(ask))
        except CounterpointError as error:
            raise CounterpointError(f"prompt {brief(ask.prompt)}: {error}; what was said before is kept") from None
        text = reply.text.encode("utf-8", errors="replace").decode()  # half a surrogate pair is JSON, but no text
        return sample_of(ask, text, ended=not (reply.cut or reply.refused))

    def _body(self, ask: Ask) -> dict[str, Any]:
        prompt = as_requested(ask.prompt, ask.asked, self.requests)
        return {
            "model": self.caller.entry.model,
            "messages": prompt_column((Message("user", prompt),) if isinstance(prompt, str) else prompt),
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "max_tokens": self.config.max_tokens,
            "seed": ask.seed,
        }


def sample_endpoint(
    entry: EndpointEntry,
    config: SampleConfig,
    prompts: Sequence[Prompt],
    preferences: Sequence[Dimension],
    out: Path,
    stages: Stages,
    concurrency: int = 8,
) -> list[Drawn]:
    """Sample a model on a server into `out`, `concurrency` requests at once; a killed run goes on where it was.

    Raises CounterpointError where the server fails after all retries, and where `out` holds anything but this run.
    """
    if concurrency < 1:
        raise CounterpointError(f"concurrency is {concurrency}; expected 1 or more requests at once")
    wanted, requests = wishes(config, preferences)
    unlike = list(dict.fromkeys(prompts))
    every = asks(unlike, wanted, config.samples, config.seed)
    source = {"endpoint": entry.url, "model": entry.model}
    log = SampleLog(out, {**source, **run_config(config, unlike, requests)}, every, part=1)
    speaker = Speaker(Caller(entry), config, requests)
    with stages.stage("samples", f"{counted(config, unlike, preferences)}, from {entry.url}") as bar:
        note_kept(bar, log.done)
        report = bar.task("responses")

        def keep(sample: Sample) -> None:
            log.append([sample])
            report(log.done, len(every))

        result_of(begin(in_order(every[log.done :], speaker.say, concurrency, keep)))
    return drawn(read_samples(out))


async def in_order(
    todo: Sequence[Ask],
    say: Callable[[Ask], Coroutine[Any, Any, Sample]],
    concurrency: int,
    keep: Callable[[Sample], None],
) -> None:
    """Say all, `concurrency` at once, and keep each in the order of asking; where one fails, those before it are kept.

    At most `AHEAD * concurrency` are ahead of the one that is to be kept next.
    """
    free, ahead = asyncio.Semaphore(concurrency), deque[asyncio.Task[Sample]]()

    async def one(ask: Ask) -> Sample:
        async with free:
            return await say(ask)

    try:
        for ask in todo:
            ahead.append(asyncio.create_task(one(ask)))
            if len(ahead) == AHEAD * concurrency:
                keep(await ahead.popleft())
        while ahead:
            keep(await ahead.popleft())
    except BaseException:
        for task in ahead:
            task.cancel()
        raise
