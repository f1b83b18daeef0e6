"""Rewards by what a user calls them: `concise=-length`, `helpful=my/reward`, or a folder of trained reward models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.data.asked import as_asked
from counterpoint.data.examples import example
from counterpoint.profiles import unknown_name
from counterpoint.rewards.bradley_terry import FILE, BradleyTerryReward, check_length, read_record
from counterpoint.rewards.k_head import KHeadReward
from counterpoint.rewards.rules import parse_rule
from counterpoint.rewards.steered import SteeredReward
from counterpoint.types import CounterpointError, Prompt, RewardFn


@dataclass(frozen=True)
class Trained:
    """A trained reward model that reads a prompt in plain text as `chat` puts it: as a user's message."""

    model: Any

    @property
    def dimensions(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.model.dimensions
        return names

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        scores_ND: np.ndarray = self.model([as_asked(p, self.model.tokenizer) for p in prompts], responses)
        return scores_ND


@dataclass(frozen=True)
class Column:
    """One dimension of a reward, under a name of the user's."""

    reward: RewardFn
    column: int
    name: str

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (self.name,)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return self.reward(prompts, responses)[:, [self.column]]


def parse_reward(text: str, device: str = "cpu") -> list[RewardFn]:
    """Read `DIMENSION=RULE` (as `parse_rule` does), `DIMENSION=FOLDER`, or `FOLDER`: a trained model, or several.

    A model of one dimension takes the name that it is given; of one with several, the name says which. Raises
    CounterpointError for what is neither a rule nor a folder with `reward.json`.
    """
    name, equals, spec = (part.strip() for part in text.partition("="))
    if Path(text).is_dir():
        return load_rewards(Path(text), device)
    if equals and name and Path(spec).is_dir():
        return [_named(load_reward(Path(spec), device), name, spec)]
    if "/" in spec.partition(":")[0] or not equals:
        expected = "DIMENSION=RULE, DIMENSION=FOLDER or FOLDER"
        raise CounterpointError(f"reward {text!r}: there is no folder {spec or text!r}; expected {expected}")
    return [parse_rule(text)[1]]


def load_reward(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> RewardFn:
    """The reward model of a folder, of whichever kind its `reward.json` says."""
    if not (folder / FILE).exists():
        raise CounterpointError(f"{folder}: holds no {FILE}; expected a reward model of `counterpoint train reward`")
    record = read_record(folder)
    if "requests" in record:
        return Trained(SteeredReward.load(folder, device=device, dtype=dtype))
    kind = KHeadReward if "dimensions" in record else BradleyTerryReward
    return Trained(kind.load(folder, device=device, dtype=dtype))


def load_rewards(folder: Path, device: str = "cpu") -> list[RewardFn]:
    """The reward model in a folder, or those in its subfolders, by name."""
    if (folder / FILE).exists():
        return [load_reward(folder, device)]
    found = sorted(path.parent for path in folder.glob(f"[!.]*/{FILE}"))
    if not found:
        raise CounterpointError(f"{folder}: neither it nor a folder in it holds {FILE}; expected trained reward models")
    return [load_reward(path, device) for path in found]


def take_messages(rewards: Sequence[RewardFn]) -> bool:
    """Whether every trained model among rewards has a chat template, without which it reads text alone."""
    return all(part.model.tokenizer.chat_template for part in trained_among(rewards))


def trained_among(rewards: Sequence[RewardFn]) -> list[Trained]:
    """The trained models, whatever their dimensions are called."""
    parts = [reward.reward if isinstance(reward, Column) else reward for reward in rewards]
    return [part for part in parts if isinstance(part, Trained)]


def check_lengths(rewards: Sequence[RewardFn], prompt: Prompt, responses: Sequence[str]) -> None:
    """Refuse responses to a prompt of which one is too long for a trained model among rewards."""
    for part in trained_among(rewards):
        asked = as_asked(prompt, part.model.tokenizer)
        for read in part.model.asked(asked) if isinstance(part.model, SteeredReward) else [asked]:
            for response in responses:
                check_length(example(read, response, part.model.tokenizer), response, part.model.model)


def _named(reward: RewardFn, name: str, spec: str) -> RewardFn:
    if name not in reward.dimensions and len(reward.dimensions) > 1:
        raise CounterpointError(f"reward {name}={spec}: {unknown_name('dimension', name, reward.dimensions)}")
    return one_of(reward, name if name in reward.dimensions else reward.dimensions[0], name)


def one_of(reward: RewardFn, dimension: str, name: str) -> Column:
    """One dimension of a reward under a name of the user's, at the cost of that dimension alone."""
    if isinstance(reward, Trained) and isinstance(reward.model, SteeredReward):
        reward = Trained(reward.model.only(dimension))
    return Column(reward, reward.dimensions.index(dimension), name)
