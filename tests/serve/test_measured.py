"""What was measured of a band's methods, as it is read from beside the band."""

import json
import os
from pathlib import Path

from counterpoint.serve.measured import BESIDE, measured

NAMES = ("terse", "warm")


def row(method: str, profile: str, terse: float, strength: float = 1.0) -> str:
    scores = {"terse": terse, "warm": 2 * terse}
    line = {
        "method": method,
        "strength": strength,
        "profile": profile,
        "prompt": "p",
        "response": "r",
        "scores": scores,
    }
    return json.dumps(line)


def write(folder: Path, *rows: str) -> Path:
    """A band's folder with answers beside it."""
    (folder / BESIDE).write_text("\n".join(rows) + "\n")
    (folder / "band").mkdir(exist_ok=True)
    return folder / "band"


def test_means_by_method_strength_and_profile(tmp_path: Path) -> None:
    band = write(
        tmp_path, row("soup", "terse=1", 1.0), row("soup", "terse=1", 2.0), row("soup", "terse=1", 5.0, strength=3.0),
        row("soup", "terse=1, warm=1", -1.0), row("base", "terse=1", 0.0),
    )  # fmt: skip
    found = {(point.method, point.label): point.rewards for point in measured(band, NAMES)}
    assert found == {
        ("soup", "terse=1"): {"terse": 1.5, "warm": 3.0},
        ("soup", "terse=1, strength=3"): {"terse": 5.0, "warm": 10.0},
        ("soup", "terse=1, warm=1"): {"terse": -1.0, "warm": -2.0},
        ("base", "terse=1"): {"terse": 0.0, "warm": 0.0},
    }


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    band = write(tmp_path, row("soup", "terse=1", 1.0))
    assert measured(band, NAMES)[0].rewards["terse"] == 1.0
    write(tmp_path, row("soup", "terse=1", 2.0))
    os.utime(tmp_path / BESIDE, ns=(1, 1))  # two writes may have the same time
    assert measured(band, NAMES)[0].rewards["terse"] == 2.0


def test_what_is_no_measurement_of_this_band_says_nothing(tmp_path: Path) -> None:
    assert measured(None, NAMES) == []
    assert measured(tmp_path / "band", NAMES) == []
    for line in ('{"prompt": "p", "response": "r"}', "no JSON", row("soup", "another=1", 1.0)):
        band = write(tmp_path, row("soup", "terse=1", 1.0), line)
        os.utime(tmp_path / BESIDE, ns=(len(line), len(line)))
        assert measured(band, NAMES) == []
