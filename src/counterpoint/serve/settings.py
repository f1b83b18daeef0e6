"""What an operator decides, from flags, a TOML file or the environment (COUNTERPOINT_PORT=8080), in this order."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One server's settings; an unknown key in the file is an error."""

    model_config = SettingsConfigDict(env_prefix="COUNTERPOINT_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen at.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one.")
    database: str = Field("sqlite:///people.db", description="SQLAlchemy URL of people, keys and feedback.")
    method: str = Field("soup", description="Method of a request that names none.")
    profile: str = Field("", description="Profile of a request, and of a person, without one; empty for the base.")
    strict_users: bool = Field(False, description="An unknown user is an error instead of the default profile.")
    require_keys: bool = Field(False, description="Refuse requests without an API key even before one is made.")
    open: bool = Field(False, description="Serve other addresses than this machine's without API keys.")
    bounds: str = Field("", description='Floors and caps besides the band\'s, such as "harmless >= 0.3".')
    max_rows: int = Field(64, ge=1, description="Rows of one forward; a mixture of K experts takes K.")
    memory_gib: float = Field(2.0, gt=0, description="Most memory for keys and values.")
    max_waiting: int = Field(256, ge=0, description="Requests that may wait; more are told to come again.")
    prefill_chunk: int = Field(256, ge=1, description="Prompt tokens between two steps of decoding.")
    max_tokens: int = Field(1024, ge=1, description="Most tokens of one answer.")
    default_max_tokens: int = Field(256, ge=1, description="Of a request that names no number.")
    max_body: int = Field(1 << 20, ge=1, description="Bytes of a request's body.")
    requests_per_minute: int = Field(0, ge=0, description="Of each API key; 0 for no limit.")
    tokens_per_minute: int = Field(0, ge=0, description="Of each API key, prompts and answers; 0 for no limit.")
    cors_origins: list[str] = Field([], description="Origins of pages that may ask from a browser; none by default.")
    keep_texts: bool = Field(False, description="Keep prompts and answers with feedback, not their scores alone.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_prompts: bool = Field(False, description="Write prompts and answers into the log.")
    metrics: bool = Field(True, description="Serve /metrics.")
    drain_s: float = Field(30.0, ge=0, description="Seconds that requests under way have to finish at the end.")
