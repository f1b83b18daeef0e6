"""Scores from a reward model that `counterpoint.train.reward_model` has trained.

A folder holds an ordinary sequence classifier with one label (or a PEFT adapter of one), its tokenizer, and
`reward.json` with the dimension and the base.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification

from counterpoint.artifacts import read_json
from counterpoint.data.examples import example
from counterpoint.models.load import load_model, load_tokenizer, quiet
from counterpoint.types import Comparison, CounterpointError, Prompt, RewardFn

FILE = "reward.json"


def reward_tokenizer(name: str) -> Any:
    """A tokenizer whose pad token is not its end-of-text token.

    A classifier reads the rightmost token that is not padding, so padding by end-of-text tokens would hide that a
    response ended. As every response here ends in one, any other token can stand for padding.
    """
    tokenizer = load_tokenizer(name)
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0 if tokenizer.eos_token_id != 0 else 1)
    return tokenizer


def classifier(model: Any, pad_token_id: int) -> Any:
    """A one-number head, random from the global generator, on the body of a causal language model."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.pad_token_id = pad_token_id
    with torch.device("meta"):
        judge = AutoModelForSequenceClassification.from_config(config)
    body = getattr(model, model.base_model_prefix)
    setattr(judge, judge.base_model_prefix, body)
    judge.score = torch.nn.Linear(config.hidden_size, 1, bias=False, device=model.device, dtype=model.dtype)
    torch.nn.init.normal_(judge.score.weight, std=config.initializer_range)
    return judge


class BradleyTerryReward:
    """A `RewardFn` on one dimension: the score of `prompt` and `response` by the ids that it was trained on."""

    def __init__(self, model: Any, tokenizer: Any, dimension: str, batch: int = 64) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.dimension = dimension
        self.batch = batch

    @classmethod
    def load(cls, folder: Path, batch: int = 64, device: str = "cpu") -> "BradleyTerryReward":
        """Load what `train_reward_model` wrote; `batch` is how many responses are scored at once."""
        record = read_json(folder / FILE)
        tokenizer = load_tokenizer(str(folder))
        with quiet(), torch.random.fork_rng(devices=[]):
            if (folder / "adapter_config.json").exists():
                judge = classifier(load_model(record["base"]), tokenizer.pad_token_id)
                model = PeftModel.from_pretrained(judge, folder)
            else:
                model = AutoModelForSequenceClassification.from_pretrained(folder)
        return cls(model.to(device).eval(), tokenizer, record["dimension"], batch)

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (self.dimension,)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores `[N, 1]` in the model's own unit, which has no zero."""
        examples = [example(p, r, self.tokenizer) for p, r in zip(prompts, responses, strict=True)]
        return self.score_ids([[*e.prompt_ids, *e.response_ids] for e in examples])[:, None]

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Scores `[N]` of token ids, computed in batches of like length."""
        scores_N = np.zeros(len(sequences))
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for start in range(0, len(by_length), self.batch):
            rows = by_length[start : start + self.batch]
            scores_N[rows] = self._score_batch([sequences[i] for i in rows])
        return scores_N

    @torch.inference_mode()
    def _score_batch(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        pad, device = self.tokenizer.pad_token_id, self.model.device
        ids_BT = pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=pad)
        lengths_B = torch.tensor([len(s) for s in sequences])
        mask_BT = (torch.arange(ids_BT.shape[1]) < lengths_B[:, None]).long()
        output = self.model(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device), use_cache=False)
        scores: np.ndarray = output.logits[:, 0].double().cpu().numpy()
        return scores


def accuracy(reward: RewardFn, comparisons: Sequence[Comparison]) -> np.ndarray:
    """For each comparison, 1.0 where the reward prefers the chosen response on its dimension, else 0.0 (so for a tie).

    Raises CounterpointError for a comparison on a dimension that the reward does not score.
    """
    for comparison in comparisons:
        if comparison.dimension not in reward.dimensions:
            raise CounterpointError(
                f"a comparison is on the dimension {comparison.dimension!r}, but the reward scores "
                f"{', '.join(reward.dimensions)}"
            )
    prompts = [c.prompt for c in comparisons]
    chosen_PD = reward(prompts, [c.chosen for c in comparisons])
    rejected_PD = reward(prompts, [c.rejected for c in comparisons])
    columns_P = np.array([reward.dimensions.index(c.dimension) for c in comparisons], dtype=int)
    prefers: np.ndarray = (chosen_PD > rejected_PD)[np.arange(len(columns_P)), columns_P].astype(np.float64)
    return prefers
