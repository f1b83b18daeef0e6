"""What a reply says of the next token, worked out by hand; `test_remote.py` has the servers that reply."""

import math
from collections.abc import Sequence

import pytest
import torch

from counterpoint.compose.mixture import mix_partial_log
from counterpoint.decode.endpoint import MOST_SAID, SLACK, Endpoint, ids_by_text, quoted, with_rest
from counterpoint.models.band_file import parse_endpoint
from counterpoint.testing import pico_tokenizer
from counterpoint.types import CounterpointError

URL = "http://localhost:1/v1"


def logs(*probabilities: float) -> dict[int, float]:
    return {token: math.log(p) for token, p in enumerate(probabilities)}


def test_the_rest_by_hand() -> None:
    """Of five tokens the first and the third are reported, at 0.5 and 0.3: the other three have 0.2 together."""
    p = with_rest({0: math.log(0.5), 2: math.log(0.3)}, 5).exp()
    torch.testing.assert_close(p, torch.tensor([0.5, 0.0, 0.3, 0.0, 0.0, 0.2]))


def test_a_whole_vocabulary_leaves_no_rest() -> None:
    logp = with_rest(logs(0.5, 0.25, 0.25 - 1e-4), 3)
    assert logp[-1] == -math.inf
    torch.testing.assert_close(logp.exp().sum(), torch.tensor(1.0))


def test_ids_of_a_padded_head_are_of_the_rest_or_cut_where_there_is_none() -> None:
    """Two of three tokens and one beyond them; then all of two tokens, so that 0.5 and 0.1 become 5/6 and 1/6."""
    reported = {0: math.log(0.5), 1: math.log(0.1), 7: math.log(0.4)}
    torch.testing.assert_close(with_rest(reported, 3).exp(), torch.tensor([0.5, 0.1, 0.0, 0.4]))
    torch.testing.assert_close(with_rest(reported, 2).exp(), torch.tensor([5 / 6, 1 / 6, 0.0]))


def test_where_no_token_is_known_nothing_is_said() -> None:
    for reported in ({}, {7: -0.1}):
        with pytest.raises(ValueError, match="none of the tokens that it reports can be told to be one of the base's"):
            with_rest(reported, 2)


def test_regression_a_confident_server_rules_out_no_token_that_it_did_not_report() -> None:
    """1 + e^-24 of the mass is reported: 2^-24, a rounding of it, is left to the other two."""
    sure = with_rest({0: 0.0, 1: -24.0}, 4)
    assert sure[-1] == pytest.approx(math.log(2.0**-24), abs=1e-6)
    unsure = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]).log()
    mixed_W = mix_partial_log(torch.stack([sure, unsure]), torch.tensor([0.5, 0.5]))
    assert mixed_W[:-1].isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_a_row_is_a_distribution_whatever_is_reported(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logp_V = torch.log_softmax(5 * torch.randn(1000, generator=generator, dtype=torch.float64), dim=-1)
    for top in (1, 20, 999, 1000):
        best = logp_V.topk(top)
        row = with_rest(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)), 1000)
        assert row.dtype == torch.float32
        assert abs(row.logsumexp(-1)) < 1e-5
        torch.testing.assert_close(row[:-1][best.indices], best.values.float())
        torch.testing.assert_close(row[-1].exp().double(), 1 - best.values.exp().sum(), atol=1e-6, rtol=0)


def test_probabilities_of_more_than_one_are_refused_beyond_rounding() -> None:
    torch.testing.assert_close(with_rest(logs(0.5, 0.5 + SLACK / 2), 3).exp().sum(), torch.tensor(1.0))
    for wrong in (logs(0.5, 0.5 + 2 * SLACK), {0: math.nan}, {0: math.inf}):
        with pytest.raises(ValueError, match="expected at most 1"):
            with_rest(wrong, 3)


def test_a_text_stands_for_the_one_token_that_has_it() -> None:
    tokenizer = pico_tokenizer()
    ids = ids_by_text(tokenizer, len(tokenizer))
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    for token, text in enumerate(texts):
        assert ids[text] == (token if texts.count(text) == 1 else None)
    assert ids[" the"] == tokenizer.convert_tokens_to_ids("Ġthe")
    assert texts.count("\ufffd") > 100, "bytes that are a part of a character"
    assert ids["\ufffd"] is None


class DropsFirstSpace:
    """A tokenizer that decodes as SentencePiece does."""

    texts = ("the", " the", "x", "a")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [self.texts.index(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.texts[token] for token in tokens).removeprefix(" ")

    def batch_decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return [self.decode(tokens) for tokens in sequences]


def test_a_space_that_is_dropped_at_the_start_does_not_make_two_tokens_one() -> None:
    assert ids_by_text(DropsFirstSpace(), 4) == {"the": None, " the": 1, "x": 2, "a": 3}


@pytest.mark.parametrize("value", [None, "", " "])
def test_a_key_that_is_not_set_is_missed_by_its_name(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COUNTERPOINT_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("COUNTERPOINT_KEY", value)
    with pytest.raises(CounterpointError, match="environment variable COUNTERPOINT_KEY, which is not set; export it"):
        Endpoint("terse", parse_endpoint(url=URL, model="m", api_key_env="COUNTERPOINT_KEY"), pico_tokenizer(), 290)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "localhost:8000/v1"}, "url: value error, 'localhost:8000/v1' is no address of a server"),
        ({"url": "ftp://host/v1"}, "is no address of a server"),
        ({"url": "http://me:secret@host/v1"}, "without a key in it"),
        ({"url": "http://host/v1?key=secret"}, "without a key in it"),
        ({"top": 0}, "top: value error, 0 is neither a number from 1 nor all"),
        ({"top": "some"}, "'some' is neither a number from 1 nor all"),
        ({"timeout_s": 0}, "timeout_s: input should be greater than 0"),
        ({"on_failure": "retry"}, "on_failure: input should be 'fail' or 'drop'"),
        ({"url": "http://host:99999/v1"}, "is no address of a server"),
        ({"url": "http://host:0/v1"}, "is no address of a server"),
        ({"url": "http://ho st/v1"}, "is no address of a server"),
        ({"url": "http://host\n/v1"}, "is no address of a server"),
        ({"url": "http://[::1/v1"}, "is no address of a server"),
        ({"url": "http://host/v1#secret"}, "without a key in it"),
        ({"url": "ftp://me:secret@host/v1"}, "without a key in it"),
        ({"model": ""}, "model: string should have at least 1 character"),
        ({"top": True}, "True is neither a number from 1 nor all"),
        (
            {"api_key_env": "AWS_SECRET_ACCESS_KEY"},
            "'AWS_SECRET_ACCESS_KEY' is no variable for keys; expected COUNTERP",
        ),
        ({"api_key_env": "COUNTERPOINT_KEY=1"}, "is no variable for keys"),
        ({"url": "http://host/v1", "api_key_env": "COUNTERPOINT_KEY"}, "would go to host where all can read it; use h"),
        ({"url": "http://localhost.host/v1", "api_key_env": "COUNTERPOINT_KEY"}, "would go to localhost.host where"),
        ({"colour": "red"}, "colour: extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_of_an_endpoint_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CounterpointError) as caught:
        parse_endpoint(**({"url": URL, "model": "m"} | fields))
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://host/v1", "http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", URL])
def test_a_key_may_go_to_this_machine_or_encrypted(url: str) -> None:
    assert parse_endpoint(url=url, model="m", api_key_env="COUNTERPOINT_KEY_VLLM").url == url


@pytest.mark.parametrize("key", ["two words", "line\nend", "caf\xe9", "zero\u200bwidth"])
def test_a_key_that_can_be_none_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_KEY", key)
    with pytest.raises(CounterpointError, match="has characters that no key has") as caught:
        Endpoint("terse", parse_endpoint(url=URL, model="m", api_key_env="COUNTERPOINT_KEY"), pico_tokenizer(), 290)
    assert key not in str(caught.value)


def test_what_a_server_said_is_quoted_in_one_short_line_without_the_key() -> None:
    assert quoted("no\n\tsuch \x1b[31mkey: ow\u200bl-1 \u202eowl-1", "owl-1") == "no such [31mkey: *** ***"
    assert quoted("owl-1" * 100, "owl-1") == "***" * 100
    assert quoted("x" * 301) == "x" * MOST_SAID + "..."


def test_an_address_may_end_with_a_slash() -> None:
    assert parse_endpoint(url=URL + "/", model="m").url == URL
