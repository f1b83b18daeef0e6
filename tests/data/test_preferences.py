import json
from itertools import permutations
from pathlib import Path

import pytest

from counterpoint.data import world
from counterpoint.data.preferences import (
    as_requested,
    axes_of,
    chosen,
    imitated,
    opposites_of,
    read_preferences,
    read_table,
    requested,
)
from counterpoint.profiles import check_name, corners
from counterpoint.types import Comparison, CounterpointError, Message

REQUESTS = {"short": "Be short.", "long": "Be long."}
ROWS = [
    {"name": "short", "axis": "length", "request": "Be short.", "id": "1"},
    {"name": "long", "axis": "length", "request": "Be long, please."},
    {"name": "kind", "request": "Be kind.", "criterion": "Is it kind?"},
]


def write(folder: Path, *rows: dict[str, str]) -> Path:
    file = folder / "table.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_built_in_table_is_the_papers() -> None:
    rows = read_table()
    assert [row.id for row in rows] == ["P1A", "P1B", "P2A", "P2B", "P3A", "P3B", "P3C", "P3D"]
    assert [row.name for row in rows][:6] == [dimension.name for dimension in world.DIMENSIONS]
    assert axes_of(read_preferences()[:6]) == list(world.AXES)
    assert len(corners(axes_of(read_preferences()[:6]))) == 8
    assert len(axes_of(read_preferences())[2]) == 4
    for row in rows:
        check_name(row.name)
        assert row.description
        assert row.criterion.endswith("?")


def test_regression_no_request_can_be_found_inside_another() -> None:
    """Where preferences are told by a substring of the prompt, one inside another stands for both."""
    requests = [row.request.lower().strip(" .") for row in read_table()]
    assert not [(a, b) for a, b in permutations(requests, 2) if a in b]


def test_a_users_table_in_two_formats(tmp_path: Path) -> None:
    found = read_preferences(write(tmp_path, *ROWS))
    assert [(d.name, d.axis, d.criterion) for d in found] == [
        ("short", "length", ""), ("long", "length", ""), ("kind", "", "Is it kind?")
    ]  # fmt: skip
    assert axes_of(found) == [("short", "long")]
    assert opposites_of(found[0], found) == ("long",)
    assert opposites_of(found[2], found) == ()
    cells = tmp_path / "table.csv"
    cells.write_text('name,axis,request,criterion,id\nshort,length,Be short.,,1\nlong,length,"Be long, please.",,\n')
    with cells.open("a") as file:
        file.write("kind,,Be kind.,Is it kind?,\n")
    assert read_preferences(cells) == found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "short", "request": "Briefly."}, "the name 'short' is there twice"),
        ({"name": "brief", "request": "Be short."}, "the request 'Be short.' is there twice"),
        ({"name": "warm", "request": "Be warm.", "axis": "tone"}, "the axis 'tone' has one pole, 'warm'"),
        ({"name": "warm", "request": "Be warm.", "critereon": "?"}, r"table\.jsonl:4: field 'critereon': extra inputs"),
        ({"name": "strength", "request": "Be strong."}, r"table\.jsonl:4: 'strength' cannot name a dimension"),
        ({"name": "warm", "request": ""}, r"table\.jsonl:4: field 'request': string should have at least 1 character"),
        ({"name": "warm"}, r"table\.jsonl:4: field 'request': missing"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_place(tmp_path: Path, row: dict[str, str], message: str) -> None:
    with pytest.raises(CounterpointError, match=message):
        read_table(write(tmp_path, *ROWS, row))


def test_names_are_chosen_in_the_tables_order(tmp_path: Path) -> None:
    table = read_preferences(write(tmp_path, *ROWS))
    assert [d.name for d in chosen(table, ["kind", "short"])] == ["short", "kind"]
    assert chosen(table, []) == table
    with pytest.raises(CounterpointError, match=r"unknown preference 'shrot'; did you mean 'short'\?"):
        chosen(table, ["shrot"])


def test_requests_follow_the_prompt_joined_by_single_spaces() -> None:
    assert as_requested("What?", ("long", "short"), REQUESTS) == "What? Be long. Be short."
    assert as_requested("What?", (), REQUESTS) == "What?"
    talk = (Message("system", "s"), Message("user", "What?"))
    assert as_requested(talk, ("short",), REQUESTS) == (Message("system", "s"), Message("user", "What? Be short."))


def test_each_comparison_carries_its_own_request() -> None:
    found = requested([Comparison("a", "x", "y", "long"), Comparison("b", "z", "y", "short")], REQUESTS)
    assert found == [Comparison("a Be long.", "x", "y", "long"), Comparison("b Be short.", "z", "y", "short")]
    with pytest.raises(CounterpointError, match="unknown preference 'loud'"):
        requested([Comparison("a", "x", "y", "loud")], REQUESTS)


def test_what_is_imitated_is_each_chosen_response_once() -> None:
    twice = [Comparison("a", "x", "y", "long"), Comparison("a", "x", "z", "long"), Comparison("a", "x", "y", "short")]
    assert imitated(twice, REQUESTS) == [("a Be long.", "x"), ("a Be short.", "x")]
