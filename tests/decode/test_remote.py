"""Rows behind endpoints, against a scripted server that speaks each wire format, and fails in every way."""

import json
import math
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx2
import pytest
import torch
from openai import APITimeoutError
from torch import Tensor

from counterpoint.artifacts import read_json
from counterpoint.compose.mixture import mix_prob
from counterpoint.decode.endpoint import RETRIES, what_went_wrong
from counterpoint.decode.remote import RemoteRows, check_remote, look, remote_whole
from counterpoint.decode.several import Several, Whole
from counterpoint.models.band_file import ExpertEntry, parse_endpoint
from counterpoint.testing import ScriptedLM, pico_tokenizer, save_pico
from counterpoint.types import CounterpointError, LanguageModel

TOKENIZER = pico_tokenizer()
IDS = len(TOKENIZER)
DIALECTS = ("vllm", "llama.cpp", "texts")
CONTEXTS = ((1, 40, 50), (1, 60), (1, 40, 50, 99, 7))
LONGEST = 64


def decode(tokens: Sequence[int]) -> str:
    text: str = TOKENIZER.decode(list(tokens))
    return text


def script(context: Sequence[int]) -> Tensor:
    """A random log-distribution that depends on every token, `[V]`."""
    generator = torch.Generator().manual_seed(crc32(repr(tuple(context)).encode()))
    return torch.log_softmax(3 * torch.randn(IDS, generator=generator, dtype=torch.float64), dim=-1)


class Server(ThreadingHTTPServer):
    """Answers completions by `script`, once each in the ways that `moods` name, and then as it should.

    `script` gives the log-distribution after a context, `dialect` is how it names tokens, `texts_of` what ids are to
    it, `detokenizes` under which name it tells that, and `refuses` is a field that it does not allow.
    """

    daemon_threads = True
    request_queue_size = 128  # with five, what comes beside waits for a second

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.script = script
        self.dialect = "vllm"
        self.models: list[dict[str, Any]] = [{"id": "m"}]
        self.texts_of: Callable[[Sequence[int]], str] = decode
        self.detokenizes: str | None = "prompt"
        self.echoes = False
        self.refuses = ""
        self.moods: deque[str] = deque()
        self.always = ""
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.here = self.most_at_once = self.given_up = 0
        self.arrived, self.release = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def prompts(self) -> list[list[int]]:
        return [body["prompt"] for path, _, body in self.asked if path == "/v1/completions"]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has left is no error here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def die(self) -> None:
        self.always = "drop"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the headers to be acknowledged
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, headers_of(self), {}))
        self.reply({"data": self.server.models} if self.path == "/v1/models" else None)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, headers_of(self), body))
        if self.path == "/detokenize":
            named = self.server.detokenizes
            self.reply({named: self.server.texts_of(body["tokens"])} if named else None)
        elif self.path == "/v1/completions":
            self.counted(body)
        else:
            self.reply(None)

    def counted(self, body: dict[str, Any]) -> None:
        server = self.server
        with server.lock:
            server.here += 1
            server.most_at_once = max(server.most_at_once, server.here)
            mood = server.always or (server.moods.popleft() if server.moods else "")
        server.arrived.set()
        try:
            self.complete(mood, body)
        finally:
            with server.lock:
                server.here -= 1

    def complete(self, mood: str, body: dict[str, Any]) -> None:
        if self.server.refuses in body:
            self.reply({"error": {"message": f"Unrecognized request argument: {self.server.refuses}"}}, 400)
        elif mood == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif mood.isdecimal():
            said = {"error": {"message": f"this is {mood} for {self.headers['Authorization']}"}}
            self.reply(said, int(mood), {"Retry-After": "0.05"} if mood == "429" else {})
        elif mood == "malformed":
            self.send(b'{"choices": [{"text": "ow', 200, {})
        elif mood == "elsewhere":
            self.send(b"", 307, {"Location": f"{self.server.url}/elsewhere"})
        elif mood == "packed":
            self.send(b"", 200, {"Content-Encoding": "gzip"})
        elif mood == "long":
            self.send(b" " * 5000, 200, {})
        elif mood == "drops":
            self.trickle()
        elif mood == "silent":
            self.reply({"choices": [{"text": "owl", "logprobs": None}]})
        elif mood == "too much":
            self.reply({"choices": [{"logprobs": {"top_logprobs": [{"token_id:1": 0.0, "token_id:2": -0.7}]}}]})
        elif mood != "slow" or self.waited():
            self.reply(completion(self.server, body))

    def trickle(self) -> None:
        """A byte now and then, each in time."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.server.release.wait(0.02):
            self.wfile.write(b" ")

    def waited(self) -> bool:
        """Whether the client is still there when the server is let go on."""
        for _ in range(500):
            if self.server.release.wait(0.01):
                return True
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                break
        self.server.given_up += 1
        self.close_connection = True
        return False

    def reply(self, said: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(said or {"detail": "Not Found"}).encode(), status if said else 404, headers or {})

    def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def headers_of(handler: BaseHTTPRequestHandler) -> dict[str, str]:
    return {name.lower(): value for name, value in handler.headers.items()}


def completion(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """What a server of each dialect says to a prompt."""
    prompt, top = body["prompt"], body["logprobs"]
    logp_V = server.script(prompt)
    best = logp_V.topk(top).indices.tolist()
    if server.dialect == "llama.cpp":
        tokens = [{"id": token, "token": server.texts_of([token]), "logprob": float(logp_V[token])} for token in best]
        return {"choices": [{"text": "", "logprobs": {"content": [{**tokens[0], "top_logprobs": tokens}]}}]}
    by_id = server.dialect == "vllm" and body.get("return_tokens_as_token_ids")
    named = {f"token_id:{t}" if by_id else server.texts_of([t]): float(logp_V[t]) for t in reversed(best)}
    said = [server.texts_of([token]) for token in [*(prompt if server.echoes and body.get("echo") else []), best[0]]]
    logprobs = {"tokens": said, "top_logprobs": [*[None] * (len(said) - 1), named]}
    if len(said) == 1:
        logprobs["top_logprobs"] = [named]
    return {"choices": [{"text": "".join(said), "logprobs": logprobs}]}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's first retry comes after a hundredth of a second, not half of one."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def entry_of(server: Server, **fields: Any) -> ExpertEntry:
    endpoint = parse_endpoint(**({"url": server.url, "model": "m", "top": "all"} | fields))
    return ExpertEntry(name="terse", dimension="terse", endpoint=endpoint)


def whole_of(server: Server, **fields: Any) -> Whole:
    return remote_whole(entry_of(server, **fields), TOKENIZER, IDS, LONGEST)


def rows_of(server: Server, **fields: Any) -> RemoteRows:
    rows = whole_of(server, **fields).load()
    assert isinstance(rows, RemoteRows)
    return rows


def joined(model: LanguageModel, contexts: Sequence[Sequence[int]] = CONTEXTS) -> list[int]:
    """Let rows join; the tokens that they are to be fed first."""
    model.join(contexts, [{}] * len(contexts))
    return [context[-1] for context in contexts]


def failed(model: LanguageModel) -> str:
    with pytest.raises(CounterpointError) as caught:
        model.step(joined(model))
    return str(caught.value)


def refused(server: Server, **fields: Any) -> str:
    with pytest.raises(CounterpointError) as caught:
        whole_of(server, **fields)
    return str(caught.value)


# What replies say


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp"])
def test_a_whole_vocabulary_is_the_model(server: Server, dialect: str) -> None:
    server.dialect = dialect
    rows = rows_of(server)
    out_BW = rows.step(joined(rows))
    assert out_BW.dtype == torch.float32
    torch.testing.assert_close(out_BW[:, :-1].double(), torch.stack([script(c) for c in CONTEXTS]), atol=1e-5, rtol=0)
    assert out_BW[:, -1].tolist() == [-math.inf] * 3


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("top", [1, 20])
def test_the_likeliest_tokens_and_the_rest(server: Server, dialect: str, top: int) -> None:
    server.dialect = dialect
    rows = rows_of(server, top=top)
    for context, row in zip(CONTEXTS, rows.step(joined(rows)).double(), strict=True):
        best = script(context).topk(top)
        assert row[:-1].isfinite().sum() == top
        torch.testing.assert_close(row[best.indices], best.values, atol=1e-5, rtol=0)
        torch.testing.assert_close(row[-1].exp(), 1 - best.values.exp().sum(), atol=1e-6, rtol=0)
        assert abs(row.logsumexp(-1)) < 1e-5


def test_tokens_by_text_count_where_the_text_is_of_one_token(server: Server) -> None:
    server.dialect = "texts"
    rows = rows_of(server)
    texts = [decode([token]) for token in range(IDS)]
    clear = torch.tensor([texts.count(text) == 1 for text in texts])
    assert 100 < clear.sum() < IDS - 100
    for context, row in zip(CONTEXTS, rows.step(joined(rows)).double(), strict=True):
        torch.testing.assert_close(row[:-1][clear], script(context)[clear], atol=1e-5, rtol=0)
        assert (row[:-1][~clear] == -math.inf).all()
        torch.testing.assert_close(row[-1].exp(), script(context)[~clear].exp().sum(), atol=1e-6, rtol=0)


def test_a_server_that_refuses_to_be_asked_for_ids_is_not_asked(server: Server) -> None:
    server.dialect, server.refuses = "texts", "return_tokens_as_token_ids"
    rows = rows_of(server, top=5)
    server.asked.clear()
    rows.step(joined(rows))
    assert len(server.prompts()) == 3, "it was asked in vain but once"


# Rows


@pytest.mark.parametrize("dialect", DIALECTS)
def test_rows_that_come_and_go_answer_as_if_alone(server: Server, dialect: str) -> None:
    server.dialect = dialect
    rows, alone = rows_of(server), rows_of(server)
    first = rows.step(joined(rows))
    rows.keep([2, 0])
    rows.join([(1, 2)], [{}])
    second = rows.step([9, 8, 2])
    for context, row in (((1, 60), first[1]), ((*CONTEXTS[2], 9), second[0]), ((*CONTEXTS[0], 8), second[1])):
        assert torch.equal(alone.step(joined(alone, [context]))[0], row)
        alone.keep([])
    assert server.prompts()[-1] == [*CONTEXTS[0], 8], "it is sent a row's whole context"


def test_requests_of_one_step_run_at_once(server: Server) -> None:
    rows = rows_of(server)
    server.always = "slow"
    contexts = [(1, token) for token in range(8)]
    step = rows.start(joined(rows, contexts))
    deadline = time.monotonic() + 5
    while server.here < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.most_at_once == 8
    server.release.set()
    assert step.result().shape == (8, IDS + 1)


@pytest.mark.parametrize(
    "models",
    [
        [{"id": "m", "max_model_len": 6}],
        [{"id": "m", "parent": "base", "max_model_len": None}, {"id": "base", "max_model_len": 6}],
        [{"id": "m", "meta": {"n_ctx": 6, "n_ctx_train": 2048}}],
    ],
)
def test_a_context_that_the_server_has_no_room_for_is_refused_and_no_row_joins(
    server: Server, models: list[dict[str, Any]]
) -> None:
    server.models = models
    whole = whole_of(server)
    assert whole.longest == 6
    rows = whole.load()
    with pytest.raises(CounterpointError, match="a prompt of 6 tokens: expert 'terse' takes 1 to 5 and a response"):
        rows.join([(1,), (1,) * 6], [{}, {}])
    assert rows.step(joined(rows)).shape == (3, IDS + 1)


def test_a_server_that_tells_no_length_has_the_bases(server: Server) -> None:
    assert whole_of(server).longest == LONGEST


# Beside others


def scripted(gate: str, seen: tuple[int, ...]) -> list[float]:
    return [float(token * len(seen) % 7) for token in range(IDS)]


def test_all_rows_have_the_column_of_the_rest(server: Server) -> None:
    model = Several(ScriptedLM(IDS + 3, lambda gate, seen: [*scripted(gate, seen), 1.0, 2.0, 3.0]),
                    {"terse": whole_of(server, top=5)}, IDS)  # fmt: skip
    model.join([(1, 2), (1, 2), (1, 3)], [{}, {"terse": 1.0}, {}])
    out_BW = model.step([2, 2, 3])
    assert out_BW.shape == (3, IDS + 1)
    assert out_BW[[0, 2]].tolist() == [[*scripted("", (1, 2)), -math.inf], [*scripted("", (1, 3)), -math.inf]]
    best = script((1, 2)).topk(5)
    torch.testing.assert_close(out_BW[1, -1].exp().double(), 1 - best.values.exp().sum())
    model.keep([0, 2])
    assert model.step([4, 4]).shape == (2, IDS + 1), "also where no remote row is left"


class Narrow(ScriptedLM):
    """Says two numbers, as a model that is no language model may."""

    def step(self, tokens_B: Sequence[int]) -> Tensor:
        return super().step(tokens_B)[:, :2]


@pytest.mark.parametrize("remote", [False, True])
def test_narrow_rows_are_widened(server: Server, remote: bool) -> None:
    whole = {"n": Whole(None, LONGEST, lambda: Narrow(IDS, scripted))}
    model = Several(ScriptedLM(IDS, scripted), whole | ({"terse": whole_of(server)} if remote else {}), IDS)
    model.join([(1, 2), (1, 2)], [{"n": 1.0}, {}])
    out_BW = model.step([2, 2])
    assert out_BW[0].tolist() == [*scripted("", (1, 2))[:2], *[-math.inf] * (IDS - 2 + remote)]
    assert out_BW[1, :IDS].tolist() == scripted("", (1, 2))


class Waits(ScriptedLM):
    """Takes its step while the server has a request before it."""

    def __init__(self, server: Server, then: BaseException | None = None) -> None:
        super().__init__(IDS, scripted)
        self.at, self.then = server, then

    def step(self, tokens_B: Sequence[int]) -> Tensor:
        assert self.at.arrived.wait(5)
        if self.then:
            raise self.then
        self.at.release.set()
        return super().step(tokens_B)


def beside(server: Server, base: ScriptedLM) -> Several:
    """A base and a remote expert with a row each; the server waits for `release`."""
    model = Several(base, {"terse": whole_of(server)}, IDS)
    model.join([(1, 2), (1, 2)], [{"terse": 1.0}, {}])
    server.arrived.clear()
    server.always = "slow"
    return model


def test_the_base_works_while_the_server_does(server: Server) -> None:
    out_BW = beside(server, Waits(server)).step([2, 2])
    torch.testing.assert_close(out_BW[0, :-1].double(), script((1, 2)), atol=1e-5, rtol=0)
    assert server.given_up == 0


def given_up(server: Server) -> int:
    deadline = time.monotonic() + 5
    while server.here and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.given_up


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CounterpointError("no"), RuntimeError("out of memory")])
def test_what_interrupts_the_base_cancels_the_requests(server: Server, error: BaseException) -> None:
    model = beside(server, Waits(server, error))
    with pytest.raises(type(error)):
        model.step([2, 2])
    assert given_up(server) == 1
    model.keep([])
    server.always = ""
    model.join([(1, 3)], [{"terse": 1.0}])
    torch.testing.assert_close(model.step([3])[0, :-1].double(), script((1, 3)), atol=1e-5, rtol=0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that a shell has started in the background ignores interrupts, unless it asks for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("among", [False, True])
def test_an_interrupt_cancels_the_requests_that_are_waited_for(server: Server, among: bool) -> None:
    model: LanguageModel = Several(ScriptedLM(IDS, scripted), {"terse": whole_of(server)}, IDS)
    model = model if among else rows_of(server)
    model.join([(1, 2), (1, 3)], [{"terse": 1.0}] * 2)
    server.always = "slow"
    main = threading.main_thread().ident
    assert main
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        model.step([2, 3])
    assert given_up(server) == 2


@pytest.mark.parametrize("top", [1, 5, 20, 100])
def test_a_mixture_is_off_by_no_more_than_the_rest(server: Server, top: int) -> None:
    """Law: with q the mixture of what was reported, TV(p, q / (1 - rest)) <= rest."""
    rows = rows_of(server, top=top)
    contexts = [(1, token) for token in range(3, 19)]
    known_QKW = rows.step(joined(rows, contexts)).view(4, 4, IDS + 1)
    p_QV = torch.stack([script(context) for context in contexts]).view(4, 4, IDS).exp().mean(1)
    mixed_QW = mix_prob(known_QKW, torch.full((4, 4), 0.25)).double()
    q_QV, rest_Q = torch.softmax(mixed_QW[:, :-1], dim=-1), mixed_QW[:, -1].exp()
    off_Q = (p_QV - q_QV).abs().sum(-1) / 2
    assert (off_Q <= rest_Q + 1e-6).all()
    assert off_Q.min() > 0


# Failures that pass


@pytest.mark.parametrize("mood", ["429", "500", "503", "drop"])
def test_what_fails_once_is_asked_again(server: Server, mood: str) -> None:
    rows = rows_of(server)
    server.asked.clear()
    server.moods.append(mood)
    out_BW = rows.step(joined(rows))
    torch.testing.assert_close(out_BW[:, :-1].double(), torch.stack([script(c) for c in CONTEXTS]), atol=1e-5, rtol=0)
    assert len(server.prompts()) == 4


def test_a_server_says_when_to_ask_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 60.0)  # were Retry-After not heard
    rows = rows_of(server)
    server.moods.extend(["429"] * 3)
    began = time.monotonic()
    rows.step(joined(rows))
    assert 0.05 <= time.monotonic() - began < 5


# Failures that last


@pytest.mark.parametrize(
    ("mood", "message", "attempts"),
    [
        ("429", "status 429, this is 429", RETRIES + 1),
        ("500", "status 500, this is 500", RETRIES + 1),
        ("401", r"status 401, .* name the environment variable of the right key with api_key_env", 1),
        ("404", r"status 404, .* see that the address is right", 1),
        ("400", r"status 400, .* set a smaller top", 1),
        ("drop", rf"no connection, tried {RETRIES + 1} times .* see that the server is up", RETRIES + 1),
        ("malformed", r"its reply is not what was expected \(.*: Invalid JSON", 1),
        ("silent", "it reports no log-probabilities; use a server that", 1),
        ("elsewhere", "it sends to http://.*/elsewhere; name that address itself, if it is to be trusted", 1),
        ("packed", "its reply is compressed, which was not asked for; turn compression off", 1),
        ("too much", "the probabilities that it reports add up to 1.49659, expected at most 1", 1),
    ],
)
def test_a_failure_names_expert_address_and_reason(server: Server, mood: str, message: str, attempts: int) -> None:
    rows = rows_of(server)
    server.asked.clear()
    server.always = mood
    with pytest.raises(CounterpointError, match=message) as caught:
        rows.step(joined(rows, CONTEXTS[:1]))
    assert f"expert 'terse' at {server.url} (model 'm') did not give the next token's" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.prompts()) == attempts


def test_a_server_that_is_too_slow(server: Server) -> None:
    rows = rows_of(server)
    rows.endpoint.client.timeout = 0.1
    server.always = "slow"
    assert "no answer in 60 s, asked 4 times" in failed(rows)


def test_a_reply_that_comes_in_drops_ends_with_the_time_for_all_attempts(server: Server) -> None:
    rows = rows_of(server)
    rows.endpoint.entry = rows.endpoint.entry.model_copy(update={"timeout_s": 0.1})
    server.always = "drops"
    assert "no whole answer in 0.4 s; see that the server is up" in failed(rows)


def test_a_reply_without_end_is_not_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(server, top=1)
    monkeypatch.setattr("counterpoint.decode.endpoint.MOST_BYTES", 4000)
    assert rows.step(joined(rows, CONTEXTS[:1])).isfinite().any()
    server.always = "long"
    rows.keep([])
    assert "its reply has more than 4,000 bytes; set a smaller top" in failed(rows)
    assert {headers["accept-encoding"] for _, headers, _ in server.asked} == {"identity"}


def test_a_connection_that_is_not_made_in_time_is_no_slow_answer() -> None:
    error = APITimeoutError(httpx2.Request("GET", "http://host"))
    assert what_went_wrong(error, 60.0, 4) == "no answer in 60 s, asked 4 times"
    error.__cause__ = httpx2.ConnectTimeout("")
    assert what_went_wrong(error, 60.0, 1) == "no connection, tried once (Request timed out.)"


def test_a_look_at_a_server_is_short(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    look(entry_of(server))
    monkeypatch.setattr("counterpoint.decode.remote.LOOK_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(CounterpointError, match=r"in 0.1 s") as caught:
        look(entry_of(server, url=f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"))
    assert "did not list its models" in str(caught.value)


def test_the_other_requests_are_given_up_where_one_fails(server: Server) -> None:
    rows = rows_of(server)
    server.moods.extend(["slow", "slow", "401"])
    assert "status 401" in failed(rows)
    assert given_up(server) == 2
    rows.keep([])
    assert rows.step(joined(rows)).isfinite().any()


def silent(out_BW: Tensor) -> Tensor:
    """The rows that have nothing to say any more, as the protocol has it."""
    return (out_BW == -math.inf).all(-1)


def test_a_lost_row_has_nothing_to_say_from_then_on_and_it_is_said_once(server: Server) -> None:
    rows = rows_of(server, on_failure="drop")
    tokens = joined(rows)
    assert not silent(rows.step(tokens)).any()
    server.die()

    def go_on() -> list[Tensor]:
        lost = [rows.step([5, 5, 5]), rows.step([5, 5, 5])]
        rows.join([(1, 2)], [{}])
        return [*lost, rows.step([5, 5, 5, 2])]

    with pytest.warns(UserWarning, match="answers go on without it: expert 'terse' at .* no connection") as said:
        lost = go_on()
    assert len(said) == 1
    assert all(silent(out_BW).all() for out_BW in lost)
    server.always = ""
    server.asked.clear()
    rows.join([(1, 3)], [{}])
    out_BW = rows.step([5, 5, 5, 5, 3])
    assert silent(out_BW).tolist() == [True] * 4 + [False]
    torch.testing.assert_close(out_BW[4, :-1].double(), script((1, 3)), atol=1e-5, rtol=0)
    assert server.prompts() == [[1, 3]], "a lost row is asked for no more"


def test_each_batch_that_loses_rows_says_so_also_by_pythons_own_filter(server: Server) -> None:
    rows = rows_of(server, on_failure="drop")
    server.die()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            rows.step(joined(rows))
            rows.step([5, 5, 5])
            rows.keep([])
    assert [str(warning.message).partition(":")[0] for warning in said] == ["answers go on without it"] * 2


def test_a_row_is_lost_alone(server: Server) -> None:
    rows = rows_of(server, on_failure="drop")
    server.moods.append("401")
    with pytest.warns(UserWarning, match="status 401"):
        lost_B = silent(rows.step(joined(rows)))
    assert lost_B.sum() == 1
    kept = [row for row, lost in enumerate(lost_B.tolist()) if not lost]
    rows.keep(kept)
    assert not silent(rows.step([5, 5])).any()


# Keys


def test_the_key_comes_from_the_environment_and_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_KEY", "secret-owl")
    rows = rows_of(server, api_key_env="COUNTERPOINT_KEY")
    assert {headers["authorization"] for _, headers, _ in server.asked} == {"Bearer secret-owl"}
    server.always = "401"
    said = failed(rows)
    assert "this is 401 for Bearer ***" in said
    assert "secret-owl" not in said + repr(rows.endpoint.entry)


def test_what_is_meant_for_openai_is_sent_to_no_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "secret-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    rows_of(server)
    assert server.asked
    assert not any("secret-openai" in str(asked) for asked in server.asked)


# At load


def test_a_model_that_is_not_offered_is_refused_with_those_that_are(server: Server) -> None:
    server.models = [{"id": "owl"}, {"id": "bee"}]
    assert refused(server) == f"expert 'terse': {server.url} offers no model 'm'; it offers: owl, bee"
    server.models = []
    assert "it offers: none" in refused(server)


def test_what_a_server_says_of_itself_is_cut(server: Server) -> None:
    server.models = [{"id": f"\x1b[31mowl{n}"} for n in range(1000)]
    found = refused(server)
    assert "it offers: [31mowl0, [31mowl1" in found
    assert len(found) < 450


def test_an_address_without_its_end(server: Server) -> None:
    found = refused(server, url=server.url.removesuffix("/v1"))
    assert "did not list its models: status 404, Not Found; see that the address is right; most end with /v1" in found


def test_a_server_that_is_down(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CounterpointError, match="did not list its models: no connection, tried 4 times"):
        check_remote(entry_of(server, url=f"http://127.0.0.1:{port}/v1"), TOKENIZER, IDS)


def unproved(server: Server, **fields: Any) -> Whole:
    """An expert whose server cannot be reached when its band is loaded."""
    server.always = "503"
    with pytest.warns(UserWarning, match="status 503, .*; it is asked again when it is first needed") as said:
        whole = whole_of(server, **fields)
    assert len(said) == 1
    return whole


def test_a_server_that_cannot_be_reached_at_load_is_asked_again_at_first_use(server: Server) -> None:
    whole = unproved(server)
    rows = whole.load()
    with pytest.raises(CounterpointError, match="did not give the next token's log-probabilities: status 503"):
        joined(rows)
    server.always = ""
    server.models = [{"id": "m", "max_model_len": 6}]
    out_BW = rows.step(joined(rows))
    torch.testing.assert_close(out_BW[:, :-1].double(), torch.stack([script(c) for c in CONTEXTS]), atol=1e-5, rtol=0)
    with pytest.raises(CounterpointError, match="a prompt of 7 tokens: expert 'terse' takes 1 to 5"):
        rows.join([(1,) * 7], [{}])
    server.asked.clear()
    rows.join([(1, 2)], [{}])
    assert not server.asked, "it is proved once"


def test_a_server_that_cannot_be_reached_at_first_use_may_be_dropped(server: Server) -> None:
    rows = unproved(server, on_failure="drop").load()
    with pytest.warns(UserWarning, match="answers go on without it: expert 'terse' at .* status 503"):
        tokens = joined(rows)
    assert silent(rows.step(tokens)).all()
    server.always = ""
    rows.join([(1, 3)], [{}])
    assert silent(rows.step([5, 5, 5, 3])).tolist() == [True] * 3 + [False]


def test_another_tokenizer_is_refused_also_when_it_is_found_late(server: Server) -> None:
    rows = unproved(server, on_failure="drop").load()
    server.always, server.texts_of = "", swapped
    with pytest.raises(CounterpointError, match="another tokenizer than the base"):
        joined(rows)


def test_a_server_without_log_probabilities_is_refused(server: Server) -> None:
    server.always = "silent"
    assert "it reports no log-probabilities" in refused(server)


@pytest.mark.parametrize("field", ["prompt", "content", "text"])
def test_a_tokenizer_is_compared_by_detokenize(server: Server, field: str) -> None:
    server.detokenizes = field
    whole_of(server)
    compared = {token for path, _, body in server.asked if path == "/detokenize" for token in body["tokens"]}
    assert len(compared) > 100
    assert max(compared) > IDS - 20
    assert len(server.prompts()) == 1, "no echo is needed"


def test_a_tokenizer_is_compared_by_echo_where_nothing_else_is_there(server: Server) -> None:
    server.dialect, server.detokenizes, server.echoes = "texts", None, True
    whole_of(server)
    compared = {token for _, _, body in server.asked if body.get("echo") for token in body["prompt"]}
    assert len(compared) > 100


def swapped(tokens: Sequence[int]) -> str:
    """Two letters have changed places."""
    return decode([{68: 69, 69: 68}.get(token, token) for token in tokens])


@pytest.mark.parametrize("echoes", [False, True])
def test_another_tokenizer_is_refused(server: Server, echoes: bool) -> None:
    server.texts_of, server.echoes = swapped, echoes
    if echoes:
        server.dialect, server.detokenizes = "texts", None
    ours, theirs = decode([68]), decode([69])
    found = refused(server)
    assert f"has another tokenizer than the base: token 68 is {theirs!r} there and {ours!r} here" in found
    assert len(found) < 300
    whole_of(server, trust_tokenizer=True)


@pytest.mark.parametrize("token", [TOKENIZER.eos_token_id, TOKENIZER.bos_token_id, IDS - 2])
def test_the_ends_of_a_vocabulary_are_compared(server: Server, monkeypatch: pytest.MonkeyPatch, token: int) -> None:
    monkeypatch.setattr("counterpoint.decode.remote.IDS_COMPARED", 5)
    server.texts_of = lambda tokens: "".join("<other>" if t == token else decode([t]) for t in tokens)
    assert f"token {token} is '<other>' there and {decode([token])!r} here" in refused(server)


def test_special_tokens_that_a_server_leaves_out_prove_nothing(server: Server) -> None:
    server.texts_of = lambda tokens: TOKENIZER.decode(list(tokens), skip_special_tokens=True)
    whole_of(server)


def test_tokens_that_are_only_joined_otherwise_are_the_same(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterpoint.decode.remote.IDS_COMPARED", 40)
    server.texts_of = lambda tokens: "_".join(decode([token]).strip() for token in tokens)
    whole_of(server)


def test_a_tokenizer_that_cannot_be_compared_must_be_trusted_in_words(server: Server) -> None:
    server.detokenizes = None
    found = refused(server)
    assert "nothing proves that its token ids are the base's; if you know that they are, say so with trust_tok" in found
    whole_of(server, trust_tokenizer=True)


def test_connections_are_closed_with_the_rows(server: Server) -> None:
    rows = rows_of(server)
    client = rows.endpoint.client
    assert not client.is_closed()
    del rows
    deadline = time.monotonic() + 5
    while not client.is_closed() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client.is_closed()


# The command


def test_add_asks_the_server(server: Server, command: Callable[..., tuple[object, str, str]], tmp_path: Path) -> None:
    base, band = save_pico(tmp_path / "base", seed=1), tmp_path / "band"
    add = ("add", band, server.url, "--dimension", "terse", "--base", base, "--remote-model")
    code, _, told = command(*add, "owl")
    assert (code, band.exists()) == (2, False)
    assert "offers no model 'owl'; it offers: m; a server that is down can be added with --no-check" in told
    code, said, told = command(*add, "m", "--top", "all", "--on-failure", "drop")
    assert code == 0, told
    assert f"added model on the server {server.url} as expert 'terse' for 'terse'; the band has 1" in said
    assert read_json(band / "band.json")["experts"][0]["endpoint"] == {
        "url": server.url, "model": "m", "top": "all", "api_key_env": None, "on_failure": "drop", "timeout_s": 60.0,
        "trust_tokenizer": False,
    }  # fmt: skip
    assert command("inspect", band)[0] == 0
    server.models = [{"id": "owl"}]
    code, said, _ = command("inspect", band)
    assert (code, "wrong: expert 'terse'" in said, "offers no model 'm'; it offers: owl" in said) == (1, True, True)
    server.models = [{"id": "m"}]
    server.texts_of = swapped
    code, _, told = command(*add[:3], "--dimension", "warm", "--remote-model", "m")
    assert (code, len(read_json(band / "band.json")["experts"])) == (2, 1)
    assert "another tokenizer" in told
