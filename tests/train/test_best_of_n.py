import numpy as np
import pytest

from counterpoint.testing import pico_tokenizer
from counterpoint.train.best_of_n import best_of_n, to_examples
from counterpoint.types import Completion, CounterpointError

A, B, C = (Completion(t, (ord(t),), "stop") for t in "abc")
CUT = Completion("a", (ord("a"),), "length")


def test_the_best_come_first_and_the_earlier_wins_a_tie() -> None:
    scores = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])
    assert best_of_n(["p", "q"], [[A, B, C], [C, B, A]], scores) == [("p", B), ("q", C)]
    assert best_of_n(["p"], [[A, B, C]], scores[:1], keep=2) == [("p", B), ("p", C)]


def test_a_sample_that_was_drawn_twice_counts_once() -> None:
    scores = np.array([[3.0, 3.0, 1.0]])
    assert best_of_n(["p"], [[A, A, B]], scores, keep=2) == [("p", A), ("p", B)]
    assert best_of_n(["p"], [[A, A, A]], scores, keep=3) == [("p", A)]
    assert best_of_n(["p", "p"], [[A, B], [A, B]], np.array([[2.0, 1.0]] * 2)) == [("p", A), ("p", B)]


def test_only_a_completion_that_ended_by_itself_gets_the_end_token() -> None:
    tokenizer = pico_tokenizer()
    whole, cut = to_examples([("p", A), ("p", CUT)], tokenizer)
    assert whole.response_ids == (97, tokenizer.eos_token_id)
    assert cut.response_ids == (97,)
    assert whole.prompt_ids == (tokenizer.bos_token_id, *tokenizer("p", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("scores", "keep", "message"),
    [
        (np.zeros((1, 2)), 1, r"1 prompts with \[3\] samples each, but the scores have the shape \(1, 2\)"),
        (np.array([[0.0, np.nan, 0.0]]), 1, "prompt 0, sample 1 is nan"),
        (np.zeros((1, 3)), 0, "keep is 0"),
    ],
)
def test_bad_input_is_named(scores: np.ndarray, keep: int, message: str) -> None:
    with pytest.raises(CounterpointError, match=message):
        best_of_n(["p"], [[A, B, C]], scores, keep)
