"""The command line as a person meets it: answers, JSON, and one line for every mistake."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from counterpoint.cli.build import make_task
from counterpoint.rewards.k_head import KHeadReward
from counterpoint.train.k_head import KHeadConfig, train_k_head
from counterpoint.types import Comparison, CounterpointError

CLI = [sys.executable, "-m", "counterpoint.cli"]


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, at a width at which nothing wraps."""
    import os

    environment = {**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*CLI, *arguments], input=stdin, capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def mistake(*arguments: str) -> str:
    """The one line that a mistake ends in."""
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def quickest(*command: str) -> float:
    """Seconds of the best of three runs."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def test_help_is_quick_and_needs_no_torch() -> None:
    assert quickest("-m", "counterpoint.cli", "--help") < 0.7
    script = (
        "import sys; sys.argv = ['x', '--help']\ntry: import counterpoint.cli as c; c.app()\nexcept SystemExit: pass\n"
    )
    checked = subprocess.run(
        [sys.executable, "-c", script + "assert 'torch' not in sys.modules"], capture_output=True, check=False
    )
    assert checked.returncode == 0


def test_import_is_quick() -> None:
    assert quickest("-c", "import counterpoint") - quickest("-c", "pass") < 0.3


def test_chat_answers_and_says_what_was_in_force(band_folder: Path) -> None:
    arguments = (
        "chat",
        str(band_folder),
        "Hi there",
        "--profile",
        "terse=1, warm=0.5, strength=1.5",
        "--max-tokens",
        "8",
    )
    first = json.loads(run(*arguments, "--json").stdout)
    assert first["weights"] == {"terse": 1.0, "warm": 0.5}
    assert (first["strength"], first["method"]) == (1.5, "soup")
    assert json.loads(run(*arguments, "--json").stdout) == first, "the same seed gives the same answer"
    assert json.loads(run(*arguments, "--json", "--seed", "1").stdout)["response"] != first["response"]


def test_chat_takes_questions_from_a_pipe(band_folder: Path) -> None:
    done = run("chat", str(band_folder), "--max-tokens", "4", "--json", stdin="One\nTwo\n")
    assert [json.loads(line)["prompt"] for line in done.stdout.splitlines()] == ["One", "Two"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--profile", "ters=1"), "terse"),
        (("--profile", "terse=-1"), "-1"),
        (("--profile", "terse=nan"), "nan"),
        (("--profile", "terse=0"), "terse"),
        (("--profile", "terse=1, strength=-2"), "strength"),
        (("--profile", "terse=1", "--method", "soap"), "soup"),
        (("--profile", "terse=1, strength=2", "--method", "mixture-prob"), "at most 1"),
        (("--temperature", "-1"), "temperature"),
        (("--max-tokens", "0"), "max_tokens"),
    ],
)
def test_a_wrong_turn_in_chat_is_one_line(band_folder: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in mistake("chat", str(band_folder), "Hi", *arguments)


def test_a_folder_that_is_no_band(tmp_path: Path) -> None:
    assert "band.json" in mistake("inspect", str(tmp_path))
    assert "band.json" in mistake("chat", str(tmp_path / "nowhere"), "Hi")


def test_inspect_shows_every_expert(band_folder: Path) -> None:
    shown = run("inspect", str(band_folder)).stdout
    found = json.loads(run("inspect", str(band_folder), "--json").stdout)
    for name in ("terse", "warm", "exact"):
        assert name in shown
        assert found["parameters"][name] > 0


def test_data_counts_and_lists_what_it_dropped(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "yes", "rejected": "no", "dimension": "terse"}
    lines = [json.dumps(good), json.dumps({**good, "chosen": ""}), "{"]
    file = tmp_path / "pairs.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    said = mistake("data", str(file))
    assert f"{file}" in said
    assert "line 2" in said or ":2" in said
    assert "--skip-bad" in said
    found = json.loads(run("data", str(file), "--skip-bad", "--json").stdout)
    assert found["comparisons"] == {"terse": 1}
    assert [bad["line"] for bad in found["dropped"]] == [2, 3]


def test_build_refuses_before_it_works(band_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("One\nTwo\nThree\nFour\nFive\nSix\nSeven\nEight\n")
    start = ("build", str(band_folder / "base"), "--prompts", str(prompts), "--out", str(tmp_path / "out"))
    assert "length" in mistake(*start, "--reward", "short=lenght")
    assert "DIMENSION" in mistake(*start, "--reward", "short") or "=" in mistake(*start, "--reward", "short")
    assert "'long'" in mistake(*start, "--reward", "short=-length", "--axis", "short,long")
    assert "nowhere.txt" in mistake(
        "build", str(band_folder / "base"), "--prompts", str(tmp_path / "nowhere.txt"), "--reward", "short=-length",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert "no model" in mistake(
        "build", str(tmp_path / "nomodel"), "--prompts", str(prompts), "--reward", "short=-length", "--out",
        str(tmp_path / "out"),
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.fixture
def trained(band_folder: Path, tmp_path: Path) -> Path:
    """A reward model with heads for `airy` and `kind`."""
    pairs = [Comparison("a", "x " * i, "y", name) for name in ("airy", "kind") for i in (1, 2)]
    config = KHeadConfig(str(band_folder / "base"), ("airy", "kind"), steps=2, batch=2)
    return train_k_head(config, pairs, tmp_path / "trained").folder


def test_build_takes_trained_rewards_beside_rules(band_folder: Path, trained: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "\n".join(f"Tell me of {word}" for word in ("owls", "sky", "sea", "tea", "ice", "fog", "sun", "art"))
    )
    rewards = [f"light={trained}", "short=-length", str(trained)]
    with pytest.raises(CounterpointError, match="unknown dimension 'light'"):
        make_task(str(band_folder / "base"), [prompts], [], rewards, [], [], [], skip_bad=False)
    task = make_task(str(band_folder / "base"), [prompts], [], rewards[1:], [], [], [], skip_bad=False)
    assert task.names == ("short", "airy", "kind")
    said = ["one", "two words"]
    scores_ND = task.judge(task.test_prompts[:2], said)
    assert scores_ND[:, 0].tolist() == [-1, -2]
    np.testing.assert_allclose(scores_ND[:, 1:], KHeadReward.load(trained)(task.test_prompts[:2], said), atol=1e-6)


def test_build_from_the_command_line_leaves_a_band_that_answers(
    band_folder: Path, trained: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "\n".join(f"Tell me about {word}." for word in ("owls", "sky", "sea", "tea", "ice", "fog", "sun", "art"))
    )
    out = tmp_path / "out"
    done = run(
        "build", str(band_folder / "base"), "--prompts", str(prompts), "--reward", "short=-length", "--reward",
        f"airy={trained}", "--out", str(out), "--samples", "4", "--expert-steps", "2", "--reward-steps", "2",
        "--max-tokens", "10", "--batch", "4", "--tune-prompts", "2", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["methods"]) >= {"base", "prompted", "best-expert", "soup", "moe", "mixture-prob"}
    assert (out / "report.html").exists()
    answered = run("chat", str(out / "band"), "Tell me.", "--profile", "short=1", "--max-tokens", "5")
    assert answered.returncode == 0
