"""Roll-outs of a model behind an endpoint, against a scripted server that is slow, fails and refuses."""

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from counterpoint.build.sample import SampleConfig
from counterpoint.build.sample_endpoint import sample_endpoint
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.samples import Sample, read_samples, sample_row, seed_of
from counterpoint.decode.chats import MOST_UNWANTED
from counterpoint.models.band_file import parse_endpoint
from counterpoint.stages import Stages
from counterpoint.types import CounterpointError, Dimension, Message

TABLE = [Dimension("brief", request="Be brief.")]
PROMPTS = [f"say {i}" for i in range(6)]


def backwards(text: str) -> str:
    return text[::-1]


def for_fewer_words(text: str) -> str:
    """What a judge of concision says, in either order."""
    a, b = re.findall(r"answer [AB] ===\n(.*?)\n\n===", text, re.DOTALL)
    return f"One is shorter.\nVerdict: {'A' if len(a.split()) < len(b.split()) else 'B'}"


class Server(ThreadingHTTPServer):
    """Says `script` of the last message, later for some than for others; `moods` are what it does first instead.

    A prompt in `refused` gets status 400. `asked` are the bodies that it was sent.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.script: Callable[[str], str] = backwards
        self.moods: deque[str] = deque()
        self.refused = ""
        self.asked: list[dict[str, Any]] = []
        self.here = self.most = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.here += 1
            self.server.most = max(self.server.most, self.server.here)
            mood = self.server.moods.popleft() if self.server.moods else ""
        time.sleep(0.02 + 0.03 * (len(self.server.asked) % 3))
        with self.server.lock:
            self.server.here -= 1
        said = body["messages"][-1]["content"]
        if mood == "wrong key":
            self.reply(401, {"error": {"message": "who are you?"}})
        elif self.server.refused and self.server.refused in said:
            self.reply(400, {"error": {"message": "that is too long"}})
        elif mood == "busy":
            self.reply(503, {"error": {"message": "later"}})
        else:
            finish = {"cut": "length", "filter": "content_filter"}.get(mood, "stop")
            content = None if mood == "filter" else self.server.script(said)
            self.reply(200, {"choices": [{"message": {"content": content}, "finish_reason": finish}]})

    def reply(self, status: int, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def run(server: Server, out: Path, prompts: list[Any] = PROMPTS, concurrency: int = 4, skip_bad: bool = False) -> None:
    entry = parse_endpoint(url=server.url, model="m", timeout_s=10)
    config = SampleConfig(samples=2, temperature=0.9, top_p=0.8, max_tokens=7, seed=3)
    sample_endpoint(entry, config, prompts, TABLE, out, Stages(), concurrency, skip_bad)


def test_samples_are_in_the_order_of_asking_however_late_each_comes(server: Server, tmp_path: Path) -> None:
    run(server, tmp_path / "s.jsonl")
    found = read_samples(tmp_path / "s.jsonl")
    assert [(s.prompt, s.asked, s.index) for s in found] == every()
    assert {s.response for s in found if s.asked} == {f".feirb eB {i} yas" for i in range(6)}
    assert {s.response for s in found if not s.asked} == {f"{i} yas" for i in range(6)}
    assert all(s.ended for s in found)
    assert 1 < server.most <= 4


def test_what_the_server_is_sent(server: Server, tmp_path: Path) -> None:
    talk = (Message("system", "s"), Message("user", "say"))
    run(server, tmp_path / "s.jsonl", [talk], concurrency=1)
    assert server.asked[2] == {
        "model": "m", "temperature": 0.9, "top_p": 0.8, "max_tokens": 7, "seed": seed_of(3, talk, ("brief",), 0),
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "say Be brief."}],
    }  # fmt: skip
    assert server.most == 1


def test_a_busy_server_is_asked_again_and_a_refusal_has_no_text(server: Server, tmp_path: Path) -> None:
    server.moods += ["busy", "", "cut", "filter"]
    run(server, tmp_path / "s.jsonl", PROMPTS[:1], concurrency=1)
    first, cut, refused, last = read_samples(tmp_path / "s.jsonl")
    assert (first.response, first.ended, cut.response, cut.ended) == ("0 yas", True, "0 yas", False)
    assert (refused.response, refused.ended, last.ended) == ("", False, True)


def test_a_run_that_failed_goes_on_and_asks_for_nothing_twice(server: Server, tmp_path: Path) -> None:
    server.moods += [""] * 9 + ["wrong key"]
    with pytest.raises(CounterpointError, match=r"prompt 'say .'.*who are you\?.*what was said before is kept"):
        run(server, tmp_path / "s.jsonl")
    kept = read_samples(tmp_path / "s.jsonl")
    assert 6 <= len(kept) <= 12, "of nine that were answered three more may have been on their way, or come after"
    server.asked.clear()
    run(server, tmp_path / "s.jsonl")
    again = {body["seed"] for body in server.asked}  # one of the first run may still have been on its way
    assert len(again) == 24 - len(kept)
    assert again.isdisjoint(sample.seed for sample in kept)
    found = read_samples(tmp_path / "s.jsonl")
    assert all(sample in found for sample in kept)
    assert [(s.prompt, s.asked, s.index) for s in found] == every()


def every() -> list[tuple[str, tuple[str, ...], int]]:
    return [(prompt, asked, index) for prompt in PROMPTS for asked in ((), ("brief",)) for index in (0, 1)]


def test_regression_a_slow_sample_does_not_lose_those_that_came_before_it(server: Server, tmp_path: Path) -> None:
    """They waited in memory for it, so that a run killed meanwhile had paid for them in vain."""

    def slow_at_first(said: str) -> str:
        time.sleep(1.0 if said == "say 0" else 0.0)
        return said

    server.script = slow_at_first
    server.moods += [""] * 8 + ["wrong key"]
    with pytest.raises(CounterpointError, match="who are you"):
        run(server, tmp_path / "s.jsonl", [f"say {i}" for i in range(8)])
    kept = read_samples(tmp_path / "s.jsonl")
    assert len(kept) >= 4
    assert ("say 0", ()) not in [(s.prompt, s.asked) for s in kept]


@pytest.mark.parametrize("refused", ["say 0", "say 3"])
def test_regression_a_prompt_that_the_server_will_not_take_leaves_the_others(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    server.refused = refused
    with pytest.raises(CounterpointError, match=rf"4 of 24 samples.*prompt '{refused}'.*too long.*pass --skip-bad"):
        run(server, tmp_path / "s.jsonl")
    server.asked.clear()
    run(server, tmp_path / "s.jsonl", skip_bad=True)
    assert len(server.asked) == 4, "only what was not taken is asked again"
    assert f"left out: prompt '{refused}'" in capsys.readouterr().err
    found = read_samples(tmp_path / "s.jsonl")
    assert [(s.prompt, s.asked, s.index) for s in found] == [one for one in every() if one[0] != refused]


def test_many_rejections_are_no_failure_where_others_were_taken_before(server: Server, tmp_path: Path) -> None:
    prompts = ["say 0", *(f"long {i}" for i in range(MOST_UNWANTED // 4 + 1))]
    server.refused = "long"
    for _ in range(2):
        run(server, tmp_path / "s.jsonl", prompts, concurrency=8, skip_bad=True)
        assert {s.prompt for s in read_samples(tmp_path / "s.jsonl")} == {"say 0"}


def test_a_server_that_takes_nothing_is_soon_given_up(server: Server, tmp_path: Path) -> None:
    server.refused = "say"
    with pytest.raises(CounterpointError, match="status 400, that is too long; see what the server allows"):
        run(server, tmp_path / "s.jsonl", [f"say {i}" for i in range(40)], skip_bad=True)
    assert MOST_UNWANTED <= len(server.asked) < MOST_UNWANTED + 4
    with pytest.raises(CounterpointError, match="4 of 4 samples were not drawn"):
        run(server, tmp_path / "t.jsonl", PROMPTS[:1], skip_bad=True)


def test_no_requests_at_once_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match="concurrency is 0"):
        run(server, tmp_path / "s.jsonl", concurrency=0)


def test_labels_of_a_judge_are_paid_for_once(
    server: Server, tmp_path: Path, command: Callable[..., tuple[object, str, str]]
) -> None:
    """Of three pairs of one request, each asked in both orders; the criterion is the table's and the prompt bare."""
    server.script = for_fewer_words
    rows = [Sample(f"p{i}", ("concise",), "so " * (1 + (i + j) % 2), j, True, 0) for i in range(3) for j in range(2)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(sample_row(row)) + "\n" for row in rows))
    judge = ("--judge", server.url, "--judge-model", "m", "--threads", 1, "--out", tmp_path / "c.jsonl")
    code, _, told = command("label", tmp_path / "s.jsonl", "--pairs", "same", *judge, "--dry-run")
    assert (code, server.asked) == (0, [])
    assert "3 pairs for the judge: 6 calls to make" in told
    for asked in (6, 0):
        code, said, _ = command("label", tmp_path / "s.jsonl", "--pairs", "same", *judge, "--json")
        found = json.loads(said)
        assert (found["comparisons"], found["judge"]["asked"]) == (3, asked)
    assert [c.chosen for c in read_comparisons(tmp_path / "c.jsonl").comparisons] == ["so "] * 3
    assert len(server.asked) == 6
    for body in server.asked:
        shown = body["messages"][-1]["content"]
        assert "Does it come to the point in few words" in shown
        assert "short as you can" not in shown
