"""Train a controller by what its mixtures earn.

    R(x, y, w) = sum_i w_i sigmoid(r_i(x, y) - r_i(x, y_ref)) / sum_i w_i

(MoPE, arXiv 2407.04181; Eq. 2 is the sigmoid, and the mean is over what the profile selects.) y_ref is the base's
greedy answer to the same prompt, asked for nothing: the paper says "from a baseline LLM". The loss is REBEL's or PPO's
(`train/on_policy.py`), the policy that of `train/mope.py`.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from counterpoint.artifacts import MANIFEST, hash_files, make_once, read_json, write_json
from counterpoint.compose.plan import Plan, Row, Space, Temper
from counterpoint.compose.weighers.controller import (
    Controller,
    Encoding,
    Head,
    Prior,
    Prompting,
    new_model,
    unlike,
    write_controller,
)
from counterpoint.data.responses import prompt_column
from counterpoint.decode.band import Band
from counterpoint.decode.parts import run_in_parts
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import BAND, base_path, read_band
from counterpoint.models.controller import ControllerModel, new_trunk
from counterpoint.profiles import format_profile
from counterpoint.rewards.calibrate import bt_reward, profile_weights, scalarise
from counterpoint.rewards.scorer import Scorer
from counterpoint.train.mope import Constants, MopeLearner, Reward
from counterpoint.train.on_policy import Algorithm, check, learn
from counterpoint.train.run import Progress
from counterpoint.types import CounterpointError, Profile, Prompt, RewardFn

LOG = "training.json"


@dataclass(frozen=True)
class ControllerConfig:
    """How a controller is made and trained; the fields from `space` to `head` are those of `Controller`.

    `model` is a small language model of the base's vocabulary to start from; without, the base itself if it has fewer
    than 10^9 parameters, else a random one of `share` of its size. `constant` learns fixed logits for each profile
    instead. `bt` turns scores into probabilities of beating the reference response; without, they are rewards as they
    are. Each iteration asks `prompts_per_iteration` prompts, for a profile each, `samples` times, at most `max_tokens`.
    In log space whole distributions are kept of an iteration, at most `keep_gib` GiB. The other fields are those of
    `on_policy.LoopConfig`.
    """

    band: str
    space: Space = "prob"
    encoding: Encoding = "vector"
    expert_prompt: Prompting = "none"
    prior: Prior = "profile"
    temper: Temper = "mixture"
    head: Head = "linear"
    model: str = ""
    share: float = 0.02
    constant: bool = False
    bt: bool = True
    strength: float = 1.0
    temperature: float = 1.0
    max_tokens: int = 128
    keep_gib: float = 8.0
    prompts_per_iteration: int = 64
    algorithm: Algorithm = "rebel"
    iterations: int = 8
    samples: int = 2
    epochs: int = 4
    minibatch: int = 32
    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0
    eta: float = 10.0
    kl: float = 0.0
    clip: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_weight: float = 0.1
    seed: int = 0
    at_once: int | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.prompts_per_iteration < 1:
            raise CounterpointError(f"prompts_per_iteration is {self.prompts_per_iteration}; it must be at least 1")
        if self.max_tokens < 1:
            raise CounterpointError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not 0 < self.strength < math.inf:
            raise CounterpointError(f"strength is {self.strength:g}; it must be above 0, such as 1")
        if self.constant and self.head == "described":
            raise CounterpointError("head is 'described', and constants have no head; leave one of the two out")
        if self.constant and self.model:
            raise CounterpointError(f"model is {self.model!r}, and constants have no model; leave one of the two out")
        if self.constant and self.algorithm == "ppo":
            raise CounterpointError("algorithm is 'ppo', which needs a critic, and constants read nothing; use 'rebel'")
        if not 0 < self.share < 1:
            raise CounterpointError(f"share is {self.share:g}; it must lie between 0 and 1, such as 0.02")
        if not self.temperature > 0:
            raise CounterpointError(f"temperature is {self.temperature:g}; to learn from samples it must be above 0")
        if self.temperature != 1 and self.temper == "mixture":
            raise CounterpointError(
                f"temperature is {self.temperature:g}, acting on the mixture: the log-probability of a sample would "
                "need the whole vocabulary; train at temperature 1, or with temper = experts"
            )


@dataclass(frozen=True)
class ControllerResult:
    """Where the controller is, what each iteration logged, and whether it was trained now."""

    folder: Path
    log: tuple[dict[str, float], ...]
    fresh: bool


def train_controller(
    band: Band,
    config: ControllerConfig,
    prompts: Sequence[Prompt],
    profiles: Sequence[Profile],
    reward: RewardFn,
    out: Path,
    progress: Progress | None = None,
    judged_by: str = "",
    answers: Sequence[str] | None = None,
) -> ControllerResult:
    """Train a controller of the band's experts for these profiles and write it to `out`; it then steers the band.

    A unit of `reward` is a logit of preference, as it is for a Bradley-Terry model; `judged_by` tells it from others of
    its class and dimensions, where a controller is in `out` already. `answers` are the `references` of the prompts,
    where they are known. Of profiles that differ in no share the first counts. A run that was killed goes on after its
    last iteration; where training fails, the band is steered as it was before. Raises CounterpointError for a dimension
    that `reward` does not score, and for what `ControllerConfig`, `check_kept`, `Controller.plan` and `learn` refuse.
    """
    controller = new_controller(band, config, profiles)
    check_kept(band, config)
    profiles = unlike(replace(profile, strength=config.strength) for profile in profiles)
    weights_RD = profile_weights(profiles, reward.dimensions)
    inputs = {
        "band": hash_files(
            *(path for path in (Path(config.band) / BAND, Path(config.band) / "experts") if path.exists())
        ),
        "prompts": hashlib.sha256(json.dumps([prompt_column(prompt) for prompt in prompts]).encode()).hexdigest(),
        "profiles": "; ".join(format_profile(profile) for profile in profiles),
        "reward": f"{type(reward).__name__} of {', '.join(reward.dimensions)} {judged_by}",
    }

    def make(scratch: Path) -> None:
        ref_PD = None
        if config.bt:
            said = answers or references(band, prompts, config.max_tokens, scratch / "work")
            ref_PD = reward(prompts, said)
        model = untrained(band, config, controller, len(profiles))
        earned = reward_of(reward, prompts, weights_RD, ref_PD)
        transformer = model if isinstance(model, ControllerModel) else None
        critic = config.algorithm == "ppo"
        learner = MopeLearner(band, controller, model, prompts, profiles, earned, config, critic)
        with band.steered_by(controller, transformer):
            log = learn(learner, config, scratch / "work", progress)
        write_controller(scratch, learner.current(), transformer and transformer.eval())
        write_json(scratch / LOG, list(log))

    forget_damaged(band, out)
    fresh = make_once(out, config, inputs, make)
    band.load_controller(out)
    return ControllerResult(out, tuple(read_json(out / LOG)), fresh)


def new_controller(band: Band, config: ControllerConfig, profiles: Sequence[Profile]) -> Controller:
    """The controller of a configuration, over all experts of the band; refuses profiles that it cannot serve."""
    controller = Controller(
        experts=[expert.name for expert in band.experts],
        dimensions=list(band.dimensions),
        space=config.space,
        encoding=config.encoding,
        expert_prompt=config.expert_prompt,
        prior=config.prior,
        temper=config.temper,
        head=config.head,
    )
    if len(controller.experts) < 2:
        raise CounterpointError(
            f"{config.band}: has {len(controller.experts)} experts; a controller weighs two or more"
        )
    for entry in band.file.experts:
        if entry.endpoint is not None and entry.endpoint.on_failure == "drop":
            raise CounterpointError(
                f"expert {entry.name!r} is dropped when its endpoint fails, and what is learned from would change "
                "meanwhile; add it anew with --on-failure fail to train a controller"
            )
    for profile in profiles:
        controller.plan(Profile(profile.weights, config.strength), band.experts)
    return controller


def untrained(
    band: Band, config: ControllerConfig, controller: Controller, profiles: int
) -> ControllerModel | Constants:
    """What is trained, from the seed."""
    if config.constant:
        return Constants(profiles, len(controller.experts))
    folder = Path(config.band)
    base = base_path(folder, read_band(folder)) if (folder / BAND).exists() else str(band.model.name_or_path)
    size = sum(parameter.numel() for parameter in band.model.parameters())
    trunk = new_trunk(base, size, config.share, config.seed, config.model)
    return new_model(controller, trunk.to(band.model.device), band.describe)


def forget_damaged(band: Band, out: Path) -> None:
    """A controller that cannot be loaded is made anew, though its manifest says that it is there."""
    if not (out / MANIFEST).exists():
        return
    try:
        band.open_controller(out)
        read_json(out / LOG)
    except CounterpointError:
        (out / MANIFEST).unlink()


def kept_gib(band: Band, config: ControllerConfig) -> float:
    """What a roll-out in log space keeps in float32: `[N, T, K + 1, V]`, in GiB; 0 in probability space."""
    if config.space == "prob":
        return 0.0
    tokens = config.prompts_per_iteration * config.samples * config.max_tokens
    return tokens * (len(band.experts) + 1) * int(band.model.config.vocab_size) * 4 / 2**30


def check_kept(band: Band, config: ControllerConfig) -> None:
    """Refuse a roll-out that keeps more than `keep_gib`."""
    if (gib := kept_gib(band, config)) > config.keep_gib:
        raise CounterpointError(
            f"a roll-out in log space may keep {gib:.3g} GiB, of {len(band.experts)} experts and the base the whole "
            f"distribution at every token, and keep_gib is {config.keep_gib:g}; lower prompts_per_iteration, samples "
            "or max_tokens, raise keep_gib, or take space = prob"
        )


def references(
    band: Band,
    prompts: Sequence[Prompt],
    max_tokens: int,
    work: Path | None = None,
    progress: Progress = lambda *_: None,
) -> list[str]:
    """The base's greedy answers, which rewards count from; with `work` they are kept there part by part."""
    sampling = Sampling(temperature=0, max_tokens=max_tokens)
    requests = [band.request(prompt, Plan((Row(),)), sampling) for prompt in prompts]
    done = band.run(requests, progress) if work is None else run_in_parts(band, requests, work, progress)
    return [said.text for said in done]


def reward_of(reward: RewardFn, prompts: Sequence[Prompt], weights_RD: np.ndarray, ref_PD: np.ndarray | None) -> Reward:
    """What responses earn for profiles: against reference scores by Bradley-Terry, or as they are scored."""

    def earned(prompt_N: Sequence[int], texts: Sequence[str], profile_N: Sequence[int]) -> np.ndarray:
        scores_ND = Scorer(reward)([prompts[p] for p in prompt_N], texts)
        if ref_PD is not None:
            scores_ND = bt_reward(scores_ND, ref_PD[list(prompt_N)])
        return scalarise(scores_ND, weights_RD[list(profile_N)])

    return earned
