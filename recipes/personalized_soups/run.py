"""What every stage of a run has, checked before work begins."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from recipes.personalized_soups.judges import by_rule, judges
from recipes.personalized_soups.settings import Models, Preferences, Settings, claim

from counterpoint.build.label import Labeller
from counterpoint.data.asked import as_asked
from counterpoint.data.chat import prompt_ids, with_request
from counterpoint.data.places import brief
from counterpoint.data.preferences import axes_of, chosen, read_preferences
from counterpoint.data.prompts import read_prompts
from counterpoint.models.load import check_family, load_tokenizer, parse_dtype
from counterpoint.profiles import corners
from counterpoint.rewards.judge_prompts import plain
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError, Dimension, Profile, Prompt


@dataclass(frozen=True)
class Run:
    """What every stage needs: `labelling` labels roll-outs, `comparing` compares answers; prompts are messages."""

    settings: Settings
    out: Path
    stages: Stages
    known: tuple[Dimension, ...]
    novel: tuple[Dimension, ...]
    train: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    labelling: Labeller
    comparing: Labeller

    @property
    def preferences(self) -> tuple[Dimension, ...]:
        return (*self.known, *self.novel)

    @property
    def samples(self) -> Path:
        return self.out / "samples.jsonl"

    def labels(self, name: str) -> Path:
        return self.out / "labels" / f"{name}.jsonl"

    def reward(self, name: str) -> Path:
        return self.out / "rewards" / name

    def policy(self, name: str) -> Path:
        return self.out / "policies" / name

    def does(self, method: str) -> bool:
        return method in self.settings.evaluation.methods


def need(path: Path, stage: str) -> Path:
    """A file of an earlier stage."""
    if not path.exists():
        raise CounterpointError(f"{path}: is not there yet; run the stage {stage} first: --stages {stage}")
    return path


def prepare(settings: Settings, out: Path, stages: Stages, rule: bool) -> Run:
    """Check all that can be checked before work begins: models, prompts, preferences, keys, the folder.

    With `rule` a rule is in the place of the judges.
    """
    tokenizer = check_models(settings.models)
    known, novel = preferences_of(settings.preferences)
    train, test = prompts_of(settings, [*known, *novel], tokenizer)
    stages.console.print(f"{len(train)} training prompts and {len(test)} test prompts: the first with room to answer")
    if not rule:
        judges(settings, None)  # a key that is not set is found before the folder is begun
    claim(out, settings)
    labelling, comparing = by_rule([*known, *novel]) if rule else judges(settings, out)
    return Run(settings, out, stages, known, novel, train, test, labelling, comparing)


def check_models(models: Models) -> Any:
    """See that models are there and of a kind that can be used; returns the policy's tokenizer."""
    parse_dtype(models.dtype)
    local = [models.policy, models.reward] + ([] if models.sampler_url else [models.sampler])
    for name in dict.fromkeys(local):
        check_family(name)
        if load_tokenizer(name).chat_template is None:
            raise CounterpointError(
                f"{name}: the tokenizer has no chat template, so that it would be asked as it never was in training; "
                "put a chat_template.jinja into a copy of the model"
            )
    return load_tokenizer(models.policy)


def preferences_of(named: Preferences) -> tuple[tuple[Dimension, ...], tuple[Dimension, ...]]:
    """The preferences that all methods learn, and those that come later."""
    table = read_preferences(None if named.table is None else expanded(named.table))
    known, novel = (tuple(chosen(table, names)) if names else () for names in (named.names, named.novel))
    if twice := sorted(set(named.names) & set(named.novel)):
        raise CounterpointError(f"[preferences]: {twice[0]!r} is among names and novel; a new one was not there before")
    if not known or not all(dimension.axis for dimension in (*known, *novel)):
        raise CounterpointError("[preferences]: name one or more, each on an axis, since people take one pole of each")
    return known, novel


def prompts_of(
    settings: Settings, preferences: Sequence[Dimension], tokenizer: Any
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Prompts to learn from and to judge by, of which all requests and the longest answer leave room.

    Raises CounterpointError for a file that is not there, for too few prompts, and for a prompt that is in both.
    """
    files, words = settings.prompts, " ".join(preference.request for preference in preferences)
    longest = max(settings.sample.max_tokens, settings.policy.max_tokens, settings.evaluation.max_tokens)
    room = check_family(settings.models.policy) - longest

    def read(paths: Sequence[str], limit: int, role: str) -> tuple[Prompt, ...]:
        found = read_prompts([expanded(path) for path in paths]).prompts
        every = dict.fromkeys(as_asked(prompt, tokenizer) for prompt in found)
        fitting = (prompt for prompt in every if len(prompt_ids(with_request(prompt, words), tokenizer)) <= room)
        kept = tuple(islice(fitting, limit))
        if len(kept) < 2:
            raise CounterpointError(f"[prompts]: {len(kept)} of {len(every)} {role} prompts leave room for an answer")
        return kept

    train, test = read(files.train, files.train_limit, "training"), read(files.test, files.test_limit, "test")
    if both := sorted(set(train) & set(test), key=plain):
        said = brief(plain(both[0]))
        raise CounterpointError(f"[prompts]: {len(both)} are in train and in test, such as {said}; take them out")
    return train, test


def expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def everybody(preferences: Sequence[Dimension]) -> list[Profile]:
    """A person for every choice of one pole of each axis."""
    return corners(axes_of(preferences))


def newcomers(known: Sequence[Dimension], novel: Sequence[Dimension]) -> list[Profile]:
    """The people who want something new."""
    new = {preference.name for preference in novel}
    return [person for person in everybody((*known, *novel)) if new & person.weights.keys()]
