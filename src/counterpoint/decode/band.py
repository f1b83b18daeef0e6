"""A band: one base, its experts, and the ways to combine them for a person.

band = Band.load("demo/band")
band.chat("What does the owl eat?", profile="concise=1, friendly=0.5")
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from counterpoint.compose import mixture, moe, route, soup
from counterpoint.compose.plan import CONTROLLER, Plan, Row
from counterpoint.compose.weighers.arrow import arrow_scores
from counterpoint.compose.weighers.constant import constant
from counterpoint.compose.weighers.controller import Controller, check_vocabulary, load_parts, read_controller
from counterpoint.compose.weighers.gate import FILE, GATES, KINDS, Gate, Opened, gate_over, open_gate, read_gate
from counterpoint.data.chat import prompt_ids, with_request
from counterpoint.decode.engine import Engine
from counterpoint.decode.refresh import read_change
from counterpoint.decode.request import Request
from counterpoint.decode.rows import Rows
from counterpoint.decode.sampling import Sampling
from counterpoint.decode.several import INSTEAD, Several, Whole, whole_model
from counterpoint.decode.tracing import Detail
from counterpoint.models.adapter import read_adapter
from counterpoint.models.band_file import BandFile, DimensionEntry, ExpertEntry, base_path, expert_path, read_band
from counterpoint.models.bank import LoraBank
from counterpoint.models.controller import ControllerModel, describe
from counterpoint.models.fit import check_expert, check_model, end_tokens, find_expert, vocabulary
from counterpoint.models.load import check_family, load_model, load_tokenizer
from counterpoint.profiles import Bounds, check_name, in_force, parse_bounds, parse_profile
from counterpoint.profiles.bounds import FREE, alone
from counterpoint.types import Completion, CounterpointError, Message, Profile, Prompt, Weighting

METHODS = ("base", "prompted", "best-expert", "route", "soup", "moe", "mixture-prob", "mixture-log", "mope", *KINDS)


class Band:
    """A loaded band. Requests of any methods and profiles share its models and its one engine.

    `bounds` are the operator's, as `counterpoint.profiles.parse_bounds` reads them; every profile is held to them.
    """

    def __init__(
        self,
        file: BandFile,
        model: Any,
        tokenizer: Any,
        bank: LoraBank,
        whole: Mapping[str, Whole],
        max_rows: int = 512,
    ) -> None:
        self.file = file
        self.model = model
        self.tokenizer = tokenizer
        self.bank = bank
        self.whole = dict(whole)
        self._controller: Controller | None = None
        self._unread: Path | None = None
        self._gates: dict[str, Gate] = {}
        self._unread_gates: dict[str, Callable[[], Opened]] = {}
        self.max_rows = max_rows
        self.max_cells: int | None = None
        self.chunk: int | None = None
        self.experts = file.typed_experts()
        self.dimensions = tuple(entry.name for entry in file.dimensions)
        self.bounds: Bounds = parse_bounds(file.bounds, self.dimensions)
        self.longest = int(model.config.max_position_embeddings)
        self.folder: Path | None = None
        self.engine = self._engine()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        max_rows: int = 512,
    ) -> "Band":
        """Load a band folder. Raises CounterpointError that names the file at fault."""
        folder = Path(folder)
        file = read_band(folder)
        paths = {entry.name: expert_path(folder, entry) for entry in file.experts}
        band = cls._of(file, base_path(folder, file), paths, dtype, device, max_rows)
        band.folder = folder
        if (folder / "controller").exists():
            band._unread = folder / "controller"
            band.engine = band._engine()
        band._find_gates(folder)
        return band

    @classmethod
    def assemble(
        cls,
        base: str | Path,
        experts: Mapping[str, str | Path],
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        max_rows: int = 512,
    ) -> "Band":
        """A band of PEFT adapters and whole models by the dimension that each serves; nothing is written.

        Band.assemble("path/to/base", {"concise": "path/to/adapter", "friendly": "path/to/another"})

        Raises CounterpointError for an expert that does not fit the base; warns of what is odd but may be right.
        """
        if not isinstance(experts, Mapping):
            raise CounterpointError(f"expected {{dimension: path of its expert}}, found {experts!r}")
        found = {name: find_expert(str(path)) for name, path in experts.items()}
        for name, source in found.items():
            check_name(name)
            for note in check_expert(str(base), source):
                warnings.warn(note, stacklevel=2)
        file = BandFile(
            base=str(base),
            dimensions=[DimensionEntry(name=name) for name in found],
            experts=[
                ExpertEntry(name=name, dimension=name, model=source.path if source.kind == "model" else None)
                for name, source in found.items()
            ],
        )
        paths = {name: source.path for name, source in found.items()}
        return cls._of(file, str(base), paths, dtype, device, max_rows)

    @classmethod
    def _of(
        cls,
        file: BandFile,
        base: str,
        paths: Mapping[str, str],
        dtype: torch.dtype,
        device: str | torch.device,
        max_rows: int,
    ) -> "Band":
        model, tokenizer = load_model(base, dtype, device), load_tokenizer(base)
        bank, whole = LoraBank(model), {}
        for expert in file.experts:
            if expert.kind == "model":
                whole[expert.name] = _whole(base, tokenizer, paths[expert.name], dtype, device)
            elif expert.kind == "endpoint":
                from counterpoint.decode.remote import remote_whole  # its client takes half a second to import

                longest = int(model.config.max_position_embeddings)
                whole[expert.name] = remote_whole(expert, tokenizer, vocabulary(tokenizer), longest)
            else:
                bank.add(expert.name, read_adapter(Path(paths[expert.name])))
        return cls(file, model, tokenizer, bank, whole, max_rows)

    def refresh(self, hold: Callable[[Bounds, Sequence[str]], Bounds] = lambda own, _: own) -> None:
        """Take what has changed in the band's folder: adapters that were added or removed, dimensions and bounds.

        `hold` makes of the folder's bounds, given the dimensions, those that are kept from now on; it may refuse them.
        Requests under way end with the experts that they began with. A gate that needs an expert that is gone goes too;
        other gates, and the controller, stay as they were loaded. Raises CounterpointError, and leaves everything as it
        was, for a file at fault and for what needs a new start.
        """
        if self.folder is None:
            raise CounterpointError("this band was assembled, and lies in no folder that could be read again")
        change = read_change(self.folder, self.file, self.bank, self.engine.gates)
        dimensions = tuple(entry.name for entry in change.file.dimensions)
        bounds = hold(parse_bounds(change.file.bounds, dimensions), dimensions)
        self.bank.keep(entry.name for entry in change.file.experts)
        for name in change.gone:
            self.bank.retire(name)
        for name, factors in change.fresh.items():
            if name in self.bank.experts:
                self.bank.remove(name)
            self.bank.add(name, factors)
        self.file, self.experts = change.file, change.file.typed_experts()
        self.dimensions, self.bounds = dimensions, bounds
        for kind, gate in list(self._gates.items()):
            if not {*map(gate.bank_name, gate.experts)}.isdisjoint({*change.gone, *change.fresh}):
                del self._gates[kind]
        self._find_gates(self.folder)

    @property
    def controller(self) -> Controller | None:
        """What steers the method mope. That of the band's folder is read when it is first asked for.

        Raises CounterpointError that names the file at fault, every time: the rest of the band works without it.
        """
        if self._unread is not None:
            self._take(*self.open_controller(self._unread))
        return self._controller

    def load_controller(self, folder: str | Path) -> None:
        """Let the method mope be steered by the controller of a folder that `counterpoint train controller` made."""
        self.steer(*self.open_controller(Path(folder)))

    def open_controller(self, folder: Path) -> tuple[Controller, ControllerModel | None]:
        """The controller of a folder, and its model where it has one; CounterpointError names the file at fault."""
        controller = read_controller(folder)
        if controller.head == "described":
            controller = controller.model_copy(update={"experts": [expert.name for expert in self.experts]})
        if controller.constants is not None:
            return controller, None
        model = load_parts(folder, controller, self.describe, self.model.dtype, self.model.device)
        check_vocabulary(folder, model, self._vocabulary())
        return controller, model

    def steer(self, controller: Controller, model: ControllerModel | None = None) -> None:
        """Let the method mope be steered by a controller; no `model` is needed for constants."""
        self._take(controller, model)
        self.engine = self._engine()

    @contextmanager
    def steered_by(self, controller: Controller, model: ControllerModel | None = None) -> Iterator[None]:
        """Inside the block the method mope is steered by this controller, afterwards as it was before."""
        before = self._controller, self._unread, self.whole.get(CONTROLLER)
        self.steer(controller, model)
        try:
            yield
        finally:
            self._controller, self._unread, former = before
            self.whole.pop(CONTROLLER, None)
            if former is not None:
                self.whole[CONTROLLER] = former
            self.engine = self._engine()

    def _take(self, controller: Controller, model: ControllerModel | None) -> None:
        """Into the engine that is there, where no controller was before: requests may be under way."""
        self._controller, self._unread = controller, None
        self.whole.pop(CONTROLLER, None)
        if model is not None:
            longest = int(model.model.config.max_position_embeddings)
            self.whole[CONTROLLER] = Whole(self.tokenizer, longest, lambda: Rows(model.model, model))

    @property
    def gates(self) -> tuple[str, ...]:
        """The kinds of gates that the band has, read or not; an Arrow that nobody made is not among them."""
        return tuple(kind for kind in KINDS if kind in self._gates or kind in self._unread_gates)

    def _find_gates(self, folder: Path) -> None:
        """Note which gates a folder holds; each is read when it is first asked for."""
        paths = {entry.name: Path(expert_path(folder, entry)) for entry in self.file.experts if entry.kind == "adapter"}
        self._unread_gates = {
            kind: partial(open_for, folder / GATES / kind, paths, self.file.base_hash)
            for kind in KINDS
            if (folder / GATES / kind).exists()
        }

    def gate(self, kind: str) -> Gate:
        """The gate of a kind: of the band's folder, read when it is first asked for; an Arrow can be made of any band.

        Raises CounterpointError that names the file at fault, every time: the rest of the band works without it.
        """
        if kind not in self._gates:
            if kind in self._unread_gates:
                self.take_gate(self._unread_gates[kind]())
            elif kind == "arrow":
                self.take_gate(self._arrow())
            else:
                raise CounterpointError(f"this band has no {kind} gate; `counterpoint train gate` makes one")
        return self._gates[kind]

    def take_gate(self, opened: Opened) -> None:
        """Let a gate serve the method of its kind, in place of one that did; requests may be under way."""
        for name, factors in opened.experts.items():
            if name in self.bank.experts:
                self.bank.remove(name)
            self.bank.add(name, factors)
        self.bank.add_router(opened.gate.kind, opened.router)
        self._gates[opened.gate.kind] = opened.gate

    def _arrow(self) -> Opened:
        experts = [expert for expert in self.experts if expert.name in self.bank.experts]
        gate = gate_over("arrow", experts, self.bank.experts, {})
        factors = [self.bank.experts[expert.name] for expert in experts]
        return Opened(gate, gate.router(arrow_scores(factors, gate.modules)), {})

    def describe(self, experts: Sequence[str]) -> torch.Tensor:
        """What a described head knows of experts, `[K, I]`: the base's mean hidden states over what they are for."""
        dimension = {expert.name: self.file.dimension(expert.dimension) for expert in self.experts}
        texts = [f"{dimension[name].name}: {dimension[name].description}" for name in experts]
        return describe(self.model, self.tokenizer, texts)

    def bound(self, max_rows: int, memory: int | None = None, chunk: int | None = None) -> None:
        """Put in place an engine of so many rows, whose keys and values take at most `memory` bytes.

        At most `chunk` tokens of the prompts of those that join are fed between two steps (None: all).
        """
        self.max_rows, self.chunk = max_rows, chunk
        self.max_cells = None if memory is None else self.cells_in(memory)
        self.engine = self._engine()

    def cells_in(self, memory: int) -> int:
        """For how many tokens there is room in so many bytes of the base's keys and values (`decode.rows.cells`).

        A guided gate, x-lora, holds what it reads of the base as well, so that there is room for half as many. Whole
        models and a controller have rows of their own, which are not counted.
        """
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        each = 2 * int(config.num_hidden_layers) * int(heads) * int(width) * int(self.model.dtype.itemsize)
        return memory // (each * (2 if "x-lora" in self.gates else 1))

    def _engine(self) -> Engine:
        rows = Rows(self.model, self.bank, max_cells=self.max_cells)
        longest = [expert.longest for name, expert in self.whole.items() if name != CONTROLLER]
        return Engine(
            Several(rows, self.whole, self._vocabulary()) if self.whole or self._unread else rows,
            self._text,
            end_tokens(self.model.generation_config.eos_token_id, self.tokenizer),
            max([self.longest, *longest]),
            self.max_rows,
            self.max_cells,
            self.chunk,
        )

    def _vocabulary(self) -> int:
        """How many ids the tokenizer and the base's head both know: some tokenizers have more than the head."""
        return min(vocabulary(self.tokenizer), int(self.model.config.vocab_size))

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str] | Message],
        profile: str | Mapping[str, float] | Profile | None = None,
        method: str = "soup",
        sampling: Sampling | None = None,
    ) -> str:
        """Answer one person. A string is one user message (or plain text, for a model without a chat template)."""
        wanted = None if profile is None else parse_profile(profile, self.dimensions)
        return self.respond([self.prompt(messages)], [wanted], method, sampling)[0].text

    def respond(
        self,
        prompts: Sequence[Prompt],
        profiles: Sequence[Profile | None],
        method: str = "soup",
        sampling: Sampling | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """Answer prompts, each for its own profile, in one batch; prompt i is drawn with seed `sampling.seed + i`."""
        if len(prompts) != len(profiles):
            raise CounterpointError(f"{len(prompts)} prompts but {len(profiles)} profiles; each prompt needs its own")
        sampling = sampling or Sampling()
        requests = [
            self.request(prompt, self.plan(profile, method), replace(sampling, seed=sampling.seed + index))
            for index, (prompt, profile) in enumerate(zip(prompts, profiles, strict=True))
        ]
        return self.run(requests, progress)

    def run(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[Completion]:
        """Decode requests made by `request`."""
        return self.engine.run(requests, progress)

    def prompt(self, messages: str | Sequence[Mapping[str, str] | Message]) -> Prompt:
        """Messages as requests take them; a string is one user message, or plain text without a chat template."""
        if isinstance(messages, str):
            return (Message("user", messages),) if self.tokenizer.chat_template else messages
        try:
            prompt = tuple(m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in messages)
        except (TypeError, KeyError):
            raise CounterpointError(
                f"messages are a string, or a list of {{'role': ..., 'content': ...}}; got {messages!r}"
            ) from None
        if not prompt or prompt[-1].role != "user":
            raise CounterpointError("a conversation must end with a message of the role 'user'")
        return prompt

    def request(self, prompt: Prompt, plan: Plan, sampling: Sampling, trace: Detail | None = None) -> Request:
        """Render the prompt of each of a plan's rows, a whole model's with its own tokenizer and chat template.

        A response is at most what the shortest of the plan's models has room for.
        """
        models = [whole_model(row.gate, self.whole) for row in plan.all_rows]
        tokenizers = [self.whole[name].tokenizer if name else self.tokenizer for name in models]
        contexts = tuple(
            tuple(prompt_ids(self._asking(prompt, row), tokenizer))
            for row, tokenizer in zip(plan.all_rows, tokenizers, strict=True)
        )
        self._refuse_remote(models, plan, sampling)
        longest = min(self.whole[name].longest if name else self.longest for name in models)
        room = longest - max(map(len, contexts))
        if room < 1:
            raise CounterpointError(f"the prompt has {longest - room} tokens; with the response, {longest} is the most")
        return Request(plan, contexts, replace(sampling, max_tokens=min(sampling.max_tokens, room)), trace)

    def plan(self, profile: Profile | None, method: str) -> Plan:
        """How a method serves a profile, held to the band's bounds.

        `prompted`, whose words carry no amounts, asks for what is in force and for nothing with a cap of 0. `base` is
        the base whatever the bounds: it is there to compare with, not to be offered to those whom bounds must hold.
        Raises CounterpointError for an unknown method, and where one expert answers alone and another has a floor.
        """
        if method not in METHODS:
            raise CounterpointError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
        asked, profile = profile, self.in_force(profile)
        if method in KINDS and (asked is None or profile is not None):
            return self.gate(method).plan(profile, self.bounds)
        if profile is None or method == "base":
            return Plan((Row(),))
        if method == "prompted":
            wanted = (name for name, weight in profile.weights.items() if weight > 0)
            return Plan((Row(requests=tuple(name for name in wanted if self.bounds.get(name, FREE)[1] > 0)),))
        if method == "best-expert":
            best = self.best_expert(profile)
            return Plan((Row({best: self._alone(best, profile.strength)}),))
        if method == "mope":
            return self._controlled(profile)
        weighting = constant(profile, self.experts)
        if method in ("soup", "moe"):
            self._refuse_whole(weighting, method)
        match method:
            case "soup":
                return soup.plan(weighting)
            case "moe":
                return moe.plan(weighting)
            case "mixture-prob":
                return mixture.plan_prob(weighting)
            case "mixture-log":
                return mixture.plan_log(weighting)
            case _:
                strength = self._alone(route.favourite(weighting), profile.strength)
                return route.plan(replace(weighting, strength=strength))

    def in_force(self, profile: str | Mapping[str, float] | Profile | None) -> Profile | None:
        """What the band's bounds leave of a profile, `None` for the base; see `counterpoint.profiles.in_force`."""
        return in_force(None if profile is None else parse_profile(profile, self.dimensions), self.bounds)

    def best_expert(self, profile: Profile) -> str:
        """The one expert with the largest weighted mean of its measured scores on the profile's dimensions."""
        scored = [entry for entry in self.file.experts if entry.scores]
        if not scored:
            raise CounterpointError("best-expert needs the experts' measured scores, and this band.json holds none")
        for entry in self.file.experts:
            if profile.weights.get(entry.dimension) and not entry.scores:
                raise CounterpointError(f"best-expert needs measured scores, and band.json has none of {entry.name!r}")
        return max(scored, key=lambda e: sum(w * e.scores.get(d, 0.0) for d, w in profile.weights.items())).name

    def _controlled(self, profile: Profile) -> Plan:
        controller = self.controller
        if controller is None:
            raise CounterpointError("this band has no controller; `counterpoint train controller` makes one")
        controller.check_bounds(self.bounds, profile.strength)
        return controller.plan(profile, self.experts)

    def _alone(self, expert: str, strength: float) -> float:
        return alone(next(e.dimension for e in self.experts if e.name == expert), strength, self.bounds)

    def _refuse_remote(self, models: Sequence[str | None], plan: Plan, sampling: Sampling) -> None:
        """An endpoint tells the likeliest tokens alone, so that nothing can act on an expert before it is mixed."""
        remote = next((name for name in models if name and self.whole[name].remote), None)
        if remote and sampling.repetition_penalty != 1:
            raise CounterpointError(
                f"expert {remote!r} is behind an endpoint, which takes no repetition_penalty; leave 1"
            )
        if remote and plan.temper == "experts" and sampling.temperature not in (0, 1):
            raise CounterpointError(
                f"expert {remote!r} is behind an endpoint, whose distribution takes no temperature of its own; use a "
                "controller whose temperature acts on the mixture, or temperature 1"
            )

    def _refuse_whole(self, weighting: Weighting, method: str) -> None:
        for name in weighting.experts:
            if name in self.whole:
                raise CounterpointError(
                    f"{method} blends adapters of one base, and expert {name!r} is a whole model; {INSTEAD}"
                )

    def _asking(self, prompt: Prompt, row: Row) -> Prompt:
        requests = (self.file.dimension(name).request or f"Please be {name}." for name in row.requests)
        return with_request(prompt, " ".join(requests))

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


def open_for(folder: Path, adapters: Mapping[str, Path], base: str | None) -> Opened:
    """Read a gate of a band with these adapters, on a base of this hash; None is one that no hash is known of.

    Raises CounterpointError that names the file at fault, and for a gate of another base or of another kind than its
    folder's name.
    """
    gate = read_gate(folder)
    if gate.kind != folder.name:
        raise CounterpointError(f"{folder / FILE}: kind is {gate.kind!r} in the folder {folder.name!r}; rename it")
    if None not in (gate.base, base) and gate.base != base:
        raise CounterpointError(
            f"{folder / FILE}: it was made on another base than the band's (hash {str(gate.base)[:12]}, the band's "
            f"is {str(base)[:12]}); train it again with `counterpoint train gate`"
        )
    return open_gate(folder, adapters)


def _whole(base: str, base_tokenizer: Any, path: str, dtype: torch.dtype, device: str | torch.device) -> Whole:
    """A whole model that is loaded when a request first needs it; without a chat template it takes the base's."""

    def load() -> Rows:
        model = load_model(path, dtype, device)
        return Rows(model, LoraBank(model))

    tokenizer = check_model(base, path)
    tokenizer.chat_template = tokenizer.chat_template or base_tokenizer.chat_template
    return Whole(tokenizer, check_family(path), load)
