"""Decoding many requests so that a killed run goes on where it was: what was said is kept part by part."""

from collections.abc import Callable, Sequence
from pathlib import Path

from counterpoint.artifacts import read_json, write_json
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.types import Completion

PART = 512
"""Requests whose completions are written at once: as many as an engine holds rows."""


def run_in_parts(
    band: Band, requests: Sequence[Request], work: Path, progress: Callable[[int, int], None], part: int = PART
) -> list[Completion]:
    """Decode requests, and keep each part's completions in `work`; a part that is there is read, not decoded.

    `work` must belong to these requests alone, as the folder of `artifacts.make_once` does. A request's completion does
    not depend on its companions, so neither does it on where a run was killed.
    """
    done: list[Completion] = []
    for start in range(0, len(requests), part):
        file = work / f"completions-{start}.json"
        if not file.exists():
            said = band.run(requests[start : start + part], _after(start, len(requests), progress))
            write_json(file, [[completion.text, list(completion.tokens), completion.finish] for completion in said])
        done += [Completion(text, tuple(tokens), finish) for text, tokens, finish in read_json(file)]
        progress(len(done), len(requests))
    return done


def _after(start: int, total: int, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return lambda done, _: progress(start + done, total)
