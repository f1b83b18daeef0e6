import json
from pathlib import Path
from typing import Any

import pytest

from counterpoint.evaluate.bootstrap import Interval
from counterpoint.evaluate.claims import Claim, make_claim, read_claims, write_claims
from counterpoint.types import CounterpointError


def claim(low: float) -> Claim:
    return make_claim(
        "mope beats base",
        metric="reward",
        a="mope",
        b="base",
        difference=Interval(0.5, low, 0.8),
        prompts=60,
        seeds=[0, 1],
        command="counterpoint demo",
        seconds=12.5,
    )


@pytest.mark.parametrize(("low", "holds"), [(0.1, True), (0.0, False), (-0.1, False)])
def test_a_claim_holds_only_if_its_interval_lies_above_zero(low: float, holds: bool) -> None:
    assert claim(low).holds is holds


def test_round_trip(tmp_path: Path) -> None:
    claims = [claim(0.1), claim(-0.1)]
    write_claims(tmp_path / "results.json", claims)
    assert read_claims(tmp_path / "results.json") == claims
    assert json.loads((tmp_path / "results.json").read_text())[0] == {
        "claim": "mope beats base",
        "metric": "reward",
        "a": "mope",
        "b": "base",
        "difference": {"value": 0.5, "low": 0.1, "high": 0.8},
        "prompts": 60,
        "seeds": [0, 1],
        "holds": True,
        "command": "counterpoint demo",
        "seconds": 12.5,
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("holds", False, "holds is False, but the interval starts at 0.1"),
        ("p_value", 0.01, "0.p_value: Extra inputs are not permitted"),
        ("prompts", 1, "0.prompts: Input should be greater than or equal to 2"),
        ("seeds", [], "0.seeds"),
        ("difference", {"value": 1, "low": 2, "high": 1}, "low 2.0 lies above high 1.0"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**claim(0.1).model_dump(mode="json"), key: value}]))
    with pytest.raises(CounterpointError, match=message) as error:
        read_claims(path)
    assert str(path) in str(error.value)
