"""From two texts or two conversations to a prompt and its two responses."""

from pydantic import BaseModel, ConfigDict

from counterpoint.data.places import brief
from counterpoint.data.rows import TextOrMessages, check_prompt, plain
from counterpoint.data.transcripts import answered, asked, is_transcript, turns
from counterpoint.types import CounterpointError, Message, Prompt


class ComparisonRow(BaseModel):
    """A comparison as files hold it; without `prompt`, the prompt is what `chosen` and `rejected` begin with."""

    model_config = ConfigDict(strict=True)
    prompt: TextOrMessages | None = None
    chosen: TextOrMessages
    rejected: TextOrMessages


def split(row: ComparisonRow, transcripts: bool) -> tuple[Prompt, str, str, bool]:
    """Prompt, better and worse response, and whether they were a transcript (which `transcripts` turns to messages).

    Raises CounterpointError for what is empty, the same twice, or not one answer to a shared prompt.
    """
    prompt, chosen, rejected, was_transcript = _split(row, transcripts)
    _check_texts(prompt, chosen, rejected)
    return prompt, chosen, rejected, was_transcript


def _split(row: ComparisonRow, transcripts: bool) -> tuple[Prompt, str, str, bool]:
    prompt = None if row.prompt is None else plain(row.prompt)
    chosen, rejected = plain(row.chosen), plain(row.rejected)
    _check_differ(chosen, rejected)
    was_text = isinstance(chosen, str)
    if transcripts and isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = _unfolded(prompt, chosen, rejected)
    was_transcript = was_text and not isinstance(chosen, str)
    if prompt is not None:
        check_prompt(prompt)
    if isinstance(chosen, str) and isinstance(rejected, str):
        texts = (prompt, chosen, rejected) if prompt is not None else _split_text(chosen, rejected)
        return *texts, False
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise CounterpointError("field 'rejected': expected text or messages, whichever 'chosen' is, found the other")
    before = _before(prompt, chosen, rejected)
    return before, _reply("chosen", chosen, before), _reply("rejected", rejected, before), was_transcript


def _check_texts(prompt: Prompt, chosen: str, rejected: str) -> None:
    check_prompt(prompt)
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise CounterpointError(f"field {field!r}: empty; expected a response")
    _check_differ(chosen, rejected)


def _check_differ(chosen: Prompt, rejected: Prompt) -> None:
    if chosen == rejected:
        raise CounterpointError(f"field 'rejected': the same as 'chosen', {brief(rejected)}; expected two responses")


def _unfolded(prompt: Prompt | None, chosen: str, rejected: str) -> tuple[Prompt | None, Prompt, Prompt]:
    """As messages, where the prompt or both responses are transcripts; else as they are."""
    if is_transcript(prompt):
        return asked(prompt), answered(prompt, chosen), answered(prompt, rejected)
    if is_transcript(chosen) and is_transcript(rejected):
        return prompt, turns(chosen), turns(rejected)
    return prompt, chosen, rejected


def _split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Cut both after the words that they share; a space at the cut goes to the responses."""
    size = min(len(chosen), len(rejected))
    end = next((i for i in range(size) if chosen[i] != rejected[i]), size)
    if not (end < size and chosen[end].isspace() and rejected[end].isspace()):
        space = next((i for i in reversed(range(end)) if chosen[i].isspace()), -1)
        end = space if chosen[space : space + 1] == " " else space + 1
    if end <= 0:
        raise CounterpointError("field 'prompt': missing, and 'chosen' and 'rejected' share no first words; add it")
    return chosen[:end], chosen[end:], rejected[end:]


def _before(prompt: Prompt | None, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    if isinstance(prompt, tuple):
        return prompt
    size = min(len(chosen), len(rejected))
    shared = chosen[: next((i for i in range(size) if chosen[i] != rejected[i]), size)]
    if prompt is None and not shared:
        raise CounterpointError("field 'prompt': missing, and 'chosen' and 'rejected' share no first messages; add it")
    if prompt is not None and Message("user", prompt) not in shared:
        raise CounterpointError(
            f"field 'prompt': text that no user message of both 'chosen' and 'rejected' holds, found {brief(prompt)}; "
            "expected messages, since the responses are messages"
        )
    return shared


def _reply(field: str, messages: tuple[Message, ...], before: tuple[Message, ...]) -> str:
    rest = messages[len(before) :] if messages[: len(before)] == before else messages
    if messages and messages[-1].role != "assistant":
        raise CounterpointError(
            f"field {field!r}: the last message is of role {messages[-1].role!r}, expected 'assistant'"
        )
    if len(rest) != 1:
        raise CounterpointError(f"field {field!r}: expected one assistant message after the prompt, found {len(rest)}")
    return rest[0].content
