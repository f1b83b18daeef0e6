"""`/v1/chat/completions` beyond OpenAI's: traces, people and their precedence, and clients that go away."""

import json
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.gate_trace import group_shares
from counterpoint.models.band_file import add_expert, new_band
from counterpoint.serve.credits import BASE, constant_shares, mixed_shares
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import Dimension, Expert

if TYPE_CHECKING:
    from tests.serve.conftest import Served

Serve = Callable[..., "AbstractContextManager[Served]"]
CHAT = "/v1/chat/completions"
ASK: Any = [{"role": "user", "content": "What does the owl eat?"}]


def chat(server: "Served", status: int = 200, **body: Any) -> Any:
    reply = server.http.post(CHAT, json={"messages": ASK, "max_tokens": 6, "seed": 3} | body)
    assert reply.status_code == status, reply.text
    return reply.json()


def events(server: "Served", **body: Any) -> list[Any]:
    asked = {"messages": ASK, "max_tokens": 6, "seed": 3, "stream": True}
    lines = server.http.post(CHAT, json=asked | body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


# Whose words


def test_the_shares_of_one_row_are_its_coefficients() -> None:
    """2/3 and 1/3 of strength 0.6 leave 0.4 on the base; beyond strength 1 nothing is left."""
    assert constant_shares(Row({"a": 0.4, "b": 0.2})) == pytest.approx({"a": 0.4, "b": 0.2, BASE: 0.4})
    assert constant_shares(Row({"a": 2.0, "b": 1.0})) == pytest.approx({"a": 2 / 3, "b": 1 / 3, BASE: 0})
    assert constant_shares(Row()) == {BASE: 1.0}


def test_the_shares_of_a_mixture_in_log_space_are_the_pulls_towards_the_token() -> None:
    """Pulls of 0.3, -0.2 and 0.1 nats: who pulled away has none. Where nobody pulled, the coefficients' own."""
    plan = Plan((Row({"a": 1.0}), Row({"b": 1.0}), Row()), (0.9, 0.6, -0.5), "log")
    assert mixed_shares(plan, (0.3, -0.2, 0.1)) == pytest.approx({"a": 0.75, "b": 0.0, BASE: 0.25})
    assert mixed_shares(plan, (0.0, -0.2, 0.0)) == pytest.approx({"a": 0.45, "b": 0.3, BASE: 0.25})


@pytest.mark.parametrize(
    "model", ["soup:warm=2,terse=1", "mixture-prob:warm,terse,strength=0.8", "mixture-log:warm+terse"]
)
def test_a_trace_covers_the_text_and_its_shares_are_whole(server: "Served", model: str) -> None:
    whole = chat(server, model=model, trace=True, max_tokens=20)["choices"][0]
    assert "".join(piece["token"] for piece in whole["trace"]) == whole["message"]["content"]
    for piece in whole["trace"]:
        assert sum(piece["credit"].values()) == pytest.approx(1)
    chunks = [chunk["choices"][0] for chunk in events(server, model=model, trace=True, max_tokens=20)]
    for chunk in chunks[1:]:
        assert "".join(piece["token"] for piece in chunk["trace"]) == chunk["delta"].get("content", "")
    assert [piece["credit"] for chunk in chunks[1:] for piece in chunk["trace"]] == [
        pytest.approx(piece["credit"], abs=1e-5) for piece in whole["trace"]
    ]


def test_a_trace_in_probability_space_is_the_engines_credit(server: "Served", band: Band) -> None:
    """Answers of one letter, so that every token is a piece."""
    letter = str(band.tokenizer.convert_tokens_to_ids("e"))
    profile = {"warm": 2.0, "terse": 1.0}
    told = chat(server, model="mixture-prob", profile=profile, trace=True, logit_bias={letter: 100})["choices"][0]
    plan = band.plan(band.in_force(profile), "mixture-prob")
    sampling = Sampling(max_tokens=6, seed=3, logit_bias=((int(letter), 100.0),))
    (offline,) = band.run([band.request(band.prompt(ASK), plan, sampling, "token")])
    names = [next(iter(row.gate)) for row in plan.rows]
    assert offline.trace
    expected = [dict(zip(names, credit_K, strict=True)) for credit_K in offline.trace.credit_TK.tolist()]
    assert [piece["credit"] for piece in told["trace"]] == [pytest.approx(one, abs=1e-4) for one in expected]
    assert len(expected) == 6


@pytest.fixture(scope="module")
def gated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A band whose two experts adapt the same layers, so that an Arrow can be made of them."""
    folder = tmp_path_factory.mktemp("gated")
    base = save_pico(folder / "base", seed=1)
    new_band(folder, str(base), (Dimension("terse"), Dimension("warm")))
    for seed, name in enumerate(("terse", "warm")):
        add_expert(folder, pico_adapter(folder / "made" / name, base, seed=seed), Expert(name, name))
    return folder


def test_a_gates_shares_come_with_the_last_chunk_and_are_the_routers(serve: Serve, gated_folder: Path) -> None:
    asked: Any = {"model": "arrow:warm=2,terse=1", "trace": True, "max_tokens": 20}
    with serve(folder=gated_folder) as server:
        whole = chat(server, **asked)["choices"][0]
        chunks = [chunk["choices"][0] for chunk in events(server, **asked)]
    assert "".join(piece["token"] for piece in whole["trace"]) == whole["message"]["content"]
    assert [piece for chunk in chunks[1:-1] for piece in chunk["trace"]] == []
    assert [piece["token"] for piece in chunks[-1]["trace"]] == [piece["token"] for piece in whole["trace"]]
    band = Band.load(gated_folder)
    plan = band.plan(band.in_force("warm=2, terse=1"), "arrow")
    request = band.request(band.prompt(ASK), plan, Sampling(max_tokens=20, seed=3))
    (said,) = band.run([request])
    found = group_shares(band.bank, plan.rows[0].gate, request.contexts[0], said.tokens)
    expected = [dict(zip(found.groups, row, strict=True)) for row in found.share_TG]
    credits = [{name: piece["credit"][name] for name in found.groups} for piece in whole["trace"]]
    assert all(any(credit == pytest.approx(one, abs=1e-4) for one in expected) for credit in credits)
    assert credits[0] == pytest.approx(expected[0], abs=1e-4)


# Whose profile


def test_the_default_profile_and_its_method(serve: Serve) -> None:
    with serve(profile="exact=1, warm=1", method="moe", strict_users=True) as server:
        told = chat(server)["counterpoint"]
        assert (told["method"], told["source"], told["weights"]) == ("moe", "default", {"exact": 0.5, "warm": 0.5})
        assert chat(server, strength=0.5)["counterpoint"]["weights"] == {"exact": 0.25, "warm": 0.25}
        assert chat(server, model="soup:terse")["counterpoint"]["source"] == "model"
        assert chat(server, 404, user="nobody")["error"]["code"] == "user_not_found"
        server.http.put("/v1/users/ann/profile", json={"profile": "terse"})
        assert chat(server, user="ann")["counterpoint"]["profile"] == "terse=1"


def test_bounds_are_kept_and_told(serve: Serve) -> None:
    """A floor of 0.3 under nothing asked for, out of a sum of 1."""
    with serve(bounds="exact >= 0.3") as server:
        told = chat(server, model="soup:warm")["counterpoint"]
    assert told["weights"] == pytest.approx({"warm": 0.7, "exact": 0.3})
    assert told["bounds"] == {"exact": {"asked": 0.0, "in_force": pytest.approx(0.3)}}


def test_the_weights_of_a_method_that_takes_one_expert_are_that_experts(server: "Served") -> None:
    assert chat(server, model="route:warm=3,terse=1,strength=0.5")["counterpoint"]["weights"] == {"warm": 0.5}
    assert chat(server, model="base", profile="warm")["counterpoint"]["weights"] == {}


def test_a_stored_profile_of_a_dimension_that_is_gone_is_told(serve: Serve, band_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "band"
    shutil.copytree(band_folder, folder)
    with serve(folder=folder) as server:
        server.http.put("/v1/users/ann/profile", json={"profile": "exact=1, warm=1"})
        file = json.loads((folder / "band.json").read_text())
        file["dimensions"] = [one for one in file["dimensions"] if one["name"] != "exact"]
        file["experts"] = [one for one in file["experts"] if one["name"] != "exact"]
        (folder / "band.json").write_text(json.dumps(file))
        assert server.http.post("/v1/band/reload").status_code == 200
        error = chat(server, 409, user="ann")["error"]
        assert error["code"] == "profile_outdated"
        assert "names exact" in error["message"]
        assert chat(server, user="ann", profile="warm")["counterpoint"]["weights"] == {"warm": 1.0}


def test_one_message_is_text_for_a_model_without_a_template(serve: Serve, band_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "band"
    shutil.copytree(band_folder, folder)
    (folder / "base" / "chat_template.jinja").unlink()
    with serve(folder=folder) as server:
        text = chat(server, model="soup:warm")["choices"][0]["message"]["content"]
        body = {"model": "soup:warm", "prompt": ASK[0]["content"], "max_tokens": 6, "seed": 3}
        assert server.http.post("/v1/completions", json=body).json()["choices"][0]["text"] == text
        error = chat(server, 400, messages=[{"role": "system", "content": "Be kind."}, *ASK])["error"]
    assert "/v1/completions" in error["message"]
    assert error["param"] == "messages"


# Clients that go away


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_client_that_vanishes_frees_its_rows_at_once(server: "Served", stream: bool, path: str) -> None:
    """Two answers of 450 tokens would take seconds, in which the rows are seen to be free long before."""
    end = {str(server.band.tokenizer.eos_token_id): -100}
    asked: dict[str, Any] = {"max_tokens": 450, "n": 2, "logit_bias": end, "stream": stream}
    asked |= {"messages": ASK} if path == CHAT else {"prompt": "Once"}
    before = server.state.worker.cancelled
    with vanishing(server, path, asked) as client:
        wait_until(lambda: server.state.worker.live_rows == 2)
        if stream:
            assert client.recv(1000)
    wait_until(lambda: server.state.worker.live_rows == 0)
    assert server.state.worker.cancelled == before + 2
    assert server.band.engine.idle


class vanishing:
    """A client that sends a request and closes its connection without reading the answer."""

    def __init__(self, server: "Served", path: str, body: dict[str, Any]) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)

    def __enter__(self) -> socket.socket:
        return self.socket

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def wait_until(reached: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)
