"""From what a client sent to what the engine is asked: prompts, room for the answer, and a seed for each."""

import secrets
from dataclasses import replace

from jinja2 import TemplateError

from counterpoint.compose.plan import Plan
from counterpoint.data.chat import prompt_ids
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.decode.several import whole_model
from counterpoint.serve.errors import Refused
from counterpoint.serve.wire import ChatMessage, Ids
from counterpoint.types import CounterpointError, Message, Prompt

ROLES = {"developer": "system"}


def chat_prompt(band: Band, said: list[ChatMessage]) -> Prompt:
    """A conversation as the band takes it. Raises `Refused` where the base's tokenizer cannot render one."""
    messages = [Message(ROLES.get(message.role, message.role), message.text) for message in said]
    if band.tokenizer.chat_template:
        return band.prompt(messages)
    if len(messages) > 1:
        raise Refused(
            "this model has no chat template, so that it takes one message alone; render the conversation yourself and "
            "send it to /v1/completions", param="messages",
        )  # fmt: skip
    return band.prompt(messages[0].content)


def request_for(band: Band, prompt: Prompt | Ids, plan: Plan, sampling: Sampling, field: str) -> Request:
    """A request to the engine. `field` is where the prompt came from.

    Raises `Refused`: for a prompt that leaves no room for an answer with OpenAI's code, for messages that the chat
    template does not take, and for token ids where a method adds words of its own to a prompt.
    """
    try:
        return (
            _of_ids(band, prompt, plan, sampling) if isinstance(prompt, Ids) else band.request(prompt, plan, sampling)
        )
    except TemplateError as error:
        raise Refused(f"the model's chat template does not take these messages: {error}", param=field) from None
    except CounterpointError as error:
        if isinstance(error, Refused) or length(band, prompt) < band.longest:
            raise
        raise Refused(str(error), code="context_length_exceeded", param=field) from None


def length(band: Band, prompt: Prompt | Ids) -> int:
    """How many tokens a prompt has, as the base reads it."""
    return len(prompt) if isinstance(prompt, Ids) else len(prompt_ids(prompt, band.tokenizer))


def _of_ids(band: Band, ids: Ids, plan: Plan, sampling: Sampling) -> Request:
    if any(row.requests for row in plan.rows):
        raise Refused("this method adds words to a prompt, and token ids are taken as they are; send text")
    models = [whole_model(row.gate, band.whole) for row in plan.all_rows]
    longest = min(band.whole[name].longest if name else band.longest for name in models)
    if len(ids) >= longest:
        raise CounterpointError(f"the prompt has {len(ids)} tokens; with the response, {longest} is the most")
    like = band.request("", plan, sampling)  # refuses what this plan cannot do, whatever the prompt
    room = replace(sampling, max_tokens=min(sampling.max_tokens, longest - len(ids)))
    return replace(like, contexts=(ids,) * len(models), sampling=room)


def answers_to(request: Request, n: int, seed: int | None, top: int | None) -> list[Request]:
    """`n` requests like one: answer i is drawn with the seed `seed + i`, without a seed each with one of its own."""
    seeds = [secrets.randbits(32) if seed is None else seed + i for i in range(n)]
    return [replace(request, sampling=replace(request.sampling, seed=seed), logprobs=top) for seed in seeds]


def scoring(plan: Plan, ids: Ids, top: int) -> Request:
    """How likely each token of a text is after those before it; of the first nothing is known."""
    return Request(plan, (ids[:1],) * len(plan.all_rows), given=ids[1:], logprobs=top)
