"""The learner of an adapter: what it trains is what is sampled, and a response's end counts."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from counterpoint.artifacts import read_json
from counterpoint.compose.plan import Plan, Row
from counterpoint.data.chat import prompt_ids, with_request
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.load import load_model, load_tokenizer
from counterpoint.profiles import corners
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.testing import pico_model, pico_tokenizer, save_pico
from counterpoint.train.controller import reward_of
from counterpoint.train.mope import Reward
from counterpoint.train.on_policy import Rollout, learn
from counterpoint.train.policy import PolicyConfig, PolicyLearner, PolicyResult, new_learner, train_policy, words_of
from counterpoint.train.run import Progress
from counterpoint.types import CounterpointError, Dimension, Message, Profile, Prompt

PROMPTS: tuple[Prompt, ...] = ("Tell me of the owl and the bee.", "Hi", (Message("user", "What is it?"),))
REQUESTS = ("", "Please be warm.")
FAMILIES = ("llama", "qwen3", "gemma2", "gpt2")


def letters(prompts: Sequence[int], texts: Sequence[str], profiles: Sequence[int]) -> np.ndarray:
    return np.array([text.count("e") + 0.1 * len(text) for text in texts])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: save_pico(folder / family, seed=5, family=family) for family in FAMILIES}


def tiny(base: Path, **options: Any) -> PolicyConfig:
    defaults: dict[str, Any] = {
        "iterations": 3, "samples": 2, "epochs": 2, "minibatch": 4, "prompts_per_iteration": 4, "max_tokens": 6,
        "lora_rank": 2, "lora_alpha": 4, "learning_rate": 0.01,
    }  # fmt: skip
    return PolicyConfig(str(base), **{**defaults, **options})


def roused(base: Path, **options: Any) -> PolicyLearner:
    """A learner whose adapter and critic are random, as after some training."""
    learner, generator = new_learner(tiny(base, **options), PROMPTS, REQUESTS, letters), torch.Generator()
    generator.manual_seed(8)
    for parameter in learner.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return learner


def rolled_out(learner: PolicyLearner, iteration: int = 0) -> Rollout:
    with torch.no_grad():
        return learner.roll_out(iteration)[0]


# What is evaluated


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_is_evaluated_is_what_was_sampled(bases: dict[str, Path], family: str, temperature: float) -> None:
    learner = roused(bases[family], temperature=temperature)
    rollout = rolled_out(learner)
    logp_NT, value_NT = learner.evaluate(torch.arange(len(rollout)))
    torch.testing.assert_close(logp_NT[rollout.mask_NT], rollout.logp_NT[rollout.mask_NT], atol=1e-4, rtol=0)
    assert value_NT is not None
    assert value_NT.shape == logp_NT.shape
    assert (rollout.logp_NT - rollout.reference_NT)[rollout.mask_NT].abs().max() > 0.1, "the adapter matters"


@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_padded_batch_each_response_is_as_it_is_alone(bases: dict[str, Path], family: str) -> None:
    learner = roused(bases[family])
    rollout = rolled_out(learner)
    assert len({len(context) for contexts in learner.contexts_PR for context in contexts}) > 3, "lengths differ"
    together = learner.evaluate(torch.arange(len(rollout)))
    for n, mask_T in enumerate(rollout.mask_NT):
        for all_NT, own_1T in zip(together, learner.evaluate(torch.tensor([n])), strict=True):
            assert all_NT is not None
            assert own_1T is not None
            torch.testing.assert_close(all_NT[n][mask_T], own_1T[0][mask_T], atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_reference_is_the_base(base: Path, temperature: float) -> None:
    """By one forward of the model as it is loaded, over prompt and response, without padding."""
    learner = roused(base, temperature=temperature)
    rollout = rolled_out(learner)
    model, tokenizer = load_model(str(base)), load_tokenizer(str(base))
    for n, (prompt, profile) in enumerate(zip(*learner.draw(0), strict=True)):
        ids = prompt_ids(with_request(PROMPTS[prompt], REQUESTS[profile]), tokenizer)
        said = learner._said
        assert said is not None
        tokens = said.ids_NS[n, len(ids) : int(said.length_N[n])]
        with torch.no_grad():
            logits_TV = model(torch.tensor([[*ids, *tokens[:-1].tolist()]])).logits[0, -len(tokens) :]
        expected_T = (logits_TV / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(rollout.reference_NT[n][rollout.mask_NT[n]], expected_T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("algorithm", ["ppo", "rebel"])
def test_untrained_it_is_its_reference_and_its_critic_says_nothing(base: Path, algorithm: Any) -> None:
    learner = new_learner(tiny(base, algorithm=algorithm), PROMPTS, REQUESTS, letters)
    rollout = rolled_out(learner)
    gap_NT = (rollout.logp_NT - rollout.reference_NT)[rollout.mask_NT]
    torch.testing.assert_close(gap_NT, torch.zeros_like(gap_NT), atol=1e-5, rtol=0)
    value_NT = learner.evaluate(torch.arange(len(rollout)))[1]
    assert (value_NT is None) == (algorithm == "rebel")
    assert value_NT is None or not value_NT.any()


def test_sampling_and_training_share_the_bases_parameters(base: Path) -> None:
    learner = roused(base)
    rolled_out(learner)  # the bank wraps its layers when it is first asked
    trained = {p.data_ptr() for p in learner.model.parameters() if not p.requires_grad}
    sampled = {p.data_ptr() for p in learner.sampler.bank.model.parameters()}
    assert sampled
    assert sampled <= trained


# What is asked


def test_profiles_ask_in_the_words_of_the_method_prompted(band: Band) -> None:
    dimensions = [band.file.dimension(name) for name in band.dimensions]
    for profile in (Profile({"warm": 1.0, "terse": 0.5}), Profile({"warm": 1.0, "exact": 0.0})):
        (asked,) = band.request("Hi", band.plan(profile, "prompted"), Sampling()).contexts
        words = words_of(profile, dimensions)
        assert prompt_ids(with_request("Hi", words), band.tokenizer) == list(asked)
    assert words_of(Profile({"warm": 1.0, "terse": 0.5}), dimensions) == "Be warm. Be terse."
    assert words_of(Profile({"kind": 1.0}), [Dimension("kind")]) == "Please be kind."


def test_profiles_and_prompts_are_drawn_from_all_there_are(base: Path) -> None:
    """Every profile as often as any other, and no index beyond them."""
    config = tiny(base, prompts_per_iteration=9)
    learner = new_learner(config, PROMPTS, [f"{i}" for i in range(8)], letters)
    counts = np.zeros(8, dtype=int)
    for iteration in range(8):
        prompt_N, profile_N = learner.draw(iteration)
        assert [prompt_N.count(p) for p in range(3)] == [6, 6, 6]
        found = np.bincount(profile_N, minlength=8)
        assert len(found) == 8
        assert sorted(found) == [2] * 7 + [4]
        counts += found
    assert prompt_N[::2] == prompt_N[1::2]
    assert profile_N[::2] == profile_N[1::2]
    assert (counts >= 16).all()


# What is earned

DIMENSIONS = (Dimension("e"), Dimension("o", request="Say o."), Dimension("short"))


class Counted:
    """Scores of a response by its letters and its length."""

    dimensions = ("e", "o", "short")

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return np.array([[text.count("e"), text.count("o"), -len(text)] for text in responses], dtype=float)


def reward_for(people: Sequence[Profile]) -> Reward:
    return reward_of(Counted(), PROMPTS, profile_weights(people, Counted.dimensions), None)


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that ends a third of its responses within 12 tokens, so that there is something to learn from."""
    folder = tmp_path_factory.mktemp("ending")
    model, tokenizer = pico_model(seed=6), pico_tokenizer()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def moving(base: Path) -> PolicyConfig:
    """Enough to see a pico model learn."""
    return tiny(
        base, iterations=5, prompts_per_iteration=32, epochs=4, minibatch=16, learning_rate=0.02, kl=0.0,
        lora_rank=4, lora_alpha=16, max_tokens=12,
    )  # fmt: skip


def test_the_reward_of_a_profile_reads_the_response() -> None:
    """Not the prompt alone: then no response would be better than another, and nothing but noise is learned."""
    earned = reward_for([Profile({"e": 1.0, "o": 1.0}), Profile({"short": 1.0})])
    assert earned([0, 0, 0], ["eel", "owls", "o, eel"], [0, 0, 0]).tolist() == [1.0, 0.5, 1.5]
    assert earned([0, 0], ["eel", "owls"], [1, 1]).tolist() == [-3.0, -4.0]


def test_a_policy_of_all_corners_moves(ending: Path, tmp_path: Path) -> None:
    """P-MORL: both combinations of a letter and a length earn more than before."""
    people = corners([("e", "o"), ("short",)])
    earned, seen = reward_for(people), []

    def reward(prompts: Sequence[int], texts: Sequence[str], profiles: Sequence[int]) -> np.ndarray:
        reward_N = earned(prompts, texts, profiles)
        seen.append([reward_N[np.array(profiles) == r].mean() for r in range(2)])
        return reward_N

    train_policy(moving(ending), PROMPTS, [words_of(p, DIMENSIONS) for p in people], reward, tmp_path / "out")
    assert (np.array(seen[-1]) > np.array(seen[0]) + 1).all()


def test_the_end_of_a_response_is_learned(ending: Path, tmp_path: Path) -> None:
    """Its end token is sampled, and in the mask: where that is forbidden, no policy can learn to be brief."""
    log = train_policy(moving(ending), PROMPTS, [""], reward_for([Profile({"short": 1.0})]), tmp_path / "out").log
    assert log[0]["ended"] < 0.6
    assert log[-1]["ended"] > 0.9
    assert log[-1]["length"] < log[0]["length"] / 2


def test_what_is_scored_is_the_text_and_what_ended_is_what_has_an_end_token(base: Path) -> None:
    learner = roused(base, max_tokens=40, prompts_per_iteration=16)
    rollout = rolled_out(learner)
    said, tokenizer = learner._said, load_tokenizer(str(base))
    assert said is not None
    texts, ended = [], []
    for ids_S, first, length in zip(said.ids_NS, said.first_N.tolist(), said.length_N.tolist(), strict=True):
        tokens = ids_S[first + 1 : length].tolist()
        ended.append(tokens[-1] == tokenizer.eos_token_id)
        texts.append(tokenizer.decode(tokens, skip_special_tokens=True))
    assert {True, False} == set(ended)
    assert rollout.ended_N is not None
    assert rollout.ended_N.tolist() == ended
    assert rollout.reward_N.tolist() == pytest.approx(letters([], texts, []).tolist())


@pytest.mark.parametrize("algorithm", ["ppo", "rebel"])
def test_the_gradient_of_a_step_in_parts_is_the_steps(base: Path, tmp_path: Path, algorithm: Any) -> None:
    options = {"algorithm": algorithm, "iterations": 1, "epochs": 1, "minibatch": 8}
    gradients = []
    for at_once in (None, 2):
        learner = roused(base, **options, at_once=at_once)
        learn(learner, learner.config, tmp_path / str(at_once))
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0.1
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


# What is written


def test_what_is_written_is_an_ordinary_adapter_of_what_was_trained(base: Path, tmp_path: Path) -> None:
    result = train_policy(tiny(base), PROMPTS, REQUESTS, letters, tmp_path / "out")
    files = {path.name for path in result.folder.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "manifest.json", "training.json"}
    assert all(".lora_" in name for name in load_file(result.folder / "adapter_model.safetensors")), "and no critic"
    tokenizer = load_tokenizer(str(base))
    ids_1T = torch.tensor([prompt_ids(PROMPTS[0], tokenizer)])
    with torch.no_grad():
        logits_V = PeftModel.from_pretrained(load_model(str(base)), result.folder).eval()(ids_1T).logits[0, -1]
        plain_V = load_model(str(base))(ids_1T).logits[0, -1]
    band = Band.assemble(base, {"warm": result.folder})
    (served_V,) = band.engine.next_distributions([band.request(PROMPTS[0], Plan((Row({"warm": 1.0}),)), Sampling())])
    torch.testing.assert_close(served_V, logits_V.log_softmax(-1), atol=1e-4, rtol=0)
    assert (plain_V - logits_V).abs().max() > 0.01


def test_a_base_that_is_passed_stays_as_it_is(base: Path, tmp_path: Path) -> None:
    model = load_model(str(base))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    passed = train_policy(tiny(base), PROMPTS, REQUESTS, letters, tmp_path / "passed", model=model)
    loaded = train_policy(tiny(base), PROMPTS, REQUESTS, letters, tmp_path / "loaded")
    assert bits(passed.folder) == bits(loaded.folder)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert set(dict(model.named_parameters())) == set(before)


def test_what_is_there_is_not_trained_again(base: Path, tmp_path: Path) -> None:
    config, out = tiny(base, iterations=1), tmp_path / "out"
    first = train_policy(config, PROMPTS, REQUESTS, letters, out)
    again = train_policy(config, PROMPTS, REQUESTS, letters, out)
    assert (first.fresh, again.fresh) == (True, False)
    assert again.log == first.log
    assert train_policy(config, PROMPTS, REQUESTS, letters, out, judged_by="another").fresh
    assert train_policy(config, PROMPTS, ("", "Be warm."), letters, out).fresh
    assert train_policy(replace(config, seed=1), PROMPTS, REQUESTS, letters, out).fresh


def bits(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def resumable(base: Path, out: Path, reward: Reward = letters, progress: Progress | None = None) -> PolicyResult:
    config = tiny(base, kl_target=0.1, kl_horizon=100, stop_kl=0.05, missing_end=-1.0, at_once=2)
    return train_policy(config, PROMPTS, REQUESTS, reward, out, progress=progress)


def test_a_killed_process_goes_on_as_if_unbroken(base: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, str(base), str(tmp_path / "killed")]
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    done: list[int] = []
    resumed = resumable(base, tmp_path / "killed", progress=lambda i, _: done.append(i))
    unbroken = resumable(base, tmp_path / "unbroken")
    assert done == [3], "two iterations were kept"
    assert bits(resumed.folder) == bits(unbroken.folder)
    assert [entry["loss"] for entry in resumed.log] == [entry["loss"] for entry in unbroken.log]
    manifests = [read_json(folder / "manifest.json") for folder in (resumed.folder, unbroken.folder)]
    assert manifests[0] == manifests[1]


def run_and_kill() -> None:
    asked: list[int] = []

    def letters_twice_then_killed(prompts: Sequence[int], texts: Sequence[str], profiles: Sequence[int]) -> np.ndarray:
        asked.append(len(texts))
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return letters(prompts, texts, profiles)

    torch.set_num_threads(1)
    resumable(Path(sys.argv[1]), Path(sys.argv[2]), letters_twice_then_killed)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "dpo"}, "algorithm is 'dpo'"),
        ({"samples": 3, "algorithm": "rebel"}, "samples is 3; rebel compares pairs"),
        ({"prompts_per_iteration": 0}, "prompts_per_iteration is 0; it must be at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"lora_rank": 0}, "lora_rank is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0; to learn from samples it must be above 0"),
        ({"missing_end": float("nan")}, "missing_end is nan; it must be a number"),
        ({"kl_target": 0.0}, "kl_target is 0; it must be above 0"),
        ({"at_once": 0}, "at_once is 0; it must be at least 1"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CounterpointError, match=f"^{message}"):
        tiny(Path("base"), **options)


def test_a_prompt_that_leaves_no_room_is_refused_before_any_work(base: Path, tmp_path: Path) -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("nothing is to be scored")

    with pytest.raises(CounterpointError, match=r"^prompt 2 has 917 tokens .*; this model takes 511 and a response"):
        train_policy(tiny(base), ("Hi", "Hi " * 300), REQUESTS, never, tmp_path / "out")


def test_no_prompts_or_profiles_are_refused(base: Path, tmp_path: Path) -> None:
    for prompts, requests in (((), REQUESTS), (PROMPTS, ())):
        with pytest.raises(CounterpointError, match="there is nothing to ask"):
            train_policy(tiny(base), prompts, requests, letters, tmp_path / "out")


if __name__ == "__main__":
    run_and_kill()
