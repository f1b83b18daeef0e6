"""Train every method on the training pairs, and measure its margins on the others."""

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from experiments.rewards.split import Split

from counterpoint.artifacts import hash_files, make_once, read_json, write_json
from counterpoint.data.examples import example
from counterpoint.models.load import load_tokenizer
from counterpoint.rewards.bag_of_words import learn_bag_of_words
from counterpoint.rewards.bradley_terry import BradleyTerryReward, margins
from counterpoint.rewards.calibrate import scale_of
from counterpoint.rewards.k_head import KHeadReward
from counterpoint.rewards.length import learn_length
from counterpoint.train.k_head import KHeadConfig, train_k_head
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model
from counterpoint.train.scratch import ScratchConfig, new_model
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Comparison, RewardFn

STEPS, BATCH, RATE = 120, 8, 1e-3
"""Of a reward model, so that it sees 960 pairs; a step of the model with K heads sees `BATCH` of each dimension."""
BACKBONES = ("stories260k", "scratch")


@dataclass(frozen=True)
class Measured:
    """The margins of one method under one seed on one dimension's test pairs, and the scale that calibrates them."""

    margin_X: np.ndarray
    scale: float


Results = dict[tuple[str, str, int], Measured]
"""By (method, dimension, seed); the baselines have no seed of their own and stand under 0."""


@dataclass(frozen=True)
class _Job:
    """What a file of margins depends on, beside the hashes of reward and pairs."""

    dimension: str


def baselines(splits: Mapping[str, Split]) -> Results:
    found: Results = {}
    for name, pairs in splits.items():
        for method, reward in (
            ("length", learn_length(pairs.train, name)),
            ("bag of words", learn_bag_of_words(pairs.train, name)),
        ):
            found[method, name, 0] = calibrated(margins(reward, pairs.calibrate), margins(reward, pairs.test), name)
    return found


def models_of_seeds(
    splits: Mapping[str, Split], stories: Path, work: Path, seeds: Sequence[int], workers: int
) -> Results:
    """`models` under every seed, as many at once as there are workers, each with one thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(models, splits, stories, work / str(seed), seed) for seed in seeds]
        return {key: found for future in futures for key, found in future.result().items()}


def models(splits: Mapping[str, Split], stories: Path, work: Path, seed: int) -> Results:
    """Both backbones under one seed: a model per dimension, and one with a head per dimension."""
    found: Results = {}
    for backbone, base in (("stories260k", stories), ("scratch", scratch(splits, work / "scratch", seed))):
        for name, pairs in splits.items():
            config = RewardModelConfig(str(base), name, STEPS, BATCH, learning_rate=RATE, seed=seed)
            out = work / backbone / name
            train_reward_model(config, pairs.train, out)
            found[f"{backbone}, a model each", name, seed] = measure(out, BradleyTerryReward.load, pairs, name)
            say(f"{backbone}, seed {seed}: {name}")
        heads = KHeadConfig(str(base), tuple(splits), STEPS, BATCH, learning_rate=RATE, seed=seed)
        out = work / backbone / "heads"
        train_k_head(heads, [c for pairs in splits.values() for c in pairs.train], out)
        for name, pairs in splits.items():
            found[f"{backbone}, one of K heads", name, seed] = measure(out, KHeadReward.load, pairs, name)
        say(f"{backbone}, seed {seed}: {len(splits)} heads")
    return found


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def scratch(splits: Mapping[str, Split], out: Path, seed: int) -> Path:
    """A small Llama that has read the training texts, chosen and rejected alike."""
    shown = [(c.prompt, text) for pairs in splits.values() for c in pairs.train for text in (c.chosen, c.rejected)]
    blank = out / "blank"
    if not blank.exists():
        texts = [str(text) for pair in dict.fromkeys(shown) for text in pair]
        new_model(ScratchConfig(vocabulary=4096, positions=320, seed=seed), texts, blank)
    tokenizer = load_tokenizer(str(blank))
    config = SftConfig(str(blank), steps=200, batch=32, learning_rate=2e-3, seed=seed, lora_rank=0, warmup=20)
    train_sft(config, [example(*pair, tokenizer) for pair in dict.fromkeys(shown)], out / "read")
    say(f"scratch, seed {seed}: read the training texts")
    return out / "read"


def measure(folder: Path, load: Callable[[Path], RewardFn], pairs: Split, name: str) -> Measured:
    """Margins of a trained model, kept beside it so that a second run need not score again."""
    out = folder.parent / "margins" / f"{folder.name}-{name}"
    held = [*pairs.calibrate, *pairs.test]
    inputs = {"reward": hash_files(folder), "pairs": hashlib.sha256(repr(held).encode()).hexdigest()}
    make_once(out, _Job(name), inputs, lambda made: write_json(made / "margins.json", margins_of(load(folder), held)))
    margin = np.array(read_json(out / "margins.json"))
    return calibrated(margin[: len(pairs.calibrate)], margin[len(pairs.calibrate) :], name)


def margins_of(reward: RewardFn, comparisons: Sequence[Comparison]) -> list[float]:
    numbers: list[float] = margins(reward, comparisons).tolist()
    return numbers


def calibrated(calibrate_X: np.ndarray, test_X: np.ndarray, name: str) -> Measured:
    """With a scale of 1 for a reward that ties all pairs, which none can calibrate."""
    return Measured(test_X, scale_of(calibrate_X, name) if calibrate_X.any() else 1.0)
