"""A reward model from a user's own comparisons, measured on prompts that it has not seen."""

from pathlib import Path
from typing import Any

from counterpoint.build.pairs import Divided, claim_folder, outcome, write_metrics
from counterpoint.evaluate.accuracy import measure_reward
from counterpoint.rewards.bradley_terry import FILE, BradleyTerryReward
from counterpoint.rewards.scorer import Scorer
from counterpoint.stages import Stages
from counterpoint.train.reward_model import RewardModelConfig, train_reward_model


def learn_reward(
    config: RewardModelConfig, divided: Divided, out: Path, stages: Stages, device: str = "cpu"
) -> dict[str, Any]:
    """Train a reward model into `out` and return what `out/metrics.json` says of it.

    Its accuracy on held-out prompts is beside that of a word counter whose direction is learned from the same pairs.
    Raises CounterpointError where `out` holds anything but a reward model.
    """
    claim_folder(out, FILE)
    with stages.stage(f"reward model of {divided.dimension}", str(divided)) as bar:
        result = train_reward_model(config, divided.seen, out, progress=bar.task("steps"))
        bar.note(outcome(result, config.steps))
    with stages.stage(f"held-out pairs of {divided.dimension}", "see how often it prefers the chosen response") as bar:
        model = BradleyTerryReward.load(out, device=device)
        scorer = Scorer(model, bar.task("responses"), 2 * len(divided.unseen))
        quality = measure_reward(scorer, divided.dimension, divided.seen, divided.unseen, config.seed)
    measured = {"accuracy": quality.accuracy.to_dict(), "length_accuracy": quality.by_length.to_dict()}
    return write_metrics(out, divided, {"fresh": result.fresh, "last_loss": result.losses[-1], **measured})
