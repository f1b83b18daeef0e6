"""What an operator decides, by flags, environment variables (COUNTERPOINT_PORT=8080) or a TOML file, in this order."""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from counterpoint.profiles import unknown_name
from counterpoint.types import CounterpointError

PREFIX = "COUNTERPOINT_"
ALIKE = 0.9
"""How alike two names are that may be meant for the same, prefix and all."""


class Settings(BaseSettings):
    """One server's settings. Made in Python they are what is given, and nothing else is read."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    host: str = Field(default="127.0.0.1", description="Address to listen at.")
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")
    open: bool = Field(default=False, description="Serve other addresses than this machine's without API keys.")
    require_keys: bool = Field(default=False, description="Refuse requests without an API key even before one is made.")
    database: str = Field(
        default="sqlite:///people.db", description="Where people, keys and feedback are kept: an address."
    )
    keep_texts: bool = Field(
        default=False, description="Keep prompts and answers with feedback, not their scores alone."
    )

    method: str = Field(default="soup", description="Method of a request that names none.")
    profile: str = Field(
        default="", description="Profile of a request, and of a person, without one; empty for the base."
    )
    strict_users: bool = Field(default=False, description="An unknown user is an error instead of the default profile.")
    bounds: str = Field(default="", description='Floors and caps besides the band\'s, such as "harmless >= 0.3".')

    zones: str = Field(
        default="", description='Rewards that are enough for everybody, such as "concise=0:1" (adequate:desired).'
    )

    threads: int = Field(default=0, ge=0, description="CPU threads; 0 uses every core.")
    device: str = Field(default="cpu", description="Where to compute: cpu, cuda, cuda:1, mps.")
    dtype: str = Field(default="float32", description="float32, bfloat16 or float16.")
    max_rows: int = Field(default=64, ge=1, description="Rows of one forward; a mixture of K experts takes K.")
    memory_gib: float = Field(default=2.0, gt=0, description="Most memory for keys and values, in GiB.")
    prefill_chunk: int = Field(default=256, ge=1, description="Prompt tokens between two steps of decoding.")
    max_waiting: int = Field(default=256, ge=1, description="Requests that may wait; more are told to come again.")

    max_tokens: int = Field(default=1024, ge=1, description="Most tokens of one answer.")
    default_max_tokens: int = Field(default=256, ge=1, description="Of a request that names no number.")
    max_body: int = Field(default=1 << 20, ge=1, description="Most bytes of a request's body.")
    body_s: float = Field(default=30.0, gt=0, description="Seconds in which a request's body must have arrived.")
    requests_per_minute: int = Field(
        default=0, ge=0, description="Of each API key that has no rate of its own; 0: no limit."
    )
    tokens_per_minute: int = Field(default=0, ge=0, description="The same for tokens, of prompts and answers.")
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Origins of pages that may ask from a browser, with commas between them; none unless given.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_prompts: bool = Field(default=False, description="Write prompts, answers and user names into the log.")
    metrics: bool = Field(default=True, description="Serve /metrics.")
    drain_s: float = Field(default=30.0, ge=0, description="Seconds that requests under way have to finish at the end.")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given alone: `read_settings` says where it looks, so that it can tell where a value came from."""
        return (init_settings,)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Resolved:
    """Settings, and where each that is not the default came from."""

    settings: Settings
    origins: Mapping[str, str]


def read_settings(flags: Mapping[str, Any], file: Path | None = None) -> Resolved:
    """Flags win over environment variables, and those over the file; a flag of None was not given.

    Other variables that begin with COUNTERPOINT_ are left alone, since not all are settings of a server, unless they
    nearly are one. Raises CounterpointError that names the flag, the variable or the file and the key at fault.
    """
    check_variables(os.environ)
    given = {name: value for name, value in flags.items() if value is not None}
    sources: list[tuple[dict[str, Any], Callable[[str], str]]] = [
        (_of_file(file) if file else {}, lambda name: f"{file}: {name}"),
        (EnvSettingsSource(Settings)(), lambda name: PREFIX + name.upper()),
        (given, lambda name: "--" + name.replace("_", "-")),
    ]
    values = {name: value for found, _ in sources for name, value in found.items()}
    origins = {name: called(name) for found, called in sources for name in found}
    try:
        return Resolved(Settings(**values), origins)
    except ValidationError as error:
        first = error.errors()[0]
        expected = first["msg"].replace("Input should be", "expected")
        raise CounterpointError(f"{origins[str(first['loc'][0])]}: found {first['input']!r}; {expected}") from None


def check_variables(names: Iterable[str]) -> None:
    """Refuse a name that is nearly a setting's: a server must not run without what its operator thinks it has."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in names:
        near = get_close_matches(name, known, n=1, cutoff=ALIKE) if name.startswith(PREFIX) else []
        if near and name not in known:
            raise CounterpointError(f"{name}: is no setting; did you mean {near[0]}? Unset it if it is something else")


def _of_file(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CounterpointError(f"--settings {path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CounterpointError(f"--settings {path}: is no TOML: {error}") from None
    for name in found:
        if name not in Settings.model_fields:
            raise CounterpointError(f"{path}: {unknown_name('setting', name, list(Settings.model_fields))}")
    return found
