"""Scores from a reward model that `counterpoint.train.reward_model` has trained.

A folder holds an ordinary sequence classifier with one label (or a PEFT adapter of one), its tokenizer, and
`reward.json` with the dimension and the base. With K labels it is a model of `counterpoint.rewards.k_head`.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification

from counterpoint.artifacts import read_json
from counterpoint.data.examples import Example, example, pairs
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


def classifier(model: Any, pad_token_id: int, heads: int = 1) -> Any:
    """Linear heads of one number each, random from the global generator, on the body of a causal language model."""
    config = copy.deepcopy(model.config)
    config.num_labels = heads
    config.pad_token_id = pad_token_id
    with torch.device("meta"):
        judge = AutoModelForSequenceClassification.from_config(config)
    body = getattr(model, model.base_model_prefix)
    setattr(judge, judge.base_model_prefix, body)
    judge.score = torch.nn.Linear(config.hidden_size, heads, bias=False, device=model.device, dtype=model.dtype)
    torch.nn.init.normal_(judge.score.weight, std=config.initializer_range)
    return judge


def load_classifier(
    folder: Path, base: str, heads: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """The model that a trainer left in `folder`, in evaluation mode, and its tokenizer.

    Raises CounterpointError where its files are missing or broken.
    """
    if not any(folder.glob("*.safetensors")):
        raise CounterpointError(f"{folder}: holds no parameters (*.safetensors); copy the whole folder or train again")
    tokenizer = load_tokenizer(str(folder))
    try:
        model = _load_parameters(folder, base, heads, tokenizer.pad_token_id, dtype)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CounterpointError(f"{folder}: no reward model could be loaded: {reason}; train it again") from error
    return model.to(device, dtype).eval(), tokenizer  # PEFT keeps adapters in float32


def _load_parameters(folder: Path, base: str, heads: int, pad_token_id: int, dtype: torch.dtype) -> Any:
    with quiet(), torch.random.fork_rng(devices=[]):
        if (folder / "adapter_config.json").exists():
            return PeftModel.from_pretrained(classifier(load_model(base, dtype), pad_token_id, heads), folder)
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)


def read_record(folder: Path) -> dict[str, Any]:
    """What `reward.json` says; raises CounterpointError where it does not name the base."""
    record = read_json(folder / FILE)
    if not isinstance(record, dict) or not isinstance(record.get("base"), str):
        raise CounterpointError(f"{folder / FILE}: no field 'base' with the model that was trained; train it again")
    return record


class BradleyTerryReward:
    """A `RewardFn` on one dimension: the score of `prompt` and `response` by the ids that it was trained on."""

    def __init__(self, model: Any, tokenizer: Any, dimension: str, batch: int = 64) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.dimension = dimension
        self.batch = batch

    @classmethod
    def load(
        cls, folder: Path, batch: int = 64, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "BradleyTerryReward":
        """Load what `train_reward_model` wrote; `batch` is how many responses are scored at once."""
        record = read_record(folder)
        if "dimension" not in record:
            raise CounterpointError(f"{folder / FILE}: no field 'dimension'; a model of several is a KHeadReward")
        model, tokenizer = load_classifier(folder, record["base"], 1, device, dtype)
        return cls(model, tokenizer, record["dimension"], batch)

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (self.dimension,)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores `[N, 1]` in the model's own unit, which has no zero."""
        return score(self.model, self.tokenizer, prompts, responses, self.batch)


def score(model: Any, tokenizer: Any, prompts: Sequence[Prompt], responses: Sequence[str], batch: int) -> np.ndarray:
    """`scores_NK` of a classifier with K labels. Raises CounterpointError where the model has too few positions."""
    examples = [example(p, r, tokenizer) for p, r in zip(prompts, responses, strict=True)]
    for e, response in zip(examples, responses, strict=True):
        check_length(e, response, model)
    return score_ids(model, [[*e.prompt_ids, *e.response_ids] for e in examples], tokenizer.pad_token_id, batch)


def check_length(found: Example, response: str, model: Any) -> None:
    """Refuse a response that has more tokens with its prompt than the model has positions."""
    positions = model.config.max_position_embeddings
    if found.length > positions:
        raise CounterpointError(
            f"response {response[:40]!r} has {found.length} tokens with its prompt, but the reward model has "
            f"{positions} positions; shorten it or leave it out, as `counterpoint score --skip-bad` does"
        )


def score_ids(model: Any, sequences: Sequence[Sequence[int]], pad: int, batch: int) -> np.ndarray:
    """`scores_NK` of token ids, computed in batches of like length."""
    scores_NK = np.zeros((len(sequences), model.config.num_labels))
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(by_length), batch):
        rows = by_length[start : start + batch]
        scores_NK[rows] = _score_batch(model, [sequences[i] for i in rows], pad)
    return scores_NK


@torch.inference_mode()
def _score_batch(model: Any, sequences: Sequence[Sequence[int]], pad: int) -> np.ndarray:
    ids_BT = pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=pad)
    lengths_B = torch.tensor([len(s) for s in sequences])
    mask_BT = (torch.arange(ids_BT.shape[1]) < lengths_B[:, None]).long()
    output = model(input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device), use_cache=False)
    scores: np.ndarray = output.logits.double().cpu().numpy()
    return scores


def short_enough(
    comparisons: Sequence[Comparison], tokenizer: Any, longest: int
) -> tuple[list[Comparison], list[Comparison]]:
    """The comparisons of which both responses have at most `longest` tokens with their prompt, and the others."""
    lengths = [pair.length for pair in pairs(comparisons, tokenizer)]
    kept = [c for c, length in zip(comparisons, lengths, strict=True) if length <= longest]
    return kept, [c for c, length in zip(comparisons, lengths, strict=True) if length > longest]


def margins(reward: RewardFn, comparisons: Sequence[Comparison]) -> np.ndarray:
    """`r_d(x, y+) - r_d(x, y-)` of each comparison on its own dimension d: `margin_P`.

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
    own: np.ndarray = (chosen_PD - rejected_PD)[np.arange(len(columns_P)), columns_P]
    return own


def accuracy(reward: RewardFn, comparisons: Sequence[Comparison]) -> np.ndarray:
    """For each comparison, 1.0 where the reward prefers its chosen response, 0.5 for a tie, else 0.0."""
    return np.asarray((np.sign(margins(reward, comparisons)) + 1) / 2, dtype=np.float64)
