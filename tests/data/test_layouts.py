"""What people call their columns: understood, said, and otherwise refused with the names found."""

import json
from pathlib import Path
from typing import Any

import pytest

from counterpoint.data.comparisons import Comparisons, read_comparisons
from counterpoint.data.prompts import read_prompts
from counterpoint.types import Comparison, CounterpointError


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Comparisons:
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_comparisons(tmp_path / "x.jsonl", **options)


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"prompt": "q", "chosen": "A", "rejected": "B"}, "prompt, chosen, rejected"),
        ({"instruction": "q", "chosen": "A", "rejected": "B"}, "prompt = instruction, chosen, rejected"),
        ({"Question": "q", "Chosen": "A", "Rejected": "B"}, "prompt = Question, chosen = Chosen, rejected = Rejected"),
        ({"input": "q", "chosen_response": "A", "rejected_response": "B"},
         "prompt = input, chosen = chosen_response, rejected = rejected_response"),
        ({"query": "q", "response_a": "A", "response_b": "B", "winner": "a"},
         "prompt = query, response_a, response_b, preference = winner"),
        ({"prompt": "q", "response_0": "B", "response_1": "A", "better_response_id": 1},
         "prompt, response_0, response_1, preference = better_response_id"),
        ({"instruction": "q", "output_1": "A", "output_2": "B", "preference": 1.0},
         "prompt = instruction, output_1, output_2, preference = preference"),
        ({"prompt": "q", "Response A": "B", "Response B": "A", "Label": " Response B "},
         "prompt, response_a = Response A, response_b = Response B, preference = Label"),
        ({"prompt": "q", "answer_a": "A", "answer_b": "B", "winner": "model_a"},
         "prompt, answer_a, answer_b, preference = winner"),
        ({"prompt": "q", "response1": "B", "response2": "A", "preferred": "2"},
         "prompt, response1, response2, preference = preferred"),
        ({"prompt": "q", "completion_a": "B", "completion_b": "A", "preference": "completion_b"},
         "prompt, completion_a, completion_b, preference = preference"),
    ],
)  # fmt: skip
def test_what_people_call_columns(tmp_path: Path, row: dict[str, Any], layout: str) -> None:
    found = read(tmp_path, {**row, "id": 7}, dimension="d")
    assert found.comparisons == (Comparison("q", "A", "B", "d"),)
    assert dict(found.files[0].layouts) == {layout: 1}
    assert found.extra_columns == ("id",)


def test_alpacas_input_follows_its_instruction(tmp_path: Path) -> None:
    rows = [{"instruction": "Sum up.", "input": rest, "chosen": "a", "rejected": "b"} for rest in ("A text.", "", None)]
    found = read(tmp_path, *rows, dimension="d")
    assert [c.prompt for c in found.comparisons] == ["Sum up.\n\nA text.", "Sum up.", "Sum up."]
    assert list(found.files[0].layouts) == ["prompt = instruction, prompt (continued) = input, chosen, rejected"]
    assert read_prompts(tmp_path / "x.jsonl").prompts == ("Sum up.\n\nA text.", "Sum up.", "Sum up.")
    with pytest.raises(CounterpointError, match=r"field 'input': expected text that goes on from the text of 'instr"):
        read(tmp_path, {**rows[0], "input": 3}, dimension="d")


def test_one_preference_per_dimension(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_a": "A", "response_b": "B"}
    found = read(
        tmp_path,
        {**row, "helpful_preference": "a", "harmless_preference": "b", "warm_winner": "tie"},
        {**row, "helpful_preference": "B", "harmless_preference": None, "warm_winner": "a"},
    )
    assert found.comparisons == (
        Comparison("q", "A", "B", "helpful"), Comparison("q", "B", "A", "harmless"),
        Comparison("q", "B", "A", "helpful"), Comparison("q", "A", "B", "warm"),
    )  # fmt: skip
    assert dict(found.files[0].undecided) == {"warm": 1, "harmless": 1}
    assert dict(found.files[0].comparisons) == found.counts == {"helpful": 2, "harmless": 1, "warm": 1}
    assert found.files[0].rows == 2


@pytest.mark.parametrize("name", ["dimension", "dim", "aspect"])
def test_rows_may_name_their_dimension(tmp_path: Path, name: str) -> None:
    row = {"prompt": "q", "response_a": "A", "response_b": "B"}
    named: list[dict[str, Any]] = [
        {name: "x", "winner": "tie"},
        {name: "y", "winner": "b"},
        {name: None, "winner": "a"},
    ]
    found = read(tmp_path, *({**row, **more} for more in named), dimension="z")
    assert found.counts == {"y": 1, "z": 1}
    assert dict(found.files[0].undecided) == {"x": 1}


def test_columns_by_hand(tmp_path: Path) -> None:
    row = {"prompt": 17, "post": "q", "good": "A", "bad": "B", "kind": "d"}
    columns = {"prompt": "post", "chosen": "good", "rejected": "bad", "dimension": "kind"}
    found = read(tmp_path, row, columns=columns)
    assert found.comparisons == (Comparison("q", "A", "B", "d"),)
    assert list(found.files[0].layouts) == ["prompt = post, chosen = good, rejected = bad, dimension = kind"]
    assert found.extra_columns == ("prompt",)
    assert read_prompts(tmp_path / "x.jsonl", columns={"prompt": "post"}).prompts == ("q",)


def test_by_hand_a_label_counts_as_its_owner_says(tmp_path: Path) -> None:
    """A published data set labels 1 where A is preferred and 0 where B is."""
    row = {"history": "q", "human_ref_A": "A", "human_ref_B": "B"}
    columns = {"prompt": "history", "response_1": "human_ref_A", "response_0": "human_ref_B", "preference": "labels"}
    found = read(tmp_path, {**row, "labels": 1}, {**row, "labels": 0}, columns=columns, dimension="d")
    assert [c.chosen for c in found.comparisons] == ["A", "B"]


def test_a_preference_by_hand_is_the_only_one(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_a": "A", "response_b": "B", "overall_preference": -3, "winner": "x", "best": "a"}
    columns = {"good_preference": "best"}
    assert read(tmp_path, row, columns=columns).comparisons == (Comparison("q", "A", "B", "good"),)
    assert read(tmp_path, row, columns=columns).extra_columns == ("overall_preference", "winner")


def test_by_hand_beats_what_else_would_be_understood(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_a": "x", "response_b": "y", "left": "A", "right": "B", "safer": 0}
    columns = {"response_0": "left", "response_1": "right", "safe_preference": "safer"}
    assert read(tmp_path, row, columns=columns).comparisons == (Comparison("q", "A", "B", "safe"),)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"prompt": "q", "good": "A"}, {}, "field 'chosen': missing; found only 'prompt', 'good'; name the columns: "),
        ({"prompt": "q", "chosen": "A"}, {}, "field 'rejected': missing; found only 'prompt', 'chosen'; name it: --"),
        ({"prompt": "q", "response_a": "A", "response_b": "B"}, {},
         "no column says which of response_a and response_b is better; found only 'prompt', 'response_a', 'respons"),
        ({"prompt": "q", "response": "A", "helpfulness": 3}, {}, "with scores, first run `counterpoint data"),
        ({"prompt": "q", "chosen": "A", "rejected": "B"}, {"columns": {"chosen": "good"}},
         "--column chosen=good: there is no column 'good'; found only 'prompt', 'chosen', 'rejected'"),
        ({"prompt": "q", "response_a": "A", "response_b": "A", "winner": "b"}, {"dimension": "d"},
         "field 'rejected': the same as 'chosen', 'A'; expected two responses ('chosen' is the column 'response_b', "
         "'rejected' is the column 'response_a')"),
        ({"Prompt": "", "chosen": "A", "rejected": "B"}, {"dimension": "d"},
         "field 'prompt': empty; expected text, or messages that end with the user's ('prompt' is the column 'Promp"),
        ({"prompt": "q", "response_a": "A", "response_b": "B", "winner": "a"}, {}, "field 'dimension': missing"),
        ({"prompt": "q", "chosen": "A", "rejected": "B", "aspect": 3}, {}, "field 'aspect': expected the name of"),
        ({"prompt": "q", "response_a": "A", "response_b": "B", "x_winner": "a"}, {"known": ["y"]},
         "field 'dimension': unknown dimension 'x'. Known: y"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_said(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CounterpointError) as error:
        read(tmp_path, row, **options)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'x.jsonl'}:1: ")


def test_a_part_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"--column chosn=\.\.\.: unknown part 'chosn'; did you mean 'chosen'"):
        read(tmp_path, {}, columns={"chosn": "x"})


def test_ties_alone_are_no_comparisons(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_a": "A", "response_b": "B", "winner": "tie"}
    with pytest.raises(CounterpointError, match=r"no comparison came of it; found 2 rows, 2 preferences that are ties"):
        read(tmp_path, row, row, dimension="d")
