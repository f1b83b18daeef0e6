"""A language model as a judge, against a scripted server that has its habits: a position, a pause, a bad day."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from counterpoint.decode import chats
from counterpoint.decode.chats import MOST_UNWANTED
from counterpoint.rewards.judge import JudgeConfig, LLMJudge, majority, settle
from counterpoint.rewards.judge_cache import key_of
from counterpoint.rewards.judge_report import JudgeReport
from counterpoint.types import CounterpointError, Dimension, Message, Question, Verdict

TERSE = Dimension("terse", criterion="Which answer is shorter?")


def ask(first: str, second: str, prompt: str = "Tell me of owls") -> Question:
    return Question(prompt, first, second, TERSE)


Script = Callable[[str, str, dict[str, Any]], str]


def by_length(a: str, b: str, body: dict[str, Any]) -> str:
    """A judge that prefers the shorter answer, wherever it stands."""
    return "Verdict: TIE" if len(a) == len(b) else f"Verdict: {'A' if len(a) < len(b) else 'B'}"


class Server(ThreadingHTTPServer):
    """Answers chats by `script`, once each in the ways that `moods` name, and counts what it answered by content."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.script: Script = by_length
        self.moods: deque[str] = deque()
        self.too_long = ""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()
        self.here = self.most_at_once = 0
        self.pause_s = 0.0
        self.hold_after: int | None = None
        self.let_go = threading.Event()
        self.usage: dict[str, int] | None = {"prompt_tokens": 100, "completion_tokens": 10}
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has left is no error here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the headers to be acknowledged
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.here += 1
            server.most_at_once = max(server.most_at_once, server.here)
            mood = server.moods.popleft() if server.moods else ""
        try:
            self.answer(mood, body)
        finally:
            with server.lock:
                server.here -= 1

    def answer(self, mood: str, body: dict[str, Any]) -> None:
        server = self.server
        time.sleep(server.pause_s)
        if server.hold_after is not None and server.answered.total() >= server.hold_after:
            server.let_go.wait(60)
            self.close_connection = True
            return
        if server.too_long and server.too_long in body["messages"][1]["content"]:
            self.send({"error": {"message": "this is too long"}}, 400)
        elif mood.isdecimal():
            self.send({"error": {"message": f"this is {mood} for {self.headers['Authorization']}"}}, int(mood))
        elif mood == "filtered":
            self.send({"error": {"message": "no", "code": "content_filter"}}, 400)
        elif mood == "renamed" and "max_tokens" in body:
            self.send({"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'."}}, 400)
        elif mood == "nothing":
            self.send({"choices": []})
        else:
            server.answered[key_of(body, 0)] += 1
            self.send(chat(said(mood, body, server.script), mood, server.usage))

    def send(self, said: Any, status: int = 200) -> None:
        content = json.dumps(said).encode()
        self.send_response(status)
        more = {"Retry-After": "0.05"} if status == 429 else {}
        for name, value in {"Content-Length": str(len(content)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def said(mood: str, body: dict[str, Any], script: Script) -> str:
    if mood in ("mumbles", "cut"):
        return "Both have their merits"
    parts = body["messages"][1]["content"].split("\n\n=== ")
    a, b = (part.split(" ===\n", 1)[1] for part in parts[2:4])
    return f"I have compared them.\n\n{script(a, b, body)}\n"


def chat(text: str, mood: str, usage: dict[str, int] | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": "I would rather not" if mood == "refuses" else None}
    choice = {"message": message, "finish_reason": "length" if mood == "cut" else "stop"}
    return {"choices": [choice]} | ({} if usage is None else {"usage": usage})


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.let_go.set()
    found.shutdown()
    found.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's pauses after a failure, cut short."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def judge(server: Server, **settings: Any) -> LLMJudge:
    return LLMJudge(JudgeConfig(server.url, "m", **settings))


QUESTIONS = [ask("x" * n, "x" * m, f"prompt {n} {m}") for n, m in ((1, 2), (5, 3), (4, 4), (2, 9), (7, 6), (8, 1))]
EXPECTED = [1, -1, 0, 1, -1, -1]
"""Of a judge that prefers the shorter; the third pair is equal."""


@pytest.mark.parametrize("forced", [True, False])
def test_verdicts_are_on_the_first_response(server: Server, forced: bool) -> None:
    found = judge(server)
    assert found.compare(QUESTIONS, forced) == EXPECTED
    assert (found.report.questions, found.report.equal, found.report.calls, found.report.asked) == (6, 1, 10, 10)
    assert (found.report.tokens_in, found.report.tokens_out, found.report.position_bias) == (1000, 100, 0.0)


def test_a_mirrored_question_has_the_opposite_verdict_and_costs_nothing(server: Server) -> None:
    found = judge(server)
    mirrored = [Question(q.prompt, q.second, q.first, q.dimension) for q in QUESTIONS]
    both = found.compare([*QUESTIONS, *mirrored], True)
    assert both[6:] == [-verdict for verdict in EXPECTED]
    assert (found.report.calls, found.report.ordered) == (10, 5)


def test_a_judge_that_goes_by_the_position_decides_nothing(server: Server) -> None:
    """All five unlike pairs are for answer A in both orders."""
    server.script = lambda a, b, body: "Verdict: A"
    found = judge(server)
    assert found.compare(QUESTIONS, True) == [0] * 6
    report = found.report
    assert (report.position_bias, report.ordered, report.to_first, report.to_second) == (1.0, 5, 5, 0)
    server.script = lambda a, b, body: "Verdict: B"
    other = judge(server)
    other.compare(QUESTIONS, True)
    assert (other.report.to_first, other.report.to_second) == (0, 5)


def test_orders_are_settled_by_hand() -> None:
    outcomes: tuple[Verdict | None, ...] = (1, 0, -1, None)
    for first in outcomes:
        for second in outcomes:
            expected = None if first is None or second is None else first if first == second else 0
            assert settle([first], [second]) == expected
    repeats: list[list[Verdict | None]] = [[1, 1, -1], [1, -1], [None, -1], [None], [0, 0, 1]]
    assert [majority(verdicts) for verdicts in repeats] == [1, 0, -1, None, 1]


def test_regression_a_tie_is_a_tie_in_either_order(server: Server) -> None:
    """A tie, coded 3, became 0 when the order was switched back and stopped the run; and half a tie decides nothing."""
    server.script = lambda a, b, body: "Verdict: TIE"
    assert judge(server).compare(QUESTIONS, False) == [0] * 6
    server.script = lambda a, b, body: "Verdict: TIE" if a < b else "Verdict: A"
    assert judge(server).compare([ask("a", "b"), ask("b", "a")], False) == [0, 0]


def test_regression_the_answers_are_the_right_way_round(server: Server) -> None:
    """The second file was the first answer, and its wins those of the other."""
    judge(server).compare([ask("the first", "the second")], True)
    shown = [[part.split(" ===\n")[1] for part in parts_of(body)[2:4]] for body in server.asked]
    assert sorted(shown) == [["the first", "the second"], ["the second", "the first"]]
    server.script = lambda a, b, body: "Verdict: A" if a == "the first" else "Verdict: B"
    assert judge(server).compare([ask("the first", "the second"), ask("the second", "the first")], True) == [1, -1]


def parts_of(body: dict[str, Any]) -> list[str]:
    content: str = body["messages"][1]["content"]
    return content.split("\n\n=== ")


def test_regression_the_judge_sees_the_bare_prompt(server: Server) -> None:
    """Its instruction was the model's whole prompt, with the marks of a template and requests for a preference."""
    judge(server).compare([Question((Message("user", "Why is the sky blue?"),), "a", "b", TERSE)], True)
    assert parts_of(server.asked[0])[1].split("===\n")[1] == "Why is the sky blue?"


def test_regression_what_cannot_be_read_is_asked_again_with_another_seed(server: Server) -> None:
    """It was dropped without a word, since its retry could not happen."""
    server.moods.extend(["mumbles", "cut"])
    found = judge(server, concurrency=1)
    assert found.compare([ask("x", "xx")], True) == [1]
    assert [(body["seed"], body["temperature"]) for body in server.asked] == [(0, 0.0), (1, 0.5), (2, 0.5), (0, 0.0)]
    assert (found.report.calls, found.report.asked, found.report.cut, found.report.unparsed) == (2, 4, 1, 0)


def test_regression_what_is_never_readable_is_counted_and_has_no_verdict(server: Server) -> None:
    server.moods.extend(["mumbles"] * 2)
    found = judge(server, concurrency=1, attempts=2)
    assert found.compare([ask("x", "xx"), ask("xxx", "xx")], True) == [None, -1]
    assert (found.report.unparsed, found.report.unanswered, found.report.ordered) == (1, 1, 1)


def test_a_tie_is_no_answer_where_the_judge_has_to_choose(server: Server) -> None:
    server.script = lambda a, b, body: "Verdict: TIE"
    found = judge(server, attempts=2)
    assert found.compare([ask("x", "xx")], True) == [None]
    assert (found.report.asked, found.report.unparsed) == (4, 2)


@pytest.mark.parametrize("mood", ["refuses", "filtered"])
def test_a_refusal_is_counted_and_not_argued_with(server: Server, mood: str) -> None:
    server.moods.append(mood)
    found = judge(server, concurrency=1)
    assert found.compare([ask("x", "xx"), ask("xxx", "xx")], True) == [None, -1]
    assert (found.report.refused, found.report.unparsed, found.report.unanswered) == (1, 0, 1)
    assert len(server.asked) == 4


def test_regression_a_question_that_the_server_will_not_take_leaves_the_others(server: Server, tmp_path: Path) -> None:
    """The third of six pairs, and then on a run whose other replies are all known; it is never kept."""
    server.too_long = "prompt 2 9"
    for kept in (0, 8):
        found = judge(server, concurrency=2, cache=tmp_path / "verdicts.sqlite")
        assert found.compare(QUESTIONS, True) == [1, -1, 0, None, -1, -1]
        report = found.report
        assert (report.rejected, report.refused, report.unparsed, report.unanswered, report.kept) == (2, 0, 0, 1, kept)
        assert list(found.account()["rejections"]) == ["prompt 2 9"]
    server.too_long = ""
    assert judge(server, cache=tmp_path / "verdicts.sqlite").compare(QUESTIONS, True) == EXPECTED


def test_many_rejections_are_no_failure_where_others_are_known_to_be_taken(server: Server, tmp_path: Path) -> None:
    judge(server, cache=tmp_path / "verdicts.sqlite").compare(QUESTIONS, True)
    server.too_long = "long"
    many = [ask("x", "xx", f"long {n}") for n in range(MOST_UNWANTED)]
    found = judge(server, concurrency=1, cache=tmp_path / "verdicts.sqlite")
    assert found.compare([*QUESTIONS, *many], True) == [*EXPECTED, *[None] * MOST_UNWANTED]


@pytest.mark.parametrize("questions", [1, 50])
def test_a_server_that_takes_nothing_is_a_failure(server: Server, questions: int) -> None:
    server.too_long = "long"
    with pytest.raises(CounterpointError, match="status 400, this is too long; see what the server allows"):
        judge(server, concurrency=4).compare([ask("x", "xx", f"long {n}") for n in range(questions)], True)
    assert len(server.asked) < MOST_UNWANTED + 4


def test_more_attempts_make_no_new_questions(server: Server, tmp_path: Path) -> None:
    for attempts, known in ((3, 0), (5, 30)):
        found = judge(server, attempts=attempts, repeats=3, cache=tmp_path / "verdicts.sqlite")
        found.compare(QUESTIONS, True)
        assert found.report.kept == known


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    server.moods.extend(["429", "500", "503", "429"])
    found = judge(server, concurrency=2)
    assert found.compare(QUESTIONS, True) == EXPECTED
    assert found.report.asked == 10
    assert len(server.asked) == 14


def test_calls_are_made_at_once_as_many_as_are_allowed(server: Server) -> None:
    server.pause_s = 0.05
    many = [ask("x" * n, "y", f"prompt {n}") for n in range(2, 18)]
    seconds = {}
    for concurrency in (1, 8):
        server.most_at_once = 0
        start = time.perf_counter()
        judge(server, concurrency=concurrency).compare(many, True)
        seconds[concurrency] = time.perf_counter() - start
        assert server.most_at_once == concurrency
    assert seconds[8] < seconds[1] / 2


def test_noise_is_the_share_of_repeats_that_differ(server: Server) -> None:
    """Of three repeats with seeds 0, 1000 and 2000, the last says otherwise: 2 of 3 pairs, in both orders."""
    server.script = lambda a, b, body: by_length(a, b, body) if body["seed"] < 2000 else by_length(b, a, body)
    found = judge(server, repeats=3)
    assert found.compare([ask("x", "xx")], True) == [1]
    assert (found.report.calls, found.report.repeated) == (6, 6)
    assert found.report.noise == pytest.approx(2 / 3)
    assert sorted(body["seed"] for body in server.asked) == [0, 0, 1000, 1000, 2000, 2000]


def test_tokens_and_what_they_cost(server: Server) -> None:
    """Two calls of 100 and 10 tokens, at 2 and 5 per million: (200 * 2 + 20 * 5) / 1e6."""
    found = judge(server, price_in=2.0, price_out=5.0)
    found.compare([ask("x", "xx")], True)
    assert found.account()["cost"] == pytest.approx(5e-4)
    server.usage = None
    found.compare([ask("x", "xxx")], True)
    assert (found.report.untold, found.account()["cost"]) == (2, None)
    assert JudgeReport(tokens_in=5).cost(None, None) is None


def test_what_was_asked_before_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "verdicts.sqlite"
    first = judge(server, cache=cache)
    assert first.count(QUESTIONS, True) == (10, 0)
    first.compare(QUESTIONS[:4], True)
    again = judge(server, cache=cache)
    assert again.count(QUESTIONS, True) == (4, 6)
    assert again.compare(QUESTIONS, True) == EXPECTED
    assert (again.report.asked, again.report.kept, again.report.tokens_in) == (4, 6, 400)
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    "other", [{"temperature": 1.0}, {"max_tokens": 9}, {"seed": 1}, {"model": "n"}, {"forced": False}]
)
def test_another_setting_is_another_question(server: Server, tmp_path: Path, other: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"url": server.url, "model": "m", "cache": tmp_path / "verdicts.sqlite"}
    LLMJudge(JudgeConfig(**settings)).compare(QUESTIONS[:1], True)
    changed = {name: value for name, value in other.items() if name != "forced"}
    found = LLMJudge(JudgeConfig(**(settings | changed)))
    found.compare(QUESTIONS[:1], other.get("forced", True))
    assert found.report.kept == 0


def test_replies_are_kept_whatever_the_address(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "verdicts.sqlite"
    judge(server, cache=cache).compare(QUESTIONS, True)
    elsewhere = LLMJudge(JudgeConfig("http://127.0.0.1:9/v1", "m", cache=cache))
    assert elsewhere.compare(QUESTIONS, True) == EXPECTED


def thirty() -> list[Question]:
    return [ask("x" * (n % 7 + 1), "y" * (n % 5 + 2), f"prompt {n}") for n in range(30)]


RUN = """
import sys
from pathlib import Path
from counterpoint.rewards.judge import JudgeConfig, LLMJudge
from counterpoint.types import Dimension, Question

terse = Dimension("terse", criterion="Which answer is shorter?")
questions = [Question(f"prompt {n}", "x" * (n % 7 + 1), "y" * (n % 5 + 2), terse) for n in range(30)]
found = LLMJudge(JudgeConfig(sys.argv[1], "m", concurrency=4, cache=Path(sys.argv[2])))
print(found.compare(questions, False))
"""


def start(server: Server, cache: Path) -> "subprocess.Popen[str]":
    """A process of its own that judges `thirty`."""
    command = [sys.executable, "-c", RUN, server.url, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def test_a_killed_run_goes_on_and_no_reply_is_asked_for_twice(server: Server, tmp_path: Path) -> None:
    unbroken = judge(server, concurrency=4).compare(thirty(), False)
    whole = Counter(server.answered)
    server.answered.clear()
    server.hold_after = 20
    killed = start(server, tmp_path / "verdicts.sqlite")
    wait_until(lambda: server.here == 4)  # a reply is kept before its worker asks for the next
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    server.hold_after, before = None, server.answered.total()
    found = judge(server, concurrency=4, cache=tmp_path / "verdicts.sqlite")
    assert found.compare(thirty(), False) == unbroken
    assert 20 <= before == found.report.kept < 24
    assert server.answered == whole
    assert set(whole.values()) == {1}


def test_two_processes_ask_each_question_once_between_them(server: Server, tmp_path: Path) -> None:
    server.pause_s = 0.02
    other = start(server, tmp_path / "verdicts.sqlite")
    wait_until(lambda: server.here > 0)
    found = judge(server, concurrency=4, cache=tmp_path / "verdicts.sqlite")
    verdicts = found.compare(thirty()[::-1], False)[::-1]  # from the other end, to meet in the middle
    out, err = other.communicate(timeout=60)
    assert out.strip() == str(verdicts), err
    assert set(server.answered.values()) == {1}
    assert found.report.asked > 0, "both were at work"
    assert found.report.kept > 0


def test_what_was_answered_before_a_failure_is_kept(server: Server, tmp_path: Path, once: None) -> None:
    server.moods.extend(["", "", "", "401"])
    with pytest.raises(CounterpointError, match="status 401"):
        judge(server, concurrency=1, cache=tmp_path / "verdicts.sqlite").compare(QUESTIONS, True)
    again = judge(server, concurrency=1, cache=tmp_path / "verdicts.sqlite")
    assert again.compare(QUESTIONS, True) == EXPECTED
    assert again.report.kept == 3


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not try again."""
    monkeypatch.setattr(chats.Caller.__init__, "__defaults__", ("judge", 0))


@pytest.mark.parametrize(
    ("mood", "says"),
    [
        ("401", "status 401, this is 401 for Bearer ***; name the environment variable of the right key"),
        ("404", "see that the address and the model are right"),
        ("400", "no call was taken; that on prompt 'prompt 1 2'"),
        ("413", "see what the server allows"),
        ("500", "see that the server is up, and run again"),
        ("307", "it sends to another address; name that address itself"),
        ("nothing", "its reply is not what was expected (choices"),
    ],
)
def test_a_failure_is_one_line_without_the_key(
    server: Server, mood: str, says: str, once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERPOINT_KEY_J", "very-secret")
    server.moods.extend([mood] * 2)
    with pytest.raises(CounterpointError) as caught:
        judge(server, api_key_env="COUNTERPOINT_KEY_J").compare(QUESTIONS[:1], True)
    assert f"judge 'm' at {server.url} gave no reply: " in str(caught.value)
    assert says in str(caught.value)
    assert "very-secret" not in str(caught.value)
    assert server.headers[0]["authorization"] == "Bearer very-secret"


def test_a_reply_that_is_late_is_a_failure(server: Server, once: None) -> None:
    server.pause_s = 1.0
    with pytest.raises(CounterpointError, match=r"no answer in 0\.1 s"):
        judge(server, timeout_s=0.1).compare(QUESTIONS[:1], True)


def test_a_model_that_knows_the_length_by_its_other_name(server: Server) -> None:
    server.moods.append("renamed")
    found = judge(server, concurrency=1, max_tokens=77)
    assert found.compare(QUESTIONS[:1], True) == [1]
    assert [body.get("max_completion_tokens") for body in server.asked] == [None, 77, 77]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"api_key_env": "OPENAI_API_KEY"}, "is no variable for keys; expected COUNTERPOINT_KEY"),
        ({"api_key_env": "COUNTERPOINT_KEY_UNSET"}, "COUNTERPOINT_KEY_UNSET, which is not set"),
        ({"url": "localhost:8000"}, "is no address of a server"),
        ({"url": "http://host/v1", "api_key_env": "COUNTERPOINT_KEY"}, "where all can read it; use https"),
        ({"attempts": 0}, "attempts is 0; expected 1 or more"),
        ({"repeats": 0}, "repeats is 0; expected 1 or more"),
        ({"concurrency": -1}, "concurrency is -1; expected 1 or more"),
        ({"temperature": float("nan")}, "temperature is nan; expected a number of 0 or more"),
        ({"price_in": -1.0}, "price_in is -1.0; expected a number of 0 or more"),
        ({"timeout_s": 0.0}, "timeout_s: input should be greater than 0"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(CounterpointError) as caught:
        LLMJudge(JudgeConfig(**({"url": "http://localhost:1/v1", "model": "m"} | settings)))
    assert says in str(caught.value)


def test_a_file_that_is_no_cache_is_named_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("These are notes, and no database at all. " * 100)
    with pytest.raises(CounterpointError, match=r"notes\.txt: cannot keep a judge's replies there.*name another file"):
        LLMJudge(JudgeConfig("http://localhost:1/v1", "m", cache=file))
    assert file.read_text().startswith("These are notes")


def test_progress_tells_of_every_call(server: Server) -> None:
    told: list[tuple[int, int]] = []
    judge(server).compare(QUESTIONS, True, lambda done, total: told.append((done, total)))
    assert told == [(done, 10) for done in range(1, 11)]


def test_nothing_to_ask(server: Server) -> None:
    found = judge(server)
    assert found.compare([], True) == []
    assert found.compare([ask("same", "same")], False) == [0]
    assert not server.asked
