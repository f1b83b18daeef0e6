"""Dialogues written as one text, `"\\n\\nHuman: ...\\n\\nAssistant: ..."`, become messages.

The marks are those of Bai et al., 2022 (arXiv 2204.05862). Left as text they would teach a model with a chat template
to write marks that it has tokens for.
"""

import re
from typing import TypeGuard

from counterpoint.types import Message, Prompt

TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: Prompt | None) -> TypeGuard[str]:
    """Whether a text begins with a human's turn and holds an assistant's."""
    return isinstance(text, str) and re.match(r"\s*Human:", text) is not None and "\n\nAssistant:" in text


def turns(text: str) -> tuple[Message, ...]:
    """The turns without the space around them; successive turns of one speaker are one, joined by a blank line."""
    _, *pieces = TURN.split(text)
    messages: list[Message] = []
    for name, content in zip(pieces[::2], map(str.strip, pieces[1::2]), strict=True):
        role = ROLES[name]
        if messages and messages[-1].role == role:
            content = f"{messages.pop().content}\n\n{content}".strip()
        messages.append(Message(role, content))
    return tuple(messages)


def asked(text: str) -> tuple[Message, ...]:
    """The turns up to the answer that is wanted: without the assistant's last, which is empty or only begun."""
    found = turns(text)
    return found[:-1] if found[-1].role == "assistant" else found


def unfolded(prompt: Prompt, wanted: bool) -> tuple[Prompt, bool]:
    """A prompt as messages, and True, if that is wanted and it is a transcript; else as it is, and False."""
    return (asked(prompt), True) if wanted and is_transcript(prompt) else (prompt, False)


def answered(prompt: str, response: str) -> tuple[Message, ...]:
    """The turns of a prompt with its response, which may repeat the prompt in front."""
    if response.strip().startswith(prompt.strip()):
        return turns(response)
    opened = prompt if turns(prompt)[-1].role == "assistant" else f"{prompt}\n\nAssistant:"
    return turns(f"{opened} {response}")
