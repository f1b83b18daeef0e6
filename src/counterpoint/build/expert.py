"""An expert from a user's own comparisons, measured on prompts that it has not seen."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from counterpoint.build.learn import preferred
from counterpoint.build.pairs import Divided, claim_folder, outcome, write_metrics
from counterpoint.decode.band import Band
from counterpoint.evaluate.accuracy import by_prompt, length_accuracy
from counterpoint.evaluate.expert import ExpertQuality, expert_quality, pair_logps
from counterpoint.models.adapter import CONFIG
from counterpoint.models.load import load_tokenizer
from counterpoint.rewards.bradley_terry import FILE
from counterpoint.stages import Bar, Stages
from counterpoint.train.dpo import DpoConfig, check_beta, train_dpo
from counterpoint.train.run import TrainResult
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import CounterpointError


def claim_expert(out: Path) -> None:
    """Refuse an output folder that holds anything but an expert; a reward model can be an adapter too."""
    claim_folder(out, CONFIG)
    if (out / FILE).exists():
        raise CounterpointError(f"{out}: holds a reward model, which would be lost; name another folder")


def learn_expert(
    config: DpoConfig | SftConfig, divided: Divided, out: Path, beta: float, stages: Stages, device: str = "cpu"
) -> dict[str, Any]:
    """Train an expert into `out`, by DPO or on chosen responses, and return what `out/metrics.json` says of it.

    `beta` is that of the DPO loss by which either is measured. Raises CounterpointError where `out` holds anything but
    an expert.
    """
    check_beta(beta)
    claim_expert(out)
    with stages.stage(f"expert for {divided.dimension}", str(divided)) as bar:
        result = _train(config, divided, out, bar)
        bar.note(outcome(result, config.steps))
    with stages.stage(f"held-out pairs of {divided.dimension}", "see which responses it finds likelier") as bar:
        quality = measure_expert(config.model, out, divided, beta, config.seed, bar, device)
        by_length = by_prompt(length_accuracy(divided.seen, divided.unseen), divided.unseen, config.seed)
    measured = {"beta": beta, **asdict(quality), "length_accuracy": by_length.to_dict()}
    return write_metrics(out, divided, {"fresh": result.fresh, "last_loss": result.losses[-1], **measured})


def _train(config: DpoConfig | SftConfig, divided: Divided, out: Path, bar: Bar) -> TrainResult:
    if isinstance(config, DpoConfig):
        return train_dpo(config, divided.seen, out, progress=bar.task("steps"))
    return train_sft(config, preferred(divided.seen, load_tokenizer(config.model)), out, progress=bar.task("steps"))


def measure_expert(
    model: str, out: Path, divided: Divided, beta: float, seed: int, bar: Bar, device: str
) -> ExpertQuality:
    """The expert in `out` on the held-out pairs, against its base."""
    band = Band.assemble(model, {divided.dimension: out}, device=device)
    logps = pair_logps(band.bank, divided.dimension, band.tokenizer, divided.unseen, bar.task("responses"))
    return expert_quality(logps, divided.unseen, beta, seed)
