"""A band that is steered by a controller: what it asks, what it loads, and what it refuses."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from counterpoint.compose.plan import CONTROLLER, Row
from counterpoint.compose.weighers.controller import Controller, new_model, write_controller
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import add_expert, remove_expert
from counterpoint.models.controller import ControllerModel
from counterpoint.testing import pico_model
from counterpoint.types import CounterpointError, Expert, Profile

EXPERTS = ["terse", "warm", "exact"]
PROMPT = "Tell me of the owl."
PROFILE = Profile({"terse": 1.0, "warm": 3.0})


def rule(**options: Any) -> Controller:
    return Controller(experts=EXPERTS, dimensions=EXPERTS, **options)


def roused_model(band: Band, controller: Controller, **shape: Any) -> ControllerModel:
    """Random also where training starts from zero."""
    model = new_model(controller, pico_model(7, **shape), band.describe)
    generator = torch.Generator().manual_seed(8)
    for part in [part for part in model.learned() if not part.any()]:
        nn.init.normal_(part, std=0.3, generator=generator)
    return model.eval()


def write(band: Band, folder: Path, controller: Controller, **shape: Any) -> Path:
    write_controller(folder, controller, roused_model(band, controller, **shape))
    return folder


def next_logp(band: Band, profile: Profile = PROFILE, method: str = "mope") -> Tensor:
    return band.engine.next_distributions([band.request(PROMPT, band.plan(profile, method), Sampling())])[0]


# What is asked


@pytest.mark.parametrize(
    ("prompts", "asked"),
    [("none", [(), ()]), ("own", [("terse",), ("warm",)]), ("all", [("terse", "warm")] * 2)],
)
def test_experts_are_asked_in_words_for_nothing_their_own_or_all(
    band: Band, prompts: Any, asked: list[tuple[str, ...]]
) -> None:
    controller = rule(expert_prompt=prompts)
    band.steer(controller, roused_model(band, controller))
    plan = band.plan(PROFILE, "mope")
    assert [row.requests for row in plan.rows] == asked
    texts = [band.tokenizer.decode(ids) for ids in band.request(PROMPT, plan, Sampling()).contexts]
    words = [" ".join(f"Be {name}." for name in names) for names in asked]
    assert texts == [f"<s> {PROMPT} {word}".rstrip().replace("<s> ", "<s>") for word in [*words, ""]]


def test_a_controller_reads_shares_or_words(band: Band) -> None:
    profile = Profile({"exact": 0.0, "terse": 1.0, "warm": 3.0})
    for encoding, row in (
        ("vector", Row({CONTROLLER: 1.0, "terse": 0.25, "warm": 0.75})),
        ("text", Row({CONTROLLER: 1.0}, ("terse", "warm"))),
    ):
        control = rule(encoding=encoding).plan(profile, band.experts).control
        assert control is not None
        assert control.row == row


@pytest.mark.parametrize(
    ("prior", "names", "weights"),
    [
        ("profile", ["terse", "warm"], [0.25, 0.75]),
        ("selected", ["terse", "warm"], [0.5, 0.5]),
        ("all", EXPERTS, [1 / 3] * 3),
    ],
)
def test_priors_by_hand(band: Band, prior: Any, names: list[str], weights: list[float]) -> None:
    plan = rule(prior=prior).plan(replace(PROFILE, strength=0.9), band.experts)
    assert [next(iter(row.gate), None) for row in plan.rows] == [*names, None]
    assert plan.control is not None
    assert plan.control.columns == (*map(EXPERTS.index, names), 0)
    assert torch.softmax(torch.tensor(plan.control.log_prior), dim=0).tolist() == pytest.approx([*weights, 0])
    assert plan.coefficients == pytest.approx([0.0] * len(names) + [0.1])


def test_a_response_has_no_more_room_than_the_controller(band: Band) -> None:
    controller = rule()
    band.steer(controller, roused_model(band, controller, positions=40))
    request = band.request(PROMPT, band.plan(PROFILE, "mope"), Sampling(max_tokens=100))
    assert request.sampling.max_tokens == 40 - max(map(len, request.contexts))
    assert band.run([request])[0].tokens


def test_steered_anew_it_forgets_the_old_controller(band: Band) -> None:
    controller = rule()
    band.steer(controller, roused_model(band, controller))
    before = next_logp(band)
    band.steer(controller, new_model(controller, pico_model(7), band.describe))
    assert (next_logp(band) - before).abs().max() > 1e-3
    torch.testing.assert_close(next_logp(band), next_logp(band, method="mixture-prob"))
    band.steer(controller.model_copy(update={"constants": {"terse=0.25, warm=0.75": [0.0, 50.0, 0.0]}}))
    assert CONTROLLER not in band.whole
    torch.testing.assert_close(next_logp(band), next_logp(band, Profile({"warm": 1.0}), "mixture-prob"))


# Files


def test_a_band_loads_the_controller_in_its_folder(band: Band, band_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(band_folder, tmp_path / "band"))
    controller = rule()
    band.steer(controller, roused_model(band, controller))
    write(band, folder / "controller", controller)
    assert torch.equal(next_logp(Band.load(folder)), next_logp(band))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", ["linear", "described"])
def test_a_controller_takes_the_bands_type_of_numbers(
    band: Band, band_folder: Path, tmp_path: Path, dtype: torch.dtype, head: Any
) -> None:
    controller = rule(head=head)
    band.steer(controller, roused_model(band, controller))
    half = Band.load(band_folder, dtype)
    half.load_controller(write(band, tmp_path / "controller", controller))
    model = half.whole[CONTROLLER].load()
    assert model.model.dtype == dtype  # type: ignore[attr-defined]
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    torch.testing.assert_close(next_logp(half), next_logp(band), atol=tolerance, rtol=0)
    request = half.request(PROMPT, half.plan(PROFILE, "mope"), Sampling(max_tokens=6), "token")
    trace = half.run([request])[0].trace
    assert trace is not None
    torch.testing.assert_close(trace.c_TK.sum(-1), torch.ones(len(trace.tokens)))


def test_a_controller_of_another_vocabulary_is_refused(band: Band, tmp_path: Path) -> None:
    folder = write(band, tmp_path / "controller", rule(), vocab=200)
    with pytest.raises(CounterpointError, match=f"{folder}: .* vocabulary of 200 ids, and the base's has 290"):
        band.load_controller(folder)
    with pytest.raises(CounterpointError, match="this band has no controller; `counterpoint train controller` makes"):
        band.plan(PROFILE, "mope")


def test_a_damaged_controller_is_named_by_mope_alone(band: Band, band_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(band_folder, tmp_path / "band"))
    tensors = write(band, folder / "controller", rule()) / "controller.safetensors"
    good = tensors.read_bytes()
    tensors.write_bytes(good[:100])
    loaded = Band.load(folder)
    torch.testing.assert_close(next_logp(loaded, method="mixture-prob"), next_logp(band, method="mixture-prob"))
    for _ in range(2):
        with pytest.raises(CounterpointError, match=f"{tensors}: "):
            loaded.plan(PROFILE, "mope")
    tensors.write_bytes(good)
    assert loaded.controller == rule()


def test_a_controller_that_is_first_asked_for_later_joins_the_engine_that_works(
    band: Band, band_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(band_folder, tmp_path / "band"))
    write(band, folder / "controller", rule())
    loaded = Band.load(folder)
    engine, before = loaded.engine, next_logp(loaded, method="mixture-prob")
    steered = next_logp(loaded)
    assert loaded.engine is engine
    assert (steered - before).abs().max() > 1e-3


@pytest.mark.parametrize("first", [False, True], ids=["unread", "read"])
def test_after_steering_by_another_it_is_steered_as_before(
    band: Band, band_folder: Path, tmp_path: Path, first: bool
) -> None:
    folder = Path(shutil.copytree(band_folder, tmp_path / "band"))
    write(band, folder / "controller", rule())
    expected, loaded = next_logp(Band.load(folder)), Band.load(folder)
    if first:
        next_logp(loaded)
    with loaded.steered_by(rule(), new_model(rule(), pico_model(9), band.describe)):
        assert (next_logp(loaded) - expected).abs().max() > 1e-3
    assert torch.equal(next_logp(loaded), expected)


# Experts that come and go


@pytest.fixture
def grown(band: Band, band_folder: Path, tmp_path: Path) -> Callable[[Controller], Band]:
    """The band with a second expert of `warm`, and the controller of before, loaded anew."""

    def load(controller: Controller) -> Band:
        folder = Path(shutil.copytree(band_folder, tmp_path / "band"))
        write(band, folder / "controller", controller)
        add_expert(folder, band_folder / "experts" / "exact", Expert("warm2", "warm"))
        return Band.load(folder)

    return load


def test_a_described_head_serves_an_expert_that_was_added(grown: Callable[[Controller], Band]) -> None:
    """Of the same dimension as another it has that one's description, and so its column."""
    band = grown(rule(head="described"))
    request = band.request(PROMPT, band.plan(Profile({"warm": 1.0}), "mope"), Sampling(max_tokens=4), "token")
    trace = band.run([request])[0].trace
    assert trace is not None
    assert [next(iter(row.gate)) for row in request.plan.rows] == ["warm", "warm2"]
    torch.testing.assert_close(trace.c_TK, torch.full((len(trace.tokens), 2), 0.5))


def test_a_linear_head_refuses_an_expert_that_was_added(grown: Callable[[Controller], Band]) -> None:
    band = grown(rule())
    with pytest.raises(CounterpointError, match=r"trained without the expert 'warm2'; train it again .* mixture-prob"):
        band.plan(PROFILE, "mope")
    assert next_logp(band, Profile({"terse": 1.0, "exact": 1.0})).isfinite().all()


def test_an_expert_that_is_gone_is_named_where_it_is_weighed(band: Band, band_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(band_folder, tmp_path / "band"))
    write(band, folder / "controller", rule(prior="all"))
    remove_expert(folder, "exact")
    with pytest.raises(CounterpointError, match="weighs the expert 'exact', which the band no longer has"):
        Band.load(folder).plan(PROFILE, "mope")


# What is refused


def test_without_a_controller_there_is_no_mope(band: Band) -> None:
    with pytest.raises(CounterpointError, match="this band has no controller; `counterpoint train controller` makes"):
        band.plan(PROFILE, "mope")


def test_strength_above_one_is_for_log_space_alone(band: Band) -> None:
    strong = replace(PROFILE, strength=1.5)
    band.steer(rule(), roused_model(band, rule()))
    with pytest.raises(CounterpointError, match=r"cannot go beyond the experts: strength is 1\.5, at most 1"):
        band.plan(strong, "mope")
    log = rule(space="log")
    band.steer(log, new_model(log, pico_model(7), band.describe))
    torch.testing.assert_close(next_logp(band, strong), next_logp(band, strong, "mixture-log"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("prior", ["profile", "selected", "all"])
@pytest.mark.parametrize(("low", "high"), [(0.2, 1.0), (0.0, 0.5), (0.0, 0.0)])
def test_of_bounds_it_keeps_a_cap_of_zero_alone_and_none_where_nothing_is_masked(
    band: Band, low: float, high: float, prior: Any
) -> None:
    band.steer(rule(prior=prior), roused_model(band, rule(prior=prior)))
    band.bounds = {"warm": (low, high)}
    if high == 0 and prior != "all":
        assert [next(iter(row.gate), None) for row in band.plan(PROFILE, "mope").rows] == ["terse"]
    else:
        with pytest.raises(CounterpointError, match=f"keeps no floor .* {low:g} <= warm <= {high:g}; use mixture-prob"):
            band.plan(PROFILE, "mope")
