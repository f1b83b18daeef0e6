"""Whole models beside adapters: the laws that cells of distributions keep, and rows that find their model."""

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose import mixture, route
from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request, Said
from counterpoint.decode.sampling import Sampling
from counterpoint.decode.several import Several, Whole, compacted, whole_model
from counterpoint.models.adapter import merge_into, read_adapter
from counterpoint.models.band_file import add_expert, add_model, new_band
from counterpoint.models.load import load_model
from counterpoint.testing import ScriptedLM, pico_adapter, pico_model, pico_tokenizer, save_pico
from counterpoint.types import CounterpointError, Expert, LanguageModel, Message, Profile, Prompt, Weighting

TOLERANCE = 1e-4
EXPERTS = ("terse", "wild", "odd")
CONTEXTS = ("Tell me of the owl and the bee.", "Hi", "What is the colour of the sky, and who would you ask?")
IDS = len(pico_tokenizer())
MIXTURES = {"mixture-prob": mixture.plan_prob, "mixture-log": mixture.plan_log}
CELLS: dict[str, Callable[[Weighting], Plan]] = {**MIXTURES, "route": route.plan}
SHORT = Sampling(max_tokens=10, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama base, an adapter, and two whole models: of other sizes, families, padded heads and longest sequences."""
    root = tmp_path_factory.mktemp("whole")
    base = save_pico(root / "base", seed=1, vocab=IDS + 22)
    wild = save_pico(root / "wild", seed=2, family="gpt2", hidden=24, layers=3, positions=96)
    odd = save_pico(root / "odd", seed=3, family="gemma2", hidden=16, heads=2, kv_heads=1, vocab=IDS + 6, positions=64)
    new_band(root / "band", str(base), [])
    add_expert(root / "band", pico_adapter(root / "terse", base, seed=4), Expert("terse", "terse"))
    for model in (wild, odd):
        add_model(root / "band", str(model), Expert(model.name, model.name))
    return root


@pytest.fixture
def band(folder: Path) -> Band:
    return Band.load(folder / "band")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, torch.nn.Module]:
    """The reference: each expert as an ordinary model, with the adapter merged into the base."""
    models = {name: AutoModelForCausalLM.from_pretrained(folder / name).eval() for name in ("base", "wild", "odd")}
    models["terse"] = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    merge_into(models["terse"], read_adapter(folder / "terse"))
    return models


def next_logp(model: torch.nn.Module, context: Sequence[int]) -> Tensor:
    """One plain forward; the log-distribution over the tokenizer's ids, `[V]`."""
    with torch.no_grad():
        logits_V: Tensor = model(torch.tensor([context])).logits[0, -1, :IDS]
    return logits_V.log_softmax(-1)


def contexts_of(band: Band) -> list[tuple[int, ...]]:
    return [tuple(band.tokenizer(text)["input_ids"]) for text in CONTEXTS]


def logp(band: Band, plan: Plan) -> Tensor:
    """Next-token log-probabilities `[contexts, V]` of a plan."""
    return band.engine.next_distributions([Request(plan, (context,) * len(plan.rows)) for context in contexts_of(band)])


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


# Laws


def test_models_differ_so_that_the_laws_can_fail(band: Band) -> None:
    everyone = [logp(band, Plan((Row(),))), *(logp(band, Plan((Row({name: 1.0}),))) for name in EXPERTS)]
    for i, one in enumerate(everyone):
        assert one.shape == (3, IDS)
        for other in everyone[:i]:
            assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("vertex", range(3))
def test_vertex(band: Band, alone: dict[str, torch.nn.Module], cell: str, vertex: int) -> None:
    """A one-hot weighting is that model, run by itself."""
    one_hot = tuple(float(k == vertex) for k in range(3))
    expected = torch.stack([next_logp(alone[EXPERTS[vertex]], context) for context in contexts_of(band)])
    assert_equal(logp(band, CELLS[cell](Weighting(EXPERTS, one_hot))), expected)


@pytest.mark.parametrize("cell", MIXTURES)
def test_selection(band: Band, cell: str) -> None:
    weighting = Weighting(EXPERTS, (0.2, 0.5, 0.3))
    one_hot = Weighting(EXPERTS, (0.0, 1.0, 0.0))
    assert_equal(logp(band, MIXTURES[cell](one_hot)), logp(band, route.plan(weighting)))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_simplex(band: Band, cell: str, strength: float) -> None:
    strength = round(strength) if cell == "route" else strength
    total = logp(band, CELLS[cell](Weighting(EXPERTS, (0.2, 0.5, 0.3), strength))).double().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_strength_zero_is_the_base(band: Band, cell: str) -> None:
    assert_equal(logp(band, CELLS[cell](Weighting(EXPERTS, (0.2, 0.5, 0.3), 0.0))), logp(band, Plan((Row(),))))


def mixed_requests(band: Band) -> list[Request]:
    samplings = [
        Sampling(temperature=0, max_tokens=9),
        Sampling(seed=3, max_tokens=14),
        Sampling(seed=4, temperature=0.7, top_k=20, max_tokens=6),
        Sampling(seed=6, repetition_penalty=1.3, max_tokens=12),
    ]
    weights = [(0.2, 0.5, 0.3), (0.6, 0.4, 0.0), (0.1, 0.1, 0.8)]
    plans = [Plan((Row(),)), *(plan(Weighting(EXPERTS, w, 1.0)) for plan in CELLS.values() for w in weights)]
    plans += [mixture.plan_log(Weighting(EXPERTS, w, 1.4)) for w in weights]
    contexts = contexts_of(band)
    return [
        Request(
            plan,
            tuple((*contexts[index % 3], *contexts[0][: 2 * row]) for row in range(len(plan.rows))),
            samplings[index % 4],
        )
        for index, plan in enumerate(plans)
    ]


def test_batch(band: Band) -> None:
    requests = mixed_requests(band)
    together = band.engine.run(requests)
    assert together == [band.engine.run([request])[0] for request in requests]
    band.engine.max_rows = 5
    assert band.engine.run(list(reversed(requests))) == list(reversed(together)), "joining late and leaving early"


def test_padding_and_cache_against_a_full_recompute(band: Band, alone: dict[str, torch.nn.Module]) -> None:
    """Greedy tokens of the cached batch are the likeliest of uncached, unpadded forwards of each model by itself."""
    requests = [replace(r, sampling=Sampling(temperature=0, max_tokens=6)) for r in mixed_requests(band)]
    for request, completion in zip(requests, band.engine.run(requests), strict=True):
        for t, token in enumerate(completion.tokens):
            logp_V = full_recompute(alone, request, completion.tokens[:t])
            assert logp_V[token] >= logp_V.max() - TOLERANCE


def full_recompute(alone: dict[str, torch.nn.Module], request: Request, said: Sequence[int]) -> Tensor:
    names = [next(iter(row.gate), "base") for row in request.plan.rows]
    contexts = [(*context, *said) for context in request.contexts]
    logp_KV = torch.stack([next_logp(alone[name], c) for name, c in zip(names, contexts, strict=True)])
    c_K = torch.tensor(request.plan.coefficients)
    if request.plan.space == "prob":
        return (c_K[:, None] * logp_KV.exp()).sum(0).log()
    return (c_K[:, None] * logp_KV).sum(0).log_softmax(-1)


# Rows


@pytest.mark.parametrize("seed", range(20))
def test_compacted_keeps_each_row_once_and_moves_only_to_the_front(seed: int) -> None:
    draw = random.Random(seed)
    kept = set(draw.sample(range(12), draw.randrange(13)))
    order = compacted(kept)
    assert sorted(order) == sorted(kept)
    assert all(old >= new for new, old in enumerate(order))
    moved = sum(old != new for new, old in enumerate(order))
    assert moved == sum(row >= len(kept) for row in kept), "only into places that were given up"


def test_compacted_by_hand() -> None:
    assert compacted({1, 4, 6}) == [4, 1, 6]
    assert compacted({0, 1}) == [0, 1]
    assert compacted(set()) == []


def script(vocabulary: int, salt: int) -> Callable[[str, tuple[int, ...]], list[float]]:
    """Logits that tell the model, the gate and every token seen."""
    return lambda gate, seen: [float(crc32(repr((salt, gate, seen, v)).encode()) % 997) for v in range(vocabulary)]


def scripted() -> Several:
    """Scripted models, which assert that they are used as the protocol says; their heads are padded unlike."""

    def whole(vocabulary: int, salt: int) -> Whole:
        return Whole(None, 64, lambda: ScriptedLM(vocabulary, script(vocabulary, salt)))

    return Several(ScriptedLM(9, script(9, 1)), {"x": whole(7, 2), "y": whole(8, 3)}, vocabulary=7)


@dataclass
class Life:
    """What one row was fed, and what it answered."""

    gate: Mapping[str, float]
    context: tuple[int, ...]
    fed: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


def wander(model: LanguageModel, gates: Sequence[Mapping[str, float]], draw: random.Random, turns: int) -> list[Life]:
    """Let rows join, fill, step and leave at random, and change places in any way; all rows that ever lived.

    Some that are filled stay behind for a while, as those do whose text is scored.
    """
    live: list[Life] = []
    filling: list[Life] = []
    past: list[Life] = []
    for _ in range(turns):
        if not filling and (joining := [Life(draw.choice(gates), some_tokens(draw)) for _ in range(draw.randrange(4))]):
            model.begin([life.context for life in joining], [life.gate for life in joining])
            filling = joining
            past += joining
        if filling and model.fill(draw.choice([None, 1, 2, 5])) and draw.random() < 0.7:
            live, filling = live + filling, []
        if live:
            tokens = [draw.randrange(7) if life.fed else life.context[-1] for life in live]
            for life, token, logits in zip(live, tokens, model.step(tokens), strict=True):
                life.fed.append(token)
                life.logits.append(logits)
        places = draw.sample(range(len(live)), draw.randrange(len(live) + 1))
        late = draw.sample(range(len(filling)), draw.randrange(len(filling) + 1))
        model.keep([*places, *(len(live) + place for place in late)])
        live, filling = [live[place] for place in places], [filling[place] for place in late]
    model.keep([])
    return past


def some_tokens(draw: random.Random) -> tuple[int, ...]:
    return tuple(draw.randrange(7) for _ in range(draw.randrange(1, 9)))


def by_itself(model: LanguageModel, life: Life) -> list[Tensor]:
    model.join([life.context], [life.gate])
    logits = [model.step([token])[0] for token in life.fed]
    model.keep([])
    return logits


@pytest.mark.parametrize("seed", range(10))
def test_rows_that_come_and_go_answer_as_if_alone(seed: int) -> None:
    gates: list[Mapping[str, float]] = [{}, {"a": 1.0}, {"x": 1.0}, {"y": 1.0}, {"a": 0.5, "x": 0.0}]
    model = scripted()
    lives = wander(model, gates, random.Random(seed), turns=40)
    assert len(lives) > 20
    for life in lives:
        for actual, expected in zip(life.logits, by_itself(model, life), strict=True):
            assert torch.equal(actual, expected)


def test_rows_of_real_models_that_come_and_go_answer_as_if_alone(band: Band) -> None:
    gates: list[Mapping[str, float]] = [{}, {"terse": 1.0}, {"wild": 1.0}, {"odd": 1.0}, {"terse": 0.4}]
    model = band.engine.model
    for life in wander(model, gates, random.Random(1), turns=20):
        for actual, expected in zip(life.logits, by_itself(model, life), strict=True):
            assert_equal(actual, expected)


def test_regression_a_text_that_is_scored_does_not_take_the_place_of_who_speaks() -> None:
    """The first of two who speak ends while a text is scored behind them; who goes on was fed to the text's row."""
    engine = Engine(scripted(), str, (), 64, chunk=4)
    spoken = [Request(Plan((Row(),)), ((n, 2),), Sampling(temperature=0, max_tokens=m)) for n, m in ((1, 2), (5, 9))]
    text = Request(Plan((Row(),)), ((3,),), given=(4, 0, 6, 1, 2, 5) * 3)
    tickets = [engine.submit(request) for request in (*spoken, text)]
    last: dict[int, Said] = {}
    while not engine.idle:
        last |= {said.ticket: said for said in engine.advance()}
    alone = Engine(scripted(), str, (), 64)
    assert [last[ticket].completion for ticket in tickets[:2]] == [alone.run([request])[0] for request in spoken]
    assert last[tickets[2]].scores == alone.score([text])[0]


def test_logits_beyond_the_vocabulary_are_cut() -> None:
    model = scripted()
    model.join([(1,), (1,)], [{}, {"x": 1.0}])
    assert model.step([1, 1]).tolist() == [script(9, 1)("", (1,))[:7], script(7, 2)("", (1,))]


class Refusing(ScriptedLM):
    """Takes no context of more than two tokens."""

    def begin(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        if any(len(context) > 2 for context in contexts):
            raise CounterpointError("too long")
        super().begin(contexts, gates)


def test_where_one_model_refuses_no_row_joins() -> None:
    base, other = ScriptedLM(7, script(7, 1)), Refusing(7, script(7, 2))
    model = Several(base, {"x": Whole(None, 64, lambda: other)}, vocabulary=7)
    model.join([(1,), (2,)], [{}, {"x": 1.0}])
    with pytest.raises(CounterpointError, match="too long"):
        model.join([(3, 3, 3), (4, 4, 4), (5,)], [{}, {"x": 1.0}, {}])
    assert (base.rows, other.rows) == (1, 1)
    assert model.step([1, 2]).tolist() == [script(7, 1)("", (1,)), script(7, 2)("", (2,))]


def test_a_whole_model_is_loaded_once_when_a_request_needs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def counted(name: str, *rest: object) -> object:
        loaded.append(Path(name).name)
        return load_model(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("counterpoint.decode.band.load_model", counted)
    band = Band.load(folder / "band")
    band.chat("Hi", "terse=1", sampling=SHORT)
    assert loaded == ["base"]
    for _ in range(2):
        band.chat("Hi", "terse=1, odd=1", method="mixture-log", sampling=SHORT)
        assert loaded == ["base", "odd"]


class Gone(ScriptedLM):
    """Elsewhere, and after so many steps not there any more."""

    def __init__(self, steps: int) -> None:
        super().__init__(7, script(7, 3))
        self.steps = steps

    def start(self, tokens_B: Sequence[int]) -> Future[Tensor]:
        future: Future[Tensor] = Future()
        self.steps -= 1
        if self.steps < 0:
            future.set_exception(CounterpointError("the server is gone"))
        else:
            future.set_result(torch.nn.functional.pad(self.step(tokens_B), (0, 1), value=-torch.inf))
        return future


def test_when_a_model_elsewhere_fails_the_requests_that_need_it_fail_alone() -> None:
    model = Several(ScriptedLM(7, script(7, 1)), {"x": Whole(None, 64, lambda: Gone(2), remote=True)}, vocabulary=7)
    engine = Engine(model, str, (), 64)
    here, mixed = Plan((Row(),)), Plan((Row({"x": 1.0}), Row()), (0.5, 0.5), "prob")
    wanted = Sampling(temperature=0, max_tokens=4)
    tickets = [engine.submit(Request(plan, ((1, 2),) * len(plan.rows), wanted)) for plan in (here, mixed, here)]
    news = [engine.advance() for _ in range(4)]
    assert [[said.ticket for said in step] for step in news] == [tickets, tickets, tickets, tickets[::2]]
    assert str(news[2][1].error) == "the server is gone"
    alone = Engine(ScriptedLM(7, script(7, 1)), str, (), 64).run([Request(here, ((1, 2),), wanted)])
    assert [said.completion for said in news[3]] == alone * 2
    assert engine.idle
    with pytest.raises(CounterpointError, match="the server is gone"):
        engine.run([Request(mixed, ((1, 2),) * 2, wanted)])


# Gates


def test_a_gate_leads_to_its_model() -> None:
    whole = {name: Whole(None, 64, lambda: ScriptedLM(7, script(7, 0))) for name in ("x", "y")}
    assert whole_model({}, whole) is None
    assert whole_model({"a": 0.3, "x": 0.0}, whole) is None
    assert whole_model({"y": 1.0, "a": 0.0}, whole) == "y"
    with pytest.raises(
        CounterpointError, match=r"'y' is a whole model, which answers as it is, at strength 1 and not 2"
    ):
        whole_model({"y": 2.0}, whole)
    with pytest.raises(
        CounterpointError, match=r"'x' is a whole model, which cannot be blended inside another; use mix"
    ):
        whole_model({"a": 0.5, "x": 1.0}, whole)


@pytest.mark.parametrize("method", ["soup", "moe"])
@pytest.mark.parametrize("profile", ["terse=1, wild=1", "wild=1"])
def test_what_blends_parameters_refuses_whole_models_by_name(band: Band, method: str, profile: str) -> None:
    with pytest.raises(CounterpointError, match=f"{method} blends adapters of one base, and expert 'wild' is a whole"):
        band.chat("Hi", profile, method=method)
    band.chat("Hi", "terse=1", method=method, sampling=SHORT)


@pytest.mark.parametrize("method", ["route", "best-expert"])
def test_a_whole_model_answers_alone_at_strength_one_only(band: Band, method: str) -> None:
    for entry in band.file.experts:
        entry.scores = {entry.name: 1.0}
    said = band.chat("Hi", "wild=1", method=method, sampling=SHORT)
    assert said == band.chat("Hi", "wild=1", method="mixture-prob", sampling=SHORT)
    with pytest.raises(CounterpointError, match=r"'wild' is a whole model, which answers as it is, at strength 1 and"):
        band.chat("Hi", "wild=1, strength=0.5", method=method)
    for strength in (0.5, 1.5)[: 1 if method == "best-expert" else 2]:
        assert band.chat("Hi", f"wild=1, strength={strength}", method="mixture-log", sampling=SHORT) != said


def longest_of(band: Band, profile: dict[str, float], method: str) -> int:
    """Prompt and response, in tokens, where nothing else ends the response."""
    prompt: Prompt = "owl " * 10
    request = band.request(prompt, band.plan(Profile(profile), method), Sampling(max_tokens=1000))
    band.engine.end_tokens = frozenset()
    return len(request.contexts[0]) + len(band.run([request])[0].tokens)


@pytest.mark.parametrize(
    ("profile", "method", "longest"),
    [
        ({"terse": 1.0}, "soup", 512),
        ({"wild": 1.0}, "route", 96),
        ({"terse": 1.0, "wild": 1.0}, "mixture-prob", 96),
        ({"wild": 1.0, "odd": 1.0}, "mixture-log", 64),
    ],
)
def test_a_response_is_as_long_as_the_shortest_of_its_models_allows(
    band: Band, profile: dict[str, float], method: str, longest: int
) -> None:
    assert longest_of(band, profile, method) == longest


def test_a_prompt_too_long_for_one_model_is_refused_where_that_one_is_needed(band: Band) -> None:
    prompt = "owl " * 30
    with pytest.raises(CounterpointError, match=r"the prompt has \d+ tokens; with the response, 64 is the most"):
        band.chat(prompt, "odd=1, terse=1", method="mixture-log", sampling=SHORT)
    band.chat(prompt, "terse=1", method="mixture-log", sampling=SHORT)


def test_regression_a_text_too_long_for_one_model_fails_alone(band: Band) -> None:
    """A whole model may take more than the base: the engine lets in what the longest takes."""
    band.engine.chunk = 16
    spoken = Request(Plan((Row(),)), ((1, 2),), Sampling(temperature=0, max_tokens=9))
    expected = band.engine.run([spoken])
    tickets = [
        band.engine.submit(one) for one in (spoken, Request(Plan((Row({"odd": 1.0}),)), ((1,),), given=(5,) * 90))
    ]
    last: dict[int, Said] = {}
    while not band.engine.idle:
        last |= {said.ticket: said for said in band.engine.advance()}
    assert [last[tickets[0]].completion] == expected
    assert "this model takes 64" in str(last[tickets[1]].error)


# Prompts


def test_each_model_reads_a_prompt_by_its_own_chat_template(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "copy"))
    own = AutoTokenizer.from_pretrained(place / "wild")
    own.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    own.save_pretrained(place / "wild")
    without = AutoTokenizer.from_pretrained(place / "odd")
    without.chat_template = None
    without.save_pretrained(place / "odd")
    (place / "odd" / "chat_template.jinja").unlink(missing_ok=True)
    band = Band.load(place / "band")
    plan = band.plan(Profile({"terse": 1.0, "wild": 1.0, "odd": 1.0}), "mixture-prob")
    request = band.request((Message("user", "Hi"),), plan, SHORT)
    said = [band.tokenizer.decode(list(context)) for context in request.contexts]
    assert said == ["<s>user: Hi\nassistant: ", "HI", "<s>user: Hi\nassistant: "]


# Refusals at load


def test_a_model_whose_tokenizer_has_changed_since_is_refused(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "copy"))
    raw = read_json(place / "odd" / "tokenizer.json")
    vocabulary = raw["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    write_json(place / "odd" / "tokenizer.json", raw)
    with pytest.raises(CounterpointError, match="not the weights and vocabulary that were added as expert 'odd'"):
        Band.load(place / "band")


def test_a_model_whose_weights_have_changed_since_is_refused(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "copy"))
    pico_model(seed=9, family="gemma2", hidden=16, heads=2, kv_heads=1, vocab=IDS + 6).save_pretrained(place / "odd")
    with pytest.raises(
        CounterpointError, match=r"odd: these are not the weights and vocabulary that were added as expert 'odd' \(hash"
    ):
        Band.load(place / "band")
