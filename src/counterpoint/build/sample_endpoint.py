"""Roll-outs of a model behind an OpenAI-compatible endpoint, by chat completions: each is on the disk once it is paid.

Servers take a seed, but few promise the same answer to it, so that only the order and number of samples are a law here.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.build.sample import Drawn, SampleConfig, counted, drawn, note_kept, run_config, sample_of, wishes
from counterpoint.data.places import brief
from counterpoint.data.preferences import as_requested
from counterpoint.data.responses import prompt_column
from counterpoint.data.sample_log import open_log
from counterpoint.data.samples import Ask, Sample, asks
from counterpoint.decode.chats import Caller, Rejected
from counterpoint.decode.remote import begin, result_of, together
from counterpoint.models.band_file import EndpointEntry
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError, Dimension, Message, Prompt


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
        except Rejected as error:
            raise Rejected(f"prompt {brief(ask.prompt)}: {error}") from None
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
    skip_bad: bool = False,
) -> list[Drawn]:
    """Sample a model on a server into `out`, `concurrency` requests at once; a killed run goes on where it was.

    What the server will not take keeps nothing else from being drawn, and is an error at the end unless `skip_bad`.
    Raises CounterpointError where the server fails after all retries, and where `out` holds anything but this run.
    """
    if concurrency < 1:
        raise CounterpointError(f"concurrency is {concurrency}; expected 1 or more requests at once")
    wanted, requests = wishes(config, preferences)
    unlike = list(dict.fromkeys(prompts))
    every = asks(unlike, wanted, config.samples, config.seed)
    source = {"endpoint": entry.url, "model": entry.model}
    speaker = Speaker(Caller(entry), config, requests)
    with (
        open_log(out, {**source, **run_config(config, unlike, requests)}, every, part=1) as log,
        stages.stage("samples", f"{counted(config, unlike, preferences)}, from {entry.url}") as bar,
    ):
        note_kept(bar, log.done)
        report = bar.task("responses")
        speaker.caller.taken = log.done > 0

        def keep(sample: Sample) -> None:
            log.append([sample])
            report(log.done, len(every))

        rejected = result_of(begin(say_all(log.left, speaker.say, concurrency, keep)))
        if rejected and (log.done == 0 or not skip_bad):
            raise CounterpointError(
                f"{len(rejected)} of {len(every)} samples were not drawn, the first for {rejected[0]}; the others are "
                "kept; pass --skip-bad to leave them out"
            )
        for line in dict.fromkeys(rejected):
            stages.console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
        return drawn(log.finish())


async def say_all(
    todo: Sequence[Ask],
    say: Callable[[Ask], Coroutine[Any, Any, Sample]],
    concurrency: int,
    keep: Callable[[Sample], None],
) -> list[str]:
    """Say all, `concurrency` at once, and keep each as it comes; returns why the server would not take the others."""
    waiting = iter(todo)
    rejected: list[str] = []

    async def work() -> None:
        for ask in waiting:
            try:
                keep(await say(ask))
            except Rejected as error:
                rejected.append(str(error))

    await together([work() for _ in range(concurrency)])
    return rejected
