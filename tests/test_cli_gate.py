"""`counterpoint train gate` and what meets its gates: every mistake is one line."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from counterpoint.artifacts import read_json, write_json
from counterpoint.build.evaluation import entries_for, steered_by
from counterpoint.build.examine_gates import over_layers
from counterpoint.build.gate_band import unequal
from counterpoint.cli.gate import READ_BY
from counterpoint.compose.weighers.gate import KINDS
from counterpoint.data.comparisons import write_comparisons
from counterpoint.decode.band import Band
from counterpoint.models.adapter import CONFIG, read_adapter
from counterpoint.models.band_file import add_expert, add_model, new_band, read_band
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import Comparison, Dimension, Expert, Profile

Command = Callable[..., tuple[object, str, str]]
WORDS = ("owls", "sky", "sea", "tea", "ice", "fog")
SMALL = ("--steps", 2, "--batch", 4, "--threads", 1)
NEW = ("--rank", 2, "--per-group", 1)
ANSWER = ("--max-tokens", 8, "--temperature", 0, "--threads", 1)


def comparisons_on(dimension: str) -> list[Comparison]:
    return [Comparison(f"Tell me of {word}.", f"{word} {dimension}", f"no {word}", dimension) for word in WORDS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, comparisons on two dimensions, and a band of two adapters and a whole model."""
    folder = tmp_path_factory.mktemp("gates")
    base = save_pico(folder / "base", seed=1)
    new_band(folder / "band", str(base), [Dimension("terse"), Dimension("warm")])
    for seed, name in enumerate(("terse", "warm"), start=11):
        add_expert(folder / "band", pico_adapter(folder / name, base, seed=seed, rank=2), Expert(name, name))
    add_model(folder / "band", str(base), Expert("whole", "whole"))
    write_comparisons(folder / "pairs.jsonl", [*comparisons_on("terse"), *comparisons_on("warm")])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy, in which the band may get gates."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def train(command: Command, folder: Path) -> Command:
    """Runs `counterpoint train gate` of the band on the comparisons, in a small way."""
    return partial(command, "train", "gate", folder / "band", folder / "pairs.jsonl", *SMALL)


def result(done: tuple[object, str, str]) -> Any:
    assert done[0] == 0, done[2]
    return json.loads(done[1])


def answer(command: Command, folder: Path, *arguments: object) -> tuple[object, str, str]:
    return command("chat", folder / "band", "owls", *ANSWER, *arguments)


def refused(done: tuple[object, str, str], expected: str) -> bool:
    said = " ".join(done[2].split())
    assert expected in said
    assert "Traceback" not in said
    return done[0] == 2


# A gate with experts of its own


def test_it_trains_and_then_answers(command: Command, train: Command, folder: Path) -> None:
    code, said, told = train(*NEW)
    assert code == 0, told
    assert "pairs: terse 4, warm 4; 1 new experts for each; experts and router learn; 2 steps of dpo" in one_line(told)
    place = folder / "band" / "gates" / "pmol"
    metrics = read_json(place / "metrics.json")
    for found in metrics["dimensions"].values():
        assert (found["learned"]["pairs"], found["held_out"]["pairs"]) == (4, 2)
        assert f"{found['routed']['value']:.0%}" in said
    for found in metrics["routing"].values():
        assert found["empty"] + sum(found["mass"].values()) == pytest.approx(1, abs=1e-5)
        assert all(f"{share:.0%}" in said for share in (*found["mass"].values(), found["empty"]))
    assert f"counterpoint chat {folder / 'band'} --method pmol --profile terse=1" in said
    assert read_json(place / "gate.json")["base"] == read_band(folder / "band").base_hash
    routed = result(answer(command, folder, "--method", "pmol", "--json"))
    assert (routed["method"], "weights" in routed) == ("pmol", False), "without a profile it answers as it routes"
    assert result(answer(command, folder, "--method", "pmol", "--profile", "warm", "--json"))["weights"] == {"warm": 1}


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_one_that_is_there_is_replaced_when_told_to_and_not_made_again(train: Command, folder: Path) -> None:
    first = result(train(*NEW, "--json"))
    assert first == read_json(folder / "band" / "gates" / "pmol" / "metrics.json")
    assert refused(train(*NEW), "the band has a gate of this kind already; --replace puts another one in its place")
    again = result(train(*NEW, "--replace", "--json"))
    assert again == {**first, "fresh": False}
    options = ("--no-empty", "--soft", "terse=0.2,warm=0.4", "--target", "mass", "--loss", "sft", "--told", 0.5)
    other = result(train(*NEW, *options, "--replace", "--json"))
    assert other["fresh"]
    config = read_json(folder / "band" / "gates" / "pmol" / "manifest.json")["config"]
    wanted = {
        "empty": False,
        "soft": {"terse": 0.2, "warm": 0.4},
        "target": "mass",
        "loss": "sft",
        "lora_rank": 2,
        "told": 0.5,
    }
    assert wanted.items() <= config.items()
    assert all(found["empty"] == pytest.approx(0, abs=1e-5) for found in other["routing"].values())


def test_a_band_is_started_for_it(command: Command, folder: Path, tmp_path: Path) -> None:
    """Of a file for each dimension that names none, as people have them."""
    for name in ("kind", "exact"):
        rows = [{"prompt": c.prompt, "chosen": c.chosen, "rejected": c.rejected} for c in comparisons_on(name)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"{name}={tmp_path / name}.jsonl" for name in ("kind", "exact")]
    new = partial(command, "train", "gate", tmp_path / "new", *files, *SMALL, *NEW, "--kind", "loramoe")
    assert refused(new(), "not a band, since it holds no band.json; --base MODEL starts one there")
    assert not (tmp_path / "new").exists()
    metrics = result(new("--base", folder / "base", "--json"))
    assert metrics["dimensions_added"] == ["kind", "exact"]
    band = read_band(tmp_path / "new")
    assert ([entry.name for entry in band.dimensions], band.experts) == (["kind", "exact"], [])
    code, said, told = command("chat", tmp_path / "new", "owls", "--method", "loramoe", "--profile", "exact", *ANSWER)
    assert (code, told) == (0, ""), said
    assert command("inspect", tmp_path / "new")[0] == 0


def test_a_dimension_that_the_band_does_not_know(command: Command, train: Command, folder: Path) -> None:
    """Left out and told of, unless it is named: then the band gets it, though it has no expert for it."""
    more = folder / "more.jsonl"
    write_comparisons(more, comparisons_on("bold"))
    left = train(more, *NEW, "--json")
    assert "left out: comparisons on bold, which the band does not know; --dimensions names them too" in one_line(
        left[2]
    )
    assert list(result(left)["dimensions"]) == ["terse", "warm"]
    named = result(train(more, *NEW, "--dimensions", "terse,bold", "--replace", "--json"))
    assert named["dimensions_added"] == ["bold"]
    assert answer(command, folder, "--method", "pmol", "--profile", "bold")[0] == 0
    assert refused(answer(command, folder, "--profile", "bold"), "no expert serves the dimension 'bold'")


def test_far_fewer_comparisons_of_one_dimension_are_told_of() -> None:
    """From four times as many on; batches are drawn from all alike."""
    told = unequal({"terse": 24, "kind": 10, "warm": 6})
    assert told is not None
    assert told.startswith("terse has 24 comparisons and warm 6: batches are drawn from all alike")
    assert unequal({"terse": 23, "warm": 6}) is None
    assert unequal({"terse": 5}) is None


def test_the_means_over_layers_by_hand() -> None:
    """Two layers, two dimensions, of which there was no data on one, and two groups."""
    routing = {
        "dimensions": ["terse", "warm"], "groups": ["terse", "warm"],
        "mass": [[[0.5, 0.25], [None, None]], [[0.25, 0.25], [None, None]]],
        "empty": [[0.25, None], [0.5, None]], "entropy": [[1.0, None], [0.5, None]],
    }  # fmt: skip
    assert over_layers(routing) == {"terse": {"mass": {"terse": 0.375, "warm": 0.25}, "empty": 0.375, "entropy": 0.75}}


def test_an_expert_of_a_gate_is_a_peft_adapter_for_any_band(command: Command, train: Command, folder: Path) -> None:
    assert train(*NEW)[0] == 0
    expert = folder / "band" / "gates" / "pmol" / "experts" / "warm-0"
    code, said, told = command("add", folder / "other", expert, "--dimension", "warm")
    assert code == 0, told
    assert "note" not in said
    assert read_adapter(folder / "other" / "experts" / "warm").size == read_adapter(expert).size
    assert command("chat", folder / "other", "owls", "--profile", "warm", *ANSWER)[0] == 0


# A gate over the band's adapters


@pytest.mark.parametrize("kind", ["pmol", "x-lora", "phatgoose"])
def test_over_adapters_of_the_band(command: Command, train: Command, folder: Path, kind: str) -> None:
    options = {"pmol": ("--from-experts",), "x-lora": ("--depth", 2, "--width", 8), "phatgoose": ("--top-k", 1)}[kind]
    metrics = result(train("--kind", kind, *options, "--json"))
    gate = read_json(folder / "band" / "gates" / kind / "gate.json")
    assert [expert["name"] for expert in gate["experts"]] == ["terse", "warm"]
    assert all(expert["hash"] for expert in gate["experts"]), "they stay the band's"
    assert {"pmol": None, "x-lora": 2, "phatgoose": None}[kind] == gate.get("depth")
    assert gate.get("top_k") == (1 if kind == "phatgoose" else None)
    entropies = [found["entropy"] for found in metrics["routing"].values()]
    assert (max(entropies) < 1e-5) == (kind == "phatgoose"), "one expert has all of a token where the top one is kept"
    assert answer(command, folder, "--method", kind, "--profile", "terse=1, warm=0.5")[0] == 0
    found = result(command("inspect", folder / "band", "--json"))["gates"][kind]
    assert (found["experts"], found["own"]) == ({"terse": ["terse"], "warm": ["warm"]}, False)


def test_experts_that_learn_on_become_the_gates_own(train: Command, folder: Path) -> None:
    before = {name: read_adapter(folder / "band" / "experts" / name).factors for name in ("terse", "warm")}
    result(train("--from-experts", "--learn", "all", "--json"))
    gate = folder / "band" / "gates" / "pmol"
    assert not any(expert.get("hash") for expert in read_json(gate / "gate.json")["experts"])
    for name, factors in before.items():
        own, still = (read_adapter(place / "experts" / name).factors for place in (gate, folder / "band"))
        module = min(factors)
        assert factors[module][0].equal(still[module][0]), "the band's stays as it was"
        assert not factors[module][0].equal(own[module][0])


def test_an_arrow_needs_no_data(command: Command, folder: Path) -> None:
    arrow = partial(command, "train", "gate", folder / "band", "--kind", "arrow", "--threads", 1)
    made = result(arrow("--top-k", 1, "--temperature", 0.5, "--json"))
    layers = len(read_adapter(folder / "terse").factors)
    assert made == {"kind": "arrow", "fresh": True, "experts": ["terse", "warm"], "layers": layers, "top_k": 1}
    assert read_json(folder / "band" / "gates" / "arrow" / "gate.json")["temperature"] == 0.5
    code, said, told = arrow("--dimensions", "warm", "--replace")
    assert code == 0, told
    assert "arrow over warm; the likeliest 1 share a token" in said
    assert result(arrow("--replace", "--json"))["fresh"]
    band = read_json(folder / "band" / "band.json")
    band["experts"][1]["dimension"] = "terse"
    write_json(folder / "band" / "band.json", band)
    assert result(arrow("--replace", "--json"))["fresh"], "an adapter that serves another dimension was once kept"
    assert not result(arrow("--replace", "--json"))["fresh"]
    assert refused(arrow("--replace", "--top-k", 3), "top k is 3, and there are 2 experts; expected 1 to 2")
    assert refused(arrow("--replace", "--dimensions", "whole"), "no adapter of the band serves 'whole'; they serve: ")


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--kind", "pmoll"), "unknown kind 'pmoll'; did you mean 'pmol'?"),
        (("--learn", "router"), "--learn router: new experts add nothing"),
        (("--from-experts", "--rank", 4), "--rank is for new experts, and --from-experts takes the band's"),
        (("--top-k", 2), "--top-k: for --kind arrow, phatgoose; pmol does not read it"),
        (("--kind", "arrow"), "comparisons: for --kind pmol, loramoe, x-lora, phatgoose; arrow does not read it"),
        (("--kind", "x-lora", "--soft", "0.2"), "--soft: for --kind pmol, loramoe; x-lora does not read it"),
        (("--soft", "much"), "--soft 'much': 'much' is no number; expected a number, or one for each dimension"),
        (("--soft", "terse=0.1"), "soft must name each dimension once, and differs in 'warm'"),
        (("--soft", "2"), "soft is 2.0 for 'terse'; it must lie in [0, 1]"),
        (("--dimensions", "terse,worm"), "no comparison is on the dimension 'worm'; dimensions found: terse, warm"),
        (("--loss", "dpp"), "loss is 'dpp'; it must be one of dpo"),
        (("--targets", "q_prj"), "q_prj"),
        (("--targets", ","), "lora_targets is empty; expected 'all-linear', or names"),
        (("--told", 2), "told is 2.0; it is a share of the pairs, 0 to 1"),
        (("--rank", 0), "lora_rank is 0; it must be at least 1"),
        (("--steps", 0), "steps is 0; it must be at least 1"),
        (("--holdout", 1), "it must lie between 0 and 1"),
        (("--max-length", 9999), "max length is 9999"),
        (("--base", "elsewhere"), "this band's base is"),
        (("--kind", "phatgoose", "--temperature", 0), "the temperature of a gate is 0; expected more than 0"),
        (("nowhere.jsonl",), "nowhere.jsonl"),
    ],
)
def test_mistakes(train: Command, folder: Path, arguments: tuple[object, ...], expected: str) -> None:
    assert refused(train(*arguments), expected)
    assert not (folder / "band" / "gates" / "pmol").exists()


def test_an_adapter_without_its_factors_is_named(command: Command, folder: Path) -> None:
    """It was once a traceback, before any gate and for those that are there."""
    arrow = ("train", "gate", folder / "band", "--kind", "arrow")
    assert command(*arrow)[0] == 0
    (folder / "band" / "experts" / "warm" / "adapter_model.safetensors").unlink()
    assert refused(command(*arrow, "--replace"), "warm/adapter_model.safetensors: there is no such file")
    assert "wrong" in command("inspect", folder / "band")[1]


def test_no_data_and_data_on_other_dimensions(command: Command, folder: Path) -> None:
    alone = partial(command, "train", "gate", folder / "band")
    assert refused(alone(), "there is nothing to learn from; name preference data with --comparisons FILE")
    write_comparisons(folder / "bold.jsonl", comparisons_on("bold"))
    done = alone(folder / "bold.jsonl")
    assert refused(done, "no comparison is on a dimension of the band: found bold, the band has terse, warm, whole")
    (folder / "band" / "gates" / "pmol").mkdir(parents=True)
    (folder / "band" / "gates" / "pmol" / "notes.txt").write_text("mine")
    assert refused(alone(folder / "pairs.jsonl"), "holds other files, which would be lost")


def test_every_option_that_some_kind_leaves_unread_is_one_of_the_command(command: Command) -> None:
    from inspect import signature

    from counterpoint.cli.gate import gate

    assert READ_BY.keys() <= signature(gate).parameters.keys()
    assert all(set(readers) < set(KINDS) for readers in READ_BY.values())


# What meets a band's gates


def test_inspect_shows_gates_and_what_is_wrong_with_them(command: Command, folder: Path) -> None:
    arrow = ("train", "gate", folder / "band", "--kind", "arrow")
    assert result(command("inspect", folder / "band", "--json"))["gates"] == {}
    assert command(*arrow)[0] == 0
    code, said, _ = command("inspect", folder / "band")
    assert (code, "gate arrow over adapters of the band (terse: terse; warm: warm) in 14 layers" in said) == (0, True)
    config = folder / "band" / "experts" / "warm" / CONFIG
    write_json(config, read_json(config) | {"lora_alpha": 99})
    (folder / "band" / "gates" / "arow").mkdir()
    (folder / "band" / "gates" / "arrow" / "routing.json").write_text("{}")
    code, said, _ = command("inspect", folder / "band")
    assert code == 1
    assert "routing.json: 'dimensions' is missing; train the gate again" in said
    assert "gate.json: it was made for another adapter 'warm'" in said
    assert "no gate is of that kind; there are: pmol" in said
    assert refused(answer(command, folder, "--method", "arrow"), "it was made for another adapter 'warm'")


def test_removing_an_expert_tells_which_gates_were_over_it(command: Command, train: Command, folder: Path) -> None:
    """And the dimension stays where a gate has experts of its own for it."""
    assert command("train", "gate", folder / "band", "--kind", "arrow")[0] == 0
    assert train(*NEW)[0] == 0
    code, said, told = command("remove", folder / "band", "warm")
    assert code == 0, told
    assert "removed expert 'warm'; left: terse, whole" in said
    assert "the gate arrow was over it and works no longer; train it again with `counterpoint train gate`" in said
    assert "pmol" not in said
    assert answer(command, folder, "--method", "pmol", "--profile", "warm")[0] == 0
    assert refused(answer(command, folder, "--method", "arrow"), "the band no longer has the adapter 'warm'")
    assert result(command("remove", folder / "band", "terse", "--json"))["gates_broken"] == ["arrow"]


def test_evaluate_takes_the_gates_that_a_band_has(command: Command, folder: Path) -> None:
    """An Arrow, which any band could have, only where somebody made it or asks for it."""
    people = [Profile({"terse": 1.0, "warm": 0.5})]
    assert not {entry.name for entry in entries_for(Band.load(folder / "band"), [], people, None)[0]} & set(KINDS)
    assert command("train", "gate", folder / "band", "--kind", "arrow")[0] == 0
    band = Band.load(folder / "band")
    assert {entry.name for entry in entries_for(band, [], people, None)[0]} & set(KINDS) == {"arrow"}
    entries, left_out = entries_for(band, [], [Profile({"whole": 1.0})], None)
    assert ("arrow" in [entry.name for entry in entries], "no expert for 'whole'" in left_out["arrow"]) == (False, True)


def test_answers_of_a_gate_are_kept_until_it_is_another(command: Command, folder: Path) -> None:
    """What `evaluate --out` keeps is of one gate, and of nothing else in the band's folder `gates`."""
    band = folder / "band"
    arrow = partial(command, "train", "gate", band, "--kind", "arrow")
    assert arrow()[0] == 0
    first = steered_by(band, "arrow")
    assert first.keys() == {"gate"}
    assert steered_by(band, "soup") == steered_by(band, "pmol") == steered_by(band, "mope") == {}
    assert arrow("--replace")[0] == 0
    assert steered_by(band, "arrow") == first
    assert arrow("--top-k", 1, "--replace")[0] == 0
    assert steered_by(band, "arrow") != first


def test_a_trace_of_a_gate_is_what_its_groups_had_of_each_token(command: Command, train: Command, folder: Path) -> None:
    trace = partial(
        command, "trace", folder / "band", "owls", "--method", "pmol", "--max-tokens", 4, "--temperature", 0,
        "--threads", 1,
    )  # fmt: skip
    assert refused(trace("--profile", "warm"), "this band has no pmol gate")
    assert train(*NEW)[0] == 0
    traced = result(trace("--profile", "warm", "--json"))
    assert traced["groups"] == ["terse", "warm"]
    assert traced["response"] == "".join(token["text"] for token in traced["tokens"])
    for token in traced["tokens"]:
        assert token["shares"]["terse"] == 0, "nobody asked for it"
        assert token["shares"]["warm"] + token["none"] == pytest.approx(1, abs=1e-5)
    code, said, told = trace("--profile", "terse=1, warm=2")
    assert (code, "the mean over layers" in said) == (0, True), told
    assert refused(trace("--profile", "warm", "--out", folder / "page.html"), "pages are of mixtures")
