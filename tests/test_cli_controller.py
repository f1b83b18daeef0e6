"""`counterpoint train controller` and what meets its controller: every mistake is one line."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from counterpoint.artifacts import read_json, write_json
from counterpoint.models.band_file import set_bounds
from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.types import Comparison

Command = Callable[..., tuple[object, str, str]]
WORDS = ("owls", "sky", "sea", "tea", "ice", "fog")
RULES = ("--reward", "terse=-length", "--reward", "warm=regex:[A-Za-z]", "--reward", "exact=regex:[a-m]")
SMALL = ("--iterations", 2, "--prompts-per-iteration", 4, "--epochs", 1, "--max-tokens", 16, "--threads", 1)
PAIR = ("--profile", "terse=1, warm=1")


@pytest.fixture
def folder(band_folder: Path, tmp_path: Path) -> Path:
    """A copy of the band, which may get a controller."""
    return shutil.copytree(band_folder, tmp_path / "band")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"Tell me of {word}" for word in WORDS))
    return file


@pytest.fixture
def train(command: Command, folder: Path, prompts: Path) -> Command:
    """Runs `counterpoint train controller` of the band on the prompts, in a small way."""
    return partial(command, "train", "controller", folder, "--prompts", prompts, *SMALL)


def test_it_trains_and_then_answers(command: Command, train: Command, folder: Path) -> None:
    code, said, told = train(*RULES)
    assert code == 0, told
    assert "3 profiles: each two of the dimensions that have experts" in told
    assert f"counterpoint chat {folder} --method mope --profile 'terse=1, warm=1'" in said
    assert "a standard deviation of the base's answers" in said, "what a rule's unit is"
    metrics = read_json(folder / "controller" / "metrics.json")
    for value in (row["reward"] for row in metrics["iterations"]):
        assert f"{value:.3f}" in said
    assert f"{metrics['mope_minus']['mixture-prob']['value']:+.3f}" in said
    answers = {
        method: command("chat", folder, "owls", "--method", method, *PAIR, "--max-tokens", 16)[1]
        for method in ("mope", "base")
    }
    assert answers["mope"] != answers["base"]


def test_json_is_what_is_written(train: Command, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    arguments = ("--algorithm", "ppo", "--space", "log", "--encoding", "text", "--expert-prompt", "own")
    code, said, told = train(*RULES, *PAIR, *arguments, "--out", out, "--json")
    assert code == 0, told
    assert json.loads(said) == read_json(out / "metrics.json")
    wanted = {"space": "log", "encoding": "text", "expert_prompt": "own", "prior": "profile", "head": "linear"}
    assert wanted.items() <= read_json(out / "controller.json").items()
    assert read_json(out / "manifest.json")["config"]["algorithm"] == "ppo"
    assert not (folder / "controller").exists()


def test_the_bands_own_reward_models_count_as_they_are(train: Command, folder: Path) -> None:
    """Of three, the two that the profile wants are used, in the unit of their logits."""
    pairs = [Comparison("a", "x " * i, "y", "any") for i in (1, 2)]
    for name in ("terse", "warm", "exact"):
        config = RewardModelConfig(str(folder / "base"), "any", steps=1, batch=2)
        train_reward_model(config, pairs, folder / "rewards" / name)
        record = folder / "rewards" / name / "reward.json"
        write_json(record, {**read_json(record), "dimension": name})
        assert BradleyTerryReward.load(folder / "rewards" / name).dimensions == (name,)
    code, said, told = train(*PAIR, "--json")
    assert code == 0, told
    assert json.loads(said)["units"] == dict.fromkeys(("terse", "warm"), "what its reward model says")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (PAIR, "holds no reward models of its own; pass --reward DIMENSION=FOLDER or DIMENSION=RULE"),
        ((*RULES, "--reward", "kind=length"), "--reward kind=length: unknown dimension 'kind'"),
        ((*RULES[:2], *PAIR), "no reward scores 'warm'; pass --reward warm=RULE"),
        ((*RULES, "--profile", "tarse=1, warm=1"), "did you mean 'terse'?"),
        ((*RULES, "--profile", "warm"), "has one expert, which leaves nothing to weigh"),
        ((*RULES, "--temperature", 0.7), "temperature is 0.7, acting on the mixture"),
        ((*RULES, "--strength", 1.5), "strength is 1.5, at most 1 is possible"),
        ((*RULES, "--samples", 3), "samples is 3; rebel compares pairs"),
        ((*RULES, "--constant", "--algorithm", "ppo"), "ppo', which needs a critic"),
        ((*RULES, "--constant", "--model", "small"), "model is 'small', and constants have no model"),
        ((*RULES, "--space", "log", "--keep-gib", 1e-6), "keep_gib is 1e-06; lower prompts_per_iteration"),
        ((*RULES, "--model", "nowhere"), "nowhere: no model could be loaded (there is no such folder"),
        ((*RULES, "--holdout", 1), "it must lie between 0 and 1"),
        ((*RULES, "--reward", "exact=length"), "expected one per dimension, found two for exact"),
        (("--reward", "terse=words:counterpoint", *RULES[2:4], *PAIR), "'terse': all 4 reference responses score 0"),
    ],
)
def test_mistakes(train: Command, folder: Path, arguments: tuple[object, ...], expected: str) -> None:
    code, _, said = train(*arguments)
    assert code == 2
    assert expected in " ".join(said.split())
    assert not (folder / "controller").exists()


def test_places_and_files_that_will_not_do(command: Command, train: Command, folder: Path, tmp_path: Path) -> None:
    code, _, said = train(*RULES, "--out", folder / "experts")
    assert (code, "holds other files, which would be lost" in said) == (2, True)
    (tmp_path / "one.txt").write_text("Tell me\n")
    code, _, said = command("train", "controller", folder, "--prompts", tmp_path / "one.txt", *RULES)
    assert (code, "1 different prompts, of which 2 are held out" in said) == (2, True)
    set_bounds(folder, "terse >= 0.2")
    code, _, said = train(*RULES)
    assert (code, "mope keeps no floor and no cap but 0" in said) == (2, True)


def test_one_expert_is_not_enough(command: Command, train: Command, folder: Path) -> None:
    for name in ("warm", "exact"):
        assert command("remove", folder, name)[0] == 0
    code, _, said = train("--reward", "terse=-length")
    assert (code, "has 1 experts; a controller weighs two or more" in said) == (2, True)


def test_inspect_shows_the_controller(command: Command, train: Command, folder: Path) -> None:
    assert json.loads(command("inspect", folder, "--json")[1])["controller"] is None
    assert train(*RULES, *PAIR)[0] == 0
    last = read_json(folder / "controller" / "training.json")[-1]["reward"]
    found = json.loads(command("inspect", folder, "--json")[1])["controller"]
    assert (found["kind"], found["iterations"], found["last_reward"]) == ("transformer", 2, last)
    assert (
        "controller: transformer over terse, warm, exact; space prob, encoding vector" in command("inspect", folder)[1]
    )
    (folder / "controller" / "controller.json").write_text("{}")
    code, said, _ = command("inspect", folder)
    assert (code, "controller.json: experts: field required" in said) == (1, True)


def test_inspect_says_what_is_wrong_with_a_controllers_model(
    command: Command, train: Command, folder: Path, tmp_path: Path
) -> None:
    """Its tensors are read; `train controller` makes a damaged one anew."""
    assert train(*RULES, *PAIR, "--head", "described")[0] == 0
    code, said, _ = command("inspect", folder)
    assert (code, "wrong" in said) == (0, False)
    tensors, config = (folder / "controller" / name for name in ("controller.safetensors", "config.json"))
    good = tensors.read_bytes()
    tensors.write_bytes(good[:50])
    code, said, _ = command("inspect", folder)
    assert (code, f"wrong: {tensors}: " in said) == (1, True)
    assert train(*RULES, *PAIR, "--head", "described")[0] == 0
    assert tensors.read_bytes() == good
    small = {**read_json(config), "vocab_size": 200}
    write_json(config, small)
    parts = load_file(tensors)
    name = next(name for name in parts if parts[name].shape[:1] == (290,))
    save_file(parts | {name: parts[name][:200].clone()}, tensors)
    code, said, _ = command("inspect", folder)
    assert (code, "a vocabulary of 200 ids, and the base's has 290" in said) == (1, True)


def test_a_described_controller_outlives_the_experts_it_learned_with(
    command: Command, train: Command, folder: Path
) -> None:
    assert train(*RULES, *PAIR, "--head", "described")[0] == 0
    for name in ("terse", "warm"):
        assert command("remove", folder, name)[0] == 0
    code, said, _ = command("inspect", folder)
    assert (code, "train it again" in said) == (0, False)


def test_people_of_the_same_shares_are_one(command: Command, train: Command) -> None:
    code, said, told = train(*RULES, *PAIR, "--profile", "terse=2, warm=2", "--profile", "terse=1, warm=2", "--json")
    assert code == 0, told
    assert json.loads(said)["profiles"] == ["terse=1, warm=1", "terse=1, warm=2"]


def answer(command: Command, folder: Path, profile: str) -> tuple[object, str, str]:
    return command("chat", folder, "owls", "--method", "mope", "--profile", profile, "--max-tokens", 4)


def test_mope_needs_a_controller(command: Command, folder: Path) -> None:
    code, _, said = answer(command, folder, "terse=1, warm=1")
    assert (code, "this band has no controller; `counterpoint train controller` makes one" in said) == (2, True)


def grow(command: Command, folder: Path) -> None:
    """A fourth expert, which no controller was trained with."""
    assert command("add", folder, folder / "made" / "warm", "--dimension", "fresh", "--description", "is new")[0] == 0


def test_an_expert_that_came_later(command: Command, train: Command, folder: Path) -> None:
    """A column for each expert knows nothing of it; one made from descriptions does."""
    assert train(*RULES, *PAIR)[0] == 0
    described = shutil.copytree(folder, folder.with_name("described"))
    shutil.rmtree(described / "controller")
    grow(command, folder)
    code, _, said = answer(command, folder, "terse=1, fresh=1")
    assert (code, "trained without the expert 'fresh'; train it again" in said) == (2, True)
    again = partial(command, "train", "controller", described, "--prompts", folder.parent / "prompts.txt", *SMALL)
    code, _, told = again(*RULES, *PAIR, "--head", "described")
    assert code == 0, told
    grow(command, described)
    code, said, told = answer(command, described, "terse=1, fresh=1")
    assert (code, bool(said)) == (0, True), told


def test_an_expert_that_left_and_a_controller_of_another_band(command: Command, train: Command, folder: Path) -> None:
    assert train(*RULES, *PAIR, "--prior", "all")[0] == 0
    assert command("remove", folder, "exact")[0] == 0
    code, _, said = answer(command, folder, "terse=1, warm=1")
    assert (code, "weighs the expert 'exact', which the band no longer has" in said) == (2, True)
    file = folder / "controller" / "controller.json"
    write_json(file, {**read_json(file), "prior": "profile", "experts": ["one", "two", "three"]})
    code, _, said = answer(command, folder, "terse=1, warm=1")
    assert (code, "the controller was trained without the expert 'terse'" in said) == (2, True)
    code, said, _ = command("inspect", folder)
    assert (code, "weighs one, two, three, of which the band has 0; train it again" in said) == (1, True)


def test_evaluate_takes_mope_and_asks_again_for_another_controller(
    command: Command, train: Command, folder: Path, prompts: Path, tmp_path: Path
) -> None:
    arguments: tuple[Any, ...] = (
        "evaluate", folder, "--prompts", prompts, *RULES[:4], *PAIR, "--max-tokens", 8, "--limit", 3, "--out",
        tmp_path / "out", "--json",
    )  # fmt: skip
    without = json.loads(command(*arguments)[1])
    assert without["left_out"]["mope"] == "this band has no controller; `counterpoint train controller` makes one"

    def stamps() -> dict[str, int]:
        return {
            name: (tmp_path / "out" / "answers" / name / "manifest.json").stat().st_mtime_ns
            for name in ("mope", "soup")
        }

    assert train(*RULES, *PAIR)[0] == 0
    assert "mope" in json.loads(command(*arguments)[1])["methods"]
    first = stamps()
    command(*arguments)
    assert stamps() == first, "nothing has changed"
    assert train(*RULES, *PAIR, "--seed", 1)[0] == 0
    command(*arguments)
    second = stamps()
    assert second["mope"] > first["mope"]
    assert second["soup"] == first["soup"], "only mope reads the controller"
