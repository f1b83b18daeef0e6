"""The learner of a controller: what it evaluates is what was sampled, and no expert runs for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterpoint.compose.mixture import mix_log, mix_prob
from counterpoint.compose.plan import Space
from counterpoint.compose.weighers.controller import Controller, Encoding, Head, Prior, Prompting, new_model
from counterpoint.decode.band import Band
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.models.controller import ControllerModel
from counterpoint.testing import pico_model
from counterpoint.train.mope import Constants, MopeLearner, Said
from counterpoint.train.on_policy import Rollout, learn
from counterpoint.types import CounterpointError, Expert, Profile

SPACES: tuple[Space, ...] = ("prob", "log")
ENCODINGS: tuple[Encoding, ...] = ("text", "vector")
PROMPTINGS: tuple[Prompting, ...] = ("none", "own", "all")
PRIORS: tuple[Prior, ...] = ("profile", "selected", "all")
HEADS: tuple[Head, ...] = ("linear", "described")
EVERY_READING = list(product(SPACES, ENCODINGS, PROMPTINGS, PRIORS, HEADS))

EXPERTS = ("terse", "warm", "exact")
PROMPTS = ("Tell me of the owl and the bee.", "Hi")
PROFILES = (Profile({"warm": 0.7, "terse": 0.3}), Profile({"exact": 1.0}))
spaces = pytest.mark.parametrize("space", SPACES)


@dataclass(frozen=True)
class Config:
    prompts_per_iteration: int = 2
    strength: float = 1.0
    temperature: float = 1.0
    max_tokens: int = 5
    algorithm: Any = "rebel"
    iterations: int = 1
    samples: int = 2
    epochs: int = 2
    minibatch: int = 4
    at_once: int | None = None
    learning_rate: float = 0.05
    max_grad_norm: float = 1.0
    seed: int = 0
    eta: float = 1.0
    kl: float = 0.0
    clip: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_weight: float = 0.5


def rewarded(prompts: Sequence[int], texts: Sequence[str], profiles: Sequence[int]) -> np.ndarray:
    return np.array([text.count("e") + 0.1 * len(text) for text in texts])


@pytest.fixture(scope="module")
def band(band_folder: Path) -> Band:
    return Band.load(band_folder)


def rule(**options: Any) -> Controller:
    return Controller(experts=list(EXPERTS), dimensions=list(EXPERTS), **options)


def roused_model(band: Band, controller: Controller) -> ControllerModel:
    """Random also where training starts from zero."""
    trunk = pico_model(seed=7, vocab=band.model.config.vocab_size)
    model, generator = new_model(controller, trunk, band.describe).eval(), torch.Generator().manual_seed(8)
    for part in [part for part in model.learned() if not part.any()]:
        nn.init.normal_(part, std=0.3, generator=generator)
    return model


def learner_of(
    band: Band, controller: Controller, config: Config | None = None, model: ControllerModel | Constants | None = None
) -> MopeLearner:
    model = model or roused_model(band, controller)
    band.steer(controller, model if isinstance(model, ControllerModel) else None)
    return MopeLearner(band, controller, model, PROMPTS, PROFILES, rewarded, config or Config())


def rolled_out(learner: MopeLearner) -> Rollout:
    with torch.no_grad():
        return learner.roll_out(0)[0]


def said_by(learner: MopeLearner) -> Said:
    """What the learner keeps of its last roll-out."""
    assert learner._said is not None
    return learner._said


def everything(rollout: Rollout) -> Tensor:
    return torch.arange(len(rollout))


def assert_as_sampled(learner: MopeLearner) -> Rollout:
    rollout = rolled_out(learner)
    logp_NT, _ = learner.evaluate(everything(rollout))
    mask_NT = rollout.mask_NT
    torch.testing.assert_close(logp_NT[mask_NT], rollout.logp_NT[mask_NT], atol=1e-5, rtol=0)
    return rollout


@pytest.mark.parametrize(("space", "profile", "prompts", "prior", "head"), EVERY_READING)
def test_what_is_evaluated_is_what_was_sampled(
    band: Band, space: Space, profile: Encoding, prompts: Prompting, prior: Prior, head: Head
) -> None:
    controller = rule(space=space, encoding=profile, expert_prompt=prompts, prior=prior, head=head)
    model = roused_model(band, controller)
    for strength in (1.0, 0.6):
        rollout = assert_as_sampled(learner_of(band, controller, Config(strength=strength), model))
        apart_NT = (rollout.logp_NT - rollout.reference_NT)[rollout.mask_NT].abs()
        assert apart_NT.max() > 1e-3, "the controller matters, so that this can fail"


@spaces
def test_a_temperature_of_the_experts_is_evaluated_as_it_was_sampled(band: Band, space: Space) -> None:
    assert_as_sampled(learner_of(band, rule(space=space, temper="experts"), Config(temperature=0.6)))


def test_constants_are_evaluated_as_they_were_sampled(band: Band) -> None:
    constants = Constants(len(PROFILES), len(EXPERTS))
    nn.init.normal_(constants.z_RK, generator=torch.Generator().manual_seed(3))
    assert_as_sampled(learner_of(band, rule(), Config(strength=0.6), constants))


@spaces
def test_rows_are_evaluated_alone_as_together(band: Band, space: Space) -> None:
    learner = learner_of(band, rule(space=space))
    rollout = rolled_out(learner)
    together = learner.evaluate(everything(rollout))[0]
    for row in range(len(rollout)):
        alone = learner.evaluate(torch.tensor([row]))[0][0]
        torch.testing.assert_close(alone[rollout.mask_NT[row]], together[row][rollout.mask_NT[row]], atol=1e-5, rtol=0)


@spaces
def test_no_expert_runs_in_an_epoch(band: Band, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forward of the base reads its embeddings, and every step of an engine goes through `Rows`."""
    forwards: list[str] = []
    step = Rows.step

    def counted(self: Rows, tokens_B: Sequence[int]) -> Tensor:
        forwards.append("step")
        return step(self, tokens_B)

    monkeypatch.setattr(Rows, "step", counted)
    hook = band.model.get_input_embeddings().register_forward_hook(lambda *_: forwards.append("base"))
    learner = learner_of(band, rule(space=space))
    try:
        rollout = rolled_out(learner)
        assert {"step", "base"} == set(forwards), "the counters count"
        forwards.clear()
        for rows in torch.split(everything(rollout), 2):
            learner.evaluate(rows)[0][rollout.mask_NT[rows]].sum().backward()  # type: ignore[no-untyped-call]
    finally:
        hook.remove()
    assert forwards == []


# What is cached


@spaces
@pytest.mark.parametrize(("strength", "temperature"), [(1.0, 1.0), (0.6, 1.0), (0.6, 0.7)])
def test_cached_log_probabilities_are_those_of_a_forward_over_the_whole_response(
    band: Band, space: Space, strength: float, temperature: float
) -> None:
    """At the temperature at which they were sampled, and with the base's row where strength leaves it a part."""
    controller = rule(space=space, temper="experts", prior="all", expert_prompt="own")
    learner = learner_of(band, controller, Config(strength=strength, temperature=temperature))
    rolled_out(learner)
    said = said_by(learner)
    for n, (prompt, profile) in enumerate(zip(*learner._draw(0), strict=True)):
        plan = controller.plan(replace(PROFILES[profile], strength=strength), band.experts)
        tokens = said.token_NT[n][said.mask_NT[n]]
        contexts = band.request(PROMPTS[prompt], plan, Sampling()).contexts
        for row, context in zip(plan.rows, contexts[:-1], strict=True):
            column = EXPERTS.index(next(iter(row.gate))) if row.gate else 3
            logp_TV = teacher_forced(band, row.gate, context, tokens, temperature)
            expected_T = logp_TV.gather(1, tokens[:, None])[:, 0]
            torch.testing.assert_close(said.logp_NTK[n, : len(tokens), column], expected_T, atol=1e-4, rtol=0)
            if said.logp_NTKV is not None:
                torch.testing.assert_close(said.logp_NTKV[n, : len(tokens), column], logp_TV, atol=1e-4, rtol=0)


@torch.no_grad()
def teacher_forced(band: Band, gate: Any, context: Sequence[int], tokens: Tensor, temperature: float) -> Tensor:
    """`[T, V]`: one forward of the model's own modules over prompt and response, without a cache."""
    ids_1T = torch.tensor([[*context, *tokens[:-1].tolist()]])
    with band.bank.gated(band.bank.gate([gate])):
        logits_TV = band.model(ids_1T).logits[0, -len(tokens) :]
    logp_TV: Tensor = (logits_TV.float() / temperature).log_softmax(-1)
    return logp_TV


def test_the_reference_is_the_untrained_mixture(band: Band) -> None:
    """By Eq. 1 with the prior's weights: 0.7 and 0.3 of `warm` and `terse`, and all of `exact`."""
    learner = learner_of(band, rule())
    rollout, said = rolled_out(learner), said_by(learner)
    prior_RK = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    mixed_NT = (prior_RK[said.profile_N][:, None] * said.logp_NTK[..., :3].exp()).sum(-1).log()
    torch.testing.assert_close(rollout.reference_NT[rollout.mask_NT], mixed_NT[rollout.mask_NT], atol=1e-5, rtol=0)


# Gradients


@spaces
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_the_gradient_of_a_tokens_log_probability_is_responsibility_less_weight(
    band: Band, space: Space, strength: float
) -> None:
    """Of log p by z_k, with `credit` as a trace tells it:

        prob    responsibility_k - alpha_k sum_j responsibility_j
        log     credit_k - alpha_k sum_j credit_j

    over the experts j, without the base. At strength 1 responsibilities sum to one, and `alpha` is what mixed.
    """
    controller = rule(space=space, prior="all")
    learner = learner_of(band, controller, Config(strength=strength), untrained(band, controller))
    plan = controller.plan(replace(PROFILES[0], strength=strength), band.experts)
    requests = [learner._request(prompt, plan, seed) for prompt in (0, 1) for seed in (1, 2)]
    completions = band.run(requests)
    learner._said = learner._collect(requests, completions, [0] * 4)
    z_NTK = torch.zeros(*learner._said.mask_NT.shape, 3, requires_grad=True)
    learner._likelihood(z_NTK, torch.arange(4)).sum().backward()  # type: ignore[no-untyped-call]
    assert z_NTK.grad is not None
    for n, completion in enumerate(completions):
        trace = completion.trace
        assert trace is not None
        credit_TK, alpha_TK = trace.credit_TK[:, :3], trace.c_TK[:, :3] / strength
        expected_TK = credit_TK - alpha_TK * credit_TK.sum(-1, keepdim=True)
        torch.testing.assert_close(z_NTK.grad[n, : len(trace.tokens)], expected_TK, atol=1e-5, rtol=0)
        if space == "prob" and strength == 1:
            torch.testing.assert_close(expected_TK, trace.credit_TK - trace.c_TK, atol=1e-5, rtol=0)
            assert 1e-3 < expected_TK.abs().max() <= 1


def untrained(band: Band, controller: Controller) -> ControllerModel:
    trunk = pico_model(seed=7, vocab=band.model.config.vocab_size)
    return new_model(controller, trunk, band.describe)


@spaces
def test_identical_experts_give_the_controller_no_gradient(band: Band, space: Space) -> None:
    twins = [Expert(f"twin {name}", name) for name in EXPERTS]
    for twin in twins:
        band.bank.add(twin.name, band.bank.experts["warm"])
    before, band.experts = band.experts, twins
    try:
        controller = rule(space=space).model_copy(update={"experts": [twin.name for twin in twins]})
        learner = learner_of(band, controller)
        norm = gradient_norm(learner)
    finally:
        band.experts = before
        for twin in twins:
            band.bank.remove(twin.name)
    assert norm < 1e-5
    assert gradient_norm(learner_of(band, rule(space=space))) > 1e-2


def gradient_norm(learner: MopeLearner) -> float:
    """Of the log-probability of all that was said, by everything that is trained."""
    rollout = rolled_out(learner)
    logp_NT, _ = learner.evaluate(everything(rollout))
    gradients = torch.autograd.grad(
        logp_NT[rollout.mask_NT].sum(), list(learner.parameters()), allow_unused=True, materialize_grads=True
    )
    return max(gradient.abs().max().item() for gradient in gradients)


@spaces
def test_experts_that_a_profile_does_not_select_have_no_weight_before_and_after_training(
    band: Band, space: Space, tmp_path: Path
) -> None:
    config = Config(iterations=2)
    learner = learner_of(band, rule(space=space, prior="selected"), config)
    before = torch.cat([part.detach().flatten() for part in learner.parameters()])
    learn(learner, config, tmp_path)
    after = torch.cat([part.detach().flatten() for part in learner.parameters()])
    assert (after - before).abs().max() > 0.01, "training moved it"
    plan = learner.controller.plan(PROFILES[0], band.experts)
    assert [next(iter(row.gate)) for row in plan.rows] == ["warm", "terse"]
    assert learner._log_prior(PROFILES[0]).tolist() == [0.0, 0.0, -math.inf]
    rollout, said = rolled_out(learner), said_by(learner)
    others = replace(said, logp_NTK=said.logp_NTK.clone())
    others.logp_NTK[said.profile_N == 0, :, 2] = 5.0  # what a masked expert says is nothing to the mixture
    expected = learner.evaluate(everything(rollout))[0]
    learner._said = others
    assert torch.equal(learner.evaluate(everything(rollout))[0], expected)


def test_one_hot_weights_are_that_expert_and_a_mixture_sums_to_one() -> None:
    """Exactly, in log space up to the rounding of its normaliser."""
    logp_TKV = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    one_hot_TK = nn.functional.one_hot(torch.tensor([2, 0, 1, 1, 2]), 3).float()
    own_TV = logp_TKV[torch.arange(5), one_hot_TK.argmax(-1)]
    assert torch.equal(mix_prob(logp_TKV, one_hot_TK), own_TV)
    torch.testing.assert_close(mix_log(logp_TKV, one_hot_TK), own_TV, atol=1e-6, rtol=0)
    alpha_TK = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).softmax(-1)
    for mix in (mix_prob, mix_log):
        torch.testing.assert_close(mix(logp_TKV, alpha_TK).exp().sum(-1), torch.ones(5))


# What is asked


def test_prompts_and_profiles_come_by_turns_and_samples_are_neighbours(band: Band) -> None:
    learner = learner_of(band, rule(), Config(prompts_per_iteration=6, samples=2))
    prompt_N, profile_N = learner._draw(3)
    assert [prompt_N.count(p) for p in (0, 1)] == [profile_N.count(r) for r in (0, 1)] == [6, 6]
    assert prompt_N[::2] == prompt_N[1::2]
    assert profile_N[::2] == profile_N[1::2]
    assert learner._draw(3) == (prompt_N, profile_N)
    assert [learner._draw(i) for i in range(4, 8)] != [(prompt_N, profile_N)] * 4
    assert len({seed for i in range(3) for seed in learner._seeds(i, 12)}) == 36


def test_a_roll_out_is_the_same_again_and_another_in_the_next_iteration(band: Band) -> None:
    learner = learner_of(band, rule(), Config(max_tokens=8))
    first, again = rolled_out(learner), rolled_out(learner)
    assert torch.equal(first.logp_NT, again.logp_NT)
    with torch.no_grad():
        other = learner.roll_out(1)[0]
    assert first.logp_NT.shape != other.logp_NT.shape or not torch.equal(first.logp_NT, other.logp_NT)


def test_weights_are_logged_by_expert_and_stretch(band: Band) -> None:
    """Untrained, the profile's 0.7 and 0.3 of its experts, and 1 where a profile has one; entropy is their mean."""
    controller = rule()
    learner = learner_of(band, controller, Config(strength=0.5), untrained(band, controller))
    with torch.no_grad():
        rollout, noted = learner.roll_out(0)
    said = said_by(learner)
    assert noted["weight:warm"] == pytest.approx(0.35)
    assert noted["weight:terse@1"] == pytest.approx(0.15)
    assert noted["weight:exact@0"] == pytest.approx(0.5)
    assert noted["weight:base@4"] == pytest.approx(0.5)
    tokens_R = [int(rollout.mask_NT[said.profile_N == r].sum()) for r in (0, 1)]
    entropies = [-sum(w * math.log(w) for w in (0.35, 0.15, 0.5)), math.log(2)]
    expected = sum(t * e for t, e in zip(tokens_R, entropies, strict=True)) / sum(tokens_R)
    assert noted["entropy"] == pytest.approx(expected)


def test_the_critic_reads_the_state_before_each_token(band: Band) -> None:
    """Against one forward over the prompt and the response: the hidden state from which a token is chosen."""
    controller = rule(encoding="text")
    model = roused_model(band, controller)
    band.steer(controller, model)
    learner = MopeLearner(band, controller, model, PROMPTS, PROFILES, rewarded, Config(), with_critic=True)
    assert learner.critic is not None
    nn.init.normal_(learner.critic.weight, generator=torch.Generator().manual_seed(4))
    rollout = rolled_out(learner)
    said, value_NT = said_by(learner), learner.evaluate(everything(rollout))[1]
    assert value_NT is not None
    for n, mask_T in enumerate(said.mask_NT):
        hidden_SI = model.model.base_model(said.ids_NS[n][said.read_NS[n]][None])[0][0]
        expected_T = learner.critic(hidden_SI[-int(mask_T.sum()) :])[:, 0]
        torch.testing.assert_close(value_NT[n][mask_T], expected_T, atol=1e-4, rtol=0)
    assert value_NT[said.mask_NT].std() > 0.1, "states differ"


def test_constants_have_no_critic(band: Band) -> None:
    with pytest.raises(CounterpointError, match="'ppo', which needs a critic, and constants read nothing; use 'rebel'"):
        MopeLearner(band, rule(), Constants(2, 3), PROMPTS, PROFILES, rewarded, Config(), with_critic=True)
