"""The recipe of Personalized Soups: its file of settings, its plan by hand, and the whole path on random models."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from recipes.personalized_soups.__main__ import main
from recipes.personalized_soups.dry import dry as smallest
from recipes.personalized_soups.hardware import config_of, factors, kept_of_a_token, llama, parameters
from recipes.personalized_soups.learn import earned_by
from recipes.personalized_soups.methods import average_factors, plans_of
from recipes.personalized_soups.plan import work_of
from recipes.personalized_soups.run import everybody, newcomers, preferences_of, prepare
from recipes.personalized_soups.settings import Settings, Shape, read_settings
from recipes.personalized_soups.whole import STAGES, run_recipe
from rich.console import Console

from counterpoint.artifacts import read_json
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.samples import read_samples
from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.models.band_file import read_band
from counterpoint.rewards.load import Trained, load_reward
from counterpoint.stages import Stages
from counterpoint.testing import pico_model, save_pico
from counterpoint.types import CounterpointError, Profile

SHIPPED = Path(__file__).parents[2] / "recipes" / "personalized_soups" / "settings_7b.toml"


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """The shipped file with changes."""
    text = SHIPPED.read_text()
    for before, after in changes:
        assert text.count(before) >= 1, before
        text = text.replace(before, after)
    (folder / "settings.toml").write_text(text)
    return folder / "settings.toml"


NAMES = '["elementary", "knowledgeable", "concise", "informative", "friendly", "unfriendly"]'
ONE_AXIS = ((NAMES, '["concise", "informative"]'), ('["sassy", "sarcastic"]', '["sassy"]'))


def quietly() -> Stages:
    return Stages(Console(file=StringIO()))


# The plan, by hand


def lines_of(path: Path) -> dict[str, str]:
    return {line.what: line.number for line in work_of(read_settings(path), 10000, 50)}


def test_the_work_by_hand() -> None:
    """10000 x (1 + 6) x 2 roll-outs; 156 batches of 64 are a pass over 10000, each of 64 / 8 steps.

    A preference has 1 same + 2 neutral + 2 opposite + 2 neutral-opposite = 7 pairs to a prompt, 0.9 of them learned
    from in steps of 2 x 4: 7875. Vanilla and RLHF answer 50 prompts once, five methods for eight people: 2100. A
    person's three criteria and the general one, 8 x 4 = 32, in two orders for 21 pairs of methods: 67200.
    """
    found = lines_of(SHIPPED)
    assert found["roll-outs"] == "140000"
    assert found["calls to label"] == "140000 at most"
    assert found["PPO iterations, p-morl"] == "156: 9984 answers, 1248 steps"
    assert found["evaluation: answers"] == "2100"
    assert found["evaluation: calls to compare"] == "67200 at most"
    (each,) = [number for what, number in found.items() if what.startswith("reward steps, elementary")]
    assert each == "7875 at most"


def test_a_method_that_is_not_compared_costs_nothing(tmp_path: Path) -> None:
    found = lines_of(written(tmp_path, ('"rlhf", "multitask", "p-morl", ', "")))
    assert not [what for what in found if "p-morl" in what or "rlhf" in what or "multitask" in what]
    assert found["calls to label"] == "120000 at most"  # 10000 x 6 criteria x 2 orders


def test_sizes_of_llama_7b() -> None:
    """The published count, and that of an adapter of rank 8 on q and v."""
    config = llama(Shape(32, 4096, 11008, 32, 32, 32000))
    assert parameters(config) == 6_738_415_616
    assert factors(config, 8, ("q_proj", "v_proj")) == 4_194_304


def test_sizes_are_those_of_a_model(tmp_path: Path) -> None:
    base = save_pico(tmp_path / "base", tie_word_embeddings=False)
    settings = read_settings(written(tmp_path, ("models/tulu-7b", str(base))))
    model = pico_model(tie_word_embeddings=False)
    assert parameters(config_of(settings)) == sum(p.numel() for p in model.parameters())


def kept_bytes(layers: int) -> float:
    """Bytes that autograd keeps of a token, each storage once and the parameters left out."""
    plain = pico_model(layers=layers, hidden=128, kv_heads=4).to(torch.bfloat16)
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    ids_BT = torch.randint(3, 200, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = model(input_ids=ids_BT, use_cache=False, logits_to_keep=1, output_hidden_states=True)
    return sum(size for size, _ in kept.values()) / ids_BT.numel()


def test_activations_are_what_autograd_keeps() -> None:
    block = llama(Shape(layers=1, width=128, feed_forward=256, heads=4, key_heads=4, vocabulary=1))
    assert kept_of_a_token(block) == pytest.approx((kept_bytes(3) - kept_bytes(1)) / 2, rel=0.05)


# Who answers


PERSON = Profile({"concise": 1.0, "friendly": 1.0})


def test_vanilla_knows_nobody_and_a_soup_is_an_average() -> None:
    (vanilla,) = plans_of("vanilla", [PERSON, PERSON], rlhf_asked=False)
    assert (vanilla.rows[0].gate, vanilla.rows[0].requests) == ({}, ())
    soup = plans_of("p-soups", [PERSON, PERSON], rlhf_asked=False)[1].rows[0]
    assert (soup.gate, soup.requests) == ({"concise": 0.5, "friendly": 0.5}, ("concise", "friendly"))
    assert len(plans_of("rlhf", [PERSON, PERSON], rlhf_asked=True)) == 2


def test_factors_are_averaged_apart() -> None:
    """A = (1 + 3) / 2, B = (2 + 4) / 2: a delta of 6, where the average of the deltas is (2 + 12) / 2 = 7."""
    one, other = (
        LoraFactors({"m": (torch.full((1, 1), a), torch.full((1, 1), b))}) for a, b in ((1.0, 2.0), (3.0, 4.0))
    )
    found = average_factors({"concise": one, "friendly": other}, PERSON)
    assert found.delta("m").item() == pytest.approx(6.0)


def test_newcomers_want_something_new() -> None:
    known, novel = preferences_of(read_settings(SHIPPED).preferences)
    people = newcomers(known, novel)
    assert len(people) == 8
    assert all({"sassy", "sarcastic"} & person.weights.keys() for person in people)


# The whole path


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    """All stages on one axis, and then a new preference."""
    folder = tmp_path_factory.mktemp("recipe")
    settings = smallest(read_settings(written(folder, *ONE_AXIS)), folder / "made")
    run_recipe(settings, folder / "run", STAGES, True, quietly())
    return settings, folder / "run"


def test_every_method_is_judged_for_everybody(dry: tuple[Settings, Path]) -> None:
    settings, out = dry
    tables = read_json(out / "evaluation.json")
    assert list(tables["summed"]["against"]) == list(settings.evaluation.methods)
    assert sorted(tables["by_criterion"]) == ["concise", "informative"]
    pair = tables["general"]["against"]["vanilla"]["p-soups"]
    assert sum(pair[name] for name in ("wins", "losses", "ties", "unanswered")) == 2 * 2  # prompts x people


def test_the_band_has_the_new_expert_beside_the_old(dry: tuple[Settings, Path]) -> None:
    band = read_band(dry[1] / "band")
    assert [(e.name, band.dimension(e.dimension).request != "") for e in band.experts] == [
        ("concise", True), ("informative", True), ("sassy", True),
    ]  # fmt: skip
    assert list(read_json(dry[1] / "novel.json")["by_profile"]) == [
        "concise=1, sassy=1", "informative=1, sassy=1",
    ]  # fmt: skip


def test_every_policy_was_trained(dry: tuple[Settings, Path]) -> None:
    for name in ("concise", "informative", "sassy", "rlhf", "p-morl", "multitask"):
        moved = read_adapter(dry[1] / "policies" / name)
        assert any(b.abs().max() > 0 for _, b in moved.factors.values()), name


def test_what_is_imitated_was_asked_for(dry: tuple[Settings, Path]) -> None:
    asked = {(s.prompt, s.response) for s in read_samples(dry[1] / "samples.jsonl") if s.asked == ("concise",)}
    imitated = read_comparisons(dry[1] / "labels" / "concise.same.jsonl").comparisons
    assert imitated
    assert {(c.prompt, c.chosen) for c in imitated} <= asked


def test_what_is_done_is_not_done_again(dry: tuple[Settings, Path]) -> None:
    settings, out = dry
    files = ("policies/*/manifest.json", "rewards/*/manifest.json", "answers/*/*/*/completions-*.json")
    made = [path for pattern in files for path in out.glob(pattern)]
    before = {path: path.stat().st_mtime_ns for path in made}
    run_recipe(settings, out, ("samples", "novel", "policies", "multitask"), True, quietly())
    assert len(made) > 20
    assert {path: path.stat().st_mtime_ns for path in made} == before
    assert [expert.name for expert in read_band(out / "band").experts] == ["concise", "informative", "sassy"]


def test_p_morls_reward_depends_on_the_answer(dry: tuple[Settings, Path]) -> None:
    """The released code scores the prompt alone."""
    settings, out = dry
    run = prepare(settings, out, quietly(), True)
    people = everybody(run.known)
    reward_N = earned_by(run, "p-morl", people)([0, 0], ["An owl.", "Not at all"], [0, 0])
    assert abs(reward_N[0] - reward_N[1]) > 1e-6


def test_a_reward_model_is_read_in_the_precision_of_the_run(dry: tuple[Settings, Path]) -> None:
    """The adapter too, which PEFT would keep in float32."""
    half, full = (load_reward(dry[1] / "rewards" / "concise", dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    assert isinstance(half, Trained)
    assert {parameter.dtype for parameter in half.model.model.parameters()} == {torch.bfloat16}
    np.testing.assert_allclose(half(["Why?"], ["An owl."]), full(["Why?"], ["An owl."]), atol=0.05)


# A judge


class Judge(BaseHTTPRequestHandler):
    """Prefers the shorter answer, wherever it stands."""

    server: "Server"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        a, b = (body["messages"][-1]["content"].split(f"answer {mark} ===")[1].split("===")[0] for mark in "AB")
        text = f"Verdict: {'A' if len(a) <= len(b) else 'B'}"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        reply = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None: ...


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Judge)
        self.asked: list[dict[str, Any]] = []


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_judge_labels_and_is_asked_once(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    key = 'api_key_env = "COUNTERPOINT_KEY"'
    path = written(tmp_path, *ONE_AXIS, ("https://api.openai.com/v1", url), (key, ""))
    settings = smallest(read_settings(path), tmp_path / "made")
    for _ in range(2):
        run_recipe(settings, tmp_path / "run", ("samples", "labels"), False, quietly())
        asked = len(server.asked)
        assert 0 < asked <= 8 * 3 * 2  # prompts x (two preferences and the general one) x two orders
    assert len({json.dumps(body, sort_keys=True) for body in server.asked}) == asked
    same = read_comparisons(tmp_path / "run" / "labels" / "concise.same.jsonl").comparisons
    assert all(len(c.chosen) <= len(c.rejected) for c in same)


# Mistakes


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("kl_target", "kl_taget", r"\[policy\]: .*kl_taget.*kl_target"),
        ("[learning]", "[lerning]", "lerning.*learning"),
        ("max_tokens = 250", 'max_tokens = "many"', r"\[judge\]: max_tokens"),
        ("stop_kl = 0.1", "stop_kl = -1.0", r"\[policy\]: stop_kl is -1"),
        ('"p-soups-factors"]', '"p-soup"]', r"\[evaluation\]: methods.*p-soup.*p-soups"),
        ("[shape]", "[shape", "not valid TOML"),
        ("steps = 1000", "steps = 1000\nmodel = 'other'", r"\[multitask\]: .*model"),
    ],
)
def test_what_is_wrong_in_the_file(tmp_path: Path, before: str, after: str, says: str) -> None:
    with pytest.raises(CounterpointError, match=f"settings.toml: .*{says}"):
        read_settings(written(tmp_path, (before, after)))


def without_prompts(settings: Any) -> Any:
    return replace(settings, prompts=replace(settings.prompts, train=("nowhere.jsonl",)))


def without_model(settings: Any) -> Any:
    return replace(settings, models=replace(settings.models, reward="no/such/model"))


def with_test_in_training(settings: Any) -> Any:
    return replace(settings, prompts=replace(settings.prompts, test=settings.prompts.train))


def with_a_stranger(settings: Any) -> Any:
    return replace(settings, preferences=replace(settings.preferences, names=("concise", "informativ")))


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (without_prompts, "nowhere.jsonl"),
        (without_model, "no/such/model"),
        (with_test_in_training, "in train and in test"),
        (with_a_stranger, "informativ"),
        (lambda settings: settings, "COUNTERPOINT_KEY, which is not set"),
    ],
)
def test_mistakes_are_told_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Any], Any], says: str
) -> None:
    monkeypatch.delenv("COUNTERPOINT_KEY", raising=False)
    settings = mistake(smallest(read_settings(written(tmp_path, *ONE_AXIS)), tmp_path / "made"))
    with pytest.raises(CounterpointError, match=says):
        run_recipe(settings, tmp_path / "run", STAGES, False, quietly())
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_settings_is_refused(dry: tuple[Settings, Path]) -> None:
    settings, out = dry
    other = replace(settings, policy=replace(settings.policy, kl=0.3))
    with pytest.raises(CounterpointError, match=r"begun with kl = 0.2 in \[policy\].*0.3"):
        run_recipe(other, out, ("samples",), True, quietly())


def test_a_stage_says_which_one_comes_first(tmp_path: Path) -> None:
    settings = smallest(read_settings(written(tmp_path, *ONE_AXIS)), tmp_path / "made")
    with pytest.raises(CounterpointError, match="run the stage labels first"):
        run_recipe(settings, tmp_path / "run", ("rewards",), True, quietly())


def test_the_command_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(SHIPPED), "--out", str(tmp_path), "--stages", "sampels"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --stages: ")


def test_the_plan_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(SHIPPED), "--out", str(tmp_path / "out"), "--plan"])
    assert "140000" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
