"""Roll-outs of a model here or behind an endpoint: each prompt without a request and with each preference's, durably.

What is kept is the bare prompt and what was asked for. Personalized Soups draws two samples per prompt with a
preference's request, at temperature 1 (arXiv 2310.11564, section 3.1).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.build.answer import usable_prompts
from counterpoint.compose.plan import Plan, Row
from counterpoint.data.asked import as_asked
from counterpoint.data.preferences import as_requested
from counterpoint.data.responses import prompt_column
from counterpoint.data.sample_log import open_log
from counterpoint.data.samples import Ask, Sample, asks
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.stages import Bar, Stages
from counterpoint.train.run import hash_base
from counterpoint.types import CounterpointError, Dimension, Prompt

PLAIN = Plan((Row(),))
"""The base alone."""

PART = 256
"""Samples of a model here that are drawn together and written at once; a killed run loses at most so many."""


@dataclass(frozen=True)
class SampleConfig:
    """How much is drawn of each prompt and request, and how; `neutral` is whether also without a request."""

    samples: int = 2
    neutral: bool = True
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise CounterpointError(f"samples is {self.samples}; expected 1 or more of each prompt and request")
        assert self.sampling  # which refuses what no response can be drawn with

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=self.seed)


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one set of requests: how many samples, how many words they have, how many ended."""

    asked: tuple[str, ...]
    samples: int
    words: float
    ended: float


def sample_model(
    model: str,
    config: SampleConfig,
    prompts: Sequence[Prompt],
    preferences: Sequence[Dimension],
    out: Path,
    stages: Stages,
    device: str = "cpu",
    skip_bad: bool = False,
    dtype: torch.dtype = torch.float32,
    max_rows: int = 512,
) -> list[Drawn]:
    """Sample a base here into `out`; a sample's noise depends on (seed, prompt, what is asked for, index) alone.

    A killed run goes on where it was, and ends with the bytes of an unbroken one. Prompts that leave no room for a
    response are an error unless `skip_bad`. Raises CounterpointError where `out` holds anything but this run.
    """
    band = Band.assemble(model, {}, dtype, device, max_rows)
    wanted, requests = wishes(config, preferences)
    kept, wrong = _usable(band, list(dict.fromkeys(prompts)), _longest(wanted, requests), requests, skip_bad)
    for line in wrong:
        stages.console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    every = asks(kept, wanted, config.samples, config.seed)
    source = {"model": model, "base": hash_base(model), "dtype": str(dtype)}
    with (
        open_log(out, {**source, **run_config(config, kept, requests)}, every, PART) as log,
        stages.stage("samples", f"{counted(config, kept, preferences)}; {len(wrong)} left out") as bar,
    ):
        note_kept(bar, log.done)
        report = bar.task("responses")
        for start in range(0, len(log.left), PART):
            part = log.left[start : start + PART]
            log.append(_draw(band, part, requests, config.sampling, _after(log.done, len(every), report)))
        return drawn(log.finish())


def run_config(config: SampleConfig, prompts: Sequence[Prompt], requests: Mapping[str, str]) -> dict[str, Any]:
    """What decides what is drawn, beside the model; the prompts by their hash."""
    text = json.dumps([prompt_column(prompt) for prompt in prompts])
    return {**asdict(config), "requests": dict(requests), "prompts": hashlib.sha256(text.encode()).hexdigest()}


def drawn(samples: Sequence[Sample]) -> list[Drawn]:
    """Counts by what was asked for, in the order of the first sample: whether requests change what is said."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.asked, []).append(sample)
    return [
        Drawn(
            asked,
            len(group),
            float(np.mean([len(sample.response.split()) for sample in group])),
            float(np.mean([sample.ended for sample in group])),
        )
        for asked, group in groups.items()
    ]


def wishes(config: SampleConfig, preferences: Sequence[Dimension]) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """The sets of requests, and how each is said. Raises CounterpointError where there is none."""
    silent = next((preference.name for preference in preferences if not preference.request), None)
    if silent is not None:
        raise CounterpointError(f"the preference {silent!r} has no request, by which a model could be asked for it")
    wanted: list[tuple[str, ...]] = [()] if config.neutral else []
    wanted += [(preference.name,) for preference in preferences]
    if not wanted:
        raise CounterpointError("there is nothing to ask for: name a preference, or sample without a request")
    return wanted, {preference.name: preference.request for preference in preferences}


def _longest(wanted: Sequence[tuple[str, ...]], requests: Mapping[str, str]) -> tuple[str, ...]:
    return max(wanted, key=lambda names: sum(len(requests[name]) for name in names))


def _usable(
    band: Band, prompts: Sequence[Prompt], asked: tuple[str, ...], requests: Mapping[str, str], skip: bool
) -> tuple[list[Prompt], list[str]]:
    """The prompts that leave room for a response even with the longest request, and what is wrong with the others."""
    full = [as_asked(as_requested(prompt, asked, requests), band.tokenizer) for prompt in prompts]
    usable, wrong = usable_prompts(band, PLAIN, full, skip)
    fitting = set(usable)
    kept = [prompt for prompt, said in zip(prompts, full, strict=True) if said in fitting]
    if not kept:
        raise CounterpointError(f"none of {len(prompts)} prompts leaves room for a response; shorten them")
    return kept, wrong


def _draw(
    band: Band,
    part: Sequence[Ask],
    requests: Mapping[str, str],
    sampling: Sampling,
    progress: Callable[[int, int], None],
) -> list[Sample]:
    rows = [
        band.request(
            as_asked(as_requested(ask.prompt, ask.asked, requests), band.tokenizer),
            PLAIN,
            replace(sampling, seed=ask.seed),
        )
        for ask in part
    ]
    said = band.run(rows, progress)
    return [sample_of(ask, found.text, found.finish == "stop") for ask, found in zip(part, said, strict=True)]


def sample_of(ask: Ask, response: str, ended: bool) -> Sample:
    """What came of asking."""
    return Sample(ask.prompt, ask.asked, response, ask.index, ended, ask.seed)


def counted(config: SampleConfig, prompts: Sequence[Prompt], preferences: Sequence[Dimension]) -> str:
    requests = len(preferences) + config.neutral
    return f"{config.samples} responses to each of {len(prompts)} prompts in each of {requests} ways of asking"


def note_kept(bar: Bar, done: int) -> None:
    if done:
        bar.note(f"{done} were there already")


def _after(start: int, total: int, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return lambda done, _: progress(start + done, total)
