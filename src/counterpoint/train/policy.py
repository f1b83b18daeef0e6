"""Train an adapter by what its own responses earn: the policies of Personalized Soups, of P-MORL and of plain RLHF.

    max over p of E[R(x, y)] - kl KL(p || p_ref)

(arXiv 2310.11564, section 3; the loop is `train/on_policy.py`.) What is asked is a prompt with the words of a profile
appended. One profile that asks for one preference gives an expert of Personalized Soups, one that asks for nothing is
RLHF by a single reward, and all combinations of preferences are P-MORL: one policy that knows them by the words.

The policy is a LoRA adapter, and the reference is the same model without it. It is sampled by the row engine, from a
twin that shares the base's parameters. The surprising part: a response may end itself, and its end token counts like
any other, so that length is learned too.
"""

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from counterpoint.artifacts import make_once, read_json, write_json
from counterpoint.compose.plan import Plan, Row
from counterpoint.data.chat import prompt_ids, with_request
from counterpoint.data.responses import prompt_column
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.models.adapter import PREFIX, LoraFactors
from counterpoint.models.bank import LoraBank
from counterpoint.models.fit import end_tokens
from counterpoint.models.load import load_tokenizer
from counterpoint.train.adaptive import Adaptive
from counterpoint.train.draws import drawn, seeds
from counterpoint.train.mope import Reward
from counterpoint.train.on_policy import Algorithm, Rollout, check, learn
from counterpoint.train.run import RECORD, Progress, base_model, hash_base, lora, save, seeded
from counterpoint.train.sft import SftConfig
from counterpoint.types import Completion, CounterpointError, Dimension, Profile, Prompt

POLICY = "policy"
"""The name of the adapter in the bank from which it is sampled."""


@dataclass(frozen=True)
class PolicyConfig:
    """How an adapter is trained on its own responses.

    An iteration asks `prompts_per_iteration` prompts, for a profile each, `samples` times, at `temperature` and at most
    `max_tokens`. Fields from `algorithm` to `at_once` are those of `LoopConfig`, from `normalise` to `missing_end`
    those of `Adaptive`, from `lora_rank` to `bf16` those of `SftConfig`. PPO has a linear critic on the policy's last
    hidden states, which is trained with it and not kept.
    """

    model: str
    algorithm: Algorithm = "ppo"
    iterations: int = 20
    samples: int = 4
    epochs: int = 4
    minibatch: int = 32
    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0
    kl: float = 0.2
    clip: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_weight: float = 0.1
    eta: float = 1.0
    seed: int = 0
    at_once: int | None = None
    prompts_per_iteration: int = 32
    temperature: float = 1.0
    max_tokens: int = 128
    normalise: bool = True
    kl_target: float | None = None
    kl_horizon: int = 10000
    stop_kl: float | None = None
    missing_end: float | None = None
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: str | tuple[str, ...] = "all-linear"
    bf16: bool = False

    def __post_init__(self) -> None:
        check(self)
        assert self.adaptive
        for name in ("prompts_per_iteration", "max_tokens", "lora_rank"):
            if (value := getattr(self, name)) < 1:
                raise CounterpointError(f"{name} is {value}; it must be at least 1")
        if not 0 < self.temperature < math.inf:
            raise CounterpointError(f"temperature is {self.temperature:g}; to learn from samples it must be above 0")

    @property
    def adaptive(self) -> Adaptive:
        return Adaptive(self.normalise, self.kl_target, self.kl_horizon, self.stop_kl, self.missing_end)


@dataclass(frozen=True)
class PolicyResult:
    """Where the adapter is, what each iteration logged, and whether it was trained now."""

    folder: Path
    log: tuple[dict[str, float], ...]
    fresh: bool


def train_policy(
    config: PolicyConfig,
    prompts: Sequence[Prompt],
    requests: Sequence[str],
    reward: Reward,
    out: Path,
    model: Any | None = None,
    progress: Progress | None = None,
    judged_by: str = "",
) -> PolicyResult:
    """Train a policy and write it to `out` as an ordinary PEFT adapter, with what each iteration logged.

    `requests` are the words of each profile (`words_of`), "" for none; `reward` is told indices of prompts and of
    these. `judged_by` tells the reward from others, where an adapter is in `out` already. Pass `model` where the base
    is loaded already; it is copied. A killed run goes on after its last whole iteration and ends with the same bits; a
    finished one with the same configuration, base, prompts, requests and `judged_by` is not done again.
    Raises CounterpointError for a prompt that leaves no room for a response, and as `learn` does.
    """
    columns = [prompt_column(prompt) for prompt in prompts]
    asked = json.dumps([columns, list(requests), judged_by])
    inputs = {"base": hash_base(config.model), "asked": hashlib.sha256(asked.encode()).hexdigest()}

    def make(scratch: Path) -> None:
        learner = new_learner(config, prompts, requests, reward, model)
        log = learn(learner, config, scratch / "work", progress, config.adaptive)
        save(learner.model, None, scratch)
        write_json(scratch / RECORD, list(log))

    fresh = make_once(out, config, inputs, make)
    return PolicyResult(out, tuple(read_json(out / RECORD)), fresh)


def words_of(profile: Profile, dimensions: Sequence[Dimension]) -> str:
    """What a profile asks for in words, as the method `prompted` does: the requests of all that it wants, in a row."""
    named = {dimension.name: dimension.request or f"Please be {dimension.name}." for dimension in dimensions}
    return " ".join(named[name] for name, weight in profile.weights.items() if weight > 0)


def new_learner(
    config: PolicyConfig, prompts: Sequence[Prompt], requests: Sequence[str], reward: Reward, model: Any | None = None
) -> "PolicyLearner":
    """A learner as it stands before its first iteration: an adapter of a seed starts as `train_sft` would start it."""
    start = SftConfig(
        config.model, seed=config.seed, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha,
        lora_targets=config.lora_targets, bf16=config.bf16,
    )  # fmt: skip
    tokenizer = load_tokenizer(config.model)
    with seeded(config.seed):
        base = base_model(start, model).to("cuda" if torch.cuda.is_available() else "cpu")
        contexts_PR = contexts_of(prompts, requests, tokenizer, int(base.config.max_position_embeddings))
        twin = twin_of(base)
        adapted = get_peft_model(base, lora(start, "CAUSAL_LM")).eval()
    return PolicyLearner(config, adapted, Sampler(twin, tokenizer), contexts_PR, reward)


def contexts_of(
    prompts: Sequence[Prompt], requests: Sequence[str], tokenizer: Any, longest: int
) -> list[list[tuple[int, ...]]]:
    """Token ids of every prompt with every profile's words; refuses one that leaves no room for a response."""
    if not prompts or not requests:
        raise CounterpointError(f"there is nothing to ask: {len(prompts)} prompts and {len(requests)} profiles")
    contexts_PR = [[tuple(prompt_ids(with_request(p, words), tokenizer)) for words in requests] for p in prompts]
    for number, contexts_R in enumerate(contexts_PR, start=1):
        if (length := max(map(len, contexts_R))) >= longest:
            raise CounterpointError(
                f"prompt {number} has {length} tokens with what is asked for; this model takes {longest - 1} and a "
                "response; shorten it or leave it out"
            )
    return contexts_PR


def twin_of(model: Any) -> Any:
    """A copy of the modules with the parameters and buffers of `model` itself."""
    own = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in own})


class Sampler:
    """Samples an adapter, or the base, from a base model that nobody else wraps."""

    def __init__(self, base: Any, tokenizer: Any) -> None:
        self.bank = LoraBank(base)
        self.tokenizer = tokenizer
        self.ends = end_tokens(base.generation_config.eos_token_id, tokenizer)

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def sample(
        self, policy: LoraFactors, contexts: Sequence[tuple[int, ...]], sampling: Sequence[Sampling]
    ) -> list[Completion]:
        """A response of the policy to each context, traced at the temperature at which it was drawn."""
        if POLICY in self.bank.experts:
            self.bank.remove(POLICY)
        self.bank.add(POLICY, policy)
        asked = zip(contexts, sampling, strict=True)
        rows = Rows(self.bank.model, self.bank)  # new ones: a cache does not stay in memory while the policy is trained
        engine = Engine(rows, self._text, self.ends, rows.longest)
        return engine.run([Request(_plan(own.temperature), (context,), own, "token") for context, own in asked])


def _plan(temperature: float) -> Plan:
    """The policy alone, whose temperature acts before its trace is taken; one of 1 has nothing to do."""
    return Plan((Row({POLICY: 1.0}),), temper="mixture" if temperature == 1 else "experts")


@dataclass(frozen=True)
class Said:
    """A roll-out as the trained model reads it: `ids_NS` are prompt and response, of `length_N` tokens in all.

    `first_N` is the place in S from which a response's first token was chosen, and T the longest response.
    """

    ids_NS: Tensor
    length_N: Tensor
    first_N: Tensor
    tokens: int

    @classmethod
    def of(cls, contexts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Self:
        rows = [torch.tensor([*c, *r]) for c, r in zip(contexts, responses, strict=True)]
        return cls(
            pad_sequence(rows, batch_first=True),
            torch.tensor([len(row) for row in rows]),
            torch.tensor([len(context) - 1 for context in contexts]),
            max(map(len, responses)),
        )


class PolicyLearner:
    """A `Learner` of a PEFT LoRA adapter; its reference is the model with the adapter switched off."""

    def __init__(
        self,
        config: PolicyConfig,
        model: Any,
        sampler: Sampler,
        contexts_PR: Sequence[Sequence[tuple[int, ...]]],
        reward: Reward,
    ) -> None:
        self.config = config
        self.model = model
        self.sampler = sampler
        self.contexts_PR = contexts_PR
        self.reward = reward
        self.critic = _zero_critic(model) if config.algorithm == "ppo" else None
        self._said: Said | None = None

    def parameters(self) -> Sequence[nn.Parameter]:
        own = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [*own, *(self.critic.parameters() if self.critic else ())]

    def roll_out(self, iteration: int) -> tuple[Rollout, dict[str, float]]:
        prompt_N, profile_N = self.draw(iteration)
        contexts = [self.contexts_PR[p][r] for p, r in zip(prompt_N, profile_N, strict=True)]
        noise = seeds(len(contexts), self.config.seed, iteration)
        completions = self.sampler.sample(factors_of(self.model), contexts, [self._sampling(seed) for seed in noise])
        traces = [completion.trace for completion in completions if completion.trace]
        self._said = Said.of(contexts, [trace.tokens for trace in traces])
        logp_NT = pad_sequence([trace.logp_T for trace in traces], batch_first=True)
        mask_NT = pad_sequence([torch.ones(len(trace.tokens), dtype=torch.bool) for trace in traces], batch_first=True)
        reward_N = torch.tensor(self.reward(prompt_N, [said.text for said in completions], profile_N)).float()
        ended_N = torch.tensor([said.finish == "stop" for said in completions])
        rollout = Rollout(logp_NT, self._reference(), mask_NT, reward_N, ended_N)
        return rollout, {"ended": ended_N.float().mean().item()}

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._read(rows, self.critic)

    def draw(self, iteration: int) -> tuple[list[int], list[int]]:
        """The prompt and the profile of each response, `[N]`; the samples of one prompt are neighbours."""
        sizes, samples = (len(self.contexts_PR), len(self.contexts_PR[0])), self.config.samples
        prompts, profiles = drawn(sizes, self.config.prompts_per_iteration, self.config.seed, iteration)
        return [p for p in prompts for _ in range(samples)], [r for r in profiles for _ in range(samples)]

    def _sampling(self, seed: int) -> Sampling:
        return Sampling(temperature=self.config.temperature, max_tokens=self.config.max_tokens, seed=seed)

    def _reference(self) -> Tensor:
        """What the base gives to each token, `[N, T]`."""
        said = self._said
        assert said is not None
        with torch.no_grad(), self.model.disable_adapter():
            parts = torch.split(torch.arange(len(said.ids_NS)), self.config.at_once or self.config.minibatch)
            return torch.cat([self._read(rows, None)[0] for rows in parts])

    def _read(self, rows: Tensor, critic: nn.Linear | None) -> tuple[Tensor, Tensor | None]:
        """`logp_BT` at the temperature of sampling, and what a critic says of the places they were chosen from.

        One forward over prompt and response; logits are made from the shortest prompt's end on alone.
        """
        said = self._said
        assert said is not None, "a roll-out comes first"
        length_B, first_B = said.length_N[rows], said.first_N[rows]
        start, end = int(first_B.min()), int(length_B.max()) - 1
        ids_BS = said.ids_NS[rows, : end + 1].to(self.model.device)
        read_BS = (torch.arange(end) < length_B[:, None] - 1).long().to(self.model.device)
        out = self.model(
            input_ids=ids_BS[:, :-1], attention_mask=read_BS, logits_to_keep=end - start, use_cache=False,
            output_hidden_states=critic is not None,
        )  # fmt: skip
        logp_BKV = (out.logits.float() / self.config.temperature).log_softmax(-1)
        logp_BK = logp_BKV.gather(-1, ids_BS[:, start + 1 :, None]).squeeze(-1).cpu()
        at_BT = (first_B[:, None] - start + torch.arange(said.tokens)).clamp(max=end - start - 1)
        if critic is None:
            return logp_BK.gather(1, at_BT), None
        value_BK = critic(out.hidden_states[-1][:, start:].float()).squeeze(-1).cpu()
        return logp_BK.gather(1, at_BT), value_BK.gather(1, at_BT)


def factors_of(model: Any) -> LoraFactors:
    """The factors of a PEFT model's adapter as it is now, the scale alpha/r inside `B`."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    return LoraFactors(
        {
            name.removeprefix(PREFIX): (
                layer.lora_A["default"].weight.detach(),
                layer.lora_B["default"].weight.detach() * layer.scaling["default"],
            )
            for name, layer in layers.items()
        }
    )


def _zero_critic(model: Any) -> nn.Linear:
    critic: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, model.config.hidden_size, 1, device=model.device
    )
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    return critic
