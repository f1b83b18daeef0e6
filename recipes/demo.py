"""The whole path on the embedded world, from nothing to a judged report, in five minutes on two cores.

    make demo            or            python recipes/demo.py --out demo

You should see every way of combining experts ahead of the base, best strengths ahead of strength 1, and the best single
expert per profile hard to beat, since one expert is much stronger than the others (docs/LOG.md says why).
"""

import argparse
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import torch

from counterpoint.artifacts import read_json
from counterpoint.build.present import Built
from counterpoint.build.task import BuildConfig, Task
from counterpoint.build.whole import build
from counterpoint.cli.build import print_summary
from counterpoint.data.examples import example
from counterpoint.data.world import AXES, DIMENSIONS, base_examples, questions
from counterpoint.models.load import load_tokenizer
from counterpoint.rewards.world import WorldRules
from counterpoint.stages import Stages
from counterpoint.train.scratch import ScratchConfig, new_model
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Message

BASE_STEPS = 1000
TRAIN_PROMPTS = 160
BATCH = 32


def make_base(out: Path, stages: Stages, seed: int) -> Path:
    """Train the base on the world's text: every fact, and never more than one preference in an answer."""
    with stages.stage("world", "write the embedded world: facts, questions, answers in many styles") as bar:
        text = base_examples(BASE_STEPS * BATCH, seed)
        new_model(ScratchConfig(seed=seed), [part for pair in text[:6000] for part in pair], out / "untrained")
        tokenizer = load_tokenizer(str(out / "untrained"))
        examples = [example((Message("user", question),), answer, tokenizer) for question, answer in text]
        bar.note(f"{len(text)} questions and answers, {len(tokenizer)} tokens")
    with stages.stage("base", "train a tiny Llama on it, to have a model that knows the facts") as bar:
        config = SftConfig(
            model=str(out / "untrained"), steps=BASE_STEPS, batch=BATCH, learning_rate=3e-3, warmup=50, lora_rank=0,
            seed=seed, checkpoint_every=200,
        )  # fmt: skip
        result = train_sft(config, examples, out / "band" / "base", progress=bar.task("steps"))
        bar.note(f"loss {result.losses[-1]:.2f} nats a token")
    return out / "band" / "base"


def world_task(base: Path) -> Task:
    """Six dimensions on three axes; training and test questions share no subject and no wording."""
    train = [(Message("user", question.text),) for question in questions("train")]
    test = [(Message("user", question.text),) for question in questions("test")]
    random.Random(0).shuffle(train)
    rules = WorldRules()
    return Task(
        model=str(base), dimensions=DIMENSIONS, train_prompts=tuple(train[:TRAIN_PROMPTS]), test_prompts=tuple(test),
        judge=rules, correct=rules.correct, axes=AXES, trade_off=("concise", "friendly"),
    )  # fmt: skip


def build_demo(out: Path, stages: Stages, seed: int) -> Built:
    """The demo: everything goes into `out`."""
    task = world_task(make_base(out, stages, seed))
    config = BuildConfig(asked=4, pairs_per_prompt=24, workers=2, seed=seed)
    return build(task, out, config, stages, "Counterpoint: the embedded world")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    stages = Stages()
    build_demo(arguments.out, stages, arguments.seed)
    print_summary(read_json(arguments.out / "summary.json"))
    stages.console.print(
        f"{stages.total:.0f} s in all. Open {arguments.out / 'report.html'}, and try:", highlight=False
    )
    stages.console.print(
        f'  .venv/bin/counterpoint chat {arguments.out / "band"} "What does the owl eat?" '
        '--profile "concise=1, friendly=0.5"',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
