"""A band as its user meets it: three lines, clear refusals, the same answer to the same seed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from counterpoint import Band
from counterpoint.compose.plan import Row
from counterpoint.compose.weighers.gate import KINDS
from counterpoint.decode.band import METHODS
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import DimensionEntry
from counterpoint.models.fit import end_tokens
from counterpoint.types import CounterpointError, Message, Profile, Prompt

SHORT = Sampling(max_tokens=12, seed=3)
COMPOSED = ("best-expert", "route", "soup", "moe", "mixture-prob", "mixture-log")
BOTH = Profile({"terse": 1.0, "warm": 0.5})
USER = (Message("user", "Hi"),)


def with_scores(band: Band) -> Band:
    measured = ({"terse": 1.0, "warm": -1.0}, {"warm": 1.0}, {"exact": 2.0})
    for entry, scores in zip(band.file.experts, measured, strict=True):
        entry.scores = scores
    return band


def rendered(band: Band, prompt: Prompt, profile: Profile | None, method: str) -> list[str]:
    """The text of each row's context."""
    request = band.request(prompt, band.plan(profile, method), SHORT)
    return [band.tokenizer.decode(list(context)) for context in request.contexts]


def soups(band: Band) -> list[str]:
    return [name for name in band.bank.experts if name.startswith("soup:")]


# Chat


def test_three_lines(band_folder: Path) -> None:
    band = Band.load(str(band_folder))
    said = band.chat("Tell me of the owl.", profile="terse=1, warm=0.5")
    assert isinstance(said, str)
    assert said == band.chat("Tell me of the owl.", profile="terse=1, warm=0.5")
    assert said != band.chat("Tell me of the owl.")
    assert band.dimensions == ("terse", "warm", "exact")


def test_a_string_is_one_user_message_however_it_is_written(band: Band) -> None:
    ways: list[str | Sequence[dict[str, str] | Message]] = ["Hi", [{"role": "user", "content": "Hi"}], USER, list(USER)]
    assert len({band.chat(way, "warm", sampling=SHORT) for way in ways}) == 1
    with_system = band.chat([Message("system", "Be odd."), *USER], "warm", sampling=SHORT)
    assert with_system != band.chat("Hi", "warm", sampling=SHORT)
    assert rendered(band, USER, None, "base") == ["<s>user: Hi\nassistant: "]


def test_a_profile_is_the_same_however_it_is_written(band: Band) -> None:
    mapping = {"terse": 1.0, "warm": 0.5}
    ways: list[str | dict[str, float] | Profile] = ["terse=1, warm=0.5", mapping, BOTH, "terse=2,warm=1"]
    assert len({band.chat("Hi", way, sampling=SHORT) for way in ways}) == 1
    assert band.chat("Hi", "terse=0.5, warm=1", sampling=SHORT) != band.chat("Hi", BOTH, sampling=SHORT)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in KINDS])
def test_no_profile_is_the_base_by_any_method_but_gates(band: Band, method: str) -> None:
    assert band.chat("Hi", method=method, sampling=SHORT) == band.chat("Hi", method="base", sampling=SHORT)
    assert band.chat("Hi", "terse", method="base", sampling=SHORT) == band.chat("Hi", sampling=SHORT)


@pytest.mark.parametrize("method", COMPOSED)
def test_strength_zero_is_the_base_by_any_method(band: Band, method: str) -> None:
    with_scores(band)
    assert band.chat("Hi", "terse, warm, strength=0", method, SHORT) == band.chat("Hi", sampling=SHORT)


@pytest.mark.parametrize("method", COMPOSED)
def test_a_profile_changes_what_is_said(band: Band, method: str) -> None:
    with_scores(band)
    assert band.chat("Hi", "terse+exact", method, SHORT) != band.chat("Hi", sampling=SHORT)


def test_a_model_without_a_chat_template_takes_text_and_refuses_messages(band: Band) -> None:
    band.tokenizer.chat_template = None
    text = band.chat("Hi", "warm", sampling=SHORT)
    assert text == band.respond(["Hi"], [Profile({"warm": 1.0})], sampling=SHORT)[0].text
    assert rendered(band, "Hi", Profile({"warm": 1.0}), "prompted") == ["<s>Hi Be warm."]
    with pytest.raises(CounterpointError, match="no chat template, so it cannot take messages"):
        band.chat([{"role": "user", "content": "Hi"}], "warm")


# Refusals


def test_an_unknown_method_is_named_with_those_that_there_are(band: Band) -> None:
    with pytest.raises(CounterpointError, match=f"unknown method 'soop'; there are: {', '.join(METHODS)}"):
        band.chat("Hi", "warm", method="soop")
    with pytest.raises(CounterpointError, match="unknown method 'soop'"):
        band.respond(["Hi"], [None], "soop")


def test_an_unknown_dimension_is_named_with_what_it_may_have_meant(band: Band) -> None:
    with pytest.raises(CounterpointError, match="unknown dimension 'ters'; did you mean 'terse'"):
        band.chat("Hi", "ters=1")


@pytest.mark.parametrize("method", [method for method in METHODS if method != "base"])
def test_regression_respond_names_an_unknown_dimension_too(band: Band, method: str) -> None:
    """`prompted` ended in a bare StopIteration, and best-expert passed the dimension over."""
    with_scores(band)
    with pytest.raises(CounterpointError, match="unknown dimension 'ters'; did you mean 'terse'"):
        band.respond(["Hi"], [Profile({"ters": 1.0})], method)


def test_a_dimension_that_no_expert_serves(band: Band) -> None:
    band.file.dimensions.append(DimensionEntry(name="lone"))
    band.dimensions = (*band.dimensions, "lone")
    with pytest.raises(CounterpointError, match="no expert serves the dimension 'lone'; there are experts for: "):
        band.chat("Hi", "lone")


@pytest.mark.parametrize("method", [method for method in COMPOSED if method != "best-expert"])
def test_regression_a_profile_that_wants_nothing(band: Band, method: str) -> None:
    with pytest.raises(CounterpointError, match="every weight is 0"):
        band.respond(["Hi"], [Profile({"terse": 0.0})], method)


def test_a_prob_mixture_beyond_strength_one(band: Band) -> None:
    with pytest.raises(CounterpointError, match=r"mixture-prob cannot go beyond its experts: strength is 1\.5"):
        band.chat("Hi", "warm, strength=1.5", method="mixture-prob")
    band.chat("Hi", "warm, strength=1.5", method="mixture-log", sampling=SHORT)


def test_a_prompt_that_is_too_long_is_refused_and_the_band_goes_on(band: Band) -> None:
    before = band.chat("Hi", "warm", sampling=SHORT)
    with pytest.raises(CounterpointError, match=r"the prompt has \d+ tokens; with the response, 512 is the most"):
        band.respond(["Hi", "owl " * 600], [BOTH, BOTH], sampling=SHORT)
    assert band.chat("Hi", "warm", sampling=SHORT) == before


def test_an_expert_that_went_missing_is_named_and_the_band_goes_on(band: Band) -> None:
    plan = band.plan(BOTH, "moe")
    request = band.request("Hi", plan, SHORT)
    lost = replace(request, plan=replace(plan, rows=(Row({"gone": 1.0}),)))
    before = band.run([request])
    with pytest.raises(CounterpointError, match="no expert called 'gone'; there are: terse, warm, exact"):
        band.run([request, lost])
    assert band.run([request]) == before


# Prompting and choosing


def test_prompted_appends_the_requests_of_the_wanted_dimensions(band: Band) -> None:
    profile = Profile({"terse": 1.0, "warm": 0.0, "exact": 0.1})
    assert rendered(band, "Say", profile, "prompted") == ["<s>Say Be terse. Be exact."]
    talk = (Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "So?"))
    expected = "<s>user: Hi\nassistant: Yo</s>user: So? Be terse. Be exact.\nassistant: "
    assert rendered(band, talk, profile, "prompted") == [expected]
    assert rendered(band, "Say", profile, "soup") == ["<s>Say"]


def test_a_dimension_without_a_request_is_asked_for_by_its_name(band: Band) -> None:
    band.file.dimensions[0].request = ""
    assert rendered(band, "Say", Profile({"terse": 1.0}), "prompted") == ["<s>Say Please be terse."]


def test_a_mixture_has_a_row_per_expert_and_one_for_the_base(band: Band) -> None:
    plan = band.plan(Profile({"terse": 1.0, "warm": 3.0}, strength=0.5), "mixture-prob")
    assert [dict(row.gate) for row in plan.rows] == [{"terse": 1.0}, {"warm": 1.0}, {}]
    assert plan.coefficients == (0.125, 0.375, 0.5)
    assert len(band.plan(BOTH, "mixture-prob").rows) == 2


def test_best_expert_needs_measured_scores(band: Band) -> None:
    with pytest.raises(CounterpointError, match=r"best-expert needs the experts' measured scores, and this band\.json"):
        band.chat("Hi", "warm", method="best-expert")


@pytest.mark.parametrize(
    ("weights", "best"),
    [
        # terse scores (1, -1, -), warm (-, 1, -), exact (-, -, 2) on (terse, warm, exact)
        ({"terse": 1.0}, "terse"),  # 1, 0, 0
        ({"warm": 1.0}, "warm"),  # -1, 1, 0
        ({"terse": 1.0, "warm": 0.4}, "terse"),  # 1 - .4 = .6, .4, 0
        ({"terse": 1.0, "warm": 0.6}, "warm"),  # 1 - .6 = .4, .6, 0
        ({"terse": 1.0, "warm": 0.6, "exact": 0.31}, "exact"),  # .4, .6, .62
    ],
)
def test_best_expert_goes_by_scores_and_weights(band: Band, weights: dict[str, float], best: str) -> None:
    profile = Profile(weights, strength=1.5)
    assert with_scores(band).best_expert(profile) == best
    assert [dict(row.gate) for row in band.plan(profile, "best-expert").rows] == [{best: 1.5}]


# Soups


def test_a_soup_needs_no_merge(band: Band) -> None:
    """Its gate is what the merged adapter would do, so that eight people cost no more than one."""
    (row,) = band.plan(Profile({"terse": 1.0, "warm": 3.0}, strength=2.0), "soup").rows
    assert dict(row.gate) == {"terse": 0.5, "warm": 1.5}
    band.respond(["Hi"] * 8, [Profile({"terse": 1.0, "warm": 0.1 * n}) for n in range(8)], sampling=SHORT)
    assert list(band.bank.experts) == ["terse", "warm", "exact"]


# Seeds


@pytest.mark.parametrize("method", COMPOSED)
def test_respond_is_a_function_of_its_seed(band: Band, method: str) -> None:
    with_scores(band)
    prompts: list[Prompt] = ["Tell me of the owl", USER]
    profiles = [BOTH, Profile({"warm": 1.0, "exact": 1.0})]
    said = band.respond(prompts, profiles, method, SHORT)
    assert band.respond(prompts, profiles, method, SHORT) == said
    other = band.respond(prompts, profiles, method, replace(SHORT, seed=99))
    assert all(one.text != another.text for one, another in zip(said, other, strict=True))


def test_prompt_i_has_the_seed_plus_i(band: Band) -> None:
    together = band.respond(["Hi"] * 4, [BOTH] * 4, sampling=SHORT)
    assert len({completion.text for completion in together}) == 4
    for index, completion in enumerate(together):
        assert band.respond(["Hi"], [BOTH], sampling=replace(SHORT, seed=3 + index)) == [completion]


def test_two_bands_of_one_folder_say_the_same(band_folder: Path) -> None:
    one, other = Band.load(band_folder), Band.load(band_folder)
    assert one.respond(["Hi"], [BOTH], sampling=SHORT) == other.respond(["Hi"], [BOTH], sampling=SHORT)


def test_prompts_and_profiles_come_in_pairs(band: Band) -> None:
    with pytest.raises(CounterpointError, match="2 prompts but 1 profiles"):
        band.respond(["Hi", "Yo"], [BOTH])
    assert band.respond([], []) == []


def test_every_end_token_of_the_model_ends_a_response(band: Band) -> None:
    ends = end_tokens(band.model.generation_config.eos_token_id, band.tokenizer)
    assert ends == {2}
    band.model.generation_config.eos_token_id = [7, 9]
    assert end_tokens(band.model.generation_config.eos_token_id, band.tokenizer) == {2, 7, 9}
    assert json.loads((Path(band.model.name_or_path) / "generation_config.json").read_text())["eos_token_id"] == 2
