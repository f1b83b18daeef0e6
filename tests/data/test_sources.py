"""Files, folders, folders that `datasets` wrote, and the hub, whose library stands in for the network here."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from counterpoint.data import arrow
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.sources import find_tables
from counterpoint.types import CounterpointError


def rows(*answers: str) -> list[dict[str, str]]:
    return [{"prompt": "q", "chosen": answer, "rejected": "no", "dimension": "d"} for answer in answers]


def chosen(*paths: str | Path) -> list[str]:
    return [comparison.chosen for comparison in read_comparisons(paths).comparisons]


@pytest.fixture
def splits() -> datasets.DatasetDict:
    parts = {"train": rows("a", "b"), "test": rows("c")}
    return datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})


def test_a_folder_that_datasets_wrote(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits.save_to_disk(str(tmp_path / "all"))
    splits["test"].save_to_disk(str(tmp_path / "one"))
    assert chosen(tmp_path / "all") == ["a", "b", "c"]
    assert chosen(f"{tmp_path / 'all'}:test") == ["c"]
    assert chosen(tmp_path / "one") == ["c"]
    assert chosen(f"{tmp_path / 'all'}:test", tmp_path / "all", tmp_path / "all" / "test") == ["c", "a", "b", "c"]
    found = read_comparisons(tmp_path / "all")
    assert [(file.name, file.format) for file in found.files] == [
        (f"{tmp_path / 'all'}:train", "folder of datasets"), (f"{tmp_path / 'all'}:test", "folder of datasets"),
    ]  # fmt: skip
    with pytest.raises(CounterpointError, match=r"all: there is no split 'dev'; there are train, test"):
        chosen(f"{tmp_path / 'all'}:dev")


def test_a_bad_row_of_a_split_is_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows("a", " "))}).save_to_disk(str(tmp_path / "x"))
    with pytest.raises(CounterpointError, match=r"x:train, row 2: field 'chosen': empty"):
        chosen(tmp_path / "x")


def test_a_damaged_folder_of_datasets(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits.save_to_disk(str(tmp_path / "x"))
    (tmp_path / "x" / "dataset_dict.json").write_text("{")
    with pytest.raises(CounterpointError, match=r"x: not a data set that `datasets` can load"):
        chosen(tmp_path / "x")


def test_a_folder_holds_files_and_data_sets_and_what_is_no_data(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits.save_to_disk(str(tmp_path / "m" / "saved"))
    (tmp_path / "a.json").write_text(json.dumps(rows("first")))
    (tmp_path / "z.csv").write_text("prompt,chosen,rejected,dimension\nq,last,no,d\n")
    (tmp_path / "manifest.json").write_text('{"seed": 0}')
    (tmp_path / "state.json").write_text('{"step": 7}')  # of a training run, not of a data set
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.csv").write_text("nothing")
    assert chosen(tmp_path) == ["first", "a", "b", "c", "last"]


class Hub:
    """What the hub's two libraries do, and what they were asked."""

    def __init__(self, found: Any = None, knock: Exception | None = None, load: Exception | None = None) -> None:
        self.found, self.knock, self.load, self.asked = found, knock, load, list[object]()

    def dataset_info(self, name: str, timeout: float) -> None:
        self.asked.append(name)
        if self.knock:
            raise self.knock

    def load_dataset(self, name: str, split: str | None) -> Any:
        self.asked.append((name, split))
        if self.load:
            raise self.load
        return self.found if split is None else self.found[split]


def use(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Hub:
    monkeypatch.setattr(arrow, "HfApi", lambda: hub)
    monkeypatch.setattr(arrow, "load_dataset", hub.load_dataset)
    return hub


def test_the_hub(monkeypatch: pytest.MonkeyPatch, splits: datasets.DatasetDict) -> None:
    hub = use(monkeypatch, Hub(splits))
    assert chosen("some/pairs") == ["a", "b", "c"]
    assert chosen(Path("some/pairs:test")) == ["c"]
    assert hub.asked == ["some/pairs", ("some/pairs", None), "some/pairs", ("some/pairs", "test")]
    assert [table.name for table in find_tables("some/pairs:test")] == ["some/pairs:test"]


def test_offline_the_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, splits: datasets.DatasetDict) -> None:
    use(monkeypatch, Hub(knock=httpx.ConnectError("[Errno -2] Name or service not known")))
    with pytest.raises(CounterpointError) as error:
        chosen("some/pairs")
    assert str(error.value) == (
        "some/pairs: there is no such file or folder, and no data set of that name could be had from the Hugging Face "
        "hub: [Errno -2] Name or service not known; check the path, or fetch the files and name those"
    )
    use(monkeypatch, Hub(load=ValueError("Config name is missing.\nPick one")))
    with pytest.raises(CounterpointError, match=r"hub: Config name is missing\.; check the path"):
        chosen("some/pairs")


def test_what_was_fetched_before_serves_offline(monkeypatch: pytest.MonkeyPatch, splits: datasets.DatasetDict) -> None:
    use(monkeypatch, Hub(splits, knock=OfflineModeIsEnabled("offline mode is enabled")))
    assert chosen("some/pairs:test") == ["c"]


@pytest.mark.parametrize("name", ["nowhere.jsonl", "a/nowhere.csv", "a/b/c", "nowhere", "{here}/nowhere", "{here}:x"])
def test_a_missing_path_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hub = use(monkeypatch, Hub())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(CounterpointError, match=r"there is no such file or folder$"):
        chosen(name.format(here="here"))
    assert not hub.asked
