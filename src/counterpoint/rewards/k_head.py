"""Scores on K dimensions at once, from the model that `counterpoint.train.k_head` has trained: one body, K heads.

A folder is as in `counterpoint.rewards.bradley_terry`, with the list of dimensions in `reward.json`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.rewards.bradley_terry import FILE, load_classifier, read_record, score
from counterpoint.types import CounterpointError, Prompt


class KHeadReward:
    """A `RewardFn` on K dimensions, for one pass through the model."""

    def __init__(self, model: Any, tokenizer: Any, dimensions: Sequence[str], batch: int = 64) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.dimensions = tuple(dimensions)
        self.batch = batch

    @classmethod
    def load(
        cls, folder: Path, batch: int = 64, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "KHeadReward":
        """Load what `train_k_head` wrote; `batch` is how many responses are scored at once."""
        record = read_record(folder)
        if "dimensions" not in record:
            raise CounterpointError(f"{folder / FILE}: no field 'dimensions'; a model of one is a BradleyTerryReward")
        model, tokenizer = load_classifier(folder, record["base"], len(record["dimensions"]), device, dtype)
        return cls(model, tokenizer, record["dimensions"], batch)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """`scores_NK`, each head in a unit of its own, without a zero: calibrate before they are added up."""
        return score(self.model, self.tokenizer, prompts, responses, self.batch)
