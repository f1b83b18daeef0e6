"""A base that understands words: stories260k, tuned on its own stories after the names of what they have much of.

A story that has much of nothing is learned after no names. Nothing here is learned from a preference.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from counterpoint.artifacts import read_json, write_json
from counterpoint.build.task import Task
from counterpoint.data.chat import prompt_ids
from counterpoint.data.examples import Example
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.load import load_tokenizer
from counterpoint.rewards.calibrate import ZScore, fit_zscore
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Prompt

MAX_TOKENS = 32
TEMPERATURE = 1.0
READ = 96
"""Stories to each training prompt that the base is tuned on."""
MUCH = 0.5
"""Standard deviations above the mean, from which on a story has much of something."""
STEPS = 800

Said = list[list[int]]
"""Tokens of answers, `samples` to each training prompt."""


def sampling(seed: int) -> Sampling:
    return Sampling(TEMPERATURE, max_tokens=MAX_TOKENS, seed=seed)


def in_words(prompt: Prompt, names: Sequence[str]) -> Prompt:
    """A story's beginning with the names of what is wanted before it."""
    return f"{' '.join(names)}. {prompt}" if names else prompt


def plain_answers(task: Task, samples: int, seed: int, file: Path) -> Said:
    """What the task's model answers to every training prompt, so many times; kept in the file."""
    if not file.exists():
        asked = [prompt for prompt in task.train_prompts for _ in range(samples)]
        said = Band.assemble(task.model, {}).respond(asked, [None] * len(asked), "base", sampling(seed))
        write_json(file, [completion.tokens for completion in said])
    found: Said = read_json(file)
    return found


def scores_of(task: Task, said: Said) -> np.ndarray:
    """The rules' scores of answers, `[N, D]`; rules do not read the prompt."""
    tokenizer = load_tokenizer(task.model)
    texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said]
    return task.scores(task.judge, [""] * len(texts), texts)


def unit_of(task: Task, said: Said) -> ZScore:
    return fit_zscore(scores_of(task, said), task.names)


def make_base(task: Task, out: Path) -> Path:
    """Tune the task's model on its own stories, unless `out` has it."""
    said = plain_answers(task, READ, 1, out.with_name("stories.json"))
    config = SftConfig(model=task.model, steps=STEPS, batch=32, learning_rate=2e-3, lora_rank=0, warmup=20)
    train_sft(config, told(task, said), out)
    return out


def told(task: Task, said: Said) -> list[Example]:
    """Every story after names of what it has much of, in a drawn order."""
    tokenizer, draw = load_tokenizer(task.model), random.Random(0)
    z_ND = unit_of(task, said)(scores_of(task, said))
    prompts = [prompt for prompt in task.train_prompts for _ in range(READ)]
    examples: list[Example] = []
    for prompt, tokens, z_D in zip(prompts, said, z_ND, strict=True):
        names = much(task, z_D)
        examples.append(Example(tuple(prompt_ids(in_words(prompt, names), tokenizer)), tuple(tokens)))
    draw.shuffle(examples)
    return examples


def much(task: Task, z_D: np.ndarray) -> list[str]:
    """Of every axis the pole that a story has more of, if it has much of it."""
    z = dict(zip(task.names, z_D, strict=True))
    poles = [max(axis, key=lambda name: z[name]) for axis in task.axes]
    return [pole for pole in poles if z[pole] > MUCH]
