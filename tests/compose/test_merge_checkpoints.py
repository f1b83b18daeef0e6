"""Merged checkpoints: laws, PEFT's functions, ten-line versions, and models that load."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import merge_utils
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterpoint.compose import checkpoint_rules
from counterpoint.compose.checkpoints import apply_deltas, merge_models
from counterpoint.models.adapter import merge_into, read_adapter
from counterpoint.models.checkpoint import Writer
from counterpoint.testing import PECULIAR, pico_adapter, pico_model, save_pico
from counterpoint.types import CounterpointError

FILE = "model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """Three models of a family, made once; they differ everywhere, and little enough to prune by size."""
    return cache(lambda family: make_models(tmp_path_factory.mktemp(family), family))


def make_models(folder: Path, family: str) -> list[Path]:
    return [save_pico(folder / f"m{seed}", seed=seed, family=family) for seed in range(3)]


@pytest.fixture
def three(models: Callable[[str], list[Path]]) -> list[Path]:
    return models("llama")


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / FILE)


def bits(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors(folder).items()}


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-6) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(t, other[n], 0, tolerance) for n, t in one.items())


def weighted(weights: Sequence[float]) -> Callable[[list[Path]], list[tuple[str | Path, float]]]:
    return lambda folders: list(zip(folders, weights, strict=True))


def ready(deltas: dict[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
    return {name: partial(deltas.__getitem__, name) for name in deltas}


def saved(folder: Path, like: Path, made: dict[str, Tensor], **config: Any) -> Path:
    """A model folder of these tensors, with the config and tokenizer of another."""
    folder.mkdir()
    for file in like.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    text = json.loads((like / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | config))
    save_file(made, folder / FILE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("weight", [1.0, 0.3, -2.0])
def test_one_checkpoint_is_itself_to_the_bit(weight: float, three: list[Path], tmp_path: Path) -> None:
    merge_models([(three[0], weight)], tmp_path / "out")
    assert bits(tmp_path / "out") == bits(three[0])


@pytest.mark.parametrize(("weight", "normalise"), [(0.3, True), (1.0, False)])
def test_a_one_hot_weighting_is_that_checkpoint_to_the_bit(
    weight: float, normalise: bool, three: list[Path], tmp_path: Path
) -> None:
    merge_models(weighted([0, weight, 0])(three), tmp_path / "out", normalise=normalise)
    assert bits(tmp_path / "out") == bits(three[1])


def test_equal_checkpoints_are_that_checkpoint_to_the_bit(three: list[Path], tmp_path: Path) -> None:
    merge_models([(three[0], 1), (three[0], 1), (three[0], 2)], tmp_path / "out")
    assert bits(tmp_path / "out") == bits(three[0])


def test_the_order_of_sources_does_not_matter(three: list[Path], tmp_path: Path) -> None:
    pairs = weighted([0.2, 0.5, 0.3])(three)
    merge_models(pairs, tmp_path / "a")
    merge_models(pairs[::-1], tmp_path / "b")
    assert close(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_it_is_linear_in_the_weights(three: list[Path], tmp_path: Path) -> None:
    """merge(a + b) = merge(a) + merge(b), as given; and dividing by the sum is what normalising does."""
    for name, weights in (("a", (0.5, -1, 2)), ("b", (1, 3, 0.25)), ("ab", (1.5, 2, 2.25))):
        merge_models(weighted(weights)(three), tmp_path / name, normalise=False)
    a, b, both = (tensors(tmp_path / name) for name in ("a", "b", "ab"))
    assert close({name: a[name] + b[name] for name in a}, both, 1e-5)
    merge_models(weighted((1.5, 2, 2.25))(three), tmp_path / "mean")
    assert close(tensors(tmp_path / "mean"), {name: tensor / 5.75 for name, tensor in both.items()})


def test_the_mean_is_torchs_to_the_bit(three: list[Path], tmp_path: Path) -> None:
    merge_models(weighted([1, 1, 1])(three), tmp_path / "out")
    mean = mean_of([tensors(folder) for folder in three])
    assert all(torch.equal(tensor, mean[name]) for name, tensor in tensors(tmp_path / "out").items())


def mean_of(three: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Added one after the other and divided once, which gives the same bits on every machine."""
    one, two, last = three
    return {name: (one[name] + two[name] + last[name]) / 3 for name in one}


def test_a_sum_by_hand(three: list[Path], tmp_path: Path) -> None:
    """(1 * 2 + 3 * 6) / (1 + 3) = 5, and with base 1: 1 + 0.5 (2 - 1) + 2 (6 - 1) = 11.5."""
    like = tensors(three[0])
    one, two, six = (
        saved(tmp_path / str(value), three[0], {name: torch.full_like(t, value) for name, t in like.items()})
        for value in (1.0, 2.0, 6.0)
    )
    merge_models({str(two): 1, str(six): 3}, tmp_path / "linear")
    merge_models({str(two): 0.5, str(six): 2}, tmp_path / "task", "task-arithmetic", base=one)
    for name, value in (("linear", 5.0), ("task", 11.5)):
        assert all((tensor == value).all() for tensor in tensors(tmp_path / name).values())


@pytest.mark.parametrize("family", [*PECULIAR, "llama-tied"])
def test_logits_are_those_of_the_averaged_state(
    family: str, models: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    tied = {"tie_word_embeddings": True} if family == "llama-tied" else {}
    folders = [
        save_pico(tmp_path / str(seed), seed=seed, family=family.removesuffix("-tied"), **tied) for seed in range(3)
    ]
    weights = (0.5, 0.3, 0.2)
    merge_models(weighted(weights)(folders), tmp_path / "out")
    sources = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    states = [source.state_dict() for source in sources]
    reference = sources[0]
    reference.load_state_dict(
        {n: sum(w * state[n] for w, state in zip(weights, states, strict=True)) for n in states[0]}
    )
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("the user is of you", return_tensors="pt").input_ids
    merged, first = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "out", folders[0]))
    with torch.no_grad():
        assert torch.allclose(merged(tokens).logits, reference(tokens).logits, atol=1e-4)
        assert not torch.allclose(merged(tokens).logits, first(tokens).logits, atol=1e-2)


def test_shards_and_one_file_merge_alike(three: list[Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(three[1])
    model.save_pretrained(tmp_path / "shards", max_shard_size=40_000)
    merge_models(weighted([1, 2])(three[:2]), tmp_path / "whole")
    merge_models([(three[0], 1), (tmp_path / "shards", 2)], tmp_path / "out", shard_bytes=50_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_added_in_float32_and_rounded_once(dtype: str, three: list[Path], tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    halves = [{n: t.to(kind) for n, t in tensors(folder).items()} for folder in three]
    folders = [saved(tmp_path / str(i), three[i], half, dtype=dtype) for i, half in enumerate(halves)]
    merge_models(weighted([1, 1, 1])(folders), tmp_path / "same")
    merge_models(weighted([1, 1, 1])(three), tmp_path / "cast", dtype=dtype)  # type: ignore[arg-type]
    merge_models(weighted([1, 1, 1])(folders), tmp_path / "wide", dtype="float32")
    means = mean_of([{n: t.float() for n, t in half.items()} for half in halves])
    full = mean_of([tensors(folder) for folder in three])
    for name in means:
        assert torch.equal(tensors(tmp_path / "same")[name], means[name].to(kind))
        assert torch.equal(tensors(tmp_path / "cast")[name], full[name].to(kind))
        assert torch.equal(tensors(tmp_path / "wide")[name], means[name])
    for name, written in (("same", kind), ("cast", kind), ("wide", torch.float32)):
        assert AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto").dtype == written


def ten_lines(method: str, tasks: list[Tensor], weights: Tensor, density: float, seed: int) -> Tensor:
    """The pruned methods once more, on one flattened tensor."""
    flat = [task.reshape(-1) for task in tasks]
    if method.startswith("dare"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kept = [torch.bernoulli(torch.full_like(task, density)) for task in flat]
        flat = [task * keep / density for task, keep in zip(flat, kept, strict=True)]
    else:
        cuts = [task.abs().sort(descending=True).values[max(int(density * len(task)), 1) - 1] for task in flat]
        flat = [torch.where(task.abs() >= cut, task, 0) for task, cut in zip(flat, cuts, strict=True)]
    stack_K = torch.stack(flat)
    if "ties" in method:
        agree = torch.sign(stack_K) == torch.where(stack_K.sum(0) >= 0, 1.0, -1.0)
        merged = (weights[:, None] * stack_K * agree).sum(0) / agree.sum(0).clamp(min=1)
    else:
        merged = (weights[:, None] * stack_K).sum(0)
    return merged.reshape(tasks[0].shape)


@pytest.mark.parametrize("method", ["magnitude", "ties", "dare-linear", "dare-ties"])
def test_pruned_merges_equal_pefts_and_a_ten_line_version(method: Any, three: list[Path], tmp_path: Path) -> None:
    base, *folders = three
    merge_models(weighted([1.5, 0.75])(folders), tmp_path / "out", method, base, density=0.4, seed=5, normalise=False)
    found, start = tensors(tmp_path / "out"), tensors(base)
    weights = torch.tensor([1.5, 0.75])
    peft = getattr(merge_utils, {"magnitude": "magnitude_prune"}.get(method, method.replace("-", "_")))
    for name in start:
        tasks = [tensors(folder)[name] - start[name] for folder in folders]
        seed = checkpoint_rules.seed_of(5, name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            theirs = peft([task.reshape(-1) for task in tasks], weights, 0.4).reshape(tasks[0].shape)
        assert torch.allclose(found[name], start[name] + theirs, atol=1e-6)
        assert torch.allclose(found[name], start[name] + ten_lines(method, tasks, weights, 0.4, seed), atol=1e-6)
    assert not close(found, start, 1e-2)


@pytest.mark.parametrize(
    ("density", "kept"), [(1.0, [3, -3, 1, 0.5]), (0.75, [3, -3, 1, 0]), (0.25, [3, -3, 0, 0]), (0.2, [0, 0, 0, 0])]
)
def test_the_largest_entries_by_hand(density: float, kept: list[float]) -> None:
    """Of four entries 0.75 are three; 0.25 are one, and the other of its size stays too; 0.2 are none."""
    task = np.array([3, -3, 1, 0.5], np.float32)
    assert checkpoint_rules.largest(task, density).tolist() == kept


def test_task_arithmetic_equals_pefts(three: list[Path], tmp_path: Path) -> None:
    base, *folders = three
    merge_models(weighted([0.7, -0.4])(folders), tmp_path / "out", "task-arithmetic", base)
    for name, start in tensors(base).items():
        tasks = [tensors(folder)[name] - start for folder in folders]
        theirs = start + merge_utils.task_arithmetic(tasks, torch.tensor([0.7, -0.4]))
        assert torch.allclose(tensors(tmp_path / "out")[name], theirs, atol=1e-6)


@pytest.mark.parametrize("method", ["task-arithmetic", "magnitude", "ties", "dare-linear", "dare-ties"])
def test_with_all_entries_kept_one_task_vector_leads_to_its_model(
    method: Any, three: list[Path], tmp_path: Path
) -> None:
    density = None if method == "task-arithmetic" else 1.0
    merge_models(weighted([0, 1])(three[1:]), tmp_path / "out", method, three[0], density=density)
    assert close(tensors(tmp_path / "out"), tensors(three[2]))


def test_equal_weights_of_ties_give_the_average_of_those_that_agree(three: list[Path], tmp_path: Path) -> None:
    """With nothing pruned, an entry where both task vectors have one sign is the mean of the two models."""
    merge_models(weighted([0.5, 0.5])(three[1:]), tmp_path / "out", "ties", three[0], density=1)
    base, one, two, found = (tensors(folder) for folder in (*three, tmp_path / "out"))
    for name, start in base.items():
        agree = (one[name] - start) * (two[name] - start) > 0
        assert torch.allclose(found[name][agree], ((one[name] + two[name]) / 2)[agree], atol=1e-6)


def test_what_dare_drops_follows_from_the_seed_and_leaves_the_global_state(three: list[Path], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        merge_models(weighted([1, 1])(three[1:]), tmp_path / name, "dare-linear", three[0], seed=seed)
    assert torch.equal(before, torch.random.get_rng_state())
    assert bits(tmp_path / "a") == bits(tmp_path / "b") != bits(tmp_path / "c")


def test_layers_may_have_weights_of_their_own(three: list[Path], tmp_path: Path) -> None:
    layers = {"*.mlp.up_proj.weight": (0.0, 0.0, 1.0), "0": (1.0, 0.0, 0.0), "1-7": (0.0, 1.0, 0.0)}
    merge_models(weighted([1, 1, 2])(three), tmp_path / "out", layers=layers)
    sources = [tensors(folder) for folder in three]
    for name, found in tensors(tmp_path / "out").items():
        if "up_proj" in name:
            expected = sources[2][name]
        elif "layers." in name:
            expected = sources[0 if "layers.0." in name else 1][name]
        else:
            expected = (sources[0][name] + sources[1][name] + 2 * sources[2][name]) / 4
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3"])
def test_a_base_with_deltas_is_the_model_that_its_adapter_was_merged_into(
    family: str, models: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    base = models(family)[0]
    adapter = read_adapter(pico_adapter(tmp_path / "adapter", base, seed=3))
    model = AutoModelForCausalLM.from_pretrained(base)
    merge_into(model, adapter)
    across = family == "gpt2"  # its Conv1D holds a weight as [in, out]
    deltas = {
        f"{module}.weight": lambda module=module: adapter.delta(module).T if across else adapter.delta(module)
        for module in adapter.factors
    }
    report = apply_deltas(base, deltas, tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.allclose(tensor, found[name], atol=1e-6) for name, tensor in model.state_dict().items())
    assert 0 < report.error <= report.bound < 1e-6


def test_merging_models_and_merging_their_deltas_agree(three: list[Path], tmp_path: Path) -> None:
    start = tensors(three[0])
    generator = torch.Generator().manual_seed(4)
    deltas = [{n: 0.1 * torch.randn(t.shape, generator=generator) for n, t in start.items()} for _ in range(2)]
    for index, delta in enumerate(deltas):
        apply_deltas(three[0], ready(delta), tmp_path / str(index))
    merge_models([(tmp_path / "0", 0.25), (tmp_path / "1", 0.75)], tmp_path / "models")
    mixed = {n: 0.25 * deltas[0][n] + 0.75 * deltas[1][n] for n in start}
    apply_deltas(three[0], ready(mixed), tmp_path / "deltas")
    assert close(tensors(tmp_path / "models"), tensors(tmp_path / "deltas"))


def test_deltas_that_do_not_fit_are_refused(models: Callable[[str], list[Path]], tmp_path: Path) -> None:
    base = models("gpt2")[0]
    with pytest.raises(CounterpointError, match=r"no tensor 'lm_head\.weight' .* untie"):
        apply_deltas(base, {"lm_head.weight": lambda: torch.zeros(1)}, tmp_path / "out")
    with pytest.raises(CounterpointError, match=r"'transformer.wte.weight' has the shape .* its delta \(2, 2\)"):
        apply_deltas(base, {"transformer.wte.weight": lambda: torch.zeros(2, 2)}, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_config_tokenizer_and_template_are_carried_over(three: list[Path], tmp_path: Path) -> None:
    merge_models(weighted([1, 1])(three[:2]), tmp_path / "out", dtype="bfloat16")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in three[0].iterdir()}
    config, first = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", three[0]))
    assert config == first | {"dtype": "bfloat16"}
    messages = [{"role": "user", "content": "the"}]
    one, two = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", three[0]))
    assert one.apply_chat_template(messages) == two.apply_chat_template(messages)


def test_progress_ends_at_the_total(three: list[Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = merge_models(
        weighted([1, 1])(three[:2]), tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (report.parameters, report.parameters)


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ([0, 0], {}, "the weights are 0, 0; expected finite numbers, not all of them 0"),
        ([1, float("nan")], {}, "the weights are 1, nan"),
        ([1, -1], {}, "add up to 0"),
        ([0.3, -0.1 - 0.2], {}, "add up to 0"),  # to 6e-17
        ([1, 1], {"method": "slerp"}, "expected one of linear, task-arithmetic"),
        ([1, 1], {"method": "ties"}, "needs the base"),
        ([1, 1], {"base": "x"}, "linear: has no base"),
        ([1, 1], {"density": 0.5}, "no density is used by it"),
        ([1, 1], {"method": "ties", "base": "x", "density": 1.5}, "density is 1.5; expected more than 0"),
        ([1, 1], {"dtype": "int8"}, "expected one of same, float32"),
        ([1, 1], {"layers": {"0": [1.0]}}, "1 weights for 2 sources"),
        ([1, 1], {"layers": {"7-9": [1.0, 2.0]}}, "layers '7-9': names no tensor"),
        ([1, 1], {"layers": {"0": [0.0, 0.0]}}, "layers '0': the weights are 0, 0"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    weights: list[float], options: dict[str, Any], said: str, three: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CounterpointError, match=said):
        merge_models(weighted(weights)(three[:2]), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_no_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="no model is given"):
        merge_models({}, tmp_path / "out")


def unlike(folder: Path, three: list[Path]) -> Iterator[tuple[Path, str]]:
    """Models that cannot be merged with the first, and what is said of each."""
    state = tensors(three[0])
    yield save_pico(folder / "deep", layers=3), r"num_hidden_layers is 3, there 2"
    yield save_pico(folder / "tied", tie_word_embeddings=True), r"tie_word_embeddings is True, there False"
    yield saved(folder / "few", three[0], {n: t for n, t in state.items() if "lm_head" not in n}), "lacks 1 .*lm_head"
    yield saved(folder / "more", three[0], state | {"x": torch.ones(1)}), "m0: lacks 1 tensors of .*more: x"
    shaped = state | {"model.norm.weight": torch.ones(3)}
    yield saved(folder / "shape", three[0], shaped), r"'model.norm.weight' has the shape \(3,\), in .* \(32,\)"
    coded = state | {"model.norm.weight": torch.ones(32, dtype=torch.int8)}
    yield saved(folder / "int8", three[0], coded), "'model.norm.weight': is .* not the same"
    holed = state | {"model.norm.weight": torch.full((32,), float("nan"))}
    yield saved(folder / "nan", three[0], holed), r"/nan: tensor 'model.norm.weight' is not finite everywhere"
    yield saved(folder / "quantised", three[0], state, quantization_config={"bits": 4}), "is quantised"
    words = saved(folder / "words", three[0], state)
    text = (words / "tokenizer.json").read_text()
    (words / "tokenizer.json").write_text(text.replace('"<pad>"', '"<gap>"'))
    settings = (words / "tokenizer_config.json").read_text()
    (words / "tokenizer_config.json").write_text(settings.replace('"<pad>"', '"<gap>"'))
    yield words, r"words: its tokenizer is not that of .*m0: .* id \d+ is '<gap>', there '<pad>'"
    yield saved(folder / "new", three[0], state, model_type="unheard"), r"new/config.json: .* model type `unheard`"


def test_unlike_models_are_refused_by_what_differs(three: list[Path], tmp_path: Path) -> None:
    found = 0
    for model, said in unlike(tmp_path, three):
        with pytest.raises(CounterpointError, match=said):
            merge_models([(three[0], 1), (model, 1)], tmp_path / "out")
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]
        found += 1
    assert found == 10


def test_what_is_too_large_for_its_type_is_no_source_s_fault(three: list[Path], tmp_path: Path) -> None:
    large = {name: torch.full_like(t, 6e4) for name, t in tensors(three[0]).items()}
    with pytest.raises(CounterpointError, match=r"would hold 120000.* numbers of float16"):
        merge_models(
            [(saved(tmp_path / "large", three[0], large), 2)], tmp_path / "out", dtype="float16", normalise=False
        )


def test_models_may_end_their_texts_with_other_tokens(three: list[Path], tmp_path: Path) -> None:
    """As a model and the one that was taught to chat do: the first's is carried over."""
    chat = saved(tmp_path / "chat", three[1], tensors(three[1]), eos_token_id=5)
    settings = json.loads((chat / "tokenizer_config.json").read_text())
    (chat / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": settings["pad_token"]}))
    merge_models([(three[0], 1), (chat, 1)], tmp_path / "out")
    merge_models([(three[0], 1), (three[1], 1)], tmp_path / "plain")
    assert bits(tmp_path / "out") == bits(tmp_path / "plain")
    for file in ("config.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / file).read_text() == (tmp_path / "plain" / file).read_text()


def test_configs_that_are_written_otherwise_and_say_the_same_are_alike(three: list[Path], tmp_path: Path) -> None:
    config = json.loads((three[1] / "config.json").read_text())
    terse = {key: value for key, value in config.items() if key not in ("attention_bias", "mlp_bias", "pretraining_tp")}
    assert len(terse) < len(config)
    folder = saved(tmp_path / "terse", three[1], tensors(three[1]))
    (folder / "config.json").write_text(json.dumps(terse | {"transformers_version": "4.40.0"}))
    merge_models([(three[0], 1), (folder, 1)], tmp_path / "out")
    merge_models([(three[0], 1), (three[1], 1)], tmp_path / "plain")
    assert bits(tmp_path / "out") == bits(tmp_path / "plain")


def test_integers_that_are_the_same_everywhere_are_copied(three: list[Path], tmp_path: Path) -> None:
    folders = [saved(tmp_path / str(i), f, tensors(f) | {"steps": torch.arange(5)}) for i, f in enumerate(three)]
    merge_models(weighted([1, 1, 1])(folders), tmp_path / "out", dtype="bfloat16")
    assert torch.equal(tensors(tmp_path / "out")["steps"], torch.arange(5))


def test_an_output_that_overlaps_a_source_is_refused(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    model = saved(tmp_path / "a" / "b", three[0], tensors(three[0]))
    for out in (model, model / "in", model.parent, model / ".." / "b"):
        with pytest.raises(CounterpointError, match="overlaps"):
            merge_models([(model, 1), (three[1], 1)], out)
    assert bits(model) == bits(three[0])


def test_a_wrong_value_on_the_disk_is_found_and_nothing_is_kept(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Writer.write

    def spoilt(self: Any, name: str, first: int, values: Any) -> None:
        write(self, name, first, values + np.float32(1e-6) if "layers.1.mlp.up" in name else values)

    monkeypatch.setattr(Writer, "write", spoilt)
    with pytest.raises(CounterpointError, match=r"'model.layers.1.mlp.up_proj.weight': value \d+ was written .* from"):
        merge_models(weighted([1, 1])(three[:2]), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_killed_merge_leaves_nothing_that_loads(three: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom counterpoint.compose.checkpoints import merge_models\n"
        "def slow(done, total):\n    print(done, flush=True)\n    time.sleep(0.2)\n"
        "merge_models([(p, 1) for p in sys.argv[2:]], Path(sys.argv[1]), progress=slow)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), *map(str, three)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("config.json"))
    merge_models(weighted([1, 1, 1])(three), tmp_path / "out")
    assert pico_model().config.vocab_size == AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read from /proc")
def test_memory_is_a_few_pieces_and_torch_is_not_loaded(tmp_path: Path) -> None:
    """Merging tensors of 64 MB takes less than half of one of them, beside what imports take."""
    state = {"x": torch.randn(16 << 20, generator=torch.Generator().manual_seed(0))}
    (tmp_path / "config.json").write_text("{}")
    for name in "ab":
        saved(tmp_path / name, tmp_path, state)
    code = (
        "import sys\nfrom pathlib import Path\nfrom counterpoint.compose.checkpoints import merge_models\n"
        "def peak():\n    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024\n"
        "before = peak()\nmerge_models({sys.argv[1]: 1, sys.argv[2]: 1}, Path(sys.argv[3]))\n"
        "print(peak() - before, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in ("a", "b", "out"))]
    grown, has_torch = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert 0 < float(grown) < 32
    assert has_torch == "False"
