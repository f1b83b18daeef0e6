"""lm-eval's `local-completions` finds the log-likelihoods that its `hf` model finds of the merged model.

`make test-lm-eval` runs this; the other tests need no lm-eval. LM_EVAL_PYTHON names the Python of an environment that
has it. Prints what is measured.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from counterpoint.models.adapter import merge_into, read_adapter
from counterpoint.models.band_file import add_expert, new_band
from counterpoint.models.load import load_model, load_tokenizer
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import Dimension, Expert

PROFILE = {"terse": 0.7, "warm": 0.3}
SAID = "terse=0.7;warm=0.3"
"""With a semicolon: lm-eval parts its model_args at commas."""

TOLERANCE = 1e-4
"""Of a token's log-probability, in float32."""

DOCUMENTS = [
    {"context": "Once upon a time there was", "choices": ["a little girl.", "an owl", "the"]},
    {"context": "The owl", "choices": ["sat in the old tree and was glad.", "is of the"]},
    {"context": "Why? Because", "choices": ["of the caf\u00e9.", "you and the user said so, over and over again!"]},
]
BODY = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
"""
CHOICES = """doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """doc_to_text: ""
doc_to_target: "{{context}} {{choices[0]}}"
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
"""
OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class World:
    """A band, its base and its merged model, the address of its server, and what lm-eval found, by model and task."""

    folder: Path
    base: Path
    url: str
    found: Mapping[str, Any]

    def likelihoods(self, name: str, task: str = "choices") -> list[tuple[float, bool | None]]:
        """Log-likelihood and whether it is greedy decoding's, of every continuation in order."""
        return [read(one) for document in self.found[name][task] for one in document]


def read(response: Any) -> tuple[float, bool | None]:
    while isinstance(response, list) and len(response) == 1:
        response = response[0]
    likelihood, greedy = response if isinstance(response, list) else (response, None)
    return float(likelihood), None if greedy is None else str(greedy) == "True"


@pytest.fixture(scope="module", params=["pico", "stories260k"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    base = save_pico(folder / "base", seed=1) if request.param == "pico" else shared() / "models" / request.param
    new_band(folder / "band", str(base), [Dimension(name) for name in PROFILE])
    for seed, name in enumerate(PROFILE):
        adapter = pico_adapter(folder / name, base, seed=seed, spread=0.05)
        add_expert(folder / "band", adapter, Expert(name, name))
    profile = ", ".join(f"{name}={weight}" for name, weight in PROFILE.items())
    counterpoint("merge", folder / "band", "--profile", profile, "--as", "model", "--out", folder / "merged")
    log = (folder / "server.log").open("w")
    with log, subprocess.Popen(
        [sys.executable, "-m", "counterpoint.cli", "serve", folder / "band", "--port", "0", "--json",
         "--database", folder / "people.db"],
        stdout=subprocess.PIPE, stderr=log, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout
            url = json.loads(server.stdout.readline())["url"]
            yield World(folder, base, url, evaluated(folder, base, url))
        finally:
            server.terminate()


def shared() -> Path:
    name = os.environ.get("COUNTERPOINT_SHARED")
    if not name:
        pytest.skip("COUNTERPOINT_SHARED names no folder of real data")
    return Path(name)


def counterpoint(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "counterpoint.cli", *map(str, arguments)], check=True, capture_output=True)


def lm_eval_python() -> str:
    python = os.environ.get("LM_EVAL_PYTHON")
    if not python:
        pytest.fail("LM_EVAL_PYTHON names no Python with lm-eval; `make test-lm-eval` sets it")
    return python


def evaluated(folder: Path, base: Path, url: str) -> Mapping[str, Any]:
    """What lm-eval finds: of the merged model itself, and of the server with each method."""
    asked = f"base_url={url}/v1/completions,tokenizer={base},tokenizer_backend=huggingface,add_bos_token=true"
    jobs = [job("hf", "hf", f"pretrained={folder / 'merged'},dtype=float32")]
    jobs += [
        job(method, "local-completions", f"model={method}:{SAID},max_length=512,{asked}")
        for method in ("soup", "moe", "mixture-prob")
    ]
    jobs.append(job("batched", "local-completions", f"model=soup:{SAID},max_length=512,num_concurrent=3,{asked}", 4))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    write_tasks(folder)
    files = [folder / name for name in ("jobs.json", "tasks", "found.json")]
    run = subprocess.run(
        [lm_eval_python(), Path(__file__).with_name("score.py"), *files],
        env=os.environ | OFFLINE | {"HF_HOME": str(folder / "cache")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    found: Mapping[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def job(name: str, model: str, args: str, batch: int = 1) -> dict[str, Any]:
    return {"name": name, "model": model, "args": args, "batch": batch}


def write_tasks(folder: Path) -> None:
    (folder / "tasks").mkdir()
    documents = folder / "documents.jsonl"
    documents.write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS))
    for name, kind, rest in (("choices", "multiple_choice", CHOICES), ("rolling", "loglikelihood_rolling", ROLLING)):
        (folder / "tasks" / f"{name}.yaml").write_text(BODY.format(name=name, file=documents, kind=kind) + rest)


def texts() -> list[tuple[str, str]]:
    """Context and continuation, in the order of `World.likelihoods`."""
    return [(one["context"], f" {choice}") for one in DOCUMENTS for choice in one["choices"]]  # type: ignore[misc]


def tokens_of(world: World) -> list[int]:
    """How many tokens each continuation has."""
    tokenizer = load_tokenizer(str(world.folder / "merged"))
    return [len(tokenizer(a + b)["input_ids"]) - len(tokenizer(a)["input_ids"]) for a, b in texts()]


@pytest.mark.parametrize("method", ["soup", "moe", "batched"])
def test_it_is_what_hf_finds_of_the_merged_model(world: World, method: str) -> None:
    worst = 0.0
    pairs = zip(world.likelihoods(method), world.likelihoods("hf"), tokens_of(world), strict=True)
    for (found, greedy), (expected, expected_greedy), tokens in pairs:
        worst = max(worst, abs(found - expected) / tokens)
        assert greedy == expected_greedy
    print(f"{world.folder.name} {method}: at most {worst:.1e} per token from hf")
    assert worst < TOLERANCE
    assert len({round(likelihood, 3) for likelihood, _ in world.likelihoods(method)}) == len(texts())


@pytest.mark.parametrize("method", ["soup", "moe", "batched"])
def test_whole_texts_are_as_likely_as_hf_finds_them(world: World, method: str) -> None:
    for (found, _), (expected, _) in zip(
        world.likelihoods(method, "rolling"), world.likelihoods("hf", "rolling"), strict=True
    ):
        assert found == pytest.approx(expected, abs=20 * TOLERANCE)


def test_a_mixture_is_what_its_experts_models_make_of_each_token(world: World) -> None:
    """log sum_k w_k p_k(token), from two ordinary models with one adapter merged into each."""
    base = (
        str(world.folder / "base") if world.folder.name.startswith("pico") else str(shared() / "models" / "stories260k")
    )
    models = {name: load_model(base, torch.float32, "cpu") for name in PROFILE}
    for name, model in models.items():
        merge_into(model, read_adapter(world.folder / name))
    tokenizer = load_tokenizer(str(world.base))
    for (context, continuation), (found, greedy) in zip(texts(), world.likelihoods("mixture-prob"), strict=True):
        begin, ids = len(tokenizer(context)["input_ids"]), tokenizer(context + continuation)["input_ids"]
        logp_TV = mixed(models, ids)[begin - 1 : -1]
        said_T = logp_TV.gather(-1, torch.tensor(ids[begin:])[:, None])[:, 0]
        assert found == pytest.approx(float(said_T.sum()), abs=TOLERANCE * len(said_T))
        assert greedy == bool((logp_TV.argmax(-1) == torch.tensor(ids[begin:])).all())


@torch.no_grad()
def mixed(models: Mapping[str, Any], ids: Sequence[int]) -> torch.Tensor:
    logp_KTV = torch.stack([model(torch.tensor([ids])).logits[0].log_softmax(-1) for model in models.values()])
    return (logp_KTV + torch.tensor(list(PROFILE.values())).log()[:, None, None]).logsumexp(0)


def test_the_command_line_takes_the_spelling_with_semicolons(world: World) -> None:
    """As documented, quotes and all; its own table has the accuracy that the samples give."""
    done = subprocess.run(
        [lm_eval_python(), "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
         f"model=soup:{SAID},base_url={world.url}/v1/completions,tokenizer={world.base},add_bos_token=true,max_length=512",
         "--tasks", "choices", "--include_path", world.folder / "tasks",
         "--output_path", world.folder / "results.json"],
        env=os.environ | OFFLINE | {"HF_HOME": str(world.folder / "cache")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = world.folder.glob("results*.json")
    likelihoods, first = world.likelihoods("soup"), 0
    right = []
    for document in DOCUMENTS:
        own = [likelihood for likelihood, _ in likelihoods[first : first + len(document["choices"])]]
        right.append(own.index(max(own)) == 0)
        first += len(own)
    assert json.loads(results.read_text())["results"]["choices"]["acc,none"] == pytest.approx(sum(right) / len(right))


def test_there_is_no_remote_tokenizer(world: World) -> None:
    """With one lm-eval would take it, and leave out the token that texts begin with, which its `hf` puts there."""
    assert httpx2.get(f"{world.url}/tokenizer_info").status_code == 404
