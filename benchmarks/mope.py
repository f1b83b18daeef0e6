"""What a controller costs: in a step of decoding by `mope`, and in an iteration of REBEL.

The shape is that of `benchmarks.models`, with a controller of 2 % of the base's parameters by force: a base of fewer
than 10^9 would lend it its own shape. REBEL is also timed on the shape of the embedded world, whose controller has the
shape of its base. All parameters are random, which changes no time; random experts of the world seldom end a response.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks import peers
from benchmarks.models import adapter_folder, linear_shapes, load, random_adapter, random_prompts
from benchmarks.ours import Bench, names, one
from benchmarks.timing import Row, in_turn, seconds
from counterpoint.compose import mixture
from counterpoint.compose.plan import CONTROLLER, Plan
from counterpoint.compose.weighers.controller import Controller
from counterpoint.data.examples import Example
from counterpoint.data.world import base_examples, questions
from counterpoint.decode.band import Band
from counterpoint.decode.engine import Engine
from counterpoint.decode.request import Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.decode.several import Several, Whole
from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.models.band_file import BandFile, DimensionEntry, ExpertEntry
from counterpoint.models.bank import LoraBank
from counterpoint.models.controller import ControllerModel, cut_config, new_trunk
from counterpoint.models.load import load_model, load_tokenizer
from counterpoint.models.logprobs import sequence_logp
from counterpoint.rewards.bradley_terry import BradleyTerryReward, classifier
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.rewards.rules import Rewards
from counterpoint.train.controller import ControllerConfig, new_controller, reward_of
from counterpoint.train.mope import MopeLearner
from counterpoint.train.on_policy import learn
from counterpoint.train.scratch import ScratchConfig, new_model
from counterpoint.types import Expert, Message, Profile, Prompt, Weighting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHARE = 0.02
K = 3
TOKENS = 32


class Clock:
    """Seconds spent inside methods of objects, by the names they are watched under; a name inside another counts in
    both."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: Any, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - start

        setattr(owner, method, timed)


def mope_step(folder: Path, dtype: str) -> Iterator[Row]:
    """A step of mope for one person, against one expert, the same mixture at constant weights, and PEFT by turns."""
    plain, ours = Bench(folder, DTYPES[dtype]), Bench(folder, DTYPES[dtype])
    small = small_controller(ours.model)
    engine = steered(ours.rows, small)
    theirs = peers.in_turn_adapters(peers.peft_model(folder, DTYPES[dtype], K), K)
    fast, single, constant, slow = in_turn(
        lambda: decode(engine, [mope()], TOKENS),
        lambda: decode(plain.engine, [one()], TOKENS),
        lambda: decode(plain.engine, [mixed()], TOKENS),
        lambda: peers.decode(theirs, TOKENS),
    )
    yield Row(f"mope of {K}, {dtype}: one expert", fast, single, "tok/s")
    yield Row(f"mope of {K}, {dtype}: mixture-prob of {K}", fast, constant, "tok/s")
    yield Row(f"mope of {K}, {dtype}: PEFT adapters in turn, mixed by hand", fast, slow, "tok/s")
    yield _share(f"controller, {dtype}", fast, constant)
    limit = bandwidth() / step_bytes(ours, small)
    yield Row(f"mope of {K}, {dtype}: bandwidth limit", fast, limit, "tok/s")


def mope_of_eight(folder: Path, dtype: str) -> Iterator[Row]:
    """A step of mope for eight people at once, against the same mixtures at constant weights."""
    plain, ours = Bench(folder, DTYPES[dtype]), Bench(folder, DTYPES[dtype])
    engine = steered(ours.rows, small_controller(ours.model))
    fast, constant = in_turn(
        lambda: decode(engine, [mope()] * 8, TOKENS), lambda: decode(plain.engine, [mixed()] * 8, TOKENS)
    )
    yield Row(f"mope of {K}, 8 requests, {dtype}: mixture-prob of {K}", fast, constant, "tok/s")
    yield _share(f"controller, 8 requests, {dtype}", fast, constant)


def mope_parts(folder: Path, dtype: str) -> Iterator[Row]:
    """Where a step of mope goes, for one person and for eight, with sampling at temperature 1."""
    ours, clock = Bench(folder, DTYPES[dtype]), Clock()
    engine = steered(ours.rows, small_controller(ours.model), clock)
    clock.watch(ours.rows, "step", "experts")
    watch_step(engine, clock)
    for requests in (1, 8):
        decode(engine, [mope()] * requests, TOKENS, temperature=1)
        begin(engine, [mope()] * requests, TOKENS, temperature=1)
        clock.seconds.clear()
        finish(engine)
        spent = {name: 1e3 * took / TOKENS for name, took in clock.seconds.items()}
        parts = {
            "experts' rows": spent["experts"],
            "controller's rows": spent["controller"],
            "rows to one tensor": spent["rows"] - spent["experts"] - spent["controller"],
            "mixing": spent["mixture"] - spent["rows"],
            "sampling and the rest": spent["step"] - spent["mixture"],
        }
        for name, took in parts.items():
            yield Row(f"{name}, {requests} requests, {dtype}: step of mope", took, spent["step"], "ms")


def _share(name: str, steered: float, constant: float) -> Row:
    """(time of a step with the controller - time without) / time with it, from tokens per second."""
    return Row(f"{name}: share of a step", 1 - steered / constant, None, "of 1", "ours <= 0.15")


def small_controller(model: Any) -> ControllerModel:
    """A random controller of 2 % of a model's parameters, for the first K experts."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return random_controller(model, round(SHARE * size), names(K))


def random_controller(model: Any, parameters: int, experts: Sequence[str]) -> ControllerModel:
    """A controller of about so many parameters, in a model's family, dtype and place."""
    with torch.device(model.device):
        trunk = AutoModelForCausalLM.from_config(cut_config(model.config, parameters), dtype=model.dtype)
    return ControllerModel(trunk.eval(), len(experts), experts)


def steered(base: Rows, controller: ControllerModel, clock: Clock | None = None) -> Engine:
    """An engine over a base's rows and a controller's."""
    rows = Rows(controller.model, controller)
    if clock is not None:
        clock.watch(rows, "step", "controller")
    both = Several(base, {CONTROLLER: Whole(None, rows.longest, lambda: rows)}, base.vocabulary)
    return Engine(both, lambda tokens: "", end_tokens=(), longest=base.longest)


def watch_step(engine: Engine, clock: Clock) -> None:
    clock.watch(engine.model, "step", "rows")
    clock.watch(engine, "next_logp", "mixture")
    clock.watch(engine, "step", "step")


def mope(wanted: Sequence[str] = names(K), known: Sequence[str] = names(K)) -> Plan:
    """Experts wanted alike, weighed by a controller that knows more of them."""
    controller = Controller(experts=list(known), dimensions=list(known))
    return controller.plan(Profile(dict.fromkeys(wanted, 1.0)), [Expert(name, name) for name in known])


def mixed(wanted: Sequence[str] = names(K)) -> Plan:
    """The same experts at equal weights."""
    return mixture.plan_prob(Weighting(tuple(wanted), (1 / len(wanted),) * len(wanted)))


def decode(engine: Engine, plans: Sequence[Plan], tokens: int, temperature: float = 0) -> float:
    """Tokens per second over all requests, once they have joined and said their first token."""
    begin(engine, plans, tokens, temperature)
    return tokens * len(plans) / seconds(lambda: finish(engine))


def begin(engine: Engine, plans: Sequence[Plan], tokens: int, temperature: float) -> None:
    """Submit requests and let each say a first token."""
    sampling = Sampling(temperature=temperature, max_tokens=tokens + 1)
    for plan, prompt in zip(plans, random_prompts(len(plans)), strict=True):
        engine.submit(Request(plan, (prompt,) * len(plan.all_rows), sampling))
    engine.step()


def finish(engine: Engine) -> None:
    while not engine.idle:
        engine.step()


def bandwidth() -> float:
    """Bytes per second at which this machine reads memory."""
    block = torch.ones(2**27)
    best = min(seconds(block.sum) for _ in range(5))
    return block.numel() * block.element_size() / best


def step_bytes(bench: Bench, controller: ControllerModel) -> int:
    """What a step of mope has to read: the base and K adapters once, and the controller but its embedding's rows."""
    base = sum(parameter.numel() for parameter in bench.model.parameters())
    adapters = sum(bench.bank.experts[name].size for name in names(K))
    embedding = controller.model.get_input_embeddings().weight.numel()
    small = sum(parameter.numel() for parameter in controller.parameters()) - embedding
    return int(base + adapters + small) * int(bench.model.dtype.itemsize)


def rebel_world(folder: Path, dtype: str) -> Iterator[Row]:
    """An iteration of REBEL on the shape of the embedded world: 64 prompts, two responses each, of 25 tokens."""
    base = world_base(folder / "world")
    shapes = linear_shapes(load_model(str(base), DTYPES[dtype]))
    adapters = [random_adapter(shapes, index) for index in range(K)]
    band = band_of(load_model(str(base), DTYPES[dtype]), load_tokenizer(str(base)), adapters)
    controller = ControllerModel(new_trunk(str(base), 0, SHARE, seed=0), K, names(K))
    judge = load_model(str(base), DTYPES[dtype])
    prompts = [(Message("user", question.text),) for question in questions("train")[:64]]
    config = ControllerConfig(band="", prompts_per_iteration=64, samples=2, max_tokens=25, iterations=1)
    yield from rebel(band, controller, judge, prompts, config, f"REBEL, world, {dtype}")


def rebel_large(folder: Path, dtype: str) -> Iterator[Row]:
    """An iteration of REBEL on the shape of 135 M parameters: 8 prompts, two responses each, of 16 tokens."""
    adapters = [read_adapter(adapter_folder(folder, index)) for index in range(K)]
    model, judge = load(folder, DTYPES[dtype]), load(folder, DTYPES[dtype])
    band = band_of(model, number_tokenizer(model.config.vocab_size), adapters)
    prompts = [" ".join(map(str, prompt)) for prompt in random_prompts(8)]
    config = ControllerConfig(band="", prompts_per_iteration=8, samples=2, max_tokens=16, minibatch=16, iterations=1)
    yield from rebel(band, small_controller(model), judge, prompts, config, f"REBEL, 135 M, {dtype}")


def rebel(
    band: Band, model: ControllerModel, judge: Any, prompts: Sequence[Prompt], config: ControllerConfig, name: str
) -> Iterator[Row]:
    """Where an iteration goes, and what its epochs take against such as run the experts again."""
    clock = Clock()
    learner = learner_of(band, model, judge, prompts, config, clock)
    learn_once(learner, config)  # the first use of everything
    clock.seconds.clear()
    log = learn_once(learner, config)
    spent, whole = clock.seconds, log["seconds_roll_out"] + log["seconds_epochs"]
    parts = {
        "roll-out": log["seconds_roll_out"],
        "prefill": spent["join"],
        "experts' steps": spent["rows"] - spent["controller"],
        "controller's steps": spent["controller"],
        "mixing": spent["mixture"] - spent["rows"],
        "recording": spent["record"],
        "sampling and the rest": spent["run"] - spent["join"] - spent["mixture"] - spent["record"],
        "rewards": spent["rewards"],
        f"{config.epochs} epochs": log["seconds_epochs"],
    }
    for part, took in parts.items():
        yield Row(f"{name}, {part}: iteration", took, whole, "s")
    kept = log["seconds_epochs"]
    again = kept + config.epochs * seconds_of_experts(band, learner, config.minibatch)
    yield Row(f"{name}, epochs from kept [N, T, K]: epochs that run the experts", kept, again, "s")


def learner_of(
    band: Band, model: ControllerModel, judge: Any, prompts: Sequence[Prompt], config: ControllerConfig, clock: Clock
) -> MopeLearner:
    """A learner of one profile over all experts, rewarded by a Bradley-Terry model for each, and timed."""
    profiles = [Profile(dict.fromkeys(names(K), 1.0))]
    controller = new_controller(band, config, profiles)
    band.steer(controller, model)
    band.whole[CONTROLLER] = replace(band.whole[CONTROLLER], load=lambda: _watched_rows(model, clock))
    watch_step(band.engine, clock)
    clock.watch(band.engine.model, "join", "join")
    clock.watch(band.engine, "_record", "record")
    clock.watch(band, "run", "run")
    scores = classifier(judge, band.tokenizer.pad_token_id).eval()
    rewards = Rewards([BradleyTerryReward(scores, band.tokenizer, name) for name in names(K)])
    reward = reward_of(rewards, prompts, profile_weights(profiles, rewards.dimensions), np.zeros((len(prompts), K)))
    learner = MopeLearner(band, controller, model, prompts, profiles, reward, config)
    clock.watch(learner, "reward", "rewards")
    return learner


def _watched_rows(model: ControllerModel, clock: Clock) -> Rows:
    rows = Rows(model.model, model)
    clock.watch(rows, "step", "controller")
    return rows


def learn_once(learner: MopeLearner, config: ControllerConfig) -> dict[str, float]:
    """What the loop logs of one iteration."""
    with TemporaryDirectory() as work:
        return learn(learner, config, Path(work))[0]


def seconds_of_experts(band: Band, learner: MopeLearner, batch: int) -> float:
    """What it takes to run every expert over the last roll-out; raises RuntimeError if they say otherwise than then."""
    said = learner._said
    assert said is not None
    start_N, tokens_N = said.at_NT[:, 0] + 1, said.mask_NT.sum(1)
    examples = [
        Example(tuple(ids_S[:start].tolist()), tuple(token_T[:tokens].tolist()))
        for ids_S, token_T, start, tokens in zip(said.ids_NS, said.token_NT, start_N, tokens_N, strict=True)
    ]
    start = time.perf_counter()
    for column, name in enumerate(names(K)):
        with band.bank.gated(band.bank.gate([{name: 1.0}])):
            again_N = sequence_logp(band.model, examples, batch)
        kept_N = (said.logp_NTK[..., column] * said.mask_NT).sum(1)
        if np.abs(again_N - kept_N.numpy()).max() > 0.01 * said.mask_NT.shape[1]:
            raise RuntimeError(f"expert {name!r} gives other log-probabilities than in the roll-out")
    return time.perf_counter() - start


def world_base(folder: Path) -> Path:
    """An untrained base of the embedded world, with its tokenizer."""
    if not folder.exists():
        new_model(ScratchConfig(), [part for pair in base_examples(2000, seed=0) for part in pair], folder)
    return folder


def band_of(model: Any, tokenizer: Any, adapters: Sequence[LoraFactors]) -> Band:
    """A band in memory, of an expert for each of the dimensions that are called alike."""
    bank = LoraBank(model)
    for name, adapter in zip(names(K), adapters, strict=True):
        bank.add(name, adapter)
    file = BandFile(
        base="in memory",
        dimensions=[DimensionEntry(name=name) for name in names(K)],
        experts=[ExpertEntry(name=name, dimension=name) for name in names(K)],
    )
    return Band(file, model, tokenizer, bank, {})


def number_tokenizer(vocabulary: int) -> Any:
    """Reads numbers as the token ids that they are; the first three are no words."""
    special = {"<pad>": 0, "<s>": 1, "</s>": 2}
    backend = Tokenizer(models.WordLevel({**special, **{str(n): n for n in range(3, vocabulary)}}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
