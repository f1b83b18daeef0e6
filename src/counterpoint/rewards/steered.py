"""Scores on several dimensions from one model that is told which one: the request of a preference steers it.

A folder is as in `counterpoint.rewards.bradley_terry`, with the requests by dimension in `reward.json`. It is what
Personalized Soups calls a multitask reward model (arXiv 2310.11564, section 4.1): r_d(x, y) = r([x; request_d], y).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.data.chat import with_request
from counterpoint.rewards.bradley_terry import FILE, load_classifier, read_record, score
from counterpoint.types import CounterpointError, Prompt


class SteeredReward:
    """A `RewardFn` with a column per request, each a pass of its own through the model.

    All columns come from one head, and yet have no common zero or unit: calibrate before they are added up.
    """

    def __init__(self, model: Any, tokenizer: Any, requests: Mapping[str, str], batch: int = 64) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.requests = dict(requests)
        self.batch = batch

    @classmethod
    def load(
        cls, folder: Path, batch: int = 64, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "SteeredReward":
        """Load what `train_steered` wrote; `batch` is how many responses are scored at once."""
        record = read_record(folder)
        if not isinstance(record.get("requests"), dict):
            raise CounterpointError(f"{folder / FILE}: no field 'requests'; this is no model that requests steer")
        model, tokenizer = load_classifier(folder, record["base"], 1, device, dtype)
        return cls(model, tokenizer, record["requests"], batch)

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(self.requests)

    def only(self, dimension: str) -> "SteeredReward":
        """The same model for one of its dimensions, at the cost of one pass."""
        return SteeredReward(self.model, self.tokenizer, {dimension: self.requests[dimension]}, self.batch)

    def asked(self, prompt: Prompt) -> list[Prompt]:
        """A prompt as the model reads it, for each dimension."""
        return [with_request(prompt, request) for request in self.requests.values()]

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """`scores_ND`: response n to prompt n with the request of dimension d after it."""
        columns = zip(*map(self.asked, prompts), strict=True) if prompts else [()] * len(self.requests)
        scores = [score(self.model, self.tokenizer, asked_N, responses, self.batch)[:, 0] for asked_N in columns]
        return np.stack(scores, axis=1)
