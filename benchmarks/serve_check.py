"""Whether every stream brought what it should: its own tokens, all of them, and those that the engine says offline."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.serve_asks import Mix
from benchmarks.serve_load import Answer, Ask
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.profiles import parse_profile


def wrong_streams(mix: Mix, answers: Sequence[Answer], asks: Sequence[Ask]) -> Counter[str]:
    """How many answers failed, lost tokens, or hold a token that is not of their request's mark."""
    bodies = {ask["number"]: ask["body"] for ask in asks}
    found: Counter[str] = Counter()
    for answer in answers:
        if answer.error or answer.status != 200:
            found["failed"] += 1
            continue
        limit, tokens = bodies[answer.number]["max_tokens"], tokens_of(answer.text)
        told = (answer.usage or {}).get("completion_tokens")
        found["lost"] += not (len(tokens) == told == limit and answer.finish == "length")
        found["crossed"] += not set(tokens) <= set(mix.mark(answer.number))
    return found


def tokens_of(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


def unlike_offline(folder: Path, answers: Sequence[Answer], asks: Sequence[Ask]) -> tuple[int, int]:
    """Of how many answers the text is not that of the same request decoded offline, and of how many it was compared."""
    band = Band.load(folder)
    by_number = {ask["number"]: ask["body"] for ask in asks}
    asked = sorted({answer.number for answer in answers})
    done = band.run([request_of(band, by_number[number]) for number in asked])
    texts = dict(zip(asked, (completion.text for completion in done), strict=True))
    return sum(answer.text != texts[answer.number] for answer in answers), len(answers)


def request_of(band: Band, body: Ask) -> Request:
    """What a body asks for, without the server's code."""
    method, _, named = body["model"].partition(":")
    profile = body.get("profile") or named or None
    plan = band.plan(parse_profile(profile, band.dimensions) if profile else None, method)
    sampling = Sampling(
        temperature=body["temperature"],
        top_p=body["top_p"],
        max_tokens=body["max_tokens"],
        seed=body["seed"],
        logit_bias=tuple((int(token), bias) for token, bias in body["logit_bias"].items()),
    )
    if "messages" in body:
        return band.request(band.prompt(body["messages"]), plan, sampling)
    return replace(band.request("", plan, sampling), contexts=(tuple(body["prompt"]),) * len(plan.all_rows))
