"""The file of settings: each section is a dataclass, and a key that it does not know is an error."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from counterpoint.artifacts import check_place, read_json, write_json
from counterpoint.build.sample import SampleConfig
from counterpoint.data.pair_types import KINDS, Kind
from counterpoint.profiles import unknown_name
from counterpoint.rewards.judge import JudgeConfig
from counterpoint.train.policy import PolicyConfig
from counterpoint.train.sft import SftConfig
from counterpoint.train.steered import SteeredConfig
from counterpoint.types import CounterpointError

SETTINGS = "settings.json"
RLHF, MULTITASK, MORL, FACTORS = "rlhf", "multitask", "p-morl", "p-soups-factors"
METHODS = ("vanilla", "prompted", RLHF, MULTITASK, MORL, "p-soups", FACTORS)


@dataclass(frozen=True)
class Models:
    """Model folders or hub ids; with `sampler_url`, `sampler` is what the server there calls the model.

    `dtype` is that of samples, of answers and of rewards in PPO; the trainers' is their `bf16`.
    """

    policy: str
    reward: str
    sampler: str
    sampler_url: str | None = None
    sampler_key_env: str | None = None
    concurrency: int = 8
    timeout_s: float = 120.0
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class PromptFiles:
    """Files that `data.prompts` reads, and how many prompts are taken of them, the first ones."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    train_limit: int = 10000
    test_limit: int = 50


@dataclass(frozen=True)
class Preferences:
    """Names in the built-in table, or in that of a file; `novel` ones come when all else is done.

    `pairs` are the kinds of pairs of samples that are compared.
    """

    names: tuple[str, ...]
    novel: tuple[str, ...] = ()
    table: str | None = None
    pairs: tuple[Kind, ...] = KINDS


@dataclass(frozen=True)
class Learning:
    """How often reward models see their pairs, and policies answer the training prompts.

    A share `holdout` of the prompts measures reward models; `asked` is whether experts are asked for their preference.
    """

    reward_passes: float = 1.0
    holdout: float = 0.1
    policy_passes: float = 1.0
    morl_passes: float = 1.0
    asked: bool = True


@dataclass(frozen=True)
class Answering:
    """How answers are drawn, `rows` at once; `rlhf_asked` is whether RLHF is told the preferences in words."""

    methods: tuple[str, ...] = METHODS
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int = 42
    rows: int = 64
    rlhf_asked: bool = False

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise CounterpointError(f"methods: {unknown_name('method', name, METHODS)}")
        if len(self.methods) < 2:
            raise CounterpointError(f"methods: {len(self.methods)} cannot be compared; name two or more")


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes, and how many tokens a prompt is taken to have: what memory is reckoned from."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    key_heads: int
    vocabulary: int
    prompt_tokens: int = 128


@dataclass(frozen=True)
class Settings:
    """The sections of the file: `judge` labels samples, and `comparing` is the judge that compares answers."""

    models: Models
    prompts: PromptFiles
    preferences: Preferences
    sample: SampleConfig
    judge: JudgeConfig
    learning: Learning
    reward: SteeredConfig
    policy: PolicyConfig
    multitask: SftConfig
    evaluation: Answering
    comparing: JudgeConfig
    shape: Shape


LATER: Mapping[str, Mapping[str, Any]] = {
    "sample": {"neutral": True},
    "judge": {"cache": None},
    "reward": {"model": "", "requests": (), "steps": 1},
    "policy": {"model": "", "iterations": 1},
    "multitask": {"model": ""},
    "comparing": {"cache": None},
}
"""Fields that are no keys of the file: they are filled in when they are known."""

FREE = ("evaluation", "comparing", "shape")
"""Sections that may change in a folder that is begun: what depends on them is made again."""

FREE_KEYS = ("concurrency", "timeout_s", "price_in", "price_out")
"""Keys that change no result."""


def read_settings(path: Path) -> Settings:
    """Read the file. Raises CounterpointError that names file, section and key."""
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CounterpointError(f"{path}: there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CounterpointError(f"{path}: not valid TOML: {error}") from None
    kinds = {each.name: each.type for each in fields(Settings)}
    for section, values in sections.items():
        if section not in kinds or not isinstance(values, dict):
            raise CounterpointError(f"{path}: {unknown_name('section', section, kinds)}")
    return Settings(**{name: _read(path, name, kind, sections.get(name, {})) for name, kind in kinds.items()})


def _read(path: Path, section: str, kind: Any, values: Mapping[str, Any]) -> Any:
    """One dataclass, checked by its own types and its own rules."""
    later = LATER.get(section, {})
    known = [each.name for each in fields(kind) if each.name not in later]
    for key in values:
        if key not in known:
            raise CounterpointError(f"{path}: [{section}]: {unknown_name('key', key, known)}")
    try:
        read: TypeAdapter[Any] = TypeAdapter(kind)
        return read.validate_json(json.dumps({**values, **later}, default=str), strict=True)
    except CounterpointError as error:
        raise CounterpointError(f"{path}: [{section}]: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CounterpointError(f"{path}: [{section}]: {key}: {first['msg']}") from None


def claim(out: Path, settings: Settings) -> None:
    """Write the settings into the folder, or refuse one that was begun with others."""
    check_place(out / SETTINGS)
    wanted = json.loads(json.dumps(asdict(settings), default=str))
    if not (out / SETTINGS).exists() and out.exists() and any(out.iterdir()):
        raise CounterpointError(f"{out}: holds other files; name a folder that is not there yet")
    begun = read_json(out / SETTINGS) if (out / SETTINGS).exists() else wanted
    for section in (name for name in wanted if name not in FREE):
        before, now = begun.get(section, {}), wanted[section]
        for key in (key for key in now if key not in FREE_KEYS and now[key] != before.get(key)):
            raise CounterpointError(
                f"{out}: was begun with {key} = {before.get(key)!r} in [{section}], and this run has {now[key]!r}; "
                "name another folder with --out, or set it back"
            )
    write_json(out / SETTINGS, wanted)
