"""The token-level weigher of MoPE: before each token a controller says how much of which expert.

    alpha_k(t) = softmax_k(log prior_k + z_k(x, xi, y_<t))        p(y_t) = sum_k alpha_k p_k(y_t)

(Zhou et al. 2024, arXiv 2407.04181, section 3 and Eq. 1.) z are the logits of a `ControllerModel`, which reads the
instruction x, the preference xi and the response so far; untrained they are 0, and the mixture is that of its prior.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from counterpoint.artifacts import read_json, write_json
from counterpoint.compose.plan import CONTROLLER, Control, Plan, Row, Space, Temper
from counterpoint.compose.weighers.constant import constant
from counterpoint.models.controller import ControllerModel
from counterpoint.models.load import check_family
from counterpoint.profiles import Bounds, format_profile, parse_profile, unknown_name
from counterpoint.types import CounterpointError, Expert, Profile

FILE, TENSORS = "controller.json", "controller.safetensors"

Encoding = Literal["text", "vector"]
Prompting = Literal["none", "own", "all"]
Prior = Literal["profile", "selected", "all"]
Head = Literal["linear", "described"]


class Controller(BaseModel):
    """`controller.json`: which experts are weighed, and how the paper is read where it leaves a choice.

    `encoding`: the preference is a request in words, or a vector of weights (so that 0.7 can be told from 0.3).
    `expert_prompt`: experts are asked in words for nothing, for their own dimension, or for all of the profile.
    `prior`: the profile's weights, or equal weights over what the profile selects (the paper: all others masked), or
    over all experts of the controller. `temper`: a temperature acts on the mixture, or on each expert before.
    `head`: a column for each expert, or columns made from the experts' descriptions, so that an expert can be added.
    `constants`: no transformer, but fixed logits by profile: the learned constant that context is to beat.
    """

    model_config = ConfigDict(extra="forbid")

    experts: list[str]
    dimensions: list[str]
    space: Space = "prob"
    encoding: Encoding = "vector"
    expert_prompt: Prompting = "none"
    prior: Prior = "profile"
    temper: Temper = "mixture"
    head: Head = "linear"
    constants: dict[str, list[float]] | None = None

    @model_validator(mode="after")
    def _check_constants(self) -> Self:
        """A logit for each expert, and profiles by `profile_key`, however a person wrote them."""
        for text, z_K in (self.constants or {}).items():
            if len(z_K) != len(self.experts):
                raise ValueError(f"constants of {text!r}: {len(z_K)} logits for {len(self.experts)} experts")
        if self.constants is not None:
            by_key = {profile_key(parse_profile(text, self.dimensions)): z_K for text, z_K in self.constants.items()}
            self.constants = by_key
        return self

    def plan(self, profile: Profile, experts: Sequence[Expert]) -> Plan:
        """A row per expert, one for the base where strength is not 1, and the controller's own.

        As in `mixture`, strength scales the step from the base, and above 1 is refused in probability space. Raises
        CounterpointError for an expert, or with `constants` a profile, that the controller does not know.
        """
        if self.space == "prob" and profile.strength > 1:
            raise CounterpointError(
                "this controller mixes probabilities, which cannot go beyond the experts: strength is "
                f"{profile.strength:g}, at most 1 is possible"
            )
        prior = self.prior_of(profile, experts)
        rows = [Row({name: 1.0}, self._asked(profile, expert)) for name, expert in self._among(prior, experts).items()]
        columns, log_prior = [self.experts.index(name) for name in prior], [math.log(p) for p in prior.values()]
        coefficients = [0.0] * len(rows)
        if profile.strength != 1:
            rows, columns, log_prior = [*rows, Row()], [*columns, 0], [*log_prior, -math.inf]
            coefficients.append(1 - profile.strength)
        if self.constants is not None:
            alpha_K = torch.softmax(torch.tensor(log_prior) + self._constant(profile)[columns], dim=0)
            mixed_K = torch.tensor(coefficients) + profile.strength * alpha_K
            return Plan(tuple(rows), tuple(mixed_K.tolist()), self.space, temper=self.temper)
        control = Control(self._own_row(profile), tuple(columns), tuple(log_prior), profile.strength)
        return Plan(tuple(rows), tuple(coefficients), self.space, control, self.temper)

    def check_bounds(self, bounds: Bounds, strength: float) -> None:
        """Refuse an operator's bounds that no weights by token keep: all but caps of 0, which are masks.

        With the prior `all` nothing is masked, so that a cap of 0 is refused, too.
        """
        masked = self.prior != "all"
        for name, (low, high) in bounds.items():
            if low > 0 or (high < strength and not (high == 0 and masked)):
                raise CounterpointError(
                    f"mope keeps no floor and no cap{' but 0' if masked else ' where its prior is all experts'}, since "
                    f"it weighs experts anew at every token; the band's bounds have {low:g} <= {name} <= {high:g}; use "
                    "mixture-prob"
                )

    def prior_of(self, profile: Profile, experts: Sequence[Expert]) -> dict[str, float]:
        """By expert, not normalised; what has none is masked."""
        weighting = constant(profile, experts)
        prior = {name: w for name, w in zip(weighting.experts, weighting.w, strict=True) if w}
        if self.prior == "selected":
            prior = dict.fromkeys(prior, 1.0)
        if self.prior == "all":
            prior = dict.fromkeys(self.experts, 1.0)
        if unknown := [name for name in prior if name not in self.experts]:
            raise CounterpointError(
                f"the controller was trained without the expert {unknown[0]!r}; train it again with "
                "`counterpoint train controller`, or use mixture-prob"
            )
        return prior

    @staticmethod
    def _among(names: Sequence[str] | dict[str, float], experts: Sequence[Expert]) -> dict[str, Expert]:
        by_name = {expert.name: expert for expert in experts}
        if gone := [name for name in names if name not in by_name]:
            raise CounterpointError(f"the controller weighs the expert {gone[0]!r}, which the band no longer has")
        return {name: by_name[name] for name in names}

    def _asked(self, profile: Profile, expert: Expert) -> tuple[str, ...]:
        return {"none": (), "own": (expert.dimension,), "all": wanted(profile)}[self.expert_prompt]

    def _own_row(self, profile: Profile) -> Row:
        if self.encoding == "text":
            return Row({CONTROLLER: 1.0}, wanted(profile))
        return Row({CONTROLLER: 1.0, **shares(profile)})

    def _constant(self, profile: Profile) -> Tensor:
        assert self.constants is not None
        key = profile_key(profile)
        if key not in self.constants:
            raise CounterpointError(
                f"the controller has learned constants for other profiles, as shares: "
                f"{unknown_name('profile', key, self.constants)}"
            )
        return torch.tensor(self.constants[key])


def wanted(profile: Profile) -> tuple[str, ...]:
    """The dimensions of which a profile wants anything."""
    return tuple(name for name, weight in profile.weights.items() if weight > 0)


def shares(profile: Profile) -> dict[str, float]:
    """What a profile wants, as shares of one: the vector that a controller reads."""
    total = sum(profile.weights.values())
    return {name: profile.weights[name] / total for name in wanted(profile)}


def profile_key(profile: Profile) -> str:
    """What a learned constant is kept under: the shares of what a profile wants, by name."""
    return format_profile(Profile({name: round(share, 6) for name, share in sorted(shares(profile).items())}))


def unlike(profiles: Iterable[Profile]) -> list[Profile]:
    """Profiles without those that differ from one before in no share and not in strength."""
    found: dict[tuple[str, float], Profile] = {}
    for profile in profiles:
        found.setdefault((profile_key(profile), profile.strength), profile)
    return list(found.values())


def read_controller(folder: Path) -> Controller:
    """Read and check `controller.json`; CounterpointError names the file and each wrong field."""
    try:
        return Controller.model_validate(read_json(folder / FILE))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise CounterpointError(f"{folder / FILE}: {wrong}") from None


def write_controller(folder: Path, controller: Controller, model: ControllerModel | None) -> None:
    """Write `controller.json`, and of a transformer its config and `controller.safetensors`."""
    if model is not None:
        model.model.config.save_pretrained(folder)
        save_file(model.parts(), folder / TENSORS)
    write_json(folder / FILE, controller.model_dump(exclude_none=True))


def new_model(controller: Controller, trunk: object, describe: Callable[[Sequence[str]], Tensor]) -> ControllerModel:
    """An untrained model for a controller; `describe` gives `description_KD` of experts, for the described head."""
    return ControllerModel(
        trunk,
        len(controller.experts),
        controller.dimensions if controller.encoding == "vector" else (),
        describe(controller.experts) if controller.head == "described" else None,
    )


def check_vocabulary(folder: Path, model: ControllerModel, needed: int) -> None:
    """Refuse a controller that cannot read all `needed` ids of a base; more is no hindrance: heads may be padded."""
    known = int(model.model.config.vocab_size)
    if known < needed:
        raise CounterpointError(
            f"{folder}: this controller reads a vocabulary of {known} ids, and the base's has {needed}; it belongs to "
            "another band: train one for this band"
        )


def load_parts(
    folder: Path,
    controller: Controller,
    describe: Callable[[Sequence[str]], Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ControllerModel:
    """The model that `write_controller` wrote; CounterpointError names the file at fault."""
    check_family(str(folder))
    with torch.random.fork_rng(devices=[]):  # what it makes up is replaced by what was saved
        trunk = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    model = new_model(controller, trunk, describe)
    try:
        model.load_parts(load_file(folder / TENSORS))
    except (OSError, SafetensorError, CounterpointError) as error:
        raise CounterpointError(f"{folder / TENSORS}: {str(error).splitlines()[0]}") from None
    return model.to(device).eval()
