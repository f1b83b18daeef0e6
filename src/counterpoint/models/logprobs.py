"""Log-probabilities of whole responses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from counterpoint.data.examples import Example


@torch.no_grad()
def sequence_logp(model: Any, examples: Sequence[Example], batch: int = 64) -> np.ndarray:
    """log p(y | x) = sum_t log p(y_t | x, y_<t) of each response, `[N]` in nats.

    Response tokens only, with the end-of-text token where the example has one; log-softmax in float32, sums in float64.
    Inside `LoraBank.gated` with a gate of one row, the log-probabilities are those of the gated model.
    """
    logp_N = np.zeros(len(examples))
    by_length = sorted(range(len(examples)), key=lambda n: examples[n].length)
    for start in range(0, len(examples), batch):
        rows = by_length[start : start + batch]
        logp_N[rows] = _batch_logp(model, [examples[n] for n in rows])
    return logp_N


def _batch_logp(model: Any, examples: Sequence[Example]) -> np.ndarray:
    ids_BT = pad_sequence([torch.tensor([*e.prompt_ids, *e.response_ids]) for e in examples], batch_first=True)
    length_B = torch.tensor([e.length for e in examples])
    prompt_B = torch.tensor([len(e.prompt_ids) for e in examples])
    position_T = torch.arange(ids_BT.shape[1])
    is_token_BT = position_T < length_B[:, None]
    logits_BTV = model(input_ids=ids_BT.to(model.device), attention_mask=is_token_BT.long().to(model.device)).logits
    logp_BTV = torch.log_softmax(logits_BTV[:, :-1].float(), dim=-1).cpu()
    said_BT = logp_BTV.gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    in_response_BT = is_token_BT[:, 1:] & (position_T[1:] >= prompt_B[:, None])
    logp_B: np.ndarray = (said_BT.double() * in_response_BT).sum(-1).numpy()
    return logp_B
