"""The paper's methods: what is trained for each, with one budget of sampled responses, and how each answers.

    vanilla      the base, asked for nothing
    rlhf         one policy, by PPO on a reward that knows no preference: the mean over all dimensions
    prompted     the base, asked in words for the profile's preferences
    multitask    SFT on the best candidates for every preference, each with the words of that preference
    p-morl       one policy for all profiles, which it is told in words, by PPO on the mean of what a profile wants
    p-soups      one policy for each preference, by PPO on its reward; the adapters are merged for a profile

(Jang et al., arXiv 2310.11564, section 4.1.) Rewards are the learned Bradley-Terry models', as probabilities of
beating the base's greedy answer. Where a base follows words, the policies of p-soups are trained and asked with those
of their preferences, and another set of them without any ("plain"), since the paper leaves open which it did.
stories260k was never told to follow any, so there all are plain, and words are for the other methods alone.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.mope.setting import Setting
from experiments.psoups.setting import build_config

from counterpoint.artifacts import MANIFEST
from counterpoint.build.pairs import longest_of
from counterpoint.build.pool import sample_pool
from counterpoint.data.chat import with_request
from counterpoint.rewards.bradley_terry import BradleyTerryReward
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.rewards.rules import Rewards
from counterpoint.train.best_of_n import best_of_n, to_examples
from counterpoint.train.controller import references, reward_of
from counterpoint.train.policy import PolicyConfig, train_policy, words_of
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Profile

ITERATIONS = 10
"""Of one preference's policy; a policy for all preferences has as many as all those together."""
PROMPTS = {"world": 32, "stories": 16}
"""In an iteration; answers of stories are three times as long."""
SAMPLES = 4
"""Responses to each prompt of an iteration."""
EXPERT, PLAIN = "ppo {}", "ppo plain {}"


def learn_all(setting: Setting, seed: int, out: Path) -> None:
    """Train everything; what is there already is not trained again."""
    task, names = setting.task, setting.task.names
    for name in names:
        own = Profile({name: 1.0})
        if follows_words(setting):
            words = words_of(own, task.dimensions)
            learn_policy(setting, seed, [own], [words], ITERATIONS, out / EXPERT.format(name))
        learn_policy(setting, seed, [own], [""], ITERATIONS, out / PLAIN.format(name))
    everything = ITERATIONS * len(names)
    asked = [words_of(profile, task.dimensions) for profile in task.profiles]
    learn_policy(setting, seed, task.profiles, asked, everything, out / "p-morl")
    learn_multitask(setting, seed, out / "multitask")
    learn_policy(setting, seed, [Profile(dict.fromkeys(names, 1.0))], [""], everything, out / "rlhf")


def follows_words(setting: Setting) -> bool:
    """Whether the base was made to follow requests: its dimensions have some."""
    return all(dimension.request for dimension in setting.task.dimensions)


def learn_policy(
    setting: Setting, seed: int, profiles: Sequence[Profile], words: Sequence[str], iterations: int, out: Path
) -> None:
    """A policy that is asked with a profile's words and earns the mean of the rewards that the profile wants."""
    if (out / MANIFEST).exists():
        return
    wanted = [name for name in setting.task.names if any(profile.weights.get(name) for profile in profiles)]
    reward = Rewards([BradleyTerryReward.load(setting.folder / "band" / "rewards" / name) for name in wanted])
    prompts = setting.task.train_prompts
    said = references(setting.band, prompts, setting.max_tokens, out.parent / "base")
    earned = reward_of(reward, prompts, profile_weights(profiles, reward.dimensions), reward(prompts, said))
    config = PolicyConfig(
        model=setting.task.model, iterations=iterations, prompts_per_iteration=PROMPTS[setting.name], samples=SAMPLES,
        epochs=2, learning_rate=1.5e-3, kl=0.1, max_tokens=setting.max_tokens, seed=seed,
    )  # fmt: skip
    train_policy(config, prompts, words, earned, out)


def learn_multitask(setting: Setting, seed: int, out: Path) -> None:
    """One adapter that imitates, for every preference, the best candidates to a prompt with its words."""
    if (out / MANIFEST).exists():
        return
    task, config, tokenizer = setting.task, build_config(setting.name, seed), setting.band.tokenizer
    pool = sample_pool(task, setting.band, config, lambda *_: None)
    scores_PND = pool.scores(task, setting.models)
    examples = []
    for d, name in enumerate(task.names):
        words = words_of(Profile({name: 1.0}), task.dimensions)
        best = best_of_n(pool.prompts, pool.completions_PN, scores_PND[:, :, d], config.keep)
        examples += to_examples([(with_request(prompt, words), said) for prompt, said in best], tokenizer)
    learn = SftConfig(
        model=task.model, steps=config.expert_steps * len(task.names), batch=config.batch, seed=seed,
        learning_rate=config.expert_learning_rate, lora_rank=config.lora_rank, lora_alpha=2 * config.lora_rank,
        max_length=longest_of(task.model),
    )  # fmt: skip
    train_sft(learn, examples, out)
