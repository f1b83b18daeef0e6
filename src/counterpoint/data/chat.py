"""How a prompt becomes token ids: the one place, so that training and decoding see the same ids."""

from typing import Any

from counterpoint.types import CounterpointError, Message, Prompt


def with_request(prompt: Prompt, request: str) -> Prompt:
    """Append a request in words ("Please be brief.") to the last user message, joined by one space."""
    if not request:
        return prompt
    if isinstance(prompt, str):
        return f"{prompt} {request}"
    *before, last = prompt
    return (*before, Message(last.role, f"{last.content} {request}"))


def prompt_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Token ids of a prompt, ready for a response to follow.

    Text is tokenised with the tokenizer's own special tokens in front; messages go through its chat template.
    Raises CounterpointError for messages where the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=True, verbose=False)["input_ids"]
        return drop_end(ids, tokenizer)
    if tokenizer.chat_template is None:
        raise CounterpointError(
            f"{tokenizer.name_or_path}: this tokenizer has no chat template, so it cannot take messages; "
            "pass the prompt as plain text, or give the tokenizer a chat_template"
        )
    messages = [{"role": m.role, "content": m.content} for m in prompt]
    return list(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    )


def drop_end(ids: list[int], tokenizer: Any) -> list[int]:
    """Drop an end-of-text token that some tokenizers append: a prompt is not over."""
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        return ids[:-1]
    if not ids and tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    return ids


def response_ids(response: str, tokenizer: Any) -> list[int]:
    """Token ids of a whole response with the end-of-text token; tokenised apart from its prompt."""
    return [*tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
