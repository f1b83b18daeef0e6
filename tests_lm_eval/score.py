"""What lm-eval makes of its tasks with each of some models: `python score.py JOBS TASKS OUT`, in lm-eval's environment.

JOBS is a list of {"name", "model", "args", "batch"}, as `lm-eval run` takes the last three as options; OUT holds, by
name and task, the responses that lm-eval saw.
"""

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager


def main(jobs: Path, tasks: Path, out: Path) -> None:
    found = {}
    manager = TaskManager(include_path=str(tasks))
    for job in json.loads(jobs.read_text()):
        told = lm_eval.simple_evaluate(
            model=job["model"],
            model_args=job["args"],
            tasks=[path.stem for path in sorted(tasks.glob("*.yaml"))],
            task_manager=manager,
            device="cpu",
            batch_size=job["batch"],
            log_samples=True,
            bootstrap_iters=0,
        )
        found[job["name"]] = {
            task: [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
            for task, samples in told["samples"].items()
        }
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
