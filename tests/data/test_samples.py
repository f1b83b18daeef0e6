import json
from pathlib import Path

import pytest

from counterpoint.data.sample_log import open_log, run_file
from counterpoint.data.samples import Ask, Sample, asks, read_samples, sample_row, seed_of
from counterpoint.types import CounterpointError, Message

TALK = (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "And?"))
SAMPLES = [
    Sample("What?", (), 'That.\u2028 "So"', 0, True, 7),
    Sample("What?", ("concise",), "", 1, False, 8),
    Sample(TALK, ("concise", "friendly"), "So.", 0, True, 9),
]
CONFIG = {"model": "m", "temperature": 1.0, "requests": {"concise": "Be brief."}}


def saying(ask: Ask) -> Sample:
    return Sample(ask.prompt, ask.asked, f"said {ask.seed}", ask.index, True, ask.seed)


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(sample_row(sample), ensure_ascii=False) + "\n" for sample in SAMPLES))
    assert read_samples(file) == SAMPLES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asked": "concise"}, r"s\.jsonl:2: field 'asked': expected a valid list, found 'concise'"),
        ({"index": -1}, r"s\.jsonl:2: field 'index': expected greater than or equal to 0"),
        ({"prompt": " "}, r"s\.jsonl:2: field 'prompt': empty"),
        ({"chosen": "x"}, r"s\.jsonl:2: field 'chosen': extra inputs are not permitted"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    rows = [sample_row(SAMPLES[0]), {**sample_row(SAMPLES[1]), **change}]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CounterpointError, match=message):
        read_samples(tmp_path / "s.jsonl")


def test_a_seed_depends_on_all_that_tells_a_sample_from_others() -> None:
    kinds = [(seed, prompt, asked, index) for seed in (0, 1) for prompt in ("a", "b", (Message("user", "a"),))
             for asked in ((), ("x",), ("y",), ("x", "y")) for index in (0, 1)]  # fmt: skip
    seeds = {seed_of(*kind) for kind in kinds}
    assert len(seeds) == len(kinds) == 48
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_sample_keeps_its_seed_when_others_are_added() -> None:
    few = asks(["b"], [("x",)], 1, seed=3)
    many = asks(["a", "b"], [(), ("x",), ("y",)], 4, seed=3)
    assert few[0] in many
    assert [(a.prompt, a.asked, a.index) for a in many[:6]] == [
        *(("a", (), i) for i in range(4)), ("a", ("x",), 0), ("a", ("x",), 1),
    ]  # fmt: skip


EVERY = asks(["a", "b", "c"], [(), ("concise",)], 3, seed=0)


def begun(path: Path, lines: int, part: int = 4) -> bytes:
    """Write the first samples of a run; return what they are on the disk."""
    with open_log(path, CONFIG, EVERY, part) as log:
        log.append([saying(ask) for ask in EVERY[:lines]])
    return path.read_bytes()


def test_whole_parts_are_kept_and_a_torn_line_is_not(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    written = begun(file, 10)
    file.write_bytes(written + b'{"prompt": "b", "ask')
    with open_log(file, CONFIG, EVERY, 4) as log:
        assert (log.done, log.left) == (8, EVERY[8:])
        log.append([saying(ask) for ask in log.left])
    assert read_samples(file) == [saying(ask) for ask in EVERY]
    with open_log(file, CONFIG, EVERY, 4) as log:
        assert log.done == len(EVERY) == 18, "a finished file is kept whole"


def test_one_by_one_nothing_but_the_torn_line_is_lost(tmp_path: Path) -> None:
    written = begun(tmp_path / "s.jsonl", 7)
    (tmp_path / "s.jsonl").write_bytes(written[:-5])
    with open_log(tmp_path / "s.jsonl", CONFIG, EVERY, 1) as log:
        assert log.done == 6


def test_samples_are_kept_in_any_order_and_end_in_that_of_asking(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    with open_log(file, CONFIG, EVERY, 1) as log:
        log.append([saying(EVERY[place]) for place in (5, 0, 17)])
    with open_log(file, CONFIG, EVERY, 1) as log:
        assert log.left == [ask for place, ask in enumerate(EVERY) if place not in (0, 5, 17)]
        log.append([saying(ask) for ask in log.left[::-1]])
        assert log.finish() == [saying(ask) for ask in EVERY]
    assert file.read_bytes() == begun(tmp_path / "ordered.jsonl", len(EVERY))


def test_two_runs_do_not_write_one_file_at_once(tmp_path: Path) -> None:
    written = begun(tmp_path / "s.jsonl", 4)
    with open_log(tmp_path / "s.jsonl", CONFIG, EVERY, 4):
        with pytest.raises(CounterpointError, match=r"s\.jsonl: another run is writing it"):
            begun(tmp_path / "s.jsonl", 4)
        assert (tmp_path / "s.jsonl").read_bytes() == written
    with open_log(tmp_path / "s.jsonl", CONFIG, EVERY, 4) as log:
        assert log.done == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "temperature": 0.5}, "was begun with temperature 1.0, and this run has 0.5; finish it as it was"),
        ({**CONFIG, "requests": {"concise": "Short!"}}, "was begun with requests {'concise': 'Be brief.'}, and"),
        ({**CONFIG, "top_k": 3}, "was begun with top_k None, and this run has 3"),
    ],
)
def test_another_configuration_does_not_go_on(tmp_path: Path, config: dict[str, object], message: str) -> None:
    written = begun(tmp_path / "s.jsonl", 8)
    with pytest.raises(CounterpointError, match=message), open_log(tmp_path / "s.jsonl", config, EVERY, 4):
        pass
    assert (tmp_path / "s.jsonl").read_bytes() == written


def test_a_file_that_is_not_of_the_run_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    written = begun(file, 8)
    for wrong, message in (
        (written.replace(b'"index": 1', b'"index": 2', 1), r"s\.jsonl:2: is not a sample that this run wrote there"),
        (written.replace(b'"ended": true', b'"ended": "yes"', 1), r"s\.jsonl:1: field 'ended'"),
        (written * 2, r"s\.jsonl:9: is not a sample that this run wrote there"),
    ):
        file.write_bytes(wrong)
        with pytest.raises(CounterpointError, match=message), open_log(file, CONFIG, EVERY, 4):
            pass
        assert file.read_bytes() == wrong
    run_file(file).unlink()
    with (
        pytest.raises(CounterpointError, match=r"is there, but not s\.jsonl\.run, which says how it was made"),
        open_log(file, CONFIG, EVERY, 4),
    ):
        pass


@pytest.mark.parametrize("killed", ["s.jsonl", "s.jsonl.run"])
def test_a_run_that_drew_nothing_begins_anew(tmp_path: Path, killed: str) -> None:
    (tmp_path / killed).write_text("" if killed == "s.jsonl" else '{"temperature": 3}')
    with open_log(tmp_path / "s.jsonl", CONFIG, EVERY, 4) as log:
        assert log.left == EVERY
    assert json.loads(run_file(tmp_path / "s.jsonl").read_text()) == CONFIG
