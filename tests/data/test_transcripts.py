"""Dialogues in one text become messages, whichever way the text is cut."""

import json
from pathlib import Path
from typing import Any

import pytest

from counterpoint.data.comparisons import Comparisons, read_comparisons
from counterpoint.data.prompts import read_prompts
from counterpoint.data.transcripts import answered, asked, is_transcript, turns
from counterpoint.types import Comparison, CounterpointError, Message

HI = "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Who are\nyou?\n\nAssistant:"
ASKED = (Message("user", "Hi there"), Message("assistant", "Hello."), Message("user", "Who are\nyou?"))


def read(tmp_path: Path, row: dict[str, Any], **options: Any) -> Comparisons:
    (tmp_path / "x.jsonl").write_text(json.dumps({**row, "dimension": "d"}))
    return read_comparisons(tmp_path / "x.jsonl", **options)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"{HI} I am me.", "rejected": f"{HI} I am you."},
        {"prompt": HI, "chosen": " I am me.", "rejected": "I am you. "},
        {"prompt": HI.strip(), "chosen": "I am me.", "rejected": "I am you."},
        {"prompt": HI, "chosen": f"{HI} I am me.", "rejected": f"{HI} I am you."},
        {"prompt": HI.removesuffix("\n\nAssistant:"), "chosen": "I am me.", "rejected": "I am you."},
        {"prompt": "Who are\nyou?", "chosen": f"{HI} I am me.", "rejected": f"{HI} I am you."},
    ],
)
def test_every_cut_gives_the_same_messages(tmp_path: Path, row: dict[str, str]) -> None:
    found = read(tmp_path, row)
    assert found.comparisons == (Comparison(ASKED, "I am me.", "I am you.", "d"),)
    assert found.files[0].transcripts == 1


def test_shared_first_words_of_the_answers_stay_in_the_answers(tmp_path: Path) -> None:
    """As text, the prompt would take "I am" from both answers."""
    row = {"chosen": f"{HI} I am me.", "rejected": f"{HI} I am you."}
    text = read(tmp_path, row, transcripts=False)
    assert text.comparisons == (Comparison(f"{HI} I am", " me.", " you.", "d"),)
    assert text.files[0].transcripts == 0


def test_prompts(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": HI}))
    assert read_prompts(tmp_path / "x.jsonl").prompts == (ASKED,)
    assert read_prompts(tmp_path / "x.jsonl", transcripts=False).prompts == (HI,)


def test_turns_of_one_speaker_are_one() -> None:
    assert turns("Human: a\n\nAssistant: b\n\nAssistant: c\n\nd\n\nHuman:") == (
        Message("user", "a"), Message("assistant", "b\n\nc\n\nd"), Message("user", ""),
    )  # fmt: skip


def test_an_answer_that_was_begun_is_no_part_of_the_question() -> None:
    begun = "Human: a\n\nAssistant: Well,"
    assert asked(begun) == (Message("user", "a"),)
    assert answered(begun, "yes")[-1] == Message("assistant", "Well, yes")


@pytest.mark.parametrize(
    "text", ["Human: alone", "A\n\nHuman: b\n\nAssistant: c", "Humans: a\n\nAssistant: b", "Human: a\nAssistant: b", ""]
)
def test_other_text_is_no_transcript(text: str) -> None:
    assert not is_transcript(text)


def test_a_response_that_speaks_for_the_human_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"field 'chosen': the last message is of role 'user'"):
        read(tmp_path, {"prompt": HI, "chosen": "Me.\n\nHuman: Oh.", "rejected": "You."})
    with pytest.raises(CounterpointError, match=r"field 'chosen': expected one assistant message after the prompt"):
        read(tmp_path, {"prompt": HI, "chosen": "Me.\n\nHuman: Oh.\n\nAssistant: Yes.", "rejected": "You."})
