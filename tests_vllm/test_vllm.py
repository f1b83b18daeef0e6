"""Experts behind a real vLLM server say what they say here. `make test-vllm` runs this; the other tests need no server.

VLLM_PYTHON names the Python of an environment that has vLLM. Prints what is measured.
"""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from counterpoint.compose import mixture
from counterpoint.compose.plan import Plan
from counterpoint.decode.band import Band
from counterpoint.decode.engine import Engine
from counterpoint.decode.remote import remote_whole
from counterpoint.decode.request import Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.decode.several import Several
from counterpoint.models.band_file import ExpertEntry, parse_endpoint
from counterpoint.testing import pico_adapter, pico_tokenizer, save_pico
from counterpoint.types import CounterpointError, Weighting

EXPERTS = ("concise", "friendly")
PLANS = {
    "prob": mixture.plan_prob(Weighting(EXPERTS, (0.6, 0.4), 0.8)),
    "log": mixture.plan_log(Weighting(EXPERTS, (0.6, 0.4), 1.3)),
}
"""With a third row for the base, whose coefficient is 0.2 and -0.3."""

TOLERANCE = 1e-3
TOKENS = 48
START_S = 300


@dataclass(frozen=True)
class World:
    """A model and two adapters, here and on a server."""

    folder: Path
    url: str
    band: Band


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32 dimensions, since vLLM's attention on a CPU takes no fewer."""
    folder = tmp_path_factory.mktemp("vllm")
    base = save_pico(folder / "base", seed=1, hidden=128, positions=256)
    for seed, (name, rank) in enumerate(zip(EXPERTS, (4, 8), strict=True)):
        pico_adapter(folder / name, base, seed=seed, rank=rank)
    return folder


@pytest.fixture(scope="session")
def url(folder: Path) -> Iterator[str]:
    """The address of a server that is started, and stopped in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("w") as stream:
        server = subprocess.Popen(command(folder, port), env=os.environ | SETTINGS, stdout=stream, stderr=stream)
    try:
        wait_for(f"http://127.0.0.1:{port}/v1/models", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def command(folder: Path, port: int) -> list[str]:
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        pytest.fail("VLLM_PYTHON names no Python with vLLM; `make test-vllm` sets it")
    return [
        python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", str(folder / "base"), "--served-model-name", "base", "--dtype", "float32", "--enforce-eager",
        "--enable-prefix-caching", "--max-logprobs", "-1", "--enable-lora", "--max-lora-rank", "8",
        "--max-loras", "2", "--lora-modules", *(f"{name}={folder / name}" for name in EXPERTS),
    ]  # fmt: skip


def wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server answers; fail with the end of its log where it ends, or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def world(folder: Path, url: str) -> World:
    band = Band.assemble(folder / "base", {name: folder / name for name in EXPERTS})
    band.engine.end_tokens = frozenset()
    return World(folder, url, band)


def remote_engine(world: World, **fields: Any) -> Engine:
    """The base here, and the experts on the server; a response does not end before its last token."""
    band = world.band
    vocabulary = len(band.tokenizer)
    whole = {
        name: remote_whole(
            ExpertEntry(name=name, dimension=name, endpoint=parse_endpoint(url=world.url, model=name, **fields)),
            band.tokenizer, vocabulary, band.longest,
        )
        for name in EXPERTS
    }  # fmt: skip
    model = Several(Rows(band.model, band.bank), whole, vocabulary)
    return Engine(model, lambda tokens: band.tokenizer.decode(list(tokens)), (), band.longest)


def greedy(engine: Engine, plan: Plan, prompt: Sequence[int]) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """A response, the distribution of each of its tokens `[T, V]`, and what no row reported of it `[T]`."""
    request = Request(plan, (tuple(prompt),) * 3, Sampling(temperature=0, max_tokens=TOKENS), trace="vocabulary")
    completion = engine.run([request])[0]
    trace = completion.trace
    assert trace is not None
    assert trace.logp_TKV is not None
    mix = mixture.mix_prob if plan.space == "prob" else mixture.mix_log
    return completion.tokens, mix(trace.logp_TKV, trace.c_TK), trace.lost_T


def here(world: World, plan: Plan, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
    """The distribution of each token of a response, where all are here, `[T, V]`."""
    contexts = [(*prompt, *said[:t]) for t in range(len(said))]
    return world.band.engine.next_distributions([Request(plan, (context,) * 3) for context in contexts])


PROMPT = tuple(pico_tokenizer()("Tell me of the owl and the bee.")["input_ids"])


@pytest.mark.parametrize("space", PLANS)
def test_with_the_whole_vocabulary_a_remote_mixture_is_the_local_one(world: World, space: str) -> None:
    engine = remote_engine(world, top="all")
    greedy(engine, PLANS[space], PROMPT)  # the server compiles what it needs
    began = time.perf_counter()
    said, logp_TV, lost_T = greedy(engine, PLANS[space], PROMPT)
    rate = TOKENS / (time.perf_counter() - began)
    off = (logp_TV - here(world, PLANS[space], PROMPT, said)).abs().max().item()
    print(f"\n{space}, whole vocabulary: {TOKENS} tokens, off by at most {off:.1e} nats, {rate:.1f} steps/s")
    assert len(said) == TOKENS
    assert said == greedy(world.band.engine, PLANS[space], PROMPT)[0]
    assert lost_T.max() == 0
    assert off < TOLERANCE


@pytest.mark.parametrize("top", [5, 20, 100])
def test_a_mixture_of_the_likeliest_tokens_is_off_by_no_more_than_it_reports(world: World, top: int) -> None:
    engine = remote_engine(world, top=top)
    began = time.perf_counter()
    said, logp_TV, lost_T = greedy(engine, PLANS["prob"], PROMPT)
    rate = TOKENS / (time.perf_counter() - began)
    off_T = distance(here(world, PLANS["prob"], PROMPT, said), logp_TV.log_softmax(-1))
    print(f"\nprob, top {top}: TV {off_T.mean():.4f} of {lost_T.mean():.4f} lost per token, {rate:.1f} steps/s")
    assert (off_T <= lost_T + TOLERANCE).all()
    assert lost_T.min() > 0


def test_how_far_a_mixture_of_likely_tokens_in_log_space_is_off(world: World) -> None:
    """There is no bound; but more tokens are nearer, and all of them are there."""
    off = []
    for top in (5, 20, 100, 289):
        said, logp_TV, lost_T = greedy(remote_engine(world, top=top), PLANS["log"], PROMPT)
        off.append(distance(here(world, PLANS["log"], PROMPT, said), logp_TV).mean().item())
        print(f"\nlog, top {top}: TV {off[-1]:.4f}, {lost_T.mean():.4f} lost per token")
    assert off[0] > off[1] > off[2] > off[3]
    assert off[3] < TOLERANCE


def distance(logp_TV: Tensor, logq_TV: Tensor) -> Tensor:
    """Total variation, `[T]`."""
    return (logp_TV.exp() - logq_TV.exp()).abs().sum(-1) / 2


def test_the_server_is_known_by_its_models_and_its_tokenizer(world: World, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="offers no model 'warm'; it offers: base, concise, friendly"):
        remote(world, "warm", world.band.tokenizer)
    other = pico_tokenizer()
    other.add_tokens(["<extra>"])
    with pytest.raises(CounterpointError, match="token 290"):
        remote(world, "concise", other)
    assert remote(world, "concise", world.band.tokenizer) == 256


def remote(world: World, model: str, tokenizer: Any) -> int:
    """The longest sequence of a model on the server."""
    entry = ExpertEntry(name=model, dimension=model, endpoint=parse_endpoint(url=world.url, model=model))
    return remote_whole(entry, tokenizer, len(tokenizer), 512).longest


def test_too_many_tokens_are_refused_in_the_servers_own_words(world: World) -> None:
    entry = ExpertEntry(name="x", dimension="x", endpoint=parse_endpoint(url=world.url, model="concise", top=1000))
    with pytest.raises(
        CounterpointError, match=r"status 400, .*290.*; see what the server allows, such as vLLM's --max"
    ):
        remote_whole(entry, world.band.tokenizer, 290, 512)


def test_rows_are_equal_whichever_way_they_are_asked_for(world: World) -> None:
    """Also several rows at once, of unlike lengths: what a row is does not depend on the others."""
    engine = remote_engine(world, top="all")
    prompts = [PROMPT[:length] for length in (2, 5, 9)]
    requests = [Request(PLANS["prob"], (p,) * 3, Sampling(temperature=0, max_tokens=12)) for p in prompts]
    together = engine.run(requests)
    assert together == [engine.run([request])[0] for request in requests]
    assert together == world.band.engine.run(requests)
