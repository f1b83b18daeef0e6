from pathlib import Path

import pytest

from counterpoint.build.answer import requests_of
from counterpoint.decode.band import Band
from counterpoint.decode.parts import run_in_parts
from counterpoint.decode.sampling import Sampling
from counterpoint.profiles import parse_profile


class Interruption(Exception):
    pass


def test_a_stopped_run_goes_on_with_the_next_part_and_ends_as_an_unbroken_one(band: Band, tmp_path: Path) -> None:
    plans = [band.plan(parse_profile(name, band.dimensions), "soup") for name in ("terse", "warm")]
    prompts = [f"Tell me of {word}" for word in ("owls", "sky", "sea", "tea")]
    requests = requests_of(band, plans, prompts, Sampling(max_tokens=10, seed=3))
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        if done > 3:
            raise Interruption

    with pytest.raises(Interruption):
        run_in_parts(band, requests, tmp_path, stop, part=3)
    assert [file.name for file in tmp_path.iterdir()] == ["completions-0.json"]
    written = (tmp_path / "completions-0.json").stat().st_mtime_ns
    resumed = run_in_parts(band, requests, tmp_path, lambda *now: told.append(now), part=3)
    assert resumed == band.run(requests)
    assert (tmp_path / "completions-0.json").stat().st_mtime_ns == written
    assert told[0] == (3, 8)
    assert told[-1] == (8, 8)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
