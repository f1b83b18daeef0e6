"""A prompt in plain text, as `chat` would put it to a model."""

from typing import Any

from counterpoint.types import Message, Prompt


def as_asked(prompt: Prompt, tokenizer: Any) -> Prompt:
    """Plain text becomes a user's message where the tokenizer has a chat template; all else stays as it is."""
    return (Message("user", prompt),) if isinstance(prompt, str) and tokenizer.chat_template else prompt
