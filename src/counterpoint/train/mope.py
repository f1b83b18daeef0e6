"""The policy of a controller over frozen experts: sampled in one batch, and trained without running an expert again.

What the experts gave to each sampled token is kept from the roll-out, `[N, T, K]`, so that an epoch runs the controller
alone:

    log p(y_t) = log sum_k alpha_k(t) p_k(y_t),    d log p(y_t) / d z_k = responsibility_k - alpha_k

(MoPE, arXiv 2407.04181, Eq. 1 and 3.) The log mixture also needs its normaliser, so there the experts' whole
distributions are kept, `[N, T, K, V]`: 4 K V bytes a token.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from counterpoint.compose.mixture import mix_log
from counterpoint.compose.plan import Plan
from counterpoint.compose.weighers.controller import Controller, profile_key, shares
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.decode.tracing import Detail
from counterpoint.models.controller import ControllerModel
from counterpoint.train.draws import drawn, seeds
from counterpoint.train.on_policy import Rollout
from counterpoint.types import Completion, CounterpointError, Profile, Prompt, Trace

Reward = Callable[[Sequence[int], Sequence[str], Sequence[int]], np.ndarray]
"""`reward_N` of responses: the indices of their prompts, their texts, the indices of their profiles."""

STARTS = (0, 1, 4, 8, 16, 32)
"""Where the stretches of positions begin over which mean weights are logged."""


class Constants(nn.Module):
    """Logits `[R, K]` of `R` profiles, whatever the prompt and the position: the learned constant."""

    def __init__(self, profiles: int, experts: int) -> None:
        super().__init__()
        self.z_RK = nn.Parameter(torch.zeros(profiles, experts))


class Asking(Protocol):
    """The fields of a configuration that say what is asked in a roll-out."""

    @property
    def prompts_per_iteration(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def strength(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Said:
    """A roll-out as a controller reads it: N responses of at most T tokens, over K experts and then the base.

    `ids_NS` are prompt and response, read where `read_NS`; `at_NT` is the place in S from which each token was chosen.
    `logp_NTK` is what each expert gave to the token `token_NT`; `logp_NTKV` is all that it was, for the log mixture.
    `log_prior_NK` is -inf where a profile has no expert.
    """

    ids_NS: Tensor
    read_NS: Tensor
    at_NT: Tensor
    token_NT: Tensor
    mask_NT: Tensor
    profile_N: Tensor
    vector_ND: Tensor
    log_prior_NK: Tensor
    logp_NTK: Tensor
    logp_NTKV: Tensor | None


class MopeLearner:
    """A `Learner` of a controller, or of `Constants` in its place. Experts run in `roll_out` alone."""

    def __init__(
        self,
        band: Band,
        controller: Controller,
        model: ControllerModel | Constants,
        prompts: Sequence[Prompt],
        profiles: Sequence[Profile],
        reward: Reward,
        config: Asking,
        with_critic: bool = False,
    ) -> None:
        self.band = band
        self.controller = controller
        self.model = model
        self.prompts = prompts
        self.profiles = [replace(profile, strength=config.strength) for profile in profiles]
        self.reward = reward
        self.config = config
        self.critic = _zero_critic(model) if with_critic else None
        self._said: Said | None = None

    def parameters(self) -> Sequence[nn.Parameter]:
        own = self.model.learned() if isinstance(self.model, ControllerModel) else list(self.model.parameters())
        return [*own, *(self.critic.parameters() if self.critic else ())]

    def current(self) -> Controller:
        """The controller as it is now, constants included."""
        if isinstance(self.model, ControllerModel):
            return self.controller
        z_RK = self.model.z_RK.detach().tolist()
        keys = [profile_key(profile) for profile in self.profiles]
        return self.controller.model_copy(update={"constants": dict(zip(keys, z_RK, strict=True))})

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        prompt_N, profile_N = self._draw(iteration)
        controller = self.current()
        plans = [controller.plan(profile, self.band.experts) for profile in self.profiles]
        requests = [
            self._request(prompt, plans[profile], seed)
            for prompt, profile, seed in zip(prompt_N, profile_N, self._seeds(iteration, len(prompt_N)), strict=True)
        ]
        completions = self.band.run(requests)
        self._said = said = self._collect(requests, completions, profile_N)
        reward_N = self.reward(prompt_N, [completion.text for completion in completions], profile_N)
        z_NTK = torch.zeros(*said.mask_NT.shape, len(self.controller.experts))
        traces = [_trace(completion) for completion in completions]
        rollout = Rollout(
            logp_NT=pad_sequence([trace.logp_T for trace in traces], batch_first=True),
            reference_NT=self._likelihood(z_NTK, torch.arange(len(requests))),
            mask_NT=said.mask_NT,
            reward_N=torch.tensor(reward_N, dtype=torch.float32),
        )
        return rollout, weight_log(requests, traces)

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        said = self._said
        assert said is not None, "a roll-out comes first"
        if isinstance(self.model, Constants):
            z_BTK = self.model.z_RK[said.profile_N[rows]][:, None].expand(-1, said.mask_NT.shape[1], -1)
            return self._likelihood(z_BTK, rows), None
        device = self.model.model.device
        vector_BD = said.vector_ND[rows].to(device) if self.model.profile is not None else None
        hidden_BSI = self.model.hidden(said.ids_NS[rows].to(device), said.read_NS[rows].to(device), vector_BD)
        hidden_BTI = hidden_BSI[torch.arange(len(rows))[:, None], said.at_NT[rows]]
        value_BT = self.critic(hidden_BTI.float()).squeeze(-1).cpu() if self.critic else None
        return self._likelihood(self.model.logits(hidden_BTI).cpu(), rows), value_BT

    def _likelihood(self, z_BTK: Tensor, rows: Tensor) -> Tensor:
        """The mixture's log-probability of each token said, `[B, T]`, under logits of the controller's experts."""
        said = self._said
        assert said is not None
        log_alpha_BTK = torch.log_softmax(said.log_prior_NK[rows][:, None] + z_BTK, dim=-1)
        strength = self.config.strength
        if said.logp_NTKV is None:  # as logarithms throughout: the logarithm of a weight of 0 has no gradient
            base_BT1 = log_alpha_BTK.new_full((*log_alpha_BTK.shape[:2], 1), 1 - strength).log()
            log_c_BTK = torch.cat([log_alpha_BTK + math.log(strength), base_BT1], dim=-1)
            return torch.logsumexp(log_c_BTK + said.logp_NTK[rows], dim=-1)
        c_BTK = nn.functional.pad(strength * log_alpha_BTK.exp(), (0, 1), value=1 - strength)
        logp_BTV = mix_log(said.logp_NTKV[rows], c_BTK)
        return logp_BTV.gather(-1, said.token_NT[rows][..., None]).squeeze(-1)

    def _draw(self, iteration: int) -> tuple[list[int], list[int]]:
        """The prompt and the profile of each response, `[N]`: prompts in shuffled rounds, profiles by turns."""
        sizes, samples = (len(self.prompts), len(self.profiles)), self.config.samples
        prompts, profiles = drawn(sizes, self.config.prompts_per_iteration, self.config.seed, iteration)
        return [p for p in prompts for _ in range(samples)], [r for r in profiles for _ in range(samples)]

    def _seeds(self, iteration: int, count: int) -> list[int]:
        return seeds(count, self.config.seed, iteration)

    def _request(self, prompt: int, plan: Plan, seed: int) -> Request:
        sampling = Sampling(temperature=self.config.temperature, max_tokens=self.config.max_tokens, seed=seed)
        detail: Detail = "vocabulary" if self.controller.space == "log" else "token"
        return self.band.request(self.prompts[prompt], plan, sampling, detail)

    def _collect(self, requests: Sequence[Request], completions: Sequence[Completion], profile_N: list[int]) -> Said:
        traces = [_trace(completion) for completion in completions]
        columns = [self._columns(request.plan) for request in requests]
        contexts = [request.contexts[-1] for request in requests]
        lengths = torch.tensor([len(trace.tokens) for trace in traces])
        starts_N = torch.tensor([len(context) - 1 for context in contexts])
        ids = [torch.tensor([*context, *trace.tokens[:-1]]) for context, trace in zip(contexts, traces, strict=True)]
        mask_NT = torch.arange(int(lengths.max())) < lengths[:, None]
        at_NT = (starts_N[:, None] + torch.arange(mask_NT.shape[1])) * mask_NT
        profiles = [self.profiles[r] for r in profile_N]
        named = self.controller.dimensions
        width = len(self.controller.experts) + 1
        return Said(
            ids_NS=pad_sequence(ids, batch_first=True),
            read_NS=pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in ids], batch_first=True),
            at_NT=at_NT,
            token_NT=pad_sequence([torch.tensor(trace.tokens) for trace in traces], batch_first=True),
            mask_NT=mask_NT,
            profile_N=torch.tensor(profile_N),
            vector_ND=torch.tensor([[shares(profile).get(name, 0.0) for name in named] for profile in profiles]),
            log_prior_NK=torch.stack([self._log_prior(profile) for profile in profiles]),
            logp_NTK=_spread([trace.logp_TK for trace in traces], columns, width),
            logp_NTKV=self._whole(traces, columns, width),
        )

    def _columns(self, plan: Plan) -> list[int]:
        """Which column of `[K + 1]` each row of a plan is: its expert's, or the last for the base."""
        names = [next(iter(row.gate), None) for row in plan.rows]
        return [len(self.controller.experts) if name is None else self.controller.experts.index(name) for name in names]

    def _log_prior(self, profile: Profile) -> Tensor:
        prior = self.controller.prior_of(profile, self.band.experts)
        return torch.tensor([prior.get(name, 0.0) for name in self.controller.experts]).log()

    def _whole(self, traces: Sequence[Trace], columns: Sequence[Sequence[int]], width: int) -> Tensor | None:
        if self.controller.space == "prob":
            return None
        whole = [trace.logp_TKV.transpose(1, 2) for trace in traces if trace.logp_TKV is not None]
        return _spread(whole, columns, width).transpose(-1, -2)


def weight_log(requests: Sequence[Request], traces: Sequence[Trace]) -> dict[str, float]:
    """Mean weights by expert and by stretch of positions, over the responses that ask for it, and their entropy."""
    found: dict[str, list[Tensor]] = {"entropy": []}
    for request, trace in zip(requests, traces, strict=True):
        share_TK = trace.c_TK.clamp(min=0) / trace.c_TK.clamp(min=0).sum(-1, keepdim=True)
        found["entropy"].append(torch.special.entr(share_TK).sum(-1))
        for row, share_T in zip(request.plan.rows, share_TK.T, strict=True):
            name = next(iter(row.gate), "base")
            found.setdefault(f"weight:{name}", []).append(share_T)
            for start, end in zip(STARTS, [*STARTS[1:], len(share_T)], strict=True):
                if len(share_T) > start:
                    found.setdefault(f"weight:{name}@{start}", []).append(share_T[start:end])
    return {name: torch.cat(parts).mean().item() for name, parts in found.items()}


def _spread(rows: Sequence[Tensor], columns: Sequence[Sequence[int]], width: int) -> Tensor:
    """`[N, T, ..., K]` from each response's `[T, ..., rows]`, 0 in the columns that a response has no row for."""
    spread = rows[0].new_zeros(len(rows), max(map(len, rows)), *rows[0].shape[1:-1], width)
    for n, (row, own) in enumerate(zip(rows, columns, strict=True)):
        spread[n, : len(row), ..., list(own)] = row
    return spread


def _trace(completion: Completion) -> Trace:
    assert completion.trace is not None
    return completion.trace


def _zero_critic(model: ControllerModel | Constants) -> nn.Linear:
    if isinstance(model, Constants):
        raise CounterpointError("algorithm is 'ppo', which needs a critic, and constants read nothing; use 'rebel'")
    critic: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, model.model.config.hidden_size, 1, device=model.model.device
    )
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    return critic
