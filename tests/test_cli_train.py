"""`counterpoint train`: what it measures is what an independent computation gives, and every mistake is one line."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from counterpoint.artifacts import read_json
from counterpoint.build.pairs import divide
from counterpoint.build.reward import divide_together
from counterpoint.data.chat import prompt_ids, response_ids
from counterpoint.data.comparisons import read_comparisons
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.load import load_tokenizer, quiet
from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.rewards.k_head import KHeadReward
from counterpoint.testing import pico_tokenizer, save_pico
from counterpoint.types import Comparison, CounterpointError, Message

Command = Callable[..., tuple[object, str, str]]
PROMPTS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pico(tmp_path_factory.mktemp("train") / "base", seed=5)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs of each of 12 prompts on two dimensions; a third of the labels go against the rest."""
    rows = []
    for i in range(PROMPTS):
        for j in range(2):
            good, bad = "the " * (2 + (i + j) % 3) + "end", "no" * (1 + i % 4)
            chosen, rejected = (bad, good) if (i + 5 * j) % 3 == 0 else (good, bad)
            for dimension in ("long", "kind"):
                row = {"prompt": f"say {i}", "chosen": chosen, "rejected": rejected + "!" * j, "dimension": dimension}
                rows.append(json.dumps(row))
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(rows) + "\n")
    return file


def result(done: tuple[object, str, str]) -> Any:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


def small(*more: object) -> tuple[object, ...]:
    return ("--steps", 6, "--batch", 4, "--learning-rate", 0.01, "--threads", 1, *more)


def by_prompt(value_P: np.ndarray, comparisons: tuple[Comparison, ...]) -> float:
    """The mean over prompts of each prompt's mean."""
    prompts = {c.prompt for c in comparisons}
    means = [
        np.mean([v for v, c in zip(value_P, comparisons, strict=True) if c.prompt == prompt]) for prompt in prompts
    ]
    return float(np.mean(means))


def held_out(folder: Path) -> tuple[Comparison, ...]:
    return read_comparisons(folder / "held_out.jsonl").comparisons


def test_a_rewards_accuracy_is_that_of_its_scores(command: Command, base: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "reward"
    arguments = ("train", "reward", base, "--comparisons", pairs, "--dimension", "long", "--out", out, "--holdout", 0.5)
    metrics = result(command(*arguments, *small("--json")))
    unseen = held_out(out)
    assert metrics == read_json(out / "metrics.json")
    assert metrics["held_out"] == {"pairs": 12, "prompts": 6}
    assert metrics["learned"] == {"pairs": 12, "prompts": 6}
    assert {c.dimension for c in unseen} == {"long"}
    assert all(len([c for c in unseen if c.prompt == prompt]) == 2 for prompt in {c.prompt for c in unseen})
    reward, prompts = BradleyTerryReward.load(out), [c.prompt for c in unseen]
    chosen, rejected = reward(prompts, [c.chosen for c in unseen]), reward(prompts, [c.rejected for c in unseen])
    assert metrics["accuracy"]["value"] == pytest.approx(by_prompt((chosen > rejected)[:, 0], unseen))
    assert 0 < metrics["accuracy"]["value"] < 1
    longer = np.array([np.sign(len(c.chosen.split()) - len(c.rejected.split())) for c in unseen])
    assert metrics["length_accuracy"]["value"] == pytest.approx(by_prompt((longer + 1) / 2, unseen))
    scored = result(command("score", out / "held_out.jsonl", "--reward", out, "--json", "--threads", 1))
    assert scored["accuracies"]["long"]["accuracy"] == pytest.approx(metrics["accuracy"]["value"])
    again = result(command(*arguments, *small("--json")))
    assert again == {**metrics, "fresh": False}


def test_a_model_per_dimension_and_what_was_too_long(command: Command, base: Path, pairs: Path, tmp_path: Path) -> None:
    with pairs.open("a") as file:
        row = {"prompt": "say 0", "chosen": "so " * 300, "rejected": "no", "dimension": "kind"}
        file.write(json.dumps(row) + "\n")
    out = tmp_path / "rewards"
    code, said, told = command("train", "reward", base, "--comparisons", pairs, "--all", "--out", out, *small())
    assert code == 0, told
    assert "1 pairs of more than 512 tokens left out" in " ".join(told.split())
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["long", "kind"]
    for name, long in (("long", 0), ("kind", 1)):
        metrics = read_json(out / name / "metrics.json")
        assert (metrics["dimension"], metrics["too_long"], metrics["learned"]["pairs"]) == (name, long, 20)
        assert BradleyTerryReward.load(out / name).dimensions == (name,)


def test_a_shared_model_is_measured_head_by_head(command: Command, base: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "shared"
    arguments = ("train", "reward", base, "--comparisons", pairs, "--shared", "--out", out, "--holdout", 0.5)
    metrics = result(command(*arguments, *small("--json")))
    assert metrics == read_json(out / "metrics.json")
    reward, unseen = KHeadReward.load(out), held_out(out)
    assert list(metrics) == list(reward.dimensions) == ["long", "kind"]
    scored = result(command("score", out / "held_out.jsonl", "--reward", out, "--json", "--threads", 1))
    for column, name in enumerate(("long", "kind")):
        own = tuple(c for c in unseen if c.dimension == name)
        prompts = [c.prompt for c in own]
        chosen, rejected = reward(prompts, [c.chosen for c in own]), reward(prompts, [c.rejected for c in own])
        right_P, longer_P = (
            (chosen > rejected)[:, column],
            [len(c.chosen.split()) - len(c.rejected.split()) for c in own],
        )
        found = metrics[name]
        assert (found["dimension"], found["held_out"], found["fresh"]) == (name, {"pairs": 12, "prompts": 6}, True)
        assert found["accuracy"]["value"] == pytest.approx(by_prompt(right_P, own))
        assert found["length_accuracy"]["value"] == pytest.approx(by_prompt((np.sign(longer_P) + 1) / 2, own))
        assert scored["accuracies"][name]["accuracy"] == pytest.approx(found["accuracy"]["value"])
    assert result(command(*arguments, *small("--json")))["kind"] == {**metrics["kind"], "fresh": False}
    code, said, told = command(*arguments, "--dimension", "kind, long", *small())
    assert code == 0, told
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["kind", "long"]


def some(dimension: str, prompts: Sequence[int]) -> list[Comparison]:
    return [Comparison(f"say {i}", chosen, "no", dimension) for i in prompts for chosen in ("yes", "ay")]


def test_a_prompt_is_held_out_of_all_dimensions_or_of_none() -> None:
    tokenizer, least = pico_tokenizer(), {"wide": 8, "late": 4, "few": 2}
    comparisons = some("wide", range(40)) + some("late", range(59, 39, -1)) + some("late", [1]) + some("few", range(5))
    parts = divide_together(comparisons, list(least), tokenizer, 64, 0.2, seed=3)
    seen = {c.prompt for part in parts for c in part.seen}
    assert not seen & {c.prompt for part in parts for c in part.unseen}
    apart = [divide(comparisons, name, tokenizer, 64, 0.2, seed=3) for name in least]
    assert {c.prompt for part in apart for c in part.seen} & {c.prompt for part in apart for c in part.unseen}
    for part in parts:
        assert {*part.seen, *part.unseen} == {c for c in comparisons if c.dimension == part.dimension}
        assert len({c.prompt for c in part.unseen}) >= least[part.dimension]
    assert any(len({c.prompt for c in part.unseen}) == least[part.dimension] for part in parts), "no more than needed"


def test_one_dimension_is_divided_as_it_is_alone() -> None:
    comparisons, tokenizer = some("wide", range(30)), pico_tokenizer()
    together = divide_together(comparisons, ["wide"], tokenizer, 64, 0.3, seed=1)
    assert together == [divide(comparisons, "wide", tokenizer, 64, 0.3, seed=1)]


def test_a_dimension_of_which_nothing_is_left_to_learn_from_is_named() -> None:
    comparisons = some("all", range(6)) + some("first", range(3)) + some("last", range(3, 6))
    # of `all` 5 of 6 prompts are held out, so that either `first` or `last` has none left
    with pytest.raises(CounterpointError, match=r"dimension '(first|last)': all its 3 prompts are held out"):
        divide_together(comparisons, ["all", "first", "last"], pico_tokenizer(), 64, 0.8, seed=0)


def logp(model: Any, tokenizer: Any, prompt: Any, response: str) -> float:
    """The summed log-probability of one response, in a forward of its own."""
    asked, said = prompt_ids(prompt, tokenizer), response_ids(response, tokenizer)
    with torch.no_grad():
        logp_TV = torch.log_softmax(model(torch.tensor([asked + said])).logits[0].double(), dim=-1)
    return float(sum(logp_TV[len(asked) + t - 1, token] for t, token in enumerate(said)))


@pytest.mark.parametrize("method", ["dpo", "sft"])
def test_an_experts_measures_are_pefts(command: Command, base: Path, pairs: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "expert"
    arguments = (
        "train",
        "expert",
        base,
        "--comparisons",
        pairs,
        "--dimension",
        "kind",
        "--out",
        out,
        "--method",
        method,
    )
    metrics = result(command(*arguments, *small("--beta", 0.5, "--holdout", 0.5, "--json")))
    unseen, tokenizer = held_out(out), load_tokenizer(str(base))
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(base)
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out)
    chosen, rejected, ref_chosen, ref_rejected = (
        np.array([logp(model, tokenizer, c.prompt, getattr(c, side)) for c in unseen])
        for model in (tuned, plain)
        for side in ("chosen", "rejected")
    )
    gap = (chosen - ref_chosen) - (rejected - ref_rejected)
    assert np.abs(gap).min() > 1e-3, "no verdict hangs on rounding"
    assert metrics["reward_accuracy"]["value"] == pytest.approx(by_prompt(gap > 0, unseen))
    assert metrics["accuracy"]["value"] == pytest.approx(by_prompt(chosen >= rejected, unseen))
    assert metrics["base_accuracy"]["value"] == pytest.approx(by_prompt(ref_chosen >= ref_rejected, unseen))
    assert metrics["loss"]["value"] == pytest.approx(by_prompt(np.log1p(np.exp(-0.5 * gap)), unseen), abs=1e-4)
    wrong = ref_rejected > ref_chosen
    threshold = np.median(np.log1p(np.exp(-0.5 * (ref_rejected - ref_chosen)[wrong])))
    assert metrics["flip_loss"] == pytest.approx(threshold, abs=1e-4)


def test_the_last_line_is_a_command_that_works(command: Command, base: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "expert"
    arguments = ("train", "expert", base, "--comparisons", pairs, "--dimension", "kind", "--out", out)
    code, said, told = command(*arguments, *small())
    assert code == 0, told
    last = said.splitlines()[-1]
    assert last == f"Add it to a band: counterpoint add BAND {out} --dimension kind"
    added = last.partition("counterpoint ")[2].replace("BAND", str(tmp_path / "band")).split()
    assert command(*added)[0] == 0
    assert Band.load(tmp_path / "band").dimensions == ("kind",)


def test_best_of_n_learns_from_its_own_samples(command: Command, base: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"Tell me of {word}" for word in ("owls", "sky", "sea", "tea", "ice", "fog")))
    out = tmp_path / "expert"
    arguments = (
        "train", "expert", base, "--prompts", prompts, "--dimension", "short", "--reward", "short=-length", "--out",
        out, "--method", "best-of-n", "--samples", 3, "--keep", 1, "--max-tokens", 12, *small("--json"),
    )  # fmt: skip
    metrics = result(command(*arguments))
    rows = [json.loads(line) for line in (tmp_path / "expert.samples" / "responses.jsonl").read_text().splitlines()]
    assert metrics["learned"] == {"prompts": 4, "responses": 4, "prompts_left_out": 0}
    assert len(rows) == 4 * 3
    learned = {row["prompt"][0]["content"] for row in rows}
    held = [(Message("user", line),) for line in prompts.read_text().splitlines() if line not in learned]
    assert len(held) == metrics["held_out"]["prompts"] == 2
    said = Band.assemble(base, {}).respond(held, [None, None], "base", Sampling(0.8, max_tokens=12))
    gained = metrics["expert_reward"]["value"] - metrics["base_reward"]["value"]
    assert metrics["base_reward"]["value"] == pytest.approx(np.mean([-len(c.text.split()) for c in said]))
    assert metrics["gain"]["value"] == pytest.approx(gained)
    before = (tmp_path / "expert.samples" / "responses.jsonl").stat().st_mtime_ns
    assert result(command(*arguments, "--keep", 2))["learned"]["responses"] == 8
    assert (tmp_path / "expert.samples" / "responses.jsonl").stat().st_mtime_ns == before, "sampled once"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("reward",), "pass one of --dimension NAME, --all, --shared and --steered; dimensions found: long, kind"),
        (("reward", "--dimension", "brief"), "no comparison is on the dimension 'brief'"),
        (("reward", "--dimension", "long", "--all"), "pass one of --dimension NAME, --all, --shared and --steered"),
        (("reward", "--shared", "--all"), "pass one of --all, --shared and --steered"),
        (("reward", "--shared", "--dimension", "long,brief"), "no comparison is on the dimension 'brief'"),
        (("reward", "--shared", "--dimension", "long,long"), "expected one or more, each once"),
        (("reward", "--shared", "--steps", 0), "steps is 0"),
        (("reward", "--dimension", "long", "--holdout", 1.5), "held out is 1.5"),
        (("reward", "--dimension", "long", "--max-length", 4000), "takes from 1 to 512 tokens"),
        (("reward", "--dimension", "long", "--max-length", 5), "all 24 pairs have more than 5 tokens"),
        (("reward", "--dimension", "long", "--steps", 0), "steps is 0"),
        (("reward", "--dimension", "long", "--learning-rate", "nan"), "learning_rate is nan"),
        (("reward", "--dimension", "long", "--learning-rate", -1), "learning_rate is -1.0"),
        (("expert", "--dimension", "long", "--beta", 0), "beta is 0.0; it must be more than 0"),
        (("expert", "--dimension", "long", "--method", "sft", "--beta", -1), "beta is -1.0; it must be more than 0"),
        (("expert", "--dimension", "long", "--sft-weight", -1), "sft_weight is -1.0; it must be at least 0"),
        (("expert", "--dimension", "long", "--method", "pop"), "expected dpo, sft, best-of-n, ppo or rebel"),
        (("expert", "--dimension", "long", "--method", "best-of-n"), "it takes --prompts and --reward"),
        (
            ("expert", "--dimension", "long", "--reward", "long=length"),
            "--reward is for --method best-of-n, ppo, rebel",
        ),
        (("expert", "--dimension", "long", "--lora-rank", 0), "an expert is an adapter"),
        (("expert", "--dimension", "long", "--keep", 3), "--keep is for --method best-of-n; dpo does not read it"),
        (
            ("expert", "--dimension", "long", "--method", "sft", "--kl", 1),
            "--kl is for --method ppo, rebel; sft does not",
        ),
    ],
)
def test_a_wrong_turn_is_one_line(
    command: Command, base: Path, pairs: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    what, *rest = arguments
    code, _, said = command(
        "train", what, base, "--comparisons", pairs, "--out", tmp_path / "out", "--threads", 1, *rest
    )
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1
    assert says in errors[0]
    assert not (tmp_path / "out").exists()


def test_regression_a_model_of_another_dimension_is_not_replaced(
    command: Command, base: Path, pairs: Path, tmp_path: Path
) -> None:
    """`--dimension kind` into the folder of `long` took its place without a word."""
    out = tmp_path / "out"
    arguments = ("train", "reward", base, "--comparisons", pairs, "--out", out, *small())
    assert command(*arguments, "--dimension", "long")[0] == 0
    for other in (("--dimension", "kind"), ("--shared",)):
        code, _, said = command(*arguments, *other)
        assert code == 2
        assert f"{out}: holds a reward model of long" in said
    assert BradleyTerryReward.load(out).dimensions == ("long",)


def test_a_folder_with_other_files_is_left_alone(command: Command, base: Path, pairs: Path, tmp_path: Path) -> None:
    before = sorted((file.name, file.read_bytes()) for file in base.iterdir())
    for what in ("reward", "expert"):
        arguments = ("train", what, base, "--comparisons", pairs, "--dimension", "long", "--out", base)
        code, _, said = command(*arguments, *small())
        assert code == 2
        assert f"{base}: holds other files, which would be lost" in said
    assert sorted((file.name, file.read_bytes()) for file in base.iterdir()) == before


def test_a_bad_line_is_named_or_left_out(command: Command, base: Path, pairs: Path, tmp_path: Path) -> None:
    with pairs.open("a") as file:
        file.write('{"prompt": "p", "chosen": "a", "dimension": "long"}\n')
    arguments = ("train", "reward", base, "--comparisons", pairs, "--dimension", "long", "--out", tmp_path / "out")
    code, _, said = command(*arguments, *small())
    assert code == 2
    assert f"{pairs}:49" in said
    code, _, said = command(*arguments, *small("--skip-bad"))
    assert code == 0
    assert f"left out: {pairs}:49" in said
