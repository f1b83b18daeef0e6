"""Roll-outs of a model here: what a kill leaves behind, and on what a sample's noise depends."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from counterpoint.build import sample as module
from counterpoint.build.sample import Drawn, SampleConfig, drawn, sample_model
from counterpoint.data.sample_log import SampleLog
from counterpoint.data.samples import Ask, Sample, read_samples
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.stages import Stages
from counterpoint.testing import save_pico
from counterpoint.types import CounterpointError, Dimension, Message, Prompt

PROMPTS: list[Prompt] = ["say the word", (Message("user", "and?"),), "go", "of what is it"]
TABLE = [Dimension("brief", request="Be brief."), Dimension("kind", request="Be kind.")]
CONFIG = SampleConfig(samples=2, max_tokens=6, seed=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pico(tmp_path_factory.mktemp("sample") / "base", seed=3)


def run(base: Path, out: Path, config: SampleConfig = CONFIG, table: list[Dimension] = TABLE) -> list[Drawn]:
    return sample_model(str(base), config, PROMPTS, table, out, Stages())


def run_and_kill() -> None:
    """In a process of its own: draw three at a time, and die in the middle of writing the third part."""
    base, out = Path(sys.argv[1]), Path(sys.argv[2])
    module.PART = 3
    write = SampleLog.append

    def dying(log: SampleLog, samples: Sequence[Sample]) -> None:
        write(log, samples)
        if log.done == 9:
            os.truncate(out, out.stat().st_size - 40)
            os.kill(os.getpid(), signal.SIGKILL)

    SampleLog.append = dying  # type: ignore[method-assign, assignment]
    run(base, out)


def test_a_killed_run_ends_with_the_bytes_of_an_unbroken_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    killed = subprocess.Popen([sys.executable, __file__, str(base), str(tmp_path / "killed.jsonl")], env=environment)
    monkeypatch.setattr(module, "PART", 3)
    run(base, tmp_path / "unbroken.jsonl")
    assert killed.wait(120) == -signal.SIGKILL
    torn = (tmp_path / "killed.jsonl").read_bytes()
    assert torn.count(b"\n") == 8
    assert not torn.endswith(b"\n")
    asked: list[int] = []
    draw = module._draw

    def counted(band: Band, part: Sequence[Ask], *more: Any) -> list[Sample]:
        asked.append(len(part))
        return draw(band, part, *more)

    monkeypatch.setattr(module, "_draw", counted)
    run(base, tmp_path / "killed.jsonl")
    assert asked == [3] * 6, "of 24 samples six were there"
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    asked.clear()
    run(base, tmp_path / "killed.jsonl")
    assert asked == []


def test_each_prompt_is_sampled_in_each_way_of_asking(base: Path, tmp_path: Path) -> None:
    counts = run(base, tmp_path / "s.jsonl")
    found = read_samples(tmp_path / "s.jsonl")
    assert [(s.prompt, s.asked, s.index) for s in found] == [
        (prompt, asked, index) for prompt in PROMPTS for asked in ((), ("brief",), ("kind",)) for index in (0, 1)
    ]
    assert [(c.asked, c.samples) for c in counts] == [((), 8), (("brief",), 8), (("kind",), 8)]
    own = [s for s in found if s.asked == ("kind",)]
    assert counts[2].words == pytest.approx(sum(len(s.response.split()) for s in own) / 8)
    assert counts[2].ended == sum(s.ended for s in own) / 8


def test_a_sample_is_what_the_base_says_to_the_prompt_with_the_request(base: Path, tmp_path: Path) -> None:
    """A prompt in plain text is a user's message, since the base has a chat template; greedy, so that noise is out."""
    run(base, tmp_path / "s.jsonl", SampleConfig(samples=1, neutral=False, temperature=0, max_tokens=6))
    first = read_samples(tmp_path / "s.jsonl")[0]
    (said,) = Band.assemble(base, {}).respond(
        [(Message("user", "say the word Be brief."),)], [None], "base", Sampling(temperature=0, max_tokens=6)
    )
    assert (first.prompt, first.asked, first.response) == ("say the word", ("brief",), said.text)
    assert first.ended == (said.finish == "stop")


def test_a_samples_noise_is_its_own(base: Path, tmp_path: Path) -> None:
    """One more preference, one more sample and no neutral ones change nothing for the others (but for rounding)."""
    run(base, tmp_path / "few.jsonl", SampleConfig(samples=1, neutral=False, max_tokens=6, seed=4), TABLE[1:])
    run(base, tmp_path / "many.jsonl")
    few, many = (read_samples(tmp_path / f"{name}.jsonl") for name in ("few", "many"))
    same = [sample in many for sample in few]
    assert {(s.asked, s.index) for s in few} == {(("kind",), 0)}
    assert sum(same) >= 3, "of four; where two tokens are all but equal, another kernel may take the other"
    assert len({s.response for s in many}) > 12
    run(base, tmp_path / "other.jsonl", SampleConfig(samples=2, max_tokens=6, seed=5))
    other = read_samples(tmp_path / "other.jsonl")
    assert sum(a.response == b.response for a, b in zip(many, other, strict=True)) <= 2


def test_a_prompt_without_room_is_named_or_left_out(base: Path, tmp_path: Path) -> None:
    """It has room by itself, and none with the request of 'kind'."""
    long = "x" * 485
    asked = [Dimension("kind", request="Be very kind to me.")]
    short = SampleConfig(samples=1, max_tokens=2)
    with pytest.raises(CounterpointError, match=r"prompt 2 \('xxx.*--skip-bad"):
        sample_model(str(base), short, ["go", long], asked, tmp_path / "s.jsonl", Stages())
    sample_model(str(base), short, ["go", long], asked, tmp_path / "s.jsonl", Stages(), skip_bad=True)
    assert {s.prompt for s in read_samples(tmp_path / "s.jsonl")} == {"go"}
    with pytest.raises(CounterpointError, match="none of 1 prompts leaves room"):
        sample_model(str(base), short, [long], asked, tmp_path / "t.jsonl", Stages(), skip_bad=True)


def test_other_prompts_do_not_go_on_in_the_same_file(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path / "s.jsonl")
    with pytest.raises(CounterpointError, match="was begun with prompts"):
        sample_model(str(base), CONFIG, PROMPTS[:2], TABLE, tmp_path / "s.jsonl", Stages())


@pytest.mark.parametrize(
    ("config", "table", "message"),
    [
        ({"neutral": False}, [], "nothing to ask for: name a preference"),
        ({}, [Dimension("mute")], "the preference 'mute' has no request"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    base: Path, tmp_path: Path, config: dict[str, bool], table: list[Dimension], message: str
) -> None:
    with pytest.raises(CounterpointError, match=message):
        run(base, tmp_path / "s.jsonl", SampleConfig(**config), table)


def test_counts_by_hand() -> None:
    samples = [
        Sample("p", (), "a b", 0, True, 0),
        Sample("p", ("x",), "a", 0, False, 0),
        Sample("q", (), "", 0, False, 0),
    ]
    assert drawn(samples) == [Drawn((), 2, 1.0, 0.5), Drawn(("x",), 1, 1.0, 0.0)]


def test_settings_out_of_range() -> None:
    with pytest.raises(CounterpointError, match="samples is 0"):
        SampleConfig(samples=0)
    with pytest.raises(CounterpointError, match="top_p is 0"):
        SampleConfig(top_p=0)


if __name__ == "__main__":
    run_and_kill()
