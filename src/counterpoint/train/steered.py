"""One reward model for several preferences, learned from pairs whose prompts carry the request of their preference.

    loss = - log sigmoid(r([x; request_d], y+) - r([x; request_d], y-))

as `counterpoint.train.reward_model` over the pairs of all dimensions together (Jang et al. 2023, arXiv 2310.11564).
Beside one model per dimension it costs as much space as one, and learns a dimension it has little data on from the
words that its request shares with others. A batch is drawn from all pairs: a dimension with more of them counts more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterpoint.data.examples import pairs
from counterpoint.data.preferences import requested
from counterpoint.models.load import check_family
from counterpoint.rewards.bradley_terry import reward_tokenizer
from counterpoint.train.reward_model import fit_reward
from counterpoint.train.run import Progress, Schedule, TrainResult, keep_short
from counterpoint.types import Comparison, CounterpointError


@dataclass(frozen=True)
class SteeredConfig:
    """How to learn to judge what a request asks for; `requests` are pairs of a dimension and its request.

    The other fields are those of `RewardModelConfig`.
    """

    model: str
    requests: tuple[tuple[str, str], ...]
    steps: int = 40
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    seed: int = 0
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_targets: str | tuple[str, ...] = "all-linear"
    lora_dropout: float = 0.0
    warmup: int = 4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "cosine"
    max_length: int = 1024
    checkpoint_every: int = 0
    bf16: bool = False
    activation_checkpointing: bool = False

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.requests)


def train_steered(
    config: SteeredConfig,
    comparisons: Sequence[Comparison],
    out: Path,
    model: Any | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one reward model on comparisons with bare prompts, for `SteeredReward.load(out)`.

    `model`, resuming, dropping and errors are as in `train_reward_model`. Raises CounterpointError for a comparison on
    a dimension without a request, and where two dimensions have the same request.
    """
    requests = dict(config.requests)
    if len(set(requests.values())) < len(config.requests) or not requests:
        raise CounterpointError(f"requests are {config.requests}; expected one or more, all different")
    limited = replace(config, max_length=min(config.max_length, check_family(config.model)))
    rows = pairs(requested(comparisons, requests), reward_tokenizer(config.model))
    kept, dropped = keep_short(rows, limited)
    return fit_reward(config, kept, dropped, {"requests": requests}, out, model, progress)
