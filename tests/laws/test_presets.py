"""Published decoders as presets of the log mixture: the identities that each must keep, over models that differ."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from counterpoint.compose import mixture, presets
from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import add_model, new_band
from counterpoint.testing import ScriptedLM, pico_tokenizer, save_pico
from counterpoint.types import CounterpointError, Expert, Weighting

TOLERANCE = 1e-5
VOCABULARY = 7
Script = Callable[[str, tuple[int, ...]], Sequence[float]]


def logits_of(gate: str, seen: tuple[int, ...]) -> list[float]:
    """Logits in [-3, 3) that tell the model and every token seen; `twin` is `expert` under another name."""
    name = gate.replace("twin", "expert")
    return [crc32(repr((name, seen, v)).encode()) % 600 / 100 - 3 for v in range(VOCABULARY)]


def first(plan: Plan, script: Script = logits_of, context: tuple[int, ...] = (1, 2)) -> Tensor:
    """The log-distribution `[V]` of what follows a context."""
    engine = Engine(ScriptedLM(VOCABULARY, script), str, (), 50)
    return engine.next_distributions([Request(plan, (context,) * len(plan.rows))])[0]


def alone(name: str) -> Tensor:
    return torch.tensor(logits_of("" if name == "base" else name, (1, 2))).log_softmax(-1)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def test_the_models_differ_so_that_the_identities_can_fail() -> None:
    names = ("base", "expert", "anti", "third")
    for i, name in enumerate(names):
        for other in names[:i]:
            assert (alone(name) - alone(other)).abs().max() > 0.1
    assert torch.equal(alone("twin"), alone("expert"))


# What a coefficient does


@pytest.mark.parametrize(
    "coefficients", [{"base": 1.0, "expert": 1.5, "anti": -0.7}, {"expert": 2.0}, {"expert": -1.0}, {"base": 0.3}]
)
def test_a_mix_is_the_softmax_of_the_weighted_logits(coefficients: Mapping[str, float]) -> None:
    logits_V = sum(
        c * torch.tensor(logits_of("" if name == "base" else name, (1, 2))) for name, c in coefficients.items()
    )
    assert isinstance(logits_V, Tensor)
    assert_equal(first(presets.mix(coefficients)), logits_V.log_softmax(-1))


def test_one_row_with_another_power_keeps_it_in_a_batch_of_plain_ones() -> None:
    engine = Engine(ScriptedLM(VOCABULARY, logits_of), str, (), 50)
    plans = [presets.mix({"expert": c}) for c in (1.0, 2.0, 1.0, 0.5)]
    logp_QV = engine.next_distributions([Request(plan, ((1, 2),)) for plan in plans])
    for logp_V, power in zip(logp_QV, (1.0, 2.0, 1.0, 0.5), strict=True):
        assert_equal(logp_V, (power * alone("expert")).log_softmax(-1))


def test_a_constant_on_the_logits_of_one_model_changes_nothing() -> None:
    def lifted(gate: str, seen: tuple[int, ...]) -> list[float]:
        return [logit + {"": -4.0, "expert": 11.0}.get(gate, 0.0) for logit in logits_of(gate, seen)]

    for plan in (presets.proxy_tuning("expert", "anti", 0.8), presets.guided({"expert": 0.5, "third": 2.0})):
        assert_equal(first(plan, lifted), first(plan))


def test_a_scale_on_the_logits_of_one_model_is_its_coefficient() -> None:
    def doubled(gate: str, seen: tuple[int, ...]) -> list[float]:
        return [logit * (2 if gate == "expert" else 1) for logit in logits_of(gate, seen)]

    assert_equal(
        first(presets.mix({"base": 1, "expert": 0.4}), doubled), first(presets.mix({"base": 1, "expert": 0.8}))
    )


@pytest.mark.parametrize("given", [{}, {"expert": 0.0}])
def test_nothing_to_mix_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(CounterpointError, match="nothing to mix"):
        presets.mix(given)


@pytest.mark.parametrize("c", [math.nan, math.inf, -math.inf])
def test_a_coefficient_that_is_no_number_is_refused(c: float) -> None:
    with pytest.raises(CounterpointError, match=f"'anti' is {c}; expected a finite number"):
        presets.mix({"base": 1.0, "anti": c})


# MOD


@pytest.mark.parametrize("name", ["base", "expert", "anti"])
def test_mod_with_all_weight_on_one_is_that_one(name: str) -> None:
    one_hot = {other: float(other == name) for other in ("base", "expert", "anti")}
    assert_equal(first(presets.mod(one_hot)), alone(name))


def test_mod_of_equals_is_each_of_them_with_negative_weights_too() -> None:
    assert_equal(first(presets.mod({"expert": 1.7, "twin": -0.7})), alone("expert"))


def test_mod_takes_weights_that_sum_to_one_only() -> None:
    with pytest.raises(CounterpointError, match=r"sum to 0\.9, expected 1"):
        presets.mod({"expert": 0.5, "anti": 0.4})
    with pytest.raises(CounterpointError, match="sum to nan, expected 1"):
        presets.mod({"expert": math.nan, "anti": 0.4})


# Proxy-tuning, guidance, contrast, strength


def test_proxy_tuning_identities() -> None:
    assert_equal(first(presets.proxy_tuning("expert", "anti", a=0.0)), alone("base"))
    assert_equal(first(presets.proxy_tuning("expert", "twin", a=1.3)), alone("base"))
    assert_equal(first(presets.proxy_tuning("third", "expert", base="twin")), alone("third"))
    assert presets.proxy_tuning("expert", "expert") == Plan((Row(),))
    assert presets.proxy_tuning("expert", "base") == Plan((Row({"expert": 1.0}),))


def test_proxy_tuning_by_hand() -> None:
    """log base 1, expert 2, anti 1/2 at token 0 and 0 elsewhere: 1 + 2 (2 - 1/2) = 4 against 0."""

    def script(gate: str, _: tuple[int, ...]) -> list[float]:
        return [{"": 1.0, "expert": 2.0, "anti": 0.5}[gate]] + [0.0] * (VOCABULARY - 1)

    p_V = first(presets.proxy_tuning("expert", "anti", a=2.0), script).exp()
    assert float(p_V[0]) == pytest.approx(math.e**4 / (math.e**4 + VOCABULARY - 1), abs=1e-6)


def test_guidance_of_strength_zero_is_the_base() -> None:
    assert_equal(first(presets.guided({"expert": 0.0, "third": 0.0})), alone("base"))
    assert_equal(first(presets.guided({"expert": 1.0}, base="anti")), first(presets.mix({"anti": 1.0, "expert": 1.0})))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_guidance_equals_an_engine_that_divides_by_the_sum_of_the_coefficients(temperature: float) -> None:
    """Which is asked for the temperature T / (1 + sum a) where T is wanted."""
    a = {"expert": 0.6, "third": 1.5}
    logits_V = torch.tensor(logits_of("", (1, 2)))
    for name, c in a.items():
        logits_V = logits_V + c * torch.tensor(logits_of(name, (1, 2)))
    total = 1 + sum(a.values())
    theirs_V = (logits_V / total / (temperature / total)).log_softmax(-1)
    assert_equal((first(presets.guided(a)) / temperature).log_softmax(-1), theirs_V)


def test_contrast_identities() -> None:
    assert_equal(first(presets.contrast("expert", "anti", g=0.0)), alone("expert"))
    assert_equal(first(presets.contrast("expert", "twin", g=2.5)), alone("expert"))
    assert_equal(first(presets.contrast("expert", g=1.5)), first(presets.amplify("expert", 2.5)))


def test_contrast_of_opposite_rewards_multiplies_the_reward() -> None:
    """base * exp(r) against base * exp(-r) at g = 1.5 is base * exp(4 r)."""
    reward = (0.3, -0.2, 0.0, 1.1, -0.8, 0.5, 0.05)

    def script(gate: str, seen: tuple[int, ...]) -> list[float]:
        sign = {"": 0.0, "more": 1.0, "less": -1.0, "much": 4.0}[gate]
        return [logit + sign * r for logit, r in zip(logits_of("", seen), reward, strict=True)]

    much = first(Plan((Row({"much": 1.0}),)), script)
    assert_equal(first(presets.contrast("more", "less", g=1.5), script), much)
    assert_equal(first(presets.amplify("more", 4.0), script), much)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_strength_zero_is_the_base_and_one_the_expert(strength: float) -> None:
    assert_equal(first(presets.amplify("expert", strength)), alone("expert" if strength else "base"))


# Whole sequences


def sequences(plan: Plan) -> Tensor:
    """log p of each response of two tokens, `[V, V]`, decoded token by token."""
    second = torch.stack([first(plan, context=(1, 2, token)) for token in range(VOCABULARY)])
    return (first(plan)[:, None] + second).double()


def test_token_by_token_a_product_of_sequences_is_approximated() -> None:
    """The product of the experts' sequence distributions is the optimum of the weighted rewards, base * exp(sum w r).

    Decoded token by token it comes close, and is not the same: at KL(optimum, decoded) = 0.026 here, where the base is
    at 2.1. The bounds leave room on both sides of what was measured.
    """
    w = {"expert": 0.7, "third": 0.3}
    plans = {name: Plan((Row({} if name == "base" else {name: 1.0}),)) for name in ("base", *w)}
    logp = {name: sequences(plan) for name, plan in plans.items()}
    rewards = sum(c * (logp[name] - logp["base"]) for name, c in w.items())
    optimum = normalised(logp["base"] + rewards)
    product = normalised(sum(c * logp[name] for name, c in w.items()) + torch.zeros(VOCABULARY, VOCABULARY))
    torch.testing.assert_close(product, optimum, atol=1e-12, rtol=0)
    decoded, base = ((optimum.exp() * (optimum - q)).sum() for q in (sequences(presets.mod(w)), logp["base"]))
    assert 0.005 < decoded < 0.1
    assert base > 20 * decoded


def normalised(logp: Tensor) -> Tensor:
    return logp - logp.logsumexp((0, 1))


# One function, other parameters


def negated(model: Any) -> Any:
    """Queries and keys negated in both layers: their products, and so the function, stay as they were."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.neg_()
            layer.self_attn.k_proj.weight.neg_()
    return model


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A band over a model, with the same function in other parameters as its expert."""
    root = tmp_path_factory.mktemp("flip")
    base = save_pico(root / "base", seed=5)
    negated(AutoModelForCausalLM.from_pretrained(base)).save_pretrained(root / "flipped")
    pico_tokenizer().save_pretrained(root / "flipped")
    new_band(root / "band", str(base), [])
    add_model(root / "band", str(root / "flipped"), Expert("flipped", "flipped"))
    return root


def test_mod_of_one_function_in_two_sets_of_parameters_is_that_function(flipped: Path) -> None:
    """Where their average, with queries and keys of zero, is another."""
    band = Band.load(flipped / "band")
    context = tuple(band.tokenizer("Tell me of the owl and the bee.")["input_ids"])
    plan = presets.mod({"base": 0.4, "flipped": 0.6})
    mixed_V, base_V = band.engine.next_distributions(
        [Request(plan, (context, context)), Request(Plan((Row(),)), (context,))]
    )
    torch.testing.assert_close(mixed_V, base_V, atol=1e-4, rtol=0)
    one, other = (AutoModelForCausalLM.from_pretrained(flipped / name) for name in ("base", "flipped"))
    one.load_state_dict({name: 0.4 * p + 0.6 * other.state_dict()[name] for name, p in one.state_dict().items()})
    with torch.no_grad():
        averaged_V = one(torch.tensor([context])).logits[0, -1].log_softmax(-1)
    assert (averaged_V - base_V).abs().max() > 0.1


def test_amplifying_an_adapter_is_the_log_mixture_at_that_strength(band: Band) -> None:
    """In every family, drawn token by token."""
    sampling = Sampling(max_tokens=8, seed=4)
    plans = [presets.amplify("warm", 1.5), mixture.plan_log(Weighting(("warm",), (1.0,), 1.5))]
    said, expected = band.run([band.request("The owl", plan, sampling) for plan in plans])
    assert said == expected
