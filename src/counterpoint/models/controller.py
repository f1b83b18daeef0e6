"""The transformer of a controller: a decoder that gives, before each token, a logit for each expert.

Any causal language model of the families here, with its head to the vocabulary replaced by one to the experts, which
starts at zero (the Preference Control Model of MoPE, arXiv 2407.04181: 160 M parameters beside a base of 7 B).
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForCausalLM

from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import AnyGates, RowGates
from counterpoint.models.load import load_model
from counterpoint.types import CounterpointError

LARGE = 10**9
"""A base of fewer parameters lends a controller its own shape and parameters; a larger one is cut to a share of it."""


class ControllerModel(nn.Module):
    """Logits `[B, T, K]` for `experts` experts, from token ids and, where `dimensions` are named, a vector of weights.

    A profile's vector, times a matrix `[D, I]` that starts at zero, is added to the embedding of every token. With
    `description_KD` the head is `described`: one matrix `[d, I + 1]` times an expert's description is its column and
    its bias, so that an expert that was not there in training has a column too.

    It stands between the model and its `LoraBank` (of no experts, for its fast products), so that `decode.rows.Rows`
    takes it for a bank whose gates are vectors.
    """

    def __init__(
        self, model: Any, experts: int, dimensions: Sequence[str] = (), description_KD: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.bank = LoraBank(model)
        self.dimensions = tuple(dimensions)
        model.lm_head = _zero_head(model, experts)
        width, device = model.config.hidden_size, model.device
        self.profile = nn.Parameter(torch.zeros(len(dimensions), width, device=device)) if dimensions else None
        self.description_KD = description_KD
        self.register_buffer("centre_I", None if description_KD is None else description_KD.mean(dim=0))
        self.described = (
            None
            if description_KD is None
            else nn.Parameter(torch.zeros(description_KD.shape[1], width + 1, device=device))
        )
        self.centre_I: Tensor
        self._profile_B1D: Tensor | None = None
        model.get_input_embeddings().register_forward_hook(self._add_profile)

    def hidden(self, ids_BT: Tensor, mask_BT: Tensor, profile_BD: Tensor | None) -> Tensor:
        """The last hidden states `[B, T, I]`, with gradient. Padding is on the right, where the mask is False."""
        self.bank.unwrap()
        self._profile_B1D = None if profile_BD is None else profile_BD[:, None]
        try:
            hidden_BTI: Tensor = self.model.base_model(input_ids=ids_BT, attention_mask=mask_BT.long())[0]
        finally:
            self._profile_B1D = None
        return hidden_BTI

    def logits(self, hidden_BTI: Tensor) -> Tensor:
        """z `[B, T, K]` in float32, with gradient, of hidden states: that of a token is for the one after it."""
        weight_KI, bias_K = self.head()
        return linear(hidden_BTI.float(), weight_KI.float(), bias_K.float())

    def head(self) -> tuple[Tensor, Tensor]:
        """The head's weight `[K, I]` and bias `[K]`."""
        if self.described is None or self.description_KD is None:
            return self.model.lm_head.weight, self.model.lm_head.bias
        both_KI = (self.description_KD - self.centre_I) @ self.described
        return both_KI[:, :-1], both_KI[:, -1]

    def gate(self, gates: Sequence[Mapping[str, float]]) -> Tensor | None:
        """The vectors that rows join with, `[B, 1, D]`, or None where preferences are words."""
        if not self.bank.wrapped and self.described is not None:
            with torch.no_grad():
                for parameter, made in zip(self.model.lm_head.parameters(), self.head(), strict=True):
                    parameter.copy_(made)
        self.bank.gate([{} for _ in gates])
        if self.profile is None:
            return None
        vectors = [[gate.get(name, 0.0) for name in self.dimensions] for gate in gates]
        return torch.tensor(vectors, device=self.profile.device)[:, None]

    @contextmanager
    def gated(self, profile_B1D: AnyGates | None) -> Iterator[None]:
        """Let the forwards inside the block read these vectors."""
        assert not isinstance(profile_B1D, RowGates), "a controller has no experts to route among"
        self._profile_B1D = profile_B1D
        try:
            with self.bank.gated(None):
                yield
        finally:
            self._profile_B1D = None

    def parts(self) -> dict[str, Tensor]:
        """All tensors by name, as they are saved: of a described head its matrix and centre, not what they make."""
        self.bank.unwrap()
        made = ("model.lm_head.weight", "model.lm_head.bias") if self.described is not None else ()
        named = [*self.named_parameters(), *([("centre_I", self.centre_I)] if self.described is not None else [])]
        return {name: part.detach().contiguous() for name, part in named if name not in made}

    def load_parts(self, parts: Mapping[str, Tensor]) -> None:
        """Take what `parts` gave. Raises CounterpointError for parts that are missing, unknown or of another shape."""
        own = {name: tuple(part.shape) for name, part in self.parts().items()}
        found = {name: tuple(part.shape) for name, part in parts.items()}
        for name in sorted(own.keys() | found.keys()):
            if own.get(name) != found.get(name):
                raise CounterpointError(
                    f"{name!r} is {_shape(found.get(name))}, and should be {_shape(own.get(name))}; is it of another "
                    "controller?"
                )
        self.load_state_dict(parts, strict=False)

    def learned(self) -> list[nn.Parameter]:
        """What training moves, in a fixed order."""
        self.bank.unwrap()
        names = self.parts()
        return [parameter for name, parameter in self.named_parameters() if name in names]

    def _add_profile(self, _: nn.Module, __: Any, embedded_BTI: Tensor) -> Tensor:
        if self.profile is None or self._profile_B1D is None:
            return embedded_BTI
        return embedded_BTI + (self._profile_B1D.to(self.profile) @ self.profile).to(embedded_BTI)


def _zero_head(model: Any, experts: int) -> nn.Linear:
    """A head to `experts` logits in place of that to the vocabulary."""
    model.config.tie_word_embeddings = False
    if getattr(model.config, "final_logit_softcapping", None):
        model.config.final_logit_softcapping = None  # Gemma's cap belongs to logits of tokens
    head: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, model.config.hidden_size, experts, device=model.device, dtype=model.dtype
    )
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape))


def new_trunk(base: str, parameters: int, share: float, seed: int, small: str | None = None) -> Any:
    """The language model that a controller starts from, in float32.

    `small`, a model that reads the base's token ids, where one is named. Else the base itself where it has fewer than
    10^9 parameters, and a random one of its family with a `share` of its `parameters` where it has more.
    """
    if small or parameters < LARGE:
        return load_model(small or base)
    config = cut_config(AutoConfig.from_pretrained(base), round(share * parameters))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def cut_config(config: Any, parameters: int) -> Any:
    """A config of the same family and vocabulary with about so many parameters, the head to the vocabulary left out.

    In the proportions of LLaMA-160m, 12 layers 768 wide: a layer for each head of 64, an MLP of four times the width.
    With `L` layers and a width `w`, which is one head of 16, 32 or 48 or several of 64, these are V w + 16 L w^2. It is
    as shallow as that since a step's time is its number of operations, not their size.
    """

    def layers_of(width: int) -> int:
        return min(max(2, width // 64), int(config.num_hidden_layers))

    def miss(width: int) -> float:
        return abs(math.log((config.vocab_size * width + 16 * layers_of(width) * width**2) / parameters))

    width = min((16, 32, 48, *range(64, 64 * 65, 64)), key=miss)
    layers = layers_of(width)
    changed = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": max(1, width // 64),
        "num_key_value_heads": max(1, width // 64),
        "head_dim": min(width, 64),
        "intermediate_size": 4 * width,
        "n_inner": 4 * width,
    }
    cut = copy.deepcopy(config)
    for name, value in changed.items():
        if getattr(config, name, None) is not None:
            setattr(cut, name, value)
    if getattr(config, "layer_types", None):
        cut.layer_types = config.layer_types[:layers]
    return cut


def describe(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """What a described head knows of experts: the mean of the model's last hidden states over each text, `[K, I]`.

    Normalised to a root mean square of one. The text is all that an expert which was not there in training has.
    """
    rows = []
    for text in texts:
        ids_1T = torch.tensor([tokenizer(text, verbose=False)["input_ids"]], device=model.device)
        with torch.no_grad():
            rows.append(model.base_model(input_ids=ids_1T)[0][0].float().mean(dim=0))
    described_KI = torch.stack(rows)
    return described_KI / described_KI.square().mean(dim=-1, keepdim=True).sqrt()
