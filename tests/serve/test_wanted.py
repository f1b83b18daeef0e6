"""Whose profile it is: the body's, the model name's, the stored person's or the default, in this order."""

import pytest

from counterpoint.decode.band import Band
from counterpoint.serve.errors import Refused
from counterpoint.serve.store import Source, Version
from counterpoint.serve.wanted import Asked, asked, effective, header, parse_model
from counterpoint.types import CounterpointError, Profile

KNOWN = ("terse", "warm", "exact")
STORED = Version(Profile({"warm": 1.0}, 2.0), "moe", "set", 0)
DEFAULT = (Profile({"exact": 1.0}), "soup")


def profile_of(model: str = "default", profile: str | None = None, strength: float | None = None,
               stored: Version | None = None, default: tuple[Profile | None, str] = DEFAULT) -> Asked:  # fmt: skip
    return asked(KNOWN, model, profile, strength, "ann", stored, default, {"soup": 3.0})


def test_who_wins() -> None:
    body, name, person, nobody = "terse=1", "mixture-log:warm=1", STORED, DEFAULT[0]
    assert profile_of(name, body, stored=person) == Asked("mixture-log", Profile({"terse": 1.0}), "request")
    assert profile_of(name, stored=person) == Asked("mixture-log", Profile({"warm": 1.0}), "model")
    assert profile_of(stored=person) == Asked("moe", STORED.profile, "user", "ann")
    assert profile_of() == Asked("soup", nobody, "default")
    assert profile_of(default=(None, "soup")) == Asked("soup", None, "default")


def test_a_persons_method_is_for_the_default_model_alone() -> None:
    assert profile_of("soup", stored=STORED) == Asked("soup", STORED.profile, "user", "ann")
    assert profile_of("default", "terse", stored=STORED).method == "moe"
    without = Version(STORED.profile, None, "learned", 0)
    assert profile_of(stored=without).method == "soup"


@pytest.mark.parametrize("source", ["learned", "sentence"])
def test_a_profile_that_nobody_set_has_each_methods_best_strength(source: Source) -> None:
    """Whatever strength a row may hold: 3 did best with soup, and mixture-prob could not go beyond 1."""
    stored = Version(Profile({"warm": 1.0}, 3.0), None, source, 0)
    for model, strength in (("soup", 3.0), ("mixture-prob", 1.0), ("default", 3.0)):
        assert profile_of(model, stored=stored).profile == Profile({"warm": 1.0}, strength)
    assert profile_of("mixture-prob", stored=STORED).profile == STORED.profile


def test_strength_wins_over_whichever_profile_it_is() -> None:
    for found in (profile_of(profile="warm, strength=3", strength=0.5), profile_of(strength=0.5, stored=STORED),
                  profile_of("moe:warm,strength=3", strength=0.5), profile_of(strength=0.5)):  # fmt: skip
        assert found.profile
        assert found.profile.strength == 0.5
    with pytest.raises(Refused, match="give a profile") as error:
        profile_of(strength=0.5, default=(None, "soup"))
    assert error.value.param == "strength"


@pytest.mark.parametrize("name", ["soup:terse=0.7,warm=0.3", "soup:terse=0.7;warm=0.3", "soup: terse=0.7 ; warm=0.3"])
def test_a_profile_in_a_models_name(name: str) -> None:
    """With semicolons where a comma ends an argument, as lm-eval's do."""
    assert parse_model(name, KNOWN, "moe") == ("soup", Profile({"terse": 0.7, "warm": 0.3}))


def test_a_name_without_a_profile_and_the_default() -> None:
    assert parse_model("pmol", KNOWN, "moe") == ("pmol", None)
    assert parse_model("default", KNOWN, "moe") == ("moe", None)
    assert parse_model("default:terse", KNOWN, "moe") == ("moe", Profile({"terse": 1.0}))


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(Refused, match="did you mean 'mixture-prob'") as error:
        parse_model("mixture_prob:terse", KNOWN, "soup")
    assert (error.value.status, error.value.code) == (404, "model_not_found")
    with pytest.raises(CounterpointError, match="Known: terse, warm, exact"):
        parse_model("soup:tense", KNOWN, "soup")


def test_a_stored_profile_whose_dimension_is_gone_is_a_conflict() -> None:
    with pytest.raises(Refused, match="user 'ann' names warm") as error:
        asked(("terse", "exact"), "default", None, None, "ann", STORED, DEFAULT, {})
    assert (error.value.status, error.value.code) == (409, "profile_outdated")


def test_what_is_told_is_what_reached_the_model(band: Band) -> None:
    """Weights 3 to 1 at strength 0.5 are 0.375 and 0.125; one expert alone has all of it."""
    profile = Profile({"warm": 3.0, "terse": 1.0}, 0.5)
    for method, weights in (("soup", {"warm": 0.375, "terse": 0.125}), ("route", {"warm": 0.5}), ("base", {})):
        found = effective(band, Asked(method, profile, "request"), band.plan(profile, method))
        assert found["weights"] == weights
        assert found["profile"] == "warm=3, terse=1, strength=0.5"
    assert header({"warm": 2 / 3, "terse": 1 / 3}) == "warm=0.666667, terse=0.333333"
