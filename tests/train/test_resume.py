"""Runs that are killed and run again end with the same bits as an unbroken one."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from counterpoint.artifacts import scratch_of
from counterpoint.data.examples import example
from counterpoint.testing import pico_tokenizer
from counterpoint.train.checkpoints import newest_checkpoint
from counterpoint.train.dpo import DpoConfig, train_dpo
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.run import Progress, TrainResult
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Comparison

Job = Callable[[Path, Path, Progress | None], TrainResult]
COMPARISONS = [Comparison(f"say {i}", "the " * (1 + i % 4), "no" * (i % 3), "short") for i in range(10)]


def sft(base: Path, out: Path, progress: Progress | None = None) -> TrainResult:
    config = SftConfig(str(base), steps=8, batch=4, lora_dropout=0.3, checkpoint_every=3)
    rows = [example(c.prompt, c.chosen, pico_tokenizer()) for c in COMPARISONS]
    return train_sft(config, rows, out, progress=progress)


def whole(base: Path, out: Path, progress: Progress | None = None) -> TrainResult:
    config = SftConfig(str(base), steps=8, batch=4, lora_rank=0, checkpoint_every=3)
    rows = [example(c.prompt, c.chosen, pico_tokenizer()) for c in COMPARISONS]
    return train_sft(config, rows, out, progress=progress)


def dpo(base: Path, out: Path, progress: Progress | None = None) -> TrainResult:
    config = DpoConfig(str(base), "short", steps=8, batch=4, lora_dropout=0.3, checkpoint_every=3)
    return train_dpo(config, COMPARISONS, out, progress=progress)


def reward(base: Path, out: Path, progress: Progress | None = None) -> TrainResult:
    config = RewardModelConfig(str(base), "short", steps=8, batch=4, lora_rank=4, lora_dropout=0.3, checkpoint_every=3)
    return train_reward_model(config, COMPARISONS, out, progress=progress)


JOBS: dict[str, Job] = {"sft": sft, "whole": whole, "dpo": dpo, "reward": reward}


class Interruption(Exception):
    pass


def bits(folder: Path) -> bytes:
    (file,) = folder.glob("*model.safetensors")
    return file.read_bytes()


def start_and_kill(job: str, base: Path, out: Path, at: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, __file__, job, str(base), str(out), str(at)], env=environment)


def run_and_kill() -> None:
    job, base, out, at = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])

    def kill(step: int, total: int) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    JOBS[job](base, out, kill)


def resumes_as_if_unbroken(job: str, base: Path, folder: Path, after: int) -> None:
    """Run a job that was stopped in `folder` again: it starts after step `after` and ends with the unbroken bits."""
    seen: list[int] = []
    resumed = JOBS[job](base, folder, lambda step, total: seen.append(step))
    unbroken = JOBS[job](base, folder.with_name(f"{folder.name}-unbroken"), None)
    assert seen == list(range(after + 1, 9))
    assert bits(resumed.folder) == bits(unbroken.folder)
    assert resumed.losses == unbroken.losses


def test_killed_runs_end_with_the_bits_of_an_unbroken_one(base: Path, tmp_path: Path) -> None:
    killed = {job: start_and_kill(job, base, tmp_path / job, at=7) for job in ("dpo", "reward")}
    for job, process in killed.items():
        assert process.wait(120) == -signal.SIGKILL
        assert not (tmp_path / job).exists()
        resumes_as_if_unbroken(job, base, tmp_path / job, after=6)


def stop(job: str, base: Path, folder: Path, at: int) -> Path:
    """Stop a job after step `at`, and return the folder of its checkpoints."""

    def interrupt(step: int, total: int) -> None:
        if step == at:
            raise Interruption

    with pytest.raises(Interruption):
        JOBS[job](base, folder, interrupt)
    return scratch_of(folder) / "work"


@pytest.mark.parametrize("job", JOBS)
def test_a_half_written_checkpoint_is_passed_over(base: Path, tmp_path: Path, job: str) -> None:
    work = stop(job, base, tmp_path / job, at=5)
    shutil.copytree(work / "checkpoint-3", work / "checkpoint-4")
    (work / "checkpoint-4" / "trainer_state.json").write_text('{"global_st')
    resumes_as_if_unbroken(job, base, tmp_path / job, after=3)


def test_a_run_stopped_before_its_first_checkpoint_starts_again(base: Path, tmp_path: Path) -> None:
    work = stop("sft", base, tmp_path / "sft", at=2)
    assert newest_checkpoint(work) is None
    resumes_as_if_unbroken("sft", base, tmp_path / "sft", after=0)


def test_the_newest_whole_checkpoint_is_taken_by_number_and_the_rest_removed(tmp_path: Path) -> None:
    for name, text in {"9": "{}", "10": "{}", "11": "{", "12": None}.items():
        (tmp_path / f"checkpoint-{name}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(text)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    assert newest_checkpoint(tmp_path / "nothing") is None


if __name__ == "__main__":
    run_and_kill()
